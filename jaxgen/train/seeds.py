"""Many seeds of a small model in one program: lane i is the run of `seed` + i, in a folder of its own.

Clips of unequal length are padded to the longest of all lanes, and dropout's masks with them: of Tacotron 2, a lane has
the examples of its run and not its masks.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from jaxgen.core.configuration import located
from jaxgen.errors import UserError
from jaxgen.experiment import AUTO, Experiment
from jaxgen.report.seeds import write_seeds_report
from jaxgen.runs.checkpoint import saved_steps
from jaxgen.runs.folder import RunFolder
from jaxgen.runtime.interrupt import Interrupt
from jaxgen.train.lanes import train_lanes


def train_seeds(
    experiment: Experiment, count: int, out: Path, facts: dict[str, Any] | None = None, max_hours: float = 0.0
) -> str | None:
    """Trains `count` seeds from `experiment.seed` on, in folders `out`/seedN, and writes `out`/seeds.json and a report
    with mean and 95 % confidence interval over seeds of every metric.

    Returns why it stopped early, or None, as `train_lanes`. Raises UserError for bad input, before any compute.
    """
    experiment = located(experiment)
    if count < 2:
        raise UserError(f"seeds is {count}: 2 or more are trained at once, one without --seeds")
    check_lanes(experiment, "--seeds")
    if (out / "experiment.json").exists():
        raise UserError(f"{out} holds a run of one seed: choose another folder with --out")
    experiment.check()
    seeds = range(experiment.seed, experiment.seed + count)
    _check_saved(seeds, out)
    each = [replace(experiment, seed=seed) for seed in seeds]
    with Interrupt(max_hours) as interrupt:
        folders = [out / f"seed{seed}" for seed in seeds]
        stopped = train_lanes(each, folders, interrupt, {**(facts or {}), "seeds": count})
    print(f"report: {write_seeds_report(out)}")
    return stopped


def check_lanes(experiment: Experiment, flag: str) -> None:
    """Raises UserError for settings with which runs cannot be trained at once. flag: what asks for that."""
    if experiment.mesh not in ("", AUTO) or jax.process_count() > 1:
        raise UserError(f"{flag} lays its lanes over the devices of one process itself: leave --mesh out")
    if experiment.keep < 2:
        # Lanes are saved one after the other: between two of them the step before is the one that all have.
        raise UserError(f"keep is {experiment.keep}, 2 is expected: {flag} goes on from a step that all seeds saved")


def lost_steps(folders: Mapping[int, Path]) -> dict[int, list[int]] | None:
    """The saved steps of each run if some have checkpoints but no step was saved by all, so that a start from step 0
    would lose them; else None."""
    saved = {number: saved_steps(RunFolder(folder).checkpoints) for number, folder in folders.items()}
    steps = set().union(*saved.values())
    if not steps or set.intersection(*map(set, saved.values())):
        return None
    begun = all((folder / "experiment.json").exists() for folder in folders.values())
    if begun and len(steps) == 1:  # stopped in the middle of the first save, there is nothing to lose yet
        return None
    return saved


def _check_saved(seeds: range, out: Path) -> None:
    """Raises UserError for `lost_steps`."""
    saved = lost_steps({seed: out / f"seed{seed}" for seed in seeds})
    if saved is None:
        return
    found = "; ".join(f"seed {seed}: {', '.join(map(str, saved[seed])) or 'none'}" for seed in seeds)
    newest = {seed: max(saved[seed], default=0) for seed in seeds}
    first, *more = behind = [seed for seed in seeds if newest[seed] == min(newest.values())]
    together = more and behind == list(range(first, first + len(behind)))
    flags = f"--seeds {len(behind)} --out {out}" if together else f"--out {out / f'seed{first}'}"
    raise UserError(
        f"no step was saved by all seeds in {out} ({found}): train those behind by themselves first, as with --seed "
        f"{first} {flags}, or choose another folder with --out"
    )
