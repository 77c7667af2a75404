"""Snapshots of power-function averages in a run's folder, and averages of any length that are made of them.

RUN/snapshots/STEP.safetensors holds the running averages of all lengths of `model.ema_lengths` at a step, named
LENGTH/PATH. They are written whole, stay whatever becomes of checkpoints, and are the same when a run that was killed
comes to a step again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgen.core.types import PyTree, TrainState
from jaxgen.errors import UserError, first_few
from jaxgen.experiment import Experiment
from jaxgen.ops.power_ema import Profile, coefficients
from jaxgen.optim import path_name
from jaxgen.runs.checkpoint import saved_steps
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.packing import placed
from jaxgen.runs.restore import Trained, restore
from jaxgen.runtime import processes
from jaxgen.runtime.files import disk_errors, write_tensors
from jaxgen.runtime.reading import read_tensors
from jaxgen.weights.store import content_hash

FORMAT = "jaxgen snapshot 1"


class Snapshots:
    """The snapshots of one run."""

    def __init__(self, run: RunFolder):
        self.folder = run.path / "snapshots"

    def steps(self) -> list[int]:
        """Steps of which there is a snapshot, oldest first."""
        files = self.folder.glob("*.safetensors") if self.folder.is_dir() else ()
        return sorted(int(file.stem) for file in files if file.stem.isdecimal())

    def file(self, step: int) -> Path:
        return self.folder / f"{step:09d}.safetensors"

    def save(self, model: Any, state: TrainState) -> None:
        """Writes the averages (`core.ema.Averaging`) of a state. Every process is to ask for it. Raises UserError where
        it cannot be written."""
        averages = processes.whole({f"{n:g}": tree for n, tree in model.running_averages(state).items()})
        step = int(state.step)

        def write() -> None:
            arrays = flat(averages)
            with disk_errors():
                facts = {"format": FORMAT, "step": str(step), "sha256": content_hash(arrays)}
                write_tensors(self.file(step), arrays, facts)

        processes.on_main(write)

    def read(self, step: int) -> dict[str, np.ndarray]:
        """The arrays of a snapshot. Raises UserError for a damaged one."""
        file = self.file(step)
        arrays, facts = read_tensors(file)
        if facts != {"format": FORMAT, "step": str(step), "sha256": content_hash(arrays)}:
            raise UserError(f"{file} is damaged: move it away, the other snapshots will do without it")
        return arrays

    def forget_after(self, step: int) -> None:
        """Removes snapshots of later steps, of a training that was given up."""
        for later in self.steps():
            if later > step:
                self.file(later).unlink()


def flat(tree: PyTree) -> dict[str, np.ndarray]:
    """The arrays of a tree by path."""
    return {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@dataclass(frozen=True)
class Rebuilt:
    """An average of a run's parameters. missed: distance of its profile from the wanted one, relative to its norm."""

    length: float
    params: PyTree
    missed: float
    used: tuple[int, ...]
    """Steps of the snapshots that it is made of."""


def rebuild(run: RunFolder, state: TrainState, lengths: Sequence[float], step: int | None = None) -> list[Rebuilt]:
    """Averages of these lengths at a step, that of `state` if None, by algorithm 3 of arXiv:2312.02696.

    state: of the same run; its `ema` tells the shapes. Snapshots are read one at a time and summed in f64. Raises
    UserError where there are no snapshots up to that step.
    """
    step = int(state.step) if step is None else step
    snapshots, tracked = Snapshots(run), lengths_of(run.experiment())
    used = [s for s in snapshots.steps() if s <= step]
    if not used:
        raise UserError(
            f"{run.path} has no snapshots up to step {step}: they are kept of runs trained with --model.ema-lengths "
            "0.05 0.1, say"
        )
    have = [Profile(s, n) for s in used for n in tracked]
    weights, missed = coefficients(have, [Profile(step, n) for n in lengths])
    names = list(flat(state.ema))
    sums = [{name: np.zeros((), np.float64) for name in names} for _ in lengths]
    for i, s in enumerate(used):
        arrays = snapshots.read(s)
        for j, n in enumerate(tracked):
            for total, weight in zip(sums, weights[i * len(tracked) + j], strict=True):
                for name in names:
                    total[name] = total[name] + weight * arrays[f"{n:g}/{name}"].astype(np.float64)

    def tree(total: dict[str, np.ndarray]) -> PyTree:
        def one(path: tuple, leaf: jax.Array) -> jax.Array:
            return placed(total[path_name(path)].astype(leaf.dtype), leaf.sharding)

        return jax.tree_util.tree_map_with_path(one, state.ema)

    found = zip(lengths, sums, missed, strict=True)
    return [Rebuilt(float(n), tree(total), float(far), tuple(used)) for n, total, far in found]


def lengths_of(experiment: Experiment) -> tuple[float, ...]:
    """The lengths of the averages that a run keeps. Raises UserError where it keeps none."""
    lengths = getattr(experiment.model, "ema_lengths", ())
    if not lengths:
        raise UserError(
            f"this run of {type(experiment.model).__name__} keeps no power-function averages: train one with "
            "--model.ema-lengths 0.05 0.1"
        )
    return lengths


def restore_earlier(run: RunFolder, step: int | None) -> Trained:
    """The run at a step, that of the newest checkpoint if None, for sampling: from its checkpoint, or from its snapshot
    with the first of its lengths. Raises UserError where there is neither."""
    checkpoints, snapshots = saved_steps(run.checkpoints), Snapshots(run).steps()
    if step is None or step in checkpoints:
        return restore(run, step=step)
    if step not in snapshots:
        there = "; ".join(
            f"{what} of {first_few(list(map(str, steps)))}"
            for what, steps in (("checkpoints", checkpoints), ("snapshots", snapshots))
            if steps
        )
        raise UserError(f"{run.path} has no checkpoint or snapshot of step {step}, only {there or 'none at all'}")
    newest = restore(run, adapters=None)
    state, first = newest.state, lengths_of(newest.experiment)[0]
    arrays = Snapshots(run).read(step)

    def one(path: tuple, leaf: Any) -> jax.Array:
        return placed(arrays[f"{first:g}/{path_name(path)}"], leaf.sharding)

    ema = jax.tree_util.tree_map_with_path(one, state.ema)
    at_step = state.replace(step=np.int32(step), ema=ema, params={**state.params, **ema})
    return replace(newest, state=at_step).merged()
