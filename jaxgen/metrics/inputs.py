"""Checks of the inputs of metrics: raw images uint8[B, H, W, C] in [0, 255], and features f32[B, D]."""

import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgen.errors import UserError


class SingularCovariance(UserWarning):
    """There are fewer samples than feature dimensions."""


def check_images(x: Any, smallest: int = 1, what: str = "images") -> Any:
    """`x` with three channels, grey repeated: uint8[B, H, W, 3].

    smallest: the least height and width that the metric accepts. Raises UserError for another type, rank, size or
    number of channels, and for images whose largest value is 1: these are masks, or were not scaled to [0, 255].
    """
    shape, dtype = tuple(np.shape(x)), np.dtype(getattr(x, "dtype", type(x)))
    if len(shape) != 4:
        raise UserError(f"{what} have shape {shape}: [B, H, W, C] is expected")
    if dtype != np.uint8:
        span = f" in [{float(np.min(x)):.4g}, {float(np.max(x)):.4g}]" if np.size(x) and dtype.kind in "fiub" else ""
        raise UserError(f"{what} are {dtype}{span}: uint8 in [0, 255] is expected, so decode and round them first")
    if shape[3] not in (1, 3):
        hint = "move axis 1 to the end" if shape[1] in (1, 3) else "give grey or RGB images"
        raise UserError(f"{what} have shape {shape}, with {shape[3]} channels; 1 or 3 are expected: {hint}")
    if min(shape[1:3]) < smallest or not shape[0]:
        raise UserError(f"{what} have shape {shape}: at least one image of {smallest} x {smallest} or more is needed")
    if np.max(x) == 1:
        raise UserError(f"{what} lie in [0, 1] though they are uint8: multiply by 255 before rounding")
    if shape[3] == 3:
        return x
    return np.repeat(x, 3, axis=3) if isinstance(x, np.ndarray) else jnp.repeat(x, 3, axis=3)


def check_pair(x: Any, y: Any, smallest: int = 1) -> tuple[Any, Any]:
    """Two batches of images to compare pairwise. Raises UserError as `check_images` does, and for unequal shapes."""
    if np.shape(x) != np.shape(y):
        raise UserError(f"images have shapes {np.shape(x)} and {np.shape(y)}: equal shapes are needed to compare them")
    return check_images(x, smallest, "first images"), check_images(y, smallest, "second images")


def check_features(features: Any, dim: int | None = None, at_least: int = 1, what: str = "features") -> np.ndarray:
    """`features` as an array [N, D] on the host.

    Raises UserError for another rank, D != dim, fewer than `at_least` rows, or values that are not finite.
    """
    features = np.asarray(features)
    if features.ndim != 2 or (dim is not None and features.shape[1] != dim):
        raise UserError(f"{what} have shape {features.shape}: [N, {'D' if dim is None else dim}] is expected")
    if len(features) < at_least:
        raise UserError(f"{what} are of {len(features)} samples: at least {at_least} are needed")
    if not np.isfinite(features).all():
        raise UserError(f"{what} are not finite: the images or the weights of the network are wrong")
    return features


def warn_if_singular(count: int, dim: int, what: str = "samples") -> None:
    """Warns if `count` samples are too few for a covariance of `dim` dimensions to have full rank."""
    if count <= dim:
        warnings.warn(
            f"{count} {what} are too few for {dim} feature dimensions: the covariance is singular and the Frechet "
            f"distance biased upwards; use more than {dim}, or KID",
            SingularCovariance,
            stacklevel=3,
        )
