"""Resizing of images: by two, as networks do it, and as two reference implementations of the Fréchet Inception distance
do it."""

import jax
import jax.numpy as jnp
import numpy as np


def halve(x: jax.Array) -> jax.Array:
    """Means over 2 x 2 pixels of f32[B, H, W, C]; an odd last row or column is taken twice."""
    batch, height, width, channels = x.shape
    if height % 2 or width % 2:
        x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return jnp.mean(x.reshape(batch, (height + 1) // 2, 2, (width + 1) // 2, 2, channels), axis=(2, 4))


def double(x: jax.Array) -> jax.Array:
    """Each pixel of f32[B, H, W, C] four times."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def tf1_bilinear(x: jax.Array, side: int) -> jax.Array:
    """f32[B, H, W, C] -> [B, side, side, C], bilinear as TensorFlow 1 has it with align_corners=False.

    Output row i reads the input at i * H / side, not at the pixel centres, and nothing is smoothed before shrinking;
    the coordinate is an f32 product there, so it is here.
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
    """f32[B, H, W, C] -> [B, side, side, C], bicubic (a = -1/2) with a filter as wide as the shrinking asks for: what
    Pillow does in floating point. arXiv:2104.11222."""
    rows, columns = (_bicubic_weights(size, side) for size in x.shape[1:3])
    return jnp.einsum("ih,bhwc,jw->bijc", rows, x, columns, precision=jax.lax.Precision.HIGHEST)


def _bicubic_weights(size: int, side: int) -> np.ndarray:
    """f32[side, size]: how much of each input an output takes, rows summing to one. In f64: positions in f32, as
    `jax.image.resize` has them, are off by 1e-5 of a pixel."""
    scale = size / side
    centre = (np.arange(side)[:, None] + 0.5) * scale
    t = np.abs(np.arange(size)[None] + 0.5 - centre) / max(scale, 1.0)
    near = 1.5 * t**3 - 2.5 * t**2 + 1
    far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    weight = np.where(t < 1, near, np.where(t < 2, far, 0.0))
    return (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)
