"""Networks that tell a coupling how to move one half from the other: they answer zero at first, so that a coupling
starts as the identity.

(x, out, context) -> f32[..., out]: one vector or pixel of `out` numbers for each of x. context: f32[B, K], or for
images also f32[B, H, W, K], laid beside x.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.nets.conv import Conv

ZERO = nn.initializers.zeros


def beside(x: jax.Array, context: jax.Array | None) -> jax.Array:
    """x with the context as further channels; a vector becomes constant planes."""
    if context is None:
        return x
    if context.ndim < x.ndim:
        context = context.reshape(context.shape[0], *(1,) * (x.ndim - 2), context.shape[-1])
        context = jnp.broadcast_to(context, (*x.shape[:-1], context.shape[-1]))
    return jnp.concatenate([x, context.astype(x.dtype)], axis=-1)


class CouplingMLP(nn.Module):
    """Dense layers with SiLU between, for x: f32[B, D]."""

    hidden: tuple[int, ...] = (64, 64)
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, out: int, context: jax.Array | None = None) -> jax.Array:
        h = beside(x, context)
        for width in self.hidden:
            h = nn.silu(nn.Dense(width, dtype=self.dtype)(h))
        return nn.Dense(out, kernel_init=ZERO, dtype=self.dtype)(h).astype(jnp.float32)


class GlowNet(nn.Module):
    """3x3, 1x1 and 3x3 convolutions with ReLU between, appendix B of arXiv:1807.03039.

    Hidden channels have deviation 1 on the batch that they are initialised with, as ActNorm gives them there.
    """

    width: int = 512
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, out: int, context: jax.Array | None = None) -> jax.Array:
        h = beside(x, context)
        for i, size in enumerate((3, 1)):
            h = Conv(self.width, size, dtype=self.dtype, name=f"conv{i}")(h)
            h = nn.relu(Standardize(dtype=self.dtype, name=f"standardize{i}")(h))
        return Conv(out, kernel_init=ZERO, dtype=self.dtype, name="out")(h).astype(jnp.float32)


class Standardize(nn.Module):
    """A gain for each channel that makes its deviation 1 on the batch that it is initialised with."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def start(_: jax.Array) -> jax.Array:
            x32 = x.astype(jnp.float32)
            return 1 / (jnp.std(x32, axis=tuple(range(x.ndim - 1))) + 1e-3)

        gain = self.param("gain", start)
        return x * gain.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


class CouplingResNet(nn.Module):
    """Residual blocks of two 3x3 convolutions, section 3.6 of arXiv:1605.08803, with SiLU and without batch norm, whose
    place the flow's ActNorm takes."""

    width: int = 64
    blocks: int = 8
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, out: int, context: jax.Array | None = None) -> jax.Array:
        h = Conv(self.width, dtype=self.dtype, name="in")(beside(x, context))
        for i in range(self.blocks):
            inner = Conv(self.width, dtype=self.dtype, name=f"block{i}a")(nn.silu(h))
            # A start near the identity keeps the sum of many blocks in range without normalization.
            small = nn.initializers.variance_scaling(0.1, "fan_in", "truncated_normal")
            h += Conv(self.width, dtype=self.dtype, kernel_init=small, name=f"block{i}b")(nn.silu(inner))
        h = Conv(out, kernel_init=ZERO, dtype=self.dtype, name="out")(nn.silu(h))
        return h.astype(jnp.float32)


class PixelDense(nn.Module):
    """One 3x3 convolution: enough to guess a half that is factored out from the half that stays."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, out: int, context: jax.Array | None = None) -> jax.Array:
        return Conv(out, kernel_init=ZERO, dtype=self.dtype)(beside(x, context)).astype(jnp.float32)
