"""Resizing of images: by a factor of two for networks, and exactly as in two reference implementations of the Fréchet
Inception distance."""

import jax
import jax.numpy as jnp
import numpy as np


def halve(x: jax.Array) -> jax.Array:
    """Means over 2 x 2 pixels of f32[B, H, W, C]. If H or W is odd, the last row or column is repeated first."""
    batch, height, width, channels = x.shape
    if height % 2 or width % 2:
        x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return jnp.mean(x.reshape(batch, (height + 1) // 2, 2, (width + 1) // 2, 2, channels), axis=(2, 4))


def double(x: jax.Array) -> jax.Array:
    """Nearest-neighbour upsampling by two: f32[B, H, W, C] -> [B, 2 H, 2 W, C]."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def tf1_bilinear(x: jax.Array, side: int) -> jax.Array:
    """f32[B, H, W, C] -> [B, side, side, C], bilinear as in TensorFlow 1 with align_corners=False.

    Output row i reads the input at i * H / side, without regard to pixel centres, and no low-pass filter precedes
    shrinking. As in TensorFlow, the coordinate is an f32 product.
    """
    for axis in (2, 1):
        size = x.shape[axis]
        place = np.arange(side, dtype=np.float32) * np.float32(size / side)
        low = place.astype(np.int32)
        fraction = (place - low.astype(np.float32)).reshape((1, side, 1, 1) if axis == 1 else (1, 1, side, 1))
        below = jnp.take(x, low, axis=axis)
        above = jnp.take(x, np.minimum(low + 1, size - 1), axis=axis)
        x = below + (above - below) * fraction
    return x


def clean_bicubic(x: jax.Array, side: int) -> jax.Array:
    """f32[B, H, W, C] -> [B, side, side, C], bicubic (a = -1/2) with a filter that widens with the shrinking factor, as
    Pillow does in floating point. arXiv:2104.11222."""
    rows, columns = (_bicubic_weights(size, side) for size in x.shape[1:3])
    return jnp.einsum("ih,bhwc,jw->bijc", rows, x, columns, precision=jax.lax.Precision.HIGHEST)


def _bicubic_weights(size: int, side: int) -> np.ndarray:
    """f32[side, size]: the weight of each input in each output; rows sum to one. Computed in f64: the f32 positions of
    `jax.image.resize` are off by 1e-5 of a pixel."""
    scale = size / side
    centre = (np.arange(side)[:, None] + 0.5) * scale
    t = np.abs(np.arange(size)[None] + 0.5 - centre) / max(scale, 1.0)
    near = 1.5 * t**3 - 2.5 * t**2 + 1
    far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    weight = np.where(t < 1, near, np.where(t < 2, far, 0.0))
    return (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)
