"""Convolutional layers, and a strided encoder and its mirror-image decoder for images of any size."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from jaxgen.core.ranges import OptionalSize, Sizes
from jaxgen.nets.condition import concat_condition
from jaxgen.nets.norm import GroupNorm
from jaxgen.ops.conv import conv, doubled_kernel, upconv


def Conv(
    features: int,
    size: int = 3,
    stride: int = 1,
    *,
    padding: Any = "SAME",
    use_bias: bool = True,
    kernel_init: nn.initializers.Initializer = nn.linear.default_kernel_init,
    dtype: Any = None,
    name: str | None = None,
) -> nn.Conv:
    """`nn.Conv` with a square kernel, computed by `ops.conv.conv`."""
    return nn.Conv(
        features, (size, size), stride, padding=padding, use_bias=use_bias, kernel_init=kernel_init, dtype=dtype,
        name=name, conv_general_dilated=linen_conv,
    )  # fmt: skip


def linen_conv(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **_: Any) -> jax.Array:
    """`ops.conv.conv` as the `conv_general_dilated` of an `nn.Conv` without dilation or feature groups."""
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    return conv(x, kernel, (strides[0], strides[1]), tuple(padding))


class UpConv(nn.Module):
    """A transposed 4x4 convolution of stride 2 with a bias (`ops.conv.upconv`): doubles height and width."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (4, 4, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return upconv(x, kernel) + bias[None, None, None]


class DoubleConv(nn.Module):
    """Nearest-neighbour doubling, then a 3x3 convolution, computed as one `upconv`."""

    features: int
    use_bias: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = upconv(x, doubled_kernel(kernel))
        return x if bias is None else x + bias[None, None, None]


def _activated(x: jax.Array, groups: int) -> jax.Array:
    """relu(x), normalized before in so many groups, 0 for none. For use within a compact method."""
    return nn.relu(GroupNorm(groups)(x) if groups else x)


def halved(size: int, times: int) -> int:
    """`size` after `times` halvings, each rounded up."""
    return -(-size // 2**times)


class ConvEncoder(nn.Module):
    """4x4 stride-2 convolutions with ReLU, then one dense layer: x f32[B, H, W, C] -> f32[B, *shape].

    cond: one-hot f32[B, num_classes], concatenated to x as constant channels.
    """

    channels: Sizes = (32, 64, 128)
    groups: OptionalSize = 0
    """Of a group normalization before each activation, with which deep stacks train faster; 0 for none."""
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, shape: tuple[int, ...], cond: jax.Array | None = None) -> jax.Array:
        x = concat_condition(x, cond)
        for features in self.channels:
            x = _activated(Conv(features, 4, 2, dtype=self.dtype)(x), self.groups)
        h = nn.Dense(math.prod(shape), dtype=self.dtype)(x.reshape(x.shape[0], -1))
        return h.astype(jnp.float32).reshape(-1, *shape)


class ConvDecoder(nn.Module):
    """One dense layer to the smallest map, then doublings: z f32[B, ...] -> f32[B, *shape], shape = (H, W, C).

    channels: widths from the smallest map up. If H or W does not halve evenly, the output is cropped to it.
    """

    channels: Sizes = (128, 64, 32)
    groups: OptionalSize = 0
    """Of a group normalization before each activation; 0 for none."""
    dtype: Any = None

    @nn.compact
    def __call__(self, z: jax.Array, shape: tuple[int, ...], cond: jax.Array | None = None) -> jax.Array:
        height, width, out = shape
        z = concat_condition(z.reshape(z.shape[0], -1), cond)
        times = len(self.channels)
        small = (halved(height, times), halved(width, times), self.channels[0])
        h = nn.Dense(small[0] * small[1] * small[2], dtype=self.dtype)(z)
        h = _activated(h.reshape(-1, *small), self.groups)
        for features in self.channels[1:]:
            h = _activated(UpConv(features, dtype=self.dtype)(h), self.groups)
        h = UpConv(out, dtype=self.dtype)(h)
        return h[:, :height, :width].astype(jnp.float32)
