"""The residual generator and critic of SNGAN, table 4 of arXiv:1802.05957, with the signatures of `nets.gan`."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.ranges import Depth, Sizes
from jaxgen.nets.condition import concat_condition
from jaxgen.nets.conv import halved
from jaxgen.nets.gan import Conv2D, Head, batch_norm, normed
from jaxgen.ops.resize import double, halve

GLOROT = nn.initializers.glorot_uniform()
GLOROT_RELU = nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")  # for layers before or after a ReLU


class ResNetGenerator(nn.Module):
    """A dense layer to the smallest map, doubling residual blocks with batch normalization, a convolution, tanh."""

    channels: Sizes = (256, 256, 256)
    """Width of each block; each doubles the image."""
    dtype: Any = None

    @nn.compact
    def __call__(self, z: jax.Array, shape: tuple[int, ...], y: jax.Array | None = None, train: bool = False):
        # Batch normalization precedes each activation and cancels every bias but the last.
        layer = partial(Conv2D, bias=False, dtype=self.dtype)
        norm = partial(batch_norm, train, dtype=self.dtype)
        height, width, out = shape
        times = len(self.channels)
        small = (halved(height, times), halved(width, times), self.channels[0])
        h = nn.Dense(math.prod(small), use_bias=False, kernel_init=GLOROT, dtype=self.dtype)(concat_condition(z, y))
        h = h.reshape(-1, *small)
        for features in self.channels:
            inner = layer(features, up="nearest", kernel_init=GLOROT_RELU)(nn.relu(norm()(h)))
            inner = layer(features, kernel_init=GLOROT_RELU)(nn.relu(norm()(inner)))
            # A 1 x 1 convolution commutes with nearest-neighbour doubling, and is cheaper before it.
            skip = layer(features, 1, kernel_init=GLOROT)(h)
            h = inner + double(skip)
        h = Conv2D(out, kernel_init=GLOROT, dtype=self.dtype)(nn.relu(norm()(h)))
        return jnp.tanh(h[:, :height, :width].astype(jnp.float32))


class ResNetCritic(nn.Module):
    """Residual blocks with spectral normalization, ReLU, a sum over pixels, then a dense layer."""

    channels: Sizes = (128, 128, 128, 128)
    halvings: Depth = 2
    """How many blocks, the first ones, halve the image."""
    spectral: bool = True
    projection: bool = True
    """Condition by projection (arXiv:1802.05637); otherwise the class is concatenated to the image."""
    bias: bool = True
    """A bias of the logit, which cancels in a Wasserstein critic's loss."""
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, y: jax.Array | None = None, train: bool = False) -> jax.Array:
        def layer(features: int, size: int, init: nn.initializers.Initializer) -> nn.Module:
            return normed(Conv2D(features, size, kernel_init=init, dtype=self.dtype), self.spectral)

        h = x if self.projection else concat_condition(x, y)
        for i, features in enumerate(self.channels):
            pool = halve if i < self.halvings else lambda h: h
            # No ReLU on the image itself.
            inner = layer(features, 3, GLOROT_RELU)(h if i == 0 else nn.relu(h))
            inner = pool(layer(features, 3, GLOROT_RELU)(nn.relu(inner)))
            if i < self.halvings or h.shape[-1] != features:
                # A 1 x 1 convolution commutes with pooling, and is cheaper after it.
                h = layer(features, 1, GLOROT)(pool(h))
            h = h + inner
        phi = jnp.sum(nn.relu(h), axis=(1, 2))
        return Head(self.spectral, self.bias, GLOROT, self.dtype)(phi, y if self.projection else None)
