"""Recurrent layers as scans over time whose weight gradients are computed after the scan, in one product.

u_t = d_t + r_t W are a cell's activations: d: f32[S, B, G] is what drives it, known for all S steps before the first,
and r_t: f32[B, R] is read from what it carries. dL/dd_t = dL/du_t, so that dL/dW = sum_t r_t^T dL/dd_t: one product of
S B rows, where the gradient of a scan adds S products of B rows to an array of the size of W.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.core.types import PyTree

Cell = Callable[[PyTree, PyTree, jax.Array, PyTree], tuple[PyTree, PyTree]]
"""(others, carry, u, extra) -> (carry, out): pure, of a hashable value, such as a function of a module."""


def recurrent(
    cell: Cell,
    read: Callable[[PyTree], jax.Array],
    kernel: jax.Array,
    others: PyTree,
    carry: PyTree,
    drive: jax.Array,
    extra: PyTree,
    remat: bool = False,
) -> PyTree:
    """The outputs of all steps, leading axis S. kernel: W, f32[R, G]; others: whatever else the cell multiplies by;
    carry: at the start; extra: leading axis S, by step, without a gradient. remat: compute a step again for its
    gradient, rather than keep what it needs."""
    return _recurrent(cell, read, remat, kernel, others, carry, drive, extra)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _recurrent(cell, read, remat, kernel, others, carry, drive, extra) -> Any:
    return _scanned(cell, read, remat, kernel, others, carry, drive, extra)[0]


def _scanned(cell, read, remat, kernel, others, carry, drive, extra) -> tuple[PyTree, jax.Array]:
    def step(carry: PyTree, given: tuple[jax.Array, PyTree]) -> tuple[PyTree, tuple[PyTree, jax.Array]]:
        r = read(carry)
        carry, out = cell(others, carry, given[0] + matmul(r, kernel).astype(given[0].dtype), given[1])
        return carry, (out, r)

    _, outputs = jax.lax.scan(jax.checkpoint(step) if remat else step, carry, (drive, extra))
    return outputs


def _forward(cell, read, remat, kernel, others, carry, drive, extra):
    def run(others: PyTree, carry: PyTree, drive: jax.Array) -> tuple[PyTree, jax.Array]:
        return _scanned(cell, read, remat, jax.lax.stop_gradient(kernel), others, carry, drive, extra)

    outputs, back, reads = jax.vjp(run, others, carry, drive, has_aux=True)
    return outputs, (back, reads, kernel)


def _backward(cell, read, remat, kept, cotangent):
    back, reads, kernel = kept
    others, carry, drive = back(cotangent)
    rows = reads.astype(kernel.dtype).reshape(-1, reads.shape[-1])
    return jnp.matmul(rows.T, drive.astype(kernel.dtype).reshape(-1, drive.shape[-1])), others, carry, drive, None


_recurrent.defvjp(_forward, _backward)


def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x @ kernel in the precision of the kernel."""
    return jnp.matmul(x.astype(kernel.dtype), kernel)


def lstm(u: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
    """h and c of an LSTM's activations u, f32[B, 4 H], whose gates are in PyTorch's order: in, forget, cell, out.

    c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g), h_t = sigmoid(o) tanh(c_t).
    """
    i, f, g, o = jnp.split(u, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def masked_lstm(_: PyTree, carry: tuple[jax.Array, jax.Array], u: jax.Array, real: jax.Array):
    """A cell of h and c, f32[B, H], which are zero where `real`, bool[B, 1], is false: before and after a text."""
    h, c = lstm(u, carry[1])
    h, c = jnp.where(real, h, 0.0), jnp.where(real, c, 0.0)
    return (h, c), h


def hidden(carry: tuple[jax.Array, ...]) -> jax.Array:
    """h, the first that a cell carries."""
    return carry[0]
