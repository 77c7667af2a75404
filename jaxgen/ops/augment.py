"""Adaptive augmentation of the critic's inputs, real and generated (arXiv:2006.06676).

Each transformation is applied to an example with probability p. As long as p is below about 0.8, the generator does not
learn to produce augmented images (section 2.2). p rises while the critic overfits, that is while real logits are
positive more often than a target says (section 3). Images are f32[B, H, W, C] in [-1, 1], of any size; every
transformation is differentiable in them, to any order.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.keys import normal_each, split_each, uniform_each

# The low-pass filter of the symlet of order 6 (Daubechies, Ten Lectures on Wavelets, table 6.3). It sums to sqrt(2).
# Upsampling with it and downsampling again gives the image back.
SYM6 = np.array([
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
])  # fmt: skip
MARGIN = len(SYM6) // 4  # how many pixels beyond the border the filter reaches
# The filter's centre of mass is off its middle: pixel i of an image lies at 2 i + DELAY in the upsampled image.
DELAY = float(np.arange(len(SYM6)) @ SYM6 / SYM6.sum()) - (len(SYM6) // 2 - 1)
EXACT = jax.lax.Precision.HIGHEST


@dataclass(frozen=True, kw_only=True)
class Augment:
    """The transformations of appendix B. `__call__(keys, x, p)` maps x: f32[B, H, W, C] to the same shape; p: f32[] in
    [0, 1].

    An example for which no transformation is drawn stays the same to the bit.
    """

    blit: bool = True
    """Flips, quarter turns, shifts by whole pixels up to an eighth of the size: no pixel is interpolated."""
    geometry: bool = True
    """Scaling, rotation, scaling along one direction, shifts by fractions of a pixel: resampled without aliasing."""
    colour: bool = True
    """Brightness, contrast, inverted lightness; for RGB images also hue and saturation."""

    def __call__(self, keys: jax.Array, x: jax.Array, p: jax.Array) -> jax.Array:
        keys_blit, keys_geometry, keys_colour = split_each(keys, 3)
        x = blitted(keys_blit, x, p) if self.blit else x
        x = resampled(keys_geometry, x, p) if self.geometry else x
        return recoloured(keys_colour, x, p) if self.colour else x


def adjusted(p: jax.Array, sign: jax.Array, target: float, share: float) -> jax.Array:
    """p, raised by `share` where the mean sign of real logits (r_t, here `sign`) is above `target`, lowered where it is
    below, and kept in [0, 1] (section 3)."""
    return jnp.clip(p + share * jnp.sign(sign - target), 0.0, 1.0)


def _uniform(keys: jax.Array, count: int) -> list[jax.Array]:
    """`count` arrays f32[B] in [0, 1), from one draw: `u < p` is never true at p = 0 and always true at p = 1."""
    return list(uniform_each(keys, (count,)).T)


def _normal(keys: jax.Array, count: int) -> list[jax.Array]:
    """`count` arrays f32[B], standard normal."""
    return list(normal_each(keys, (count,)).T)


def _mirrored(i, size: int):
    """Coordinates, integer or not, with those outside [0, size - 1] mirrored at the centres of the border pixels."""
    last = size - 1
    return last - abs(i % (2 * last) - last) if last else 0 * i


# --- without interpolation ------------------------------------------------------------------------------------


def blitted(keys: jax.Array, x: jax.Array, p: jax.Array) -> jax.Array:
    """Flipped left to right, rotated, then shifted. An image that is not square is rotated by half turns only."""
    _, height, width, _ = x.shape
    flips_too, turns_too, shifts_too, flip, turn, *shift = _uniform(keys, 7)
    flip = (flips_too < p) & (flip < 0.5)
    quarters = 1 if height == width else 2
    turns = jnp.where(turns_too < p, quarters * jnp.floor(turn * (4 // quarters)), 0).astype(jnp.int32)
    shift = jnp.round((jnp.stack(shift, axis=1) - 0.5) * np.array([[height / 4, width / 4]], np.float32))
    shift = jnp.where((shifts_too < p)[:, None], shift, 0).astype(jnp.int32)

    # A rotation is an optional transposition, then flips: after a quarter turn, y[i, j] = x[j, W - 1 - i].
    odd = turns % 2 == 1
    if height == width:
        x = jnp.where(odd[:, None, None, None], x.swapaxes(1, 2), x)
    flips = jnp.stack([(turns == 1) | (turns == 2), (turns == 2) | (turns == 3)], axis=1)
    flips = flips ^ (flip[:, None] & jnp.stack([odd, ~odd], axis=1))

    def index(axis: int, size: int) -> jax.Array:
        i = _mirrored(jnp.arange(size)[None] - shift[:, axis, None], size)
        return jnp.where(flips[:, axis, None], size - 1 - i, i)

    return jax.vmap(lambda a, i, j: a[i][:, j])(x, index(0, height), index(1, width))


# --- resampling -----------------------------------------------------------------------------------------------


def _rotation(angle: jax.Array) -> jax.Array:
    """Rotation matrices f32[B, 2, 2] of the angles f32[B]."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([jnp.stack([cos, -sin], axis=-1), jnp.stack([sin, cos], axis=-1)], axis=-2)


def _inverse(keys: jax.Array, p: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws the inverse map, from an output pixel to its source: source = matrix (target - size * shift), both relative
    to the image's centre.

    Returns matrix: f32[B, 2, 2]; shift: f32[B, 2] as fractions of the size; and bool[B], whether any transformation
    was drawn.
    """
    keys_uniform, keys_normal = split_each(keys, 2)
    *draws, first, second = _uniform(keys_uniform, 7)
    scale, stretch, *shift = _normal(keys_normal, 4)
    # One rotation before and one after scaling along an axis: at least one of them is drawn with probability p.
    p_turn = 1 - jnp.sqrt(1 - p)
    chosen = [u < q for u, q in zip(draws, (p, p_turn, p, p_turn, p))]
    scale = jnp.where(chosen[0], jnp.exp2(0.2 * scale), 1.0)
    first, second = (jnp.where(c, 2 * jnp.pi * u, 0.0) for c, u in ((chosen[1], first), (chosen[3], second)))
    stretch = jnp.where(chosen[2], jnp.exp2(0.2 * stretch), 1.0)
    shift = jnp.where(chosen[4][:, None], 0.125 * jnp.stack(shift, axis=1), 0.0)
    along = jnp.stack([stretch, 1 / stretch], axis=1)[:, None]  # scales columns: the inverse of scaling by 1 / stretch
    turns = jnp.einsum("bij,bjk->bik", _rotation(-first) * along, _rotation(-second), precision=EXACT)
    return turns / scale[:, None, None], shift, jnp.stack(chosen).any(axis=0)


def _up(size: int) -> np.ndarray:
    """f32[2 size, size]: the matrix that upsamples by two with the wavelet's filter, mirrored at the borders."""
    matrix = np.zeros((2 * size, size), np.float32)
    for n in range(2 * size):
        for k in range(n % 2, len(SYM6), 2):
            matrix[n, _mirrored((n + k) // 2 - MARGIN, size)] += math.sqrt(2) * SYM6[-1 - k]
    return matrix


def _down(size: int) -> np.ndarray:
    """f32[size, 2 (size + 2 MARGIN)]: the matrix that downsamples an image with margins by two and removes them."""
    matrix = np.zeros((size, 2 * (size + 2 * MARGIN)), np.float32)
    for m in range(size):
        matrix[m, 2 * m + 1 : 2 * m + 1 + len(SYM6)] = SYM6 / math.sqrt(2)
    return matrix


def _filtered(rows: np.ndarray, columns: np.ndarray, x: jax.Array) -> jax.Array:
    x = jnp.einsum("ah,bhwc->bawc", rows, x, precision=EXACT)
    return jnp.einsum("aw,bhwc->bhac", columns, x, precision=EXACT)


def _interpolated(x: jax.Array, at: jax.Array) -> jax.Array:
    """Bilinear interpolation of x: [B, H, W, C] at pixel coordinates `at`: f32[B, N, 2] within the image, [B, N, C]."""
    num, height, width, channels = x.shape
    corner = jnp.clip(jnp.floor(at), 0.0, jnp.array([[[height - 2.0, width - 2.0]]]))
    part = at - corner
    first = corner.astype(jnp.int32)
    first = first[..., 0] * width + first[..., 1]
    flat = x.reshape(num, height * width, channels)
    total = jnp.zeros((num, at.shape[1], channels), x.dtype)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        weight = (part[..., 0] if i else 1 - part[..., 0]) * (part[..., 1] if j else 1 - part[..., 1])
        values = jnp.take_along_axis(flat, (first + i * width + j)[..., None], axis=1)
        total += weight[..., None].astype(x.dtype) * values
    return total


def resampled(keys: jax.Array, x: jax.Array, p: jax.Array) -> jax.Array:
    """Scaled, rotated, scaled along an axis, rotated again and shifted. The resampling works at twice the resolution,
    between two filters that undo each other. The image is mirrored at its borders."""
    num, height, width, channels = x.shape
    matrix, shift, chosen = _inverse(keys, p)
    size = np.array([height, width], np.float32)
    fine = [2 * (n + 2 * MARGIN) for n in (height, width)]
    # Positions of the upsampled output pixels relative to the image's centre, in pixels of the image.
    rows, columns = ((np.arange(f) - DELAY) / 2 - MARGIN - (n - 1) / 2 for f, n in zip(fine, (height, width)))
    target = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).astype(np.float32).reshape(1, -1, 2)
    source = jnp.einsum("bij,bnj->bni", matrix, target - (size[None] * shift)[:, None], precision=EXACT)
    source = source + (size / 2 - 0.5)[None, None]
    source = jnp.stack([_mirrored(source[..., i], n) for i, n in enumerate((height, width))], axis=-1)
    y = _interpolated(_filtered(_up(height), _up(width), x), 2 * source + DELAY)
    y = _filtered(_down(height), _down(width), y.reshape(num, *fine, channels))
    return jnp.where(chosen[:, None, None, None], y, x)


# --- colours --------------------------------------------------------------------------------------------------


def recoloured(keys: jax.Array, x: jax.Array, p: jax.Array) -> jax.Array:
    """Brightness, contrast, inverted lightness, hue and saturation, in this order, as one affine map of each example's
    colours."""
    channels = x.shape[-1]
    keys_uniform, keys_normal = split_each(keys, 2)
    *draws, invert, angle = _uniform(keys_uniform, 7)
    brightness, contrast, saturation = _normal(keys_normal, 3)
    chosen = [u < p for u in draws[: 5 if channels == 3 else 3]]
    grey = np.full((channels, channels), 1 / channels, np.float32)[None]  # projects onto the grey axis
    rest = np.eye(channels, dtype=np.float32)[None] - grey
    contrast = jnp.where(chosen[1], jnp.exp2(0.5 * contrast), 1.0)
    inverted = jnp.where(chosen[2] & (invert < 0.5), -1.0, 1.0)
    matrix = (contrast * inverted)[:, None, None] * grey + contrast[:, None, None] * rest
    offset = jnp.where(chosen[0], 0.2 * brightness, 0.0) * contrast * inverted
    if channels == 3:
        angle = jnp.where(chosen[3], 2 * jnp.pi * angle, 0.0)
        saturation = jnp.where(chosen[4], jnp.exp2(saturation), 1.0)
        # Rodrigues' formula about the grey axis a: cos (1 - a a^T) + sin [a]x + a a^T.
        cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], np.float32)[None] / math.sqrt(3)
        turn = jnp.cos(angle)[:, None, None] * rest + jnp.sin(angle)[:, None, None] * cross
        matrix = jnp.einsum("bij,bjk->bik", grey + saturation[:, None, None] * turn, matrix, precision=EXACT)
    y = jnp.einsum("bij,bhwj->bhwi", matrix, x, precision=EXACT) + offset[:, None, None, None]
    return jnp.where(jnp.stack(chosen).any(axis=0)[:, None, None, None], y, x)
