"""Layers that keep magnitudes, arXiv:2312.02696: learned kernels of fixed size, no biases and no group norms.

A kernel is a parameter named `unit_kernel`. A layer normalizes it as it computes (eq. 47), so an average of kernels,
whose magnitude is below one, works as well. `forced` normalizes the parameters themselves after each step of an
optimizer (eq. 66); without it they would grow, and the effective learning rate would fall.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from jaxgen.nets.conv import linen_conv
from jaxgen.nets.dense import flatten_dot
from jaxgen.ops.attention import attention
from jaxgen.ops.magnitude import mp_fourier, mp_sum, pixel_norm, unit_kernel

UNIT = "unit_kernel"
"""The name of kernels that keep magnitude one."""


def forced(params: Any) -> Any:
    """Parameters with magnitude one over the weights of each output channel of every `unit_kernel`; others stay as they
    are. Forced weight normalization, eq. 66."""

    def one(path: tuple, leaf: jax.Array) -> jax.Array:
        return unit_kernel(leaf) if jax.tree_util.keystr(path[-1:], simple=True) == UNIT else leaf

    return jax.tree_util.tree_map_with_path(one, params)


def _unit_normal(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    return unit_kernel(jax.random.normal(key, shape, dtype))


class MPDense(nn.Module):
    """f32[..., I] times a kernel, f32[..., features]: eq. 47."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, gain: jax.Array | float = 1.0) -> jax.Array:
        kernel = unit_kernel(self.param(UNIT, _unit_normal, (x.shape[-1], self.features)))
        x, kernel = promote_dtype(x, kernel * (gain / math.sqrt(x.shape[-1])), dtype=self.dtype)
        return flatten_dot(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


class MPConv(nn.Module):
    """The convolution of f32[B, H, W, I] with a square kernel of odd `size`, f32[B, H, W, features]: eq. 47."""

    features: int
    size: int = 3
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, gain: jax.Array | float = 1.0) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = unit_kernel(self.param(UNIT, _unit_normal, shape)) * (gain / math.sqrt(math.prod(shape[:-1])))
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        return linen_conv(x, kernel, (1, 1), "SAME")


class MPFourier(nn.Module):
    """Random Fourier features of f32[B], f32[B, features], which no training changes: eq. 75. Frequencies are drawn
    from N(0, 1) and phases from U(0, 1), once and for all networks of a width."""

    features: int

    @nn.compact
    def __call__(self, c: jax.Array) -> jax.Array:
        rng = np.random.default_rng(self.features)
        frequencies, phases = rng.normal(size=self.features), rng.uniform(size=self.features)
        return mp_fourier(c, jnp.asarray(frequencies, jnp.float32), jnp.asarray(phases, jnp.float32))


class MPAttention(nn.Module):
    """Cosine attention over all pixels of f32[B, H, W, C], summed with its input: figure 21. Queries, keys and values
    have magnitude one, so that the scores before the softmax are at most sqrt(head_dim)."""

    head_dim: int = 64
    balance: float = 0.3
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        heads = max(1, channels // self.head_dim)
        qkv = MPDense(3 * channels, self.dtype, name="qkv")(x.reshape(batch, height * width, channels))
        parts = qkv.reshape(batch, height * width, 3, heads, channels // heads)
        q, k, v = (pixel_norm(parts[:, :, i]) for i in range(3))
        y = attention(q, k, v).reshape(batch, height * width, channels)
        y = MPDense(channels, self.dtype, name="out")(y).reshape(x.shape)
        return mp_sum(x, y, self.balance)


class Uncertainty(nn.Module):
    """u(sigma), eq. 21: the logarithm of the expected squared error at a noise level, f32[B] from c_noise: f32[B]."""

    features: int = 128

    @nn.compact
    def __call__(self, c: jax.Array) -> jax.Array:
        return MPDense(1)(MPFourier(self.features)(c))[:, 0]
