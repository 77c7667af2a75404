"""Sums over all places of an image or a sequence, and the scaling whose gradients are such sums.

On a CPU they are matrix products with ones: XLA's reductions of any axes but the last take up to nine times as long,
and round more. Elsewhere they are XLA's.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxgen.ops.linear import Multilinear


def channel_sums(x: jax.Array) -> jax.Array:
    """f32[B, ..., C] summed over all axes but the first and the last: f32[B, C]."""
    return _sums(x)


def scale_shift(x: jax.Array, gain: jax.Array, offset: jax.Array) -> jax.Array:
    """x gain + offset for each channel. x: f32[B, ..., C]; gain, offset: f32[B, C], or f32[1, C] for all examples."""
    gain, offset = (jnp.broadcast_to(a, (x.shape[0], x.shape[-1])) for a in (gain, offset))
    return _scaled(x, gain) + _spread(offset, places=x.shape[1:-1])


def _sum(x: jax.Array) -> jax.Array:
    def product(x: jax.Array) -> jax.Array:
        ones = jnp.ones((x.shape[0], 1, x.shape[1]), x.dtype)
        return lax.dot_general(ones, x, (((2,), (1,)), ((0,), (0,))))[:, 0]

    flat = x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])
    return lax.platform_dependent(flat, cpu=product, default=partial(jnp.sum, axis=1))


def _at_all(a: jax.Array, places: tuple[int, ...]) -> jax.Array:
    """f32[B, C] at all places: f32[B, *places, C]."""
    return jnp.broadcast_to(jnp.expand_dims(a, range(1, 1 + len(places))), (a.shape[0], *places, a.shape[-1]))


_sums, _spread = Multilinear(_sum), Multilinear(_at_all)
_scaled = Multilinear(lambda x, gain: x * jnp.expand_dims(gain, range(1, x.ndim - 1)))
_sums.transpose_by(lambda dy, x: _spread(dy, places=x.shape[1:-1]))
_spread.transpose_by(lambda dy, a, places: _sums(dy))
_scaled.transpose_by(lambda dy, x, gain: _scaled(dy, gain), lambda dy, x, gain: _sums(dy * x))
