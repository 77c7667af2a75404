"""Networks that compute a coupling's parameters for one half from the other half.

(x, out, context) -> f32[..., out], `out` numbers per vector or pixel of x. Their output starts at zero, so that a
coupling starts as the identity. context: f32[B, K], or f32[B, H, W, K] for images, concatenated to x.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.ranges import Depth, Size
from jaxgen.nets.condition import concat_condition
from jaxgen.nets.conv import Conv

ZERO = nn.initializers.zeros


class CouplingMLP(nn.Module):
    """Dense layers with SiLU between them, for x: f32[B, D]."""

    hidden: tuple[Size, ...] = (64, 64)
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, out: int, context: jax.Array | None = None) -> jax.Array:
        h = concat_condition(x, context)
        for width in self.hidden:
            h = nn.silu(nn.Dense(width, dtype=self.dtype)(h))
        return nn.Dense(out, kernel_init=ZERO, dtype=self.dtype)(h).astype(jnp.float32)


class GlowNet(nn.Module):
    """3x3, 1x1 and 3x3 convolutions with ReLU between them, appendix B of arXiv:1807.03039.

    Hidden channels start with standard deviation 1 on the batch of initialization, as the paper's ActNorm makes them.
    """

    width: Size = 512
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, out: int, context: jax.Array | None = None) -> jax.Array:
        h = concat_condition(x, context)
        for i, size in enumerate((3, 1)):
            h = Conv(self.width, size, dtype=self.dtype, name=f"conv{i}")(h)
            h = nn.relu(Standardize(dtype=self.dtype, name=f"standardize{i}")(h))
        return Conv(out, kernel_init=ZERO, dtype=self.dtype, name="out")(h).astype(jnp.float32)


class Standardize(nn.Module):
    """A gain per channel that makes its standard deviation 1 on the batch of initialization."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def start(_: jax.Array) -> jax.Array:
            x32 = x.astype(jnp.float32)
            return 1 / (jnp.std(x32, axis=tuple(range(x.ndim - 1))) + 1e-3)

        gain = self.param("gain", start)
        return x * gain.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


class CouplingResNet(nn.Module):
    """Residual blocks of two 3x3 convolutions, section 3.6 of arXiv:1605.08803, but with SiLU, and without batch
    normalization since the flow has ActNorm."""

    width: Size = 64
    blocks: Depth = 8
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, out: int, context: jax.Array | None = None) -> jax.Array:
        h = Conv(self.width, dtype=self.dtype, name="in")(concat_condition(x, context))
        for i in range(self.blocks):
            inner = Conv(self.width, dtype=self.dtype, name=f"block{i}a")(nn.silu(h))
            # Blocks start near the identity, so that the sum of many stays in range without normalization.
            small = nn.initializers.variance_scaling(0.1, "fan_in", "truncated_normal")
            h += Conv(self.width, dtype=self.dtype, kernel_init=small, name=f"block{i}b")(nn.silu(inner))
        h = Conv(out, kernel_init=ZERO, dtype=self.dtype, name="out")(nn.silu(h))
        return h.astype(jnp.float32)


class PixelDense(nn.Module):
    """One 3x3 convolution, enough to predict the half that is factored out from the other half."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, out: int, context: jax.Array | None = None) -> jax.Array:
        return Conv(out, kernel_init=ZERO, dtype=self.dtype)(concat_condition(x, context)).astype(jnp.float32)
