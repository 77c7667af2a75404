"""Gradients of a mean over a batch, computed in parts if the whole batch does not fit in memory."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.errors import UserError

PyTree = Any


class Seen(NamedTuple):
    """What a loss returns beside its value.

    metrics: means over these examples, f32[] each. rows: by example, leading axis B. extra: new values for parts of
    `TrainState.extra`, means over the examples or the same for any. weight: of the loss and these means beside those of
    other examples.
    """

    metrics: dict[str, jax.Array]
    rows: PyTree = ()
    extra: PyTree = ()
    weight: jax.Array | float = 1.0


def gradient(
    loss: Callable[[PyTree, jax.Array, PyTree], tuple[jax.Array, Seen]],
    params: PyTree,
    key: jax.Array,
    num: int,
    batch: PyTree = None,
    parts: int = 1,
    block: int = 1,
) -> tuple[tuple[jax.Array, Seen], PyTree]:
    """((loss, Seen), gradient in params) of loss(params, keys, batch), a mean over `num` examples.

    Example i has the key fold_in(key, i) and row i of each array of batch. parts: into how many equal parts the batch
    is cut. Their gradients are computed one after another in the memory of one part, with the same result to rounding:
    means are weighted, rows keep their order. block: neighbours that stay in one part, for a loss of groups of them.
    Raises UserError if `num` does not divide.
    """
    if parts < 1:
        raise UserError(f"model.accumulate is {parts}, at least 1 is expected")

    def of_rows(params: PyTree, rows: tuple[jax.Array, PyTree]) -> tuple[jax.Array, Seen]:
        index, batch = rows
        return loss(params, jax.vmap(jax.random.fold_in, (None, 0))(key, index), batch)

    rows, whole = (jnp.arange(num), batch), jax.value_and_grad(of_rows, has_aux=True)
    if parts == 1:
        return whole(params, rows)

    def add(sums: PyTree, part: PyTree) -> tuple[PyTree, tuple[PyTree, PyTree]]:
        (value, seen), grads = whole(params, part)
        sums = jax.tree.map(lambda s, a: s + seen.weight * a, sums, (1.0, value, seen.metrics, grads))
        return sums, (seen.rows, seen.extra)

    split = in_turns(rows, parts, block)
    (value, seen), grads = jax.eval_shape(whole, params, jax.tree.map(lambda a: a[0], split))
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), (jnp.zeros(()), value, seen.metrics, grads))
    (weight, *sums), (kept, extras) = jax.lax.scan(add, zeros, split)
    value, metrics, grads = jax.tree.map(lambda a: a / weight, sums)
    extra = jax.tree.map(lambda a: jnp.mean(a, axis=0) if jnp.issubdtype(a.dtype, jnp.inexact) else a[-1], extras)
    return (value, Seen(metrics, joined_turns(kept, block), extra, weight)), grads


def in_turns(rows: PyTree, parts: int, block: int = 1) -> PyTree:
    """[B, ...] as [parts, B / parts, ...]: part i holds the blocks i, i + parts, ... of rows. Raises UserError if B
    does not divide."""

    def split(a: jax.Array) -> jax.Array:
        if a.shape[0] % (parts * block):
            of = f" of {block} neighbours each" if block > 1 else ""
            raise UserError(
                f"{a.shape[0]} examples are not {parts} equal parts{of}: choose a batch_size that is a multiple of "
                f"{parts * block} (of a GAN, times model.n_critic)"
            )
        # (b k), not (k b): devices split the leading axis.
        return a.reshape(-1, parts, block, *a.shape[1:]).swapaxes(0, 1).reshape(parts, -1, *a.shape[1:])

    return jax.tree.map(split, rows)


def joined_turns(rows: PyTree, block: int = 1) -> PyTree:
    """The inverse of `in_turns`."""

    def join(a: jax.Array) -> jax.Array:
        return a.reshape(a.shape[0], -1, block, *a.shape[2:]).swapaxes(0, 1).reshape(-1, *a.shape[2:])

    return jax.tree.map(join, rows)


def by_parts(function: Callable[[PyTree], PyTree], rows: PyTree, parts: int = 1) -> PyTree:
    """function(rows), computed in `parts` equal parts one after another; its results have a row for each of rows."""
    return function(rows) if parts == 1 else joined_turns(jax.lax.map(function, in_turns(rows, parts)))


def once(
    function: Callable[[PyTree], tuple[PyTree, PyTree]], params: PyTree
) -> Callable[[PyTree], tuple[PyTree, PyTree]]:
    """`function`, which maps params to (value, aux), computed once at these params for several losses.

    The result is a function with the same value, whose gradient is a backward pass through the one computation. Without
    it the forward pass runs again for each loss: the compiler does not see that two loops over layers are the same.
    """
    value, back, aux = jax.vjp(function, params, has_aux=True)

    @jax.custom_vjp
    def again(params: PyTree) -> PyTree:
        return value

    again.defvjp(lambda params: (value, None), lambda _, cotangent: back(cotangent))
    return lambda params: (again(params), aux)
