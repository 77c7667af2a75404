"""Strided convolutional encoder and its mirror, for images of any size."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

CONV_DIMS = ("NHWC", "HWIO", "NHWC")


def upconv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed convolution, kernel 4, stride 2, padding 1 in PyTorch's sense: f32[B, H, W, I] -> [B, 2H, 2W, O].

    kernel: f32[4, 4, I, O]; y[o] = sum_i x[i] kernel[o + 1 - 2i]. An even output row sees taps 3 and 1 of two input
    rows, an odd one taps 2 and 0, so the result is four 2x2 convolutions interleaved; the direct form's gradient is
    16 times slower on XLA's CPU.
    """
    batch, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def phase(a: int, b: int) -> jax.Array:
        taps = kernel[3 - a :: -2, 3 - b :: -2]
        window = padded[:, a : a + height + 1, b : b + width + 1]
        return jax.lax.conv_general_dilated(window, taps, (1, 1), "VALID", dimension_numbers=CONV_DIMS)

    rows = [jnp.stack([phase(a, 0), phase(a, 1)], axis=3) for a in (0, 1)]
    return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, kernel.shape[-1])


class UpConv(nn.Module):
    """`upconv` with a bias: doubles height and width."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (4, 4, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return upconv(x, kernel) + bias[None, None, None]


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
            x = nn.relu(nn.Conv(features, (4, 4), 2, padding="SAME", dtype=self.dtype)(x))
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
