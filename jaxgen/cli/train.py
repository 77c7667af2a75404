"""`jaxgen train SCRIPT PRESET [flags]`, or `python experiments/SCRIPT.py PRESET [flags]`."""

import ast
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Le

from jaxgen.cli import parse
from jaxgen.core.configuration import check_fields
from jaxgen.core.ranges import Count, NonNegative, OptionalSize, OptionalSteps, PathName
from jaxgen.errors import UserError, nearest
from jaxgen.experiment import Experiment, on_images, scripts
from jaxgen.experiment import presets as presets_of
from jaxgen.optim import KINDS, switched, with_optimizers
from jaxgen.runs.distilled import TaughtBy, taught_by
from jaxgen.runs.pretrained import NamesRun
from jaxgen.runtime.devices import start_jax
from jaxgen.runtime.interrupt import leave_after
from jaxgen.runtime.processes import is_main
from jaxgen.runtime.reading import user_path
from jaxgen.train.auto_mesh import cpu_devices
from jaxgen.train.loop import train
from jaxgen.train.seeds import train_seeds

PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Flags:
    """Flags beside the fields of an experiment that change its data."""

    images: PathName = ""
    """A folder of your own pictures to train on instead of the preset's data; the model is fitted to them, and all of
    --data is theirs."""
    size: Annotated[int, Ge(0), Le(4_096)] = 0
    """Height and width that `images` are resized to; those of the preset when 0."""
    captions: bool = False
    """Draw images by their captions, which lie beside `images`; for diffusion models."""
    classes: bool = False
    """Draw images by class: the folders within `images`. A preset that draws by class does so without this flag."""
    optimizer: Literal["", "adam", "rmsprop", "lion", "muon", "schedule-free", "prodigy"] = ""
    """Another optimizer than the preset's for every network, with the same schedule, clipping and weight decay; all of
    --model.optimizer is then its own. The rate stays too, but for lion (a tenth) and prodigy (1)."""

    def problem(self) -> str | None:
        if (self.size or self.classes or self.captions) and not self.images:
            return "--size, --classes and --captions are of --images: name a folder, or leave them out"


@dataclass(frozen=True)
class Options(Flags):
    """Flags of a script beside the fields of its experiment."""

    out: str = ""
    """Run folder; runs/SCRIPT-PRESET-SEED when empty. An existing run of the same experiment is resumed."""
    seeds: Annotated[int, Ge(1), Le(1_024)] = 1
    """Train this many seeds, from `seed` on, in one program. Each has its own folder within the run folder."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that the next start is faster."""
    max_hours: NonNegative = 0.0
    """Save and stop after this time; 0 for no limit."""
    profile: OptionalSteps = 0
    """Number of calls to trace with jax.profiler, from the second one on."""
    coordinator: str = ""
    """For several processes: HOST:PORT of process 0, or `auto` if the cluster provides all three settings."""
    num_processes: Count = 1
    process_id: OptionalSize = 0


Of = TypeVar("Of", bound=Flags)


def main(presets: dict[str, Experiment], doc: str | None = None, argv: list[str] | None = None) -> None:
    """`python experiments/SCRIPT.py PRESET [flags]`: trains a preset, its every field a flag."""
    script = Path(sys.argv[0])
    parse.run(lambda: train_preset(script.stem, presets, doc, sys.argv[1:] if argv is None else argv, script.name))


def command(args: list[str]) -> None:
    """Trains a preset of an experiment script: jaxgen train SCRIPT PRESET [flags]. SCRIPT is one of those that --list
    shows, or a file of your own."""
    if args == ["--list"]:
        print(listing(scripts_folder()))
        return
    if not args or args[0].startswith("-"):
        print(f"{command.__doc__}\n\nusage: jaxgen train SCRIPT PRESET [flags]\n       jaxgen train --list")
        if args in (["-h"], ["--help"]):
            return
        raise UserError("no script was named: jaxgen train SCRIPT PRESET; jaxgen train --list shows them")
    file = script_file(args[0])
    train_preset(file.stem, presets_of(file), module_doc(file), args[1:], f"jaxgen train {args[0]}")


def scripts_folder() -> Path:
    """Where the library's scripts are: packed into the package, or at the top of a checkout."""
    packed = PACKAGE / "scripts"
    return packed if packed.is_dir() else PACKAGE.parent / "experiments"


def script_file(name: str) -> Path:
    """The file of a script by its name, or by its path. Raises UserError where there is none."""
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise UserError(f"{name} is no file: name a script of the library without .py, or a file of your own")
        return Path(name)
    known = scripts(scripts_folder())
    if name not in known:
        raise UserError(f"script {name!r} is unknown{nearest(name, known)}: choose one of {', '.join(known)}")
    return known[name]


def listing(folder: Path) -> str:
    """Scripts, what they are, their presets, and what was measured of these: `results.json` beside the scripts."""
    file = folder / "results.json"
    measured = json.loads(file.read_text()) if file.exists() else {}
    lines = []
    for name, script in scripts(folder).items():
        title = (module_doc(script) or "").strip().split("\n")[0]
        lines.append(f"{name}: {title}")
        for preset in presets_of(script):
            lines.append(f"    {preset:20} {measured.get(name, {}).get(preset, '')}".rstrip())
    return "\n".join(lines)


def module_doc(script: Path) -> str | None:
    """The docstring of a script."""
    return ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))


def train_preset(script: str, presets: dict[str, Experiment], doc: str | None, argv: list[str], program: str) -> None:
    """Trains what the arguments say: PRESET [flags]. script: the name that the run's folder begins with. program: what
    the user typed before the arguments. Raises UserError for bad input, before any compute."""
    if not argv or argv[0] in ("-h", "--help"):
        print(f"{(doc or '').strip()}\n\nusage: {program} PRESET [flags]\npresets: {', '.join(presets)}")
        print(f"flags: {program} PRESET --help")
        return
    name, *flags = argv
    experiment, options = flags_of(preset_of(presets, name), flags, f"{program} {name}", doc, Options)
    processes = (options.coordinator, options.num_processes, options.process_id)
    count = cpu_devices(experiment.mesh)
    start_jax(options.device, options.compilation_cache, count, processes, options.seeds)
    out = user_path(options.out or f"runs/{script}-{name}-{experiment.seed}")
    if options.seeds != 1 and options.profile:
        raise UserError("--profile is of one seed: leave --seeds out")
    began = time.monotonic()
    images = parse.ahead(flags, images={"nargs": "?"}).images
    facts = {"experiment": script, "preset": f"{name} on {user_path(images).name}" if images else name}
    if options.seeds != 1:
        stopped = train_seeds(experiment, options.seeds, out, facts, options.max_hours)
    else:
        stopped = train(experiment, out, facts, options.max_hours, options.profile)
    if is_main():
        print(f"{time.monotonic() - began:.0f} s in all")
    leave_after(stopped, out)


def preset_of(presets: dict[str, Experiment], name: str) -> Experiment:
    """A preset of a script. Raises UserError for one that it has not."""
    if name not in presets:
        raise UserError(f"preset {name!r} is unknown{nearest(name, presets)}: choose one of {', '.join(presets)}")
    return presets[name]


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 6 else 0


def flags_of(
    preset: Experiment, flags: list[str], program: str, doc: str | None, kind: type[Of]
) -> tuple[Experiment, Of]:
    """The experiment as flags change a preset, and the other flags, which are fields of `kind`. Raises UserError for
    flags that cannot be read."""
    import tyro

    @dataclass(frozen=True)
    class Args:
        experiment: Annotated[Experiment, tyro.conf.arg(name="")]
        options: Annotated[kind, tyro.conf.arg(name="")]  # pyright: ignore[reportInvalidTypeForm]: tyro reads it

    switch: dict[str, Any] = {"action": "store_true"}
    number: dict[str, Any] = {"nargs": "?", "type": _number}
    of_data: dict[str, dict[str, Any]] = {"data.label": {"default": "auto"}, "data.channels": number}
    stage: dict[str, dict[str, Any]] = {"codec.run": {"nargs": "?"}}
    text: dict[str, Any] = {"nargs": "?"}
    asked = parse.ahead(
        flags, images=text, size=number, classes=switch, captions=switch, trainable=text, optimizer=text, **of_data,
        **stage,
    )  # fmt: skip
    if isinstance(preset.codec, TaughtBy) and (run := getattr(asked, "codec.run")):
        preset = taught_by(preset, run)
    if asked.optimizer in KINDS:
        model = with_optimizers(preset.model, lambda optimizer: switched(optimizer, asked.optimizer))
        preset = replace(preset, model=model)
    if asked.images:  # before other flags, which are then those of the pictures' data and of the fitted model
        label, channels = (getattr(asked, name) for name in of_data)
        if isinstance(preset.codec, NamesRun) and (run := getattr(asked, "codec.run")):
            preset = replace(preset, codec=replace(preset.codec, run=run))
        grey = 1 if channels == 1 else 3
        preset = on_images(preset, asked.images, asked.size or 0, asked.classes, label, grey, asked.captions)
    args = parse.parse(Args, Args(preset, kind()), flags, program, doc)
    check_fields(args.options)
    experiment = args.experiment
    if experiment.lora.rank and not preset.lora.rank and asked.trainable is None:
        experiment = replace(experiment, trainable="")  # the adapters, instead of what the preset trains
    return experiment, args.options
