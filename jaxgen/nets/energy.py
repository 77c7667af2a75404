"""Energies of images or points: x: f32[B, ...] -> f32[B].

Activations are smooth, because Markov chains follow the energy's gradient. Nothing normalizes over the batch, because
examples must be independent. The last layer has no bias, because exp(-E) / Z does not depend on it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.ranges import Depth, Size, Sizes
from jaxgen.errors import UserError
from jaxgen.nets.gan import LECUN, Conv2D, normed


class Scalar(nn.Module):
    """Features f32[B, F] to f32[B]."""

    spectral: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        layer = nn.Dense(1, use_bias=False, dtype=self.dtype)
        return normed(layer, self.spectral)(h)[:, 0].astype(jnp.float32)


class MLPEnergy(nn.Module):
    """Dense layers with swish between them, on flattened x."""

    hidden: tuple[Size, ...] = (128, 128, 128)
    spectral: bool = False
    """Spectral normalization of all layers, arXiv:1802.05957, which bounds the energy's slope."""
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = x.reshape(x.shape[0], -1)
        for width in self.hidden:
            h = nn.swish(normed(nn.Dense(width, dtype=self.dtype), self.spectral)(h))
        return Scalar(self.spectral, self.dtype)(h)


class CNNEnergy(nn.Module):
    """Strided convolutions with swish, the first 5 x 5 and the others 3 x 3, then dense layers."""

    channels: Sizes = (16, 32, 64, 64)
    width: Size = 64
    """Width of the hidden dense layer."""
    spectral: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = x
        for i, features in enumerate(self.channels):
            layer = Conv2D(features, 3 if i else 5, 2, dtype=self.dtype)
            h = nn.swish(normed(layer, self.spectral)(h))
        return MLPEnergy((self.width,), self.spectral, self.dtype)(h)


class WideResNetEnergy(nn.Module):
    """A wide residual network (arXiv:1605.07146) without normalization, as in arXiv:1912.03263.

    Blocks of two 3 x 3 convolutions with swish, at 16 k, 32 k and 64 k channels, then a mean over pixels.
    """

    depth: Depth = 28
    """6 n + 4 layers, n blocks at each of the three sizes."""
    widen: Size = 10
    """k."""
    spectral: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.depth < 10 or self.depth % 6 != 4:
            raise UserError(f"a wide residual network has 6 n + 4 layers, not {self.depth}: choose 10, 16, 22 or 28")
        blocks = (self.depth - 4) // 6

        def layer(features: int, size: int = 3, stride: int = 1, init: nn.initializers.Initializer = LECUN):
            return normed(Conv2D(features, size, stride, kernel_init=init, dtype=self.dtype), self.spectral)

        # Nothing normalizes the sum of the blocks, so each starts with its share of the variance.
        share = nn.initializers.variance_scaling(1 / (3 * blocks), "fan_in", "truncated_normal")
        h = layer(16)(x)
        for level in range(3):
            features = 16 * 2**level * self.widen
            for block in range(blocks):
                stride = 2 if level and not block else 1
                inner = nn.swish(layer(features, 3, stride)(nn.swish(h)))
                skip = h if block else layer(features, 1, stride)(h)
                h = skip + layer(features, init=share)(inner)
        phi = jnp.mean(nn.swish(h), axis=(1, 2))
        return Scalar(self.spectral, self.dtype)(phi)
