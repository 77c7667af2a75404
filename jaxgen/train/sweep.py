"""A sweep: one preset at several settings, each with the same seeds, in as few programs as can be.

Settings that differ only in numbers of the model with which its step can be traced as arrays, such as a learning rate,
are lanes of one program, as seeds are. Others, such as widths, take turns. Each member is an ordinary run, in the
folder SETTING/seedN of the sweep's.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.core.configuration import differences, field_at, located, with_fields_at
from jaxgen.core.types import TrainState
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.optim import Optimizer
from jaxgen.report.seeds import write_seeds_report
from jaxgen.report.sweep import SWEEP, write_sweep_report
from jaxgen.runs.environment import environment
from jaxgen.runtime.devices import check_memory
from jaxgen.runtime.files import check_output, write_text
from jaxgen.runtime.interrupt import Interrupt
from jaxgen.runtime.progress import say
from jaxgen.runtime.reading import read_json
from jaxgen.train.lanes import train_lanes
from jaxgen.train.seeds import check_lanes, lost_steps


@dataclass(frozen=True)
class Setting:
    """One point of the grid. values: of the swept flags, as they were typed. experiment: with the first seed."""

    values: Mapping[str, str]
    experiment: Experiment
    folder: Path


@dataclass(frozen=True)
class Group:
    """Settings that one program trains. varied: fields of the model, by their paths within it, in which they differ."""

    settings: tuple[Setting, ...]
    varied: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is trained, and what of it is shown. metric: the number by which settings are ranked, a leading `-` where
    the highest is best; at_once: members in one program at most, 0 for all that can be."""

    settings: tuple[Setting, ...]
    seeds: int
    out: Path
    metric: str = ""
    at_once: int = 0

    def seeds_of(self, setting: Setting) -> range:
        return range(setting.experiment.seed, setting.experiment.seed + self.seeds)


def train_sweep(sweep: Sweep, facts: dict[str, Any], max_hours: float = 0.0) -> str | None:
    """Trains all members, or goes on with them, and writes sweep.json and report.html.

    facts: `experiment` and `preset`, and what else environment.json should say. Returns why it stopped early, or None.
    Raises UserError for bad input, before any compute.
    """
    sweep = replace(sweep, settings=tuple(replace(s, experiment=_prepared(s.experiment)) for s in sweep.settings))
    record = _record(sweep, facts)
    _check_folder(sweep, record)
    for setting in sweep.settings:
        check_lanes(setting.experiment, "a sweep")
    groups = grouped(sweep.settings)
    for group in groups:
        _check_group(group, sweep)
    check_metric(sweep.settings[0].experiment, sweep.metric)
    sweep.out.mkdir(parents=True, exist_ok=True)
    write_text(sweep.out / SWEEP, json.dumps(record, indent=2) + "\n")
    stopped = None
    with Interrupt(max_hours) as interrupt:
        for number, (group, members) in enumerate(turns := [*_turns(groups, sweep)], start=1):
            names = ", ".join(dict.fromkeys(setting.folder.name for setting, _ in members))
            say(f"{number} of {len(turns)}: {len(members)} members at once: {names}")
            each = [replace(setting.experiment, seed=seed) for setting, seed in members]
            folders = [setting.folder / f"seed{seed}" for setting, seed in members]
            said = {**facts, "sweep": sweep.out.name, "members": len(members)}
            # Pages of many members would take longer to draw than small ones to train: jaxgen report writes them.
            if stopped := train_lanes(each, folders, interrupt, said, group.varied, pages=sweep.seeds == 1):
                break
    if stopped is None:
        for setting in sweep.settings if sweep.seeds > 1 else ():
            write_seeds_report(setting.folder)
        print(f"report: {write_sweep_report(sweep.out)}")
    return stopped


def _prepared(experiment: Experiment) -> Experiment:
    """The experiment of a member: a step that is not finite is left out, so that one rate too high ends no sweep."""
    experiment = located(experiment)
    return replace(experiment, on_nonfinite="skip") if experiment.on_nonfinite == "rollback" else experiment


def _record(sweep: Sweep, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of sweep.json as training begins."""
    first = sweep.settings[0]
    axes = {path: list(dict.fromkeys(s.values[path] for s in sweep.settings)) for path in first.values}
    return {
        "experiment": facts.get("experiment", ""),
        "preset": facts.get("preset", ""),
        "axes": axes,
        "seeds": list(sweep.seeds_of(first)),
        "metric": sweep.metric,
        "settings": [{"folder": s.folder.name, "values": dict(s.values)} for s in sweep.settings],
        "environment": environment(),
    }


def _check_folder(sweep: Sweep, record: Mapping[str, Any]) -> None:
    """Raises UserError if the folder cannot be written, or holds something else than this sweep."""
    check_output(sweep.out, folder=True)
    if (sweep.out / SWEEP).exists():
        there = read_json(sweep.out / SWEEP)
        fixed = ("experiment", "preset", "axes", "seeds")
        found, wanted = ({name: one.get(name) for name in fixed} for one in (there, record))
        other = differences(found, wanted)
        if other:
            raise UserError(f"{sweep.out} holds another sweep ({'; '.join(other[:3])}): choose another --out")
    elif sweep.out.is_dir() and any(sweep.out.iterdir()):
        raise UserError(f"{sweep.out} is not empty and holds no sweep: choose another folder with --out")
    for setting in sweep.settings:
        saved = lost_steps({seed: setting.folder / f"seed{seed}" for seed in sweep.seeds_of(setting)})
        if saved is not None:
            found = "; ".join(f"seed {seed}: {', '.join(map(str, steps)) or 'none'}" for seed, steps in saved.items())
            raise UserError(
                f"no step was saved by all members of {setting.folder} ({found}): move the folder away, or choose "
                "another with --out"
            )


def _check_group(group: Group, sweep: Sweep) -> None:
    """Raises UserError for what a program of these settings would fail at. What varies within it is in its range."""
    experiment = group.settings[0].experiment
    experiment.check()
    state = _arguments(experiment)[0]
    lanes = min(len(group.settings) * sweep.seeds, sweep.at_once or sys.maxsize)
    check_memory(lanes * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)))


def check_metric(experiment: Experiment, metric: str) -> None:
    """Raises UserError unless `metric` is empty or one of the numbers that a member will have: what its step logs,
    train/NAME, or its model's numbers of held-out data, test/NAME. Of samples/NAME nothing is known yet."""
    sign, name = "-" * metric.startswith("-"), metric.removeprefix("-")
    if not metric or name.startswith("samples/"):
        return
    if not name.startswith(("train/", "test/")):
        raise UserError(f"metric is {metric!r}: a name that begins with train/, test/ or samples/ is expected")
    try:
        replace(experiment, best=sign + name.removeprefix("train/")).check()
    except UserError as error:
        raise UserError(f"metric is {metric!r}, as which runs have no number: {error}") from error


def _turns(groups: Sequence[Group], sweep: Sweep) -> Iterator[tuple[Group, list[tuple[Setting, int]]]]:
    """The members that are trained together, settings with their seeds, in the order of the grid."""
    for group in groups:
        members = [(setting, seed) for setting in group.settings for seed in sweep.seeds_of(setting)]
        size = sweep.at_once or len(members)
        for start in range(0, len(members), size):
            yield group, members[start : start + size]


def grouped(settings: Sequence[Setting]) -> list[Group]:
    """The settings by the programs that can train them: together where they differ in `traced` numbers alone."""
    paths = tuple(path for path in settings[0].values if _may_vary(settings[0].experiment, path))
    groups = []
    for some in _alike(settings, paths):
        leader = some[0].experiment
        own = paths if traced(leader, paths) else tuple(path for path in paths if traced(leader, (path,)))
        for alike in _alike(some, own):
            differing = [p for p in own if len({field_at(s.experiment, p) for s in alike}) > 1]
            groups.append(Group(tuple(alike), tuple(path.removeprefix("model.") for path in differing)))
    return groups


def _alike(settings: Sequence[Setting], paths: Sequence[str]) -> list[list[Setting]]:
    """The settings, those together that have all but the fields `paths` in common."""
    fixed = {path: field_at(settings[0].experiment, path) for path in paths}
    found: dict[Experiment, list[Setting]] = {}
    for setting in settings:
        found.setdefault(with_fields_at(setting.experiment, fixed), []).append(setting)
    return [*found.values()]


def _may_vary(experiment: Experiment, path: str) -> bool:
    """Whether a swept flag is a number of the model that need not be a constant of its program."""
    try:
        value = field_at(experiment, path)
    except AttributeError:  # a flag that changes the model itself, as --optimizer
        return False
    if not path.startswith("model.") or not isinstance(value, float):
        return False
    # As an array, a number widens what is computed in bfloat16; optimizers compute in f32.
    return experiment.precision == "float32" or isinstance(field_at(experiment, path.rpartition(".")[0]), Optimizer)


def traced(experiment: Experiment, paths: Sequence[str]) -> bool:
    """Whether the model's step can be traced with these numbers as arrays, and its state then stays as it is. Not where
    code branches on one, as on a weight decay of 0, or computes with it in NumPy."""
    model, arguments = experiment.compute_model, _arguments(experiment)

    def step(values: jax.Array, state: TrainState, key: jax.Array, batch: Any) -> TrainState:
        own = {path.removeprefix("model."): value for path, value in zip(paths, values)}
        return with_fields_at(model, own).train_step(state, key, batch)[0]

    try:
        new = jax.eval_shape(step, jnp.ones(len(paths)), *arguments)
    except Exception:  # of whatever kind: what is wrong with the settings themselves, `Experiment.check` says
        return False
    kinds = [[(a.shape, a.dtype) for a in jax.tree.leaves(state)] for state in (new, arguments[0])]
    return kinds[0] == kinds[1]


def _arguments(experiment: Experiment) -> tuple[TrainState, jax.Array, Any]:
    """Shapes of what a step takes."""
    raw = experiment.data.batch_at(experiment.seed, 0, experiment.batch_size)
    return experiment.step_arguments(raw, experiment.codec.load())
