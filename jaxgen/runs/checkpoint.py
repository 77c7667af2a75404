"""Checkpoints: orbax, asynchronous and atomic, with a checksum of every array.

Orbax notices a truncated file but restores a flipped byte silently, so each checkpoint carries one number per array,
computed on the device and compared on the way back. A file beside the checkpoints lists those that were saved, so that
one that was removed or replaced is noticed.
"""

import hashlib
import json
import logging
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.core.types import TrainState
from jaxgen.errors import UserError
from jaxgen.runs.packing import pack, to_read, unpack
from jaxgen.runtime import processes
from jaxgen.runtime.files import sync, write_text
from jaxgen.runtime.progress import say
from jaxgen.runtime.reading import read_json, why

PyTree = Any
SPARE_BYTES = 1 << 20  # what a checkpoint takes beside its arrays, and the log until the next
UNWRITABLE = (OSError, ValueError, RuntimeError)


def _quiet() -> None:
    """Silences orbax, which logs every step of a save and every thread of a failed one. It also raises its errors."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").addFilter(_is_news)
    if not isinstance(sys.unraisablehook, _Unraisable):
        sys.unraisablehook = _Unraisable(sys.unraisablehook)


def _is_news(record: logging.LogRecord) -> bool:
    return "never retrieved" not in record.getMessage()


class _Unraisable:
    """The hook before, for all but reads that end after another of the same checkpoint has failed."""

    def __init__(self, before: Callable[[Any], Any]):
        self.before = before

    def __call__(self, found: Any) -> None:
        if not (isinstance(found.exc_value, RuntimeError) and "Event loop is closed" in str(found.exc_value)):
            self.before(found)


@jax.jit
def _checksums(leaves: list[jax.Array]) -> jax.Array:
    """u32[len(leaves)]: the words of each array, each times an odd number of its own, summed modulo 2^32.

    Any one changed word changes its sum; sums do not depend on how an array is sharded.
    """

    def one(leaf: jax.Array) -> jax.Array:
        if leaf.dtype == jnp.bool_:
            leaf = leaf.astype(jnp.uint8)
        words = jax.lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}").astype(jnp.uint32).reshape(-1)
        position = jax.lax.iota(jnp.uint32, words.size)
        return jnp.sum(words * (position * jnp.uint32(2654435761) * 2 + 1), dtype=jnp.uint32)

    return jnp.stack([one(leaf) for leaf in leaves])


def checksums(tree: PyTree) -> dict[str, int]:
    """The checksum of each array of `tree`, by path."""
    paths, leaves = zip(*jax.tree_util.tree_flatten_with_path(tree)[0], strict=True)
    sums = processes.whole(_checksums(list(leaves)))
    return {jax.tree_util.keystr(path): int(value) for path, value in zip(paths, sums, strict=True)}


def saved_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in `folder`, oldest first, damaged ones too; empty if there is no such folder."""
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []


class Checkpoints:
    """The checkpoints of one run, in `folder`. Close it, or use it in a `with`: a pending save dies with the process.

    keep: how many of the newest stay. Where saves come with a score, the one of the lowest stays too.
    """

    def __init__(self, folder: Path, keep: int = 2):
        import orbax.checkpoint as ocp  # 0.5 s that `--help` need not wait for
        from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

        _quiet()
        self.folder = folder
        self._list = folder.with_name(f"{folder.name}.json")
        self._saved: dict[int, str] = {}
        self._ocp = ocp
        processes.on_main(self._set_scores_aside)
        # Not max_to_keep with best_fn: that deletes the newest when it scores badly.
        best = policies.BestN(get_metric_fn=_goodness, n=1, keep_checkpoints_without_metrics=False)
        policy = policies.AnyPreservationPolicy([policies.LatestN(keep), best])
        options = ocp.CheckpointManagerOptions(
            best_fn=_goodness, preservation_policy=policy, enable_async_checkpointing=True
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        # Where a run already fails, say of a full disk, that is the error to tell.
        with nullcontext() if kind is None else suppress(UserError):
            self.close()

    def close(self) -> None:
        """Waits for pending saves."""
        try:
            self.wait()
        finally:
            with self._saving():
                self._manager.close()

    @contextmanager
    def _saving(self) -> Iterator[None]:
        """Turns errors of a save into a UserError. Orbax and tensorstore raise them at once or at any later call."""
        try:
            yield
        except UNWRITABLE as error:
            reason = " ".join(str(error).split())
            full = "No space left on device" in reason
            reason = "no space is left on the device" if full else f"{reason[:200]}"
            earlier = f"; checkpoints {self.steps()} are whole" if self.steps() else ""
            raise UserError(
                f"cannot save a checkpoint in {self.folder}: {reason}{earlier}. Free space; the same command goes on"
            ) from error

    def steps(self) -> list[int]:
        """Saved steps, oldest first."""
        return sorted(self._manager.all_steps())

    def best(self) -> int:
        """The step saved with the lowest score. Raises UserError when none has one."""
        scores = {step: self._manager.metrics(step) for step in self.steps()}
        scored = {step: _goodness(score) for step, score in scores.items() if score is not None}
        if not scored:
            raise UserError(f"{self.folder} has no best checkpoint: the run was trained without --best")
        return max(scored, key=lambda step: (scored[step], step))

    def _set_scores_aside(self) -> None:
        """Renames files of scores that cannot be read, at which orbax would fail, and says so."""
        for step in saved_steps(self.folder):
            file = self.folder / str(step) / "metrics" / "metrics"
            if not file.exists():
                continue
            try:
                score = read_json(file)
            except UserError:
                score = None
            if not isinstance(score, dict) or not isinstance(score.get("score"), int | float):
                say(f"{file} cannot be read: checkpoint {step} counts as one without a score")
                file.rename(file.with_name("unreadable"))

    def save(self, state: TrainState, score: float | None = None) -> None:
        """Saves `state` under its step; returns once the arrays are copied, so the state may be donated.

        score: lower is better; NaN is never best. Raises UserError when it cannot be written, or when this step or a
        later one is saved.
        """
        ocp = self._ocp
        facts: dict[str, Any] = {"checksums": checksums(state)}
        arrays, facts["packs"] = pack(state)
        items = ocp.args.Composite(state=ocp.args.PyTreeSave(arrays), integrity=ocp.args.JsonSave(facts))
        metrics = None if score is None else {"score": float(score)}
        self.wait()
        processes.in_each(lambda: self._check_space(state))
        with self._saving():
            saved = self._manager.save(int(state.step), args=items, metrics=metrics)
        if not saved:  # orbax neither replaces a step nor goes back behind the newest
            raise UserError(
                f"cannot save step {int(state.step)} in {self.folder}, which holds {self.steps()}: move those of this "
                "step and later away"
            )
        self._saved[int(state.step)] = _digest(facts["checksums"])

    def listed(self) -> dict[int, str]:
        """The checkpoints that should be there: a digest of the checksums by step. Empty for a run of an older version,
        or a list that cannot be read."""
        try:
            return {int(step): str(digest) for step, digest in read_json(self._list).items()}
        except (UserError, AttributeError, ValueError):
            return {}

    def _note(self, listed: dict[int, str]) -> None:
        """Writes the list, of the checkpoints that are there."""
        there = saved_steps(self.folder)
        write_text(self._list, json.dumps({step: digest for step, digest in listed.items() if step in there}) + "\n")

    def _check_space(self, state: TrainState) -> None:
        """Raises UserError if this process's share of a state will not fit on the disk, before orbax fails half-way."""
        shards = [leaf.addressable_shards for leaf in jax.tree.leaves(state)]
        needed = sum(s.data.nbytes for shard in shards for s in shard if s.replica_id == 0) + SPARE_BYTES
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            sizes = f"{needed / 2**20:.1f} MiB are needed and {free / 2**20:.1f} MiB of space are free"
            raise UserError(
                f"cannot save a checkpoint in {self.folder}: {sizes}; checkpoints {self.steps()} are whole. Free "
                "space; the same command goes on"
            )

    def wait(self) -> None:
        """Blocks until what was saved is on disk, and lists it."""
        with self._saving():
            self._manager.wait_until_finished()
            if self._saved and processes.is_main():
                # Arrays are synced as they are written; names and descriptions are not.
                for path in [p for step in self._saved for p in (self.folder / str(step)).rglob("*")]:
                    with suppress(FileNotFoundError):  # somebody removed it
                        sync(path)
                sync(self.folder)
                self._note({**self.listed(), **self._saved})
            self._saved.clear()

    def restore(
        self,
        like: TrainState,
        step: int | None = None,
        report: Callable[[str], Any] | None = None,
        optimizer: bool = True,
    ) -> TrainState:
        """The newest intact checkpoint (or that of `step`) in the shape of `like`, a state or its ShapeDtypeStructs.

        A damaged one is named by `report` (on stderr when None) and passed over, never deleted; so are those that were
        removed. optimizer: whether its state is read; without it `opt_state` is None. Raises UserError when no
        checkpoint is intact.
        """
        report = report or say
        self.report_lost(report)
        steps = self.steps()
        if step is not None and step not in steps:
            raise UserError(f"{self.folder} has no checkpoint of step {step}, only of {steps or 'none'}: choose one")
        wanted = [step] if step is not None else steps[::-1]
        if not wanted:
            raise UserError(f"{self.folder} holds no checkpoint: train first, or name another run")
        for candidate in wanted:
            try:
                return self._restore(candidate, like, optimizer)
            except _Damaged as error:
                damage = f"checkpoint {self.folder / str(candidate)} is damaged ({error})"
                if candidate != wanted[-1]:
                    report(f"{damage}: going on with an older one")
        raise UserError(f"{damage} and no older one is intact: move {self.folder} away to start anew")

    def report_lost(self, report: Callable[[str], Any]) -> None:
        """Tells of checkpoints that were saved and are no longer there, newer than all that are."""
        newest = max(self.steps(), default=-1)
        if lost := [step for step in self.listed() if step > newest]:
            going_on = f"going on from step {max(newest, 0)}"
            report(f"checkpoints of steps {lost} are no longer in {self.folder}: {going_on}")

    def set_aside(self, after: int) -> None:
        """Moves checkpoints newer than step `after`, from which a run goes on, to the folder `set_aside`. Orbax would
        not save their steps again."""
        newer = [step for step in saved_steps(self.folder) if step > after]

        def move() -> None:
            for step in newer:
                target = self.folder.parent / "set_aside" / str(step)
                while target.exists():
                    target = target.with_name(f"{target.name}+")
                target.parent.mkdir(exist_ok=True)
                (self.folder / str(step)).rename(target)

        if newer:
            processes.on_main(move)
            processes.on_main(lambda: self._note(self.listed()))
            self._manager.reload()

    def _restore(self, step: int, like: TrainState, optimizer: bool) -> TrainState:
        ocp = self._ocp
        like = like if optimizer else like.replace(opt_state=None)
        try:
            facts = self._manager.restore(step, args=ocp.args.Composite(integrity=ocp.args.JsonRestore()))["integrity"]
            sums = dict(facts["checksums"])
            wanted = to_read(like, facts["packs"])
            restore_args = ocp.checkpoint_utils.construct_restore_args(wanted)
            # Of a checkpoint that was read without its optimizer state some arrays stay unread.
            arrays = ocp.args.PyTreeRestore(wanted, restore_args=restore_args, partial_restore=True)
            read = self._manager.restore(step, args=ocp.args.Composite(state=arrays))["state"]
            state = unpack(read, like, facts["packs"])
        except Exception as error:
            # tensorstore and orbax raise a dozen types for a file that is short, missing or garbled.
            raise _Damaged(f"unreadable, {why(error)[:90]}...") from error
        for path, value in checksums(state).items():
            if sums.get(path) != value:
                raise _Damaged(f"{path} does not match its checksum")
        if int(state.step) != step:
            raise _Damaged(f"it was renamed: its step is {int(state.step)}")
        if self.listed().get(step, _digest(sums)) != _digest(sums):
            raise _Damaged("it was replaced: it is not the one that this run saved")
        return state


def _digest(sums: dict[str, int]) -> str:
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()[:16]


def _goodness(metrics: dict[str, float]) -> float:
    """Higher is better, as orbax wants it."""
    score = metrics["score"]
    return -math.inf if math.isnan(score) else -score


class _Damaged(Exception):
    """A checkpoint is damaged; the message says how."""
