"""The residual generator and critic of SNGAN, table 4 of arXiv:1802.05957.

Signatures are those of `nets/gan.py`.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.nets.conv import halved
from jaxgen.nets.gan import Conv2D, Head, batch_norm, joined, normed
from jaxgen.ops.resize import double, halve

GLOROT = nn.initializers.glorot_uniform()
GLOROT_RELU = nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")  # of layers a ReLU follows or precedes


class ResNetGenerator(nn.Module):
    """A dense layer to the smallest map, doubling residual blocks with batch normalization, a convolution, tanh."""

    channels: tuple[int, ...] = (256, 256, 256)
    """Width of each block, of which each doubles the image."""
    dtype: Any = None

    @nn.compact
    def __call__(self, z: jax.Array, shape: tuple[int, ...], y: jax.Array | None = None, train: bool = False):
        # Batch normalization before each activation, so that no bias but the last would do anything.
        layer = partial(Conv2D, bias=False, dtype=self.dtype)
        norm = partial(batch_norm, train, dtype=self.dtype)
        height, width, out = shape
        times = len(self.channels)
        small = (halved(height, times), halved(width, times), self.channels[0])
        h = nn.Dense(math.prod(small), use_bias=False, kernel_init=GLOROT, dtype=self.dtype)(joined(z, y))
        h = h.reshape(-1, *small)
        for features in self.channels:
            inner = layer(features, up="nearest", kernel_init=GLOROT_RELU)(nn.relu(norm()(h)))
            inner = layer(features, kernel_init=GLOROT_RELU)(nn.relu(norm()(inner)))
            # A 1 x 1 convolution of doubled pixels is the doubled convolution.
            skip = layer(features, 1, kernel_init=GLOROT)(h)
            h = inner + double(skip)
        h = Conv2D(out, kernel_init=GLOROT, dtype=self.dtype)(nn.relu(norm()(h)))
        return jnp.tanh(h[:, :height, :width].astype(jnp.float32))


class ResNetCritic(nn.Module):
    """Residual blocks under spectral normalization, ReLU, a sum over pixels, a dense layer."""

    channels: tuple[int, ...] = (128, 128, 128, 128)
    halvings: int = 2
    """The first blocks, which halve the image."""
    spectral: bool = True
    projection: bool = True
    """The class by projection (arXiv:1802.05637); as planes beside the image otherwise."""
    bias: bool = True
    """Of the logit; it cancels in a Wasserstein critic's loss."""
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, y: jax.Array | None = None, train: bool = False) -> jax.Array:
        def layer(features: int, size: int, init: nn.initializers.Initializer) -> nn.Module:
            return normed(Conv2D(features, size, kernel_init=init, dtype=self.dtype), self.spectral)

        h = x if self.projection else joined(x, y)
        for i, features in enumerate(self.channels):
            pool = halve if i < self.halvings else lambda h: h
            # The image itself is not cut at zero.
            inner = layer(features, 3, GLOROT_RELU)(h if i == 0 else nn.relu(h))
            inner = pool(layer(features, 3, GLOROT_RELU)(nn.relu(inner)))
            if i < self.halvings or h.shape[-1] != features:
                # Linear, so that it is cheaper after the pooling.
                h = layer(features, 1, GLOROT)(pool(h))
            h = h + inner
        phi = jnp.sum(nn.relu(h), axis=(1, 2))
        return Head(self.spectral, self.bias, GLOROT, self.dtype)(phi, y if self.projection else None)
