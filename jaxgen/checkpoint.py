"""Checkpoints: orbax, asynchronous and atomic, with a checksum of every array.

Orbax notices a truncated file but restores a flipped byte silently, so each checkpoint carries one number per array,
computed on the device and compared on the way back.
"""

import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.errors import UserError

PyTree = Any


def _quiet() -> None:
    """Orbax logs each step of each save at INFO and WARNING."""
    logging.getLogger("absl").setLevel(logging.ERROR)


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
    """A number for each array of `tree`, by path."""
    paths, leaves = zip(*jax.tree_util.tree_flatten_with_path(tree)[0], strict=True)
    return {
        jax.tree_util.keystr(path): int(value) for path, value in zip(paths, _checksums(list(leaves)), strict=True)
    }


class Checkpoints:
    """The checkpoints of one run, in `folder`. Close it, or use it in a `with`: a pending save dies with the process.

    keep: how many of the newest stay.
    """

    def __init__(self, folder: Path, keep: int = 2):
        import orbax.checkpoint as ocp  # 0.5 s that `--help` need not wait for

        _quiet()
        self.folder = folder
        self._ocp = ocp
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Waits for pending saves."""
        self._manager.wait_until_finished()
        self._manager.close()

    def steps(self) -> list[int]:
        """Saved steps, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, state: PyTree) -> None:
        """Saves `state` under its step; returns once the arrays are copied, so the state may be donated."""
        ocp = self._ocp
        sums = {"checksums": checksums(state)}
        items = ocp.args.Composite(state=ocp.args.PyTreeSave(state), integrity=ocp.args.JsonSave(sums))
        try:
            self._manager.save(int(state.step), args=items)
        except OSError as error:
            raise UserError(f"cannot save a checkpoint in {self.folder}: {error.strerror or error}") from error

    def wait(self) -> None:
        """Blocks until what was saved is on disk."""
        try:
            self._manager.wait_until_finished()
        except OSError as error:
            raise UserError(f"cannot save a checkpoint in {self.folder}: {error.strerror or error}") from error

    def restore(self, like: PyTree, step: int | None = None, report=print) -> PyTree:
        """The newest intact checkpoint (or that of `step`) in the shape of `like`, a state or its ShapeDtypeStructs.

        A damaged one is named by `report` and passed over, never deleted. Raises UserError when none is intact.
        """
        steps = self.steps()
        if step is not None and step not in steps:
            raise UserError(f"{self.folder} has no checkpoint of step {step}, only of {steps or 'none'}: choose one")
        wanted = [step] if step is not None else steps[::-1]
        if not wanted:
            raise UserError(f"{self.folder} holds no checkpoint: train first, or name another run")
        for candidate in wanted:
            try:
                return self._restore(candidate, like)
            except _Damaged as error:
                damage = f"checkpoint {self.folder / str(candidate)} is damaged ({error})"
                if candidate != wanted[-1]:
                    report(f"{damage}: going on with an older one")
        raise UserError(f"{damage} and no older one is intact: move {self.folder} away to start anew")

    def _restore(self, step: int, like: PyTree) -> PyTree:
        ocp = self._ocp
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        restore_args = ocp.checkpoint_utils.construct_restore_args(like)
        items = ocp.args.Composite(
            state=ocp.args.PyTreeRestore(like, restore_args=restore_args), integrity=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(step, args=items)
        except Exception as error:
            # tensorstore and orbax raise a dozen types for a file that is short, missing or garbled.
            raise _Damaged(f"unreadable, {' '.join(str(error).split())[:90]}...") from error
        expected, found = restored["integrity"]["checksums"], checksums(restored["state"])
        for path, value in found.items():
            if expected.get(path) != value:
                raise _Damaged(f"{path} does not match its checksum")
        return restored["state"]


class _Damaged(Exception):
    """What is wrong with a checkpoint."""
