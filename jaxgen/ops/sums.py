"""Sums over all places of an image or a sequence, and the scaling whose gradients are such sums.

On a CPU they are matrix products with ones: XLA's reductions of any axes but the last take up to nine times as long,
and round more. Elsewhere they are XLA's.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax


@jax.custom_jvp
def channel_sums(x: jax.Array) -> jax.Array:
    """f32[B, ..., C] summed over all axes but the first and the last: f32[B, C]."""

    def product(x: jax.Array) -> jax.Array:
        ones = jnp.ones((x.shape[0], 1, x.shape[1]), x.dtype)
        return lax.dot_general(ones, x, (((2,), (1,)), ((0,), (0,))))[:, 0]

    flat = x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])
    return lax.platform_dependent(flat, cpu=product, default=partial(jnp.sum, axis=1))


@channel_sums.defjvp
def _channel_sums_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """The transpose of the plain sum is a broadcast, which needs no product."""
    return channel_sums(primals[0]), jnp.sum(tangents[0], axis=tuple(range(1, tangents[0].ndim - 1)))


@jax.custom_vjp
def scale_shift(x: jax.Array, gain: jax.Array, offset: jax.Array) -> jax.Array:
    """x gain + offset for each channel. x: f32[B, ..., C]; gain, offset: f32[B, C], or f32[1, C] for all examples.
    Reverse mode only, to any order, as `ops.conv.conv`, beside which it stands."""
    shape = (-1,) + (1,) * (x.ndim - 2) + (x.shape[-1],)
    return x * gain.reshape(shape) + offset.reshape(shape)


def _backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, gain = saved
    sums = channel_sums(dy * x), channel_sums(dy)
    d_gain, d_offset = (jnp.sum(s, axis=0, keepdims=True) if gain.shape[0] == 1 else s for s in sums)
    return scale_shift(dy, gain, jnp.zeros_like(gain)), d_gain, d_offset


scale_shift.defvjp(lambda x, gain, offset: (scale_shift(x, gain, offset), (x, gain)), _backward)
