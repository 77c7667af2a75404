"""`jaxgen sweep SCRIPT PRESET --FLAG A,B,...`: a preset at several settings, with several seeds of each."""

import itertools
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Literal

from annotated_types import Ge, Le

from jaxgen.cli.train import Flags, flags_of, module_doc, preset_of, presets_of, script_file
from jaxgen.core.ranges import NonNegative, OptionalCount
from jaxgen.errors import UserError
from jaxgen.runtime.devices import start_jax
from jaxgen.runtime.interrupt import leave_after
from jaxgen.runtime.reading import user_path
from jaxgen.train.sweep import Setting, Sweep, train_sweep

USAGE = "jaxgen sweep SCRIPT PRESET --model.optimizer.lr 1e-4,3e-4,1e-3 --seeds 4 [flags]"
MOST = 1_024
"""Settings of one sweep."""


@dataclass(frozen=True)
class SweepOptions(Flags):
    out: str = ""
    """Folder of the sweep; runs/sweep-SCRIPT-PRESET when empty. An existing sweep of the same settings is gone on with.
    """
    seeds: Annotated[int, Ge(1), Le(1_024)] = 1
    """Seeds of each setting, from `seed` on."""
    metric: str = ""
    """The number that settings are ranked by, such as test/nelbo or train/loss, the lowest first; with a leading `-`
    the highest. A number of held-out data when empty, where there is one."""
    at_once: OptionalCount = 0
    """Members in one program at most, to save memory; 0 for all that can be."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that the next start is faster."""
    max_hours: NonNegative = 0.0
    """Save and stop after this time; 0 for no limit."""


ONE = {f.name for f in fields(SweepOptions)} - {f.name for f in fields(Flags)} | {"seed", "mesh", "keep"}
"""Flags of a sweep as a whole: of each there is one value."""


def command(args: list[str]) -> None:
    """Trains a preset of an experiment script at each combination of the comma-separated values of any flags, with
    several seeds of each: in one program where only numbers such as a learning rate differ, one after another where
    shapes do. Each member is a run in a folder of its own; a page shows the numbers, with intervals over seeds, against
    the values. The same command goes on where it stopped."""
    if len(args) < 2 or args[0].startswith("-") or args[1].startswith("-"):
        print(f"{command.__doc__}\n\nusage: {USAGE}")
        if args[:1] in (["-h"], ["--help"]):
            return
        raise UserError(f"a script and a preset are expected: {USAGE}")
    began, (script, name, *flags) = time.monotonic(), args
    file = script_file(script)
    preset, doc, program = preset_of(presets_of(file), name), module_doc(file), f"jaxgen sweep {script} {name}"
    if {"-h", "--help"} & set(flags):
        flags_of(preset, flags, program, doc, SweepOptions)
    axes = axes_of(flags)
    points = list(itertools.product(*axes.values()))
    if len(points) > MOST:
        raise UserError(f"the values combine to {len(points):,} settings, {MOST:,} at most are trained: leave some out")
    words = [with_values(flags, dict(zip(axes, point))) for point in points]
    read = [flags_of(preset, some, program, doc, SweepOptions) for some in words]
    options = read[0][1]
    out = user_path(options.out or f"runs/sweep-{file.stem}-{name}")
    names = folder_names(axes, points)
    settings = tuple(
        Setting(dict(zip(axes, point)), experiment, out / folder)
        for point, (experiment, _), folder in zip(points, read, names)
    )
    seen: dict[object, str] = {}
    for setting in settings:
        other = seen.setdefault(setting.experiment, setting.folder.name)
        if other != setting.folder.name:
            raise UserError(f"{other} and {setting.folder.name} are the same setting: give each value once")
    start_jax(options.device, options.compilation_cache, seeds=len(settings) * options.seeds)
    facts = {"experiment": file.stem, "preset": name}
    sweep = Sweep(settings=settings, seeds=options.seeds, out=out, metric=options.metric, at_once=options.at_once)
    stopped = train_sweep(sweep, facts, options.max_hours)
    print(f"{time.monotonic() - began:.0f} s in all")
    leave_after(stopped, out)


def axes_of(flags: list[str]) -> dict[str, tuple[str, ...]]:
    """The values of each flag that has several, by the path of its field. Raises UserError where no flag has, and for a
    flag of which there is one value."""
    axes = {}
    for flag, text in _pairs(flags):
        if "," not in text:
            continue
        path = flag.removeprefix("--").replace("-", "_")
        values = tuple(text.split(","))
        if path in ONE:
            raise UserError(f"{flag} is {text!r}: a sweep has one value of it; sweep another flag")
        if "" in values or len(set(values)) < len(values):
            raise UserError(f"{flag} is {text!r}: values, each once, with commas between them are expected")
        axes[path] = values
    if not axes:
        raise UserError(f"no flag has several values: {USAGE}, or jaxgen train for one")
    return axes


def _pairs(flags: list[str]) -> list[tuple[str, str]]:
    """Flags with the text of the value behind each, "" for none."""
    found = []
    for i, word in enumerate(flags):
        if word.startswith("--"):
            flag, joined, text = word.partition("=")
            behind = flags[i + 1] if i + 1 < len(flags) and not flags[i + 1].startswith("--") else ""
            found.append((flag, text if joined else behind))
    return found


def with_values(flags: list[str], values: Mapping[str, str]) -> list[str]:
    """The words with one value of each swept flag."""
    words = list(flags)
    for i, word in enumerate(words):
        flag, joined, _ = word.partition("=")
        path = flag.removeprefix("--").replace("-", "_")
        if word.startswith("--") and path in values:
            if joined:
                words[i] = f"{flag}={values[path]}"
            else:
                words[i + 1] = values[path]
    return words


def folder_names(axes: Mapping[str, tuple[str, ...]], points: list[tuple[str, ...]]) -> list[str]:
    """The folder of each setting, as `lr=1e-3,width=64`: the last names of the swept paths where these differ."""
    last = [path.rpartition(".")[2] for path in axes]
    names = last if len(set(last)) == len(last) else list(axes)
    return [
        ",".join(f"{name}={re.sub(r'[^A-Za-z0-9.+-]', '_', value)}" for name, value in zip(names, point))
        for point in points
    ]
