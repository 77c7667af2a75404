"""Convolution as a layer, and a strided convolutional encoder with its mirror, for images of any size."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from jaxgen.ops.conv import conv, doubled_kernel, upconv


def Conv(
    features: int,
    size: int = 3,
    stride: int = 1,
    *,
    kernel_init: nn.initializers.Initializer = nn.linear.default_kernel_init,
    dtype: Any = None,
    name: str | None = None,
) -> nn.Conv:
    """`nn.Conv` with a square kernel, SAME padding and a bias, computed by `ops.conv.conv`."""
    return nn.Conv(
        features, (size, size), stride, padding="SAME", kernel_init=kernel_init, dtype=dtype, name=name,
        conv_general_dilated=_conv,
    )  # fmt: skip


def _conv(x, kernel, strides, padding, dimension_numbers, **_):
    """`ops.conv.conv` under the signature Linen calls; `Conv` leaves every other argument at its default."""
    pads = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    return conv(x, kernel, tuple(strides), tuple(pads))


class UpConv(nn.Module):
    """`upconv` with a bias: doubles height and width."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (4, 4, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return upconv(x, kernel) + bias[None, None, None]


class DoubleConv(nn.Module):
    """Nearest-neighbour doubling, then a 3x3 convolution with a bias, computed as one `upconv`."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return upconv(x, doubled_kernel(kernel)) + bias[None, None, None]


def halved(size: int, times: int) -> int:
    """`size` halved and rounded up, `times` times."""
    return -(-size // 2**times)


class ConvEncoder(nn.Module):
    """4x4 stride-2 convolutions with ReLU, then one dense layer: x f32[B, H, W, C] -> f32[B, *shape].

    cond, f32[B, num_classes] one-hot, joins as constant planes.
    """

    channels: tuple[int, ...] = (32, 64, 128)
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, shape: tuple[int, ...], cond: jax.Array | None = None) -> jax.Array:
        if cond is not None:
            planes = jnp.broadcast_to(cond[:, None, None, :], (*x.shape[:3], cond.shape[-1]))
            x = jnp.concatenate([x, planes.astype(x.dtype)], axis=-1)
        for features in self.channels:
            x = nn.relu(Conv(features, 4, 2, dtype=self.dtype)(x))
        h = nn.Dense(math.prod(shape), dtype=self.dtype)(x.reshape(x.shape[0], -1))
        return h.astype(jnp.float32).reshape(-1, *shape)


class ConvDecoder(nn.Module):
    """One dense layer to the smallest map, then doublings: z f32[B, ...] -> f32[B, H, W, C] of the asked `shape`.

    channels: widths from the smallest map up. A size that does not halve evenly is made larger, then cropped.
    """

    channels: tuple[int, ...] = (128, 64, 32)
    dtype: Any = None

    @nn.compact
    def __call__(self, z: jax.Array, shape: tuple[int, ...], cond: jax.Array | None = None) -> jax.Array:
        height, width, out = shape
        z = z.reshape(z.shape[0], -1)
        if cond is not None:
            z = jnp.concatenate([z, cond.astype(z.dtype)], axis=-1)
        times = len(self.channels)
        small = (halved(height, times), halved(width, times), self.channels[0])
        h = nn.Dense(small[0] * small[1] * small[2], dtype=self.dtype)(z)
        h = nn.relu(h.reshape(-1, *small))
        for features in self.channels[1:]:
            h = nn.relu(UpConv(features, dtype=self.dtype)(h))
        h = UpConv(out, dtype=self.dtype)(h)
        return h[:, :height, :width].astype(jnp.float32)
