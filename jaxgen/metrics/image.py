"""Similarity of an image to its reference: PSNR and SSIM, each f32[B] from two batches uint8[B, H, W, C]."""

import functools
import math
import operator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.errors import UserError
from jaxgen.metrics.collect import Mean, Rows

RANGE = 255.0
SSIM_SMALLEST = 11
"""Side of SSIM's Gaussian window, and so of the smallest image it accepts."""
C1, C2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2  # eq. 7 and 9 of the SSIM paper


def _check(x: Any, y: Any, smallest: int) -> None:
    """Raises UserError unless both are uint8 images of one shape, with any number of channels."""
    for image in (x, y):
        if np.ndim(image) != 4 or image.dtype != np.uint8 or min(image.shape[1:3]) < smallest:
            found = f"{image.dtype}{list(np.shape(image))}"
            raise UserError(f"images are {found}: uint8[B, H, W, C] of {smallest} x {smallest} or more is expected")
    if x.shape != y.shape:
        raise UserError(f"images have shapes {x.shape} and {y.shape}: equal shapes are needed to compare them")


def psnr(x: jax.Array, y: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio, 10 log10(255^2 / mean squared error) in dB: f32[B], infinite for equal images."""
    _check(x, y, 1)
    return _psnr(x, y)


@jax.jit
def _psnr(x: jax.Array, y: jax.Array) -> jax.Array:
    # Rows are summed exactly, as integers: 65025 * width * channels stays below 2^31 for a width of 10,000.
    error = jnp.sum((x.astype(jnp.int32) - y.astype(jnp.int32)) ** 2, axis=(2, 3)).astype(jnp.float32)
    return 10 * jnp.log10(RANGE**2 * math.prod(x.shape[2:]) / jnp.mean(error, axis=1))


def ssim(x: jax.Array, y: jax.Array, gaussian: bool = True) -> jax.Array:
    """Structural similarity, doi:10.1109/TIP.2003.819861 eq. 13, averaged over pixels and channels: f32[B].

    gaussian: whether to use the paper's 11 x 11 window of sigma 1.5, or else a flat 7 x 7 window with unbiased
    covariances. Both equal scikit-image's `structural_similarity(data_range=255, channel_axis=-1)`; the first with
    gaussian_weights=True and use_sample_covariance=False. Raises UserError for images smaller than the window.
    """
    _check(x, y, SSIM_SMALLEST if gaussian else 7)
    return (_ssim_gaussian if gaussian else _ssim_flat)(x, y)


def unit_ssim(x: jax.Array, y: jax.Array) -> jax.Array:
    """`ssim` of images f32[B, H, W, C] in [0, 1], f32[B], for a loss: windows are products with banded matrices, since
    the backward pass of sums over neighbours takes a thousand times as long."""
    taps = _taps()

    def blurred(a: jax.Array) -> jax.Array:
        for axis in (1, 2):
            out = a.shape[axis] - len(taps) + 1
            band = np.stack([np.pad(taps, (i, out - 1 - i)) for i in range(out)])
            product = jnp.tensordot(band, a, axes=(1, axis), precision=jax.lax.Precision.HIGHEST)
            a = jnp.moveaxis(product, 0, axis)
        return a

    middle = 128.0
    x, y = (a * RANGE - middle for a in (x, y))
    u, v, uu, vv, uv = jnp.split(blurred(jnp.concatenate([x, y, x * x, y * y, x * y], axis=-1)), 5, axis=-1)
    return _similarity(u + middle, v + middle, uu - u * u, vv - v * v, uv - u * v)


def _taps() -> np.ndarray:
    """The Gaussian window along one axis."""
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    return (taps / taps.sum()).astype(np.float32)


@jax.jit
def _ssim_gaussian(x: jax.Array, y: jax.Array) -> jax.Array:
    taps = _taps()
    # Centred on the middle of the range, so that E[x^2] - E[x]^2 keeps two more bits.
    middle = 128.0
    x, y = (a.astype(jnp.float32) - middle for a in (x, y))
    u, v, uu, vv, uv = (_window(a, taps) for a in (x, y, x * x, y * y, x * y))
    return _similarity(u + middle, v + middle, uu - u * u, vv - v * v, uv - u * v)


@jax.jit
def _ssim_flat(x: jax.Array, y: jax.Array) -> jax.Array:
    # Integers: 49 * 49 * 255^2 < 2^31, so variances are exact.
    n, taps = 49, np.ones(7, np.int32)
    x, y = x.astype(jnp.int32), y.astype(jnp.int32)
    u, v, uu, vv, uv = (_window(a, taps) for a in (x, y, x * x, y * y, x * y))
    variances = ((n * s - t).astype(jnp.float32) / (n * (n - 1)) for s, t in ((uu, u * u), (vv, v * v), (uv, u * v)))
    return _similarity(u.astype(jnp.float32) / n, v.astype(jnp.float32) / n, *variances)


def _window(x: jax.Array, taps: np.ndarray) -> jax.Array:
    """Weighted sums over all windows, without padding. taps: the weights along each axis."""
    for axis in (1, 2):
        out = x.shape[axis] - len(taps) + 1
        parts = (w * jax.lax.slice_in_dim(x, i, i + out, axis=axis) for i, w in enumerate(taps))
        x = functools.reduce(operator.add, parts)
    return x


def _similarity(u: jax.Array, v: jax.Array, var_x: jax.Array, var_y: jax.Array, cov: jax.Array) -> jax.Array:
    luminance = (2 * u * v + C1) / (u * u + v * v + C1)
    return jnp.mean(luminance * (2 * cov + C2) / (var_x + var_y + C2), axis=(1, 2, 3))


@dataclass(frozen=True, kw_only=True, eq=False)
class PSNR(Mean):
    """Mean PSNR over pairs of images; `update(state, (x, y), mask)`."""

    name: str = "psnr"

    def update(self, state: Rows, pair: tuple[jax.Array, jax.Array], mask: jax.Array | None = None) -> Rows:
        return super().update(state, psnr(*pair), mask)


@dataclass(frozen=True, kw_only=True, eq=False)
class SSIM(Mean):
    """Mean SSIM over pairs of images; `update(state, (x, y), mask)`."""

    name: str = "ssim"
    gaussian: bool = True

    def update(self, state: Rows, pair: tuple[jax.Array, jax.Array], mask: jax.Array | None = None) -> Rows:
        return super().update(state, ssim(*pair, self.gaussian), mask)
