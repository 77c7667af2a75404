"""Images of one object whose factors of variation are known, in the manner of dSprites (Matthey et al., 2017)."""

import dataclasses
import functools

import numpy as np

from jaxgen.core.types import RawBatch
from jaxgen.data.dataset import Dataset, check_split

FACTORS = {"shape": 3, "scale": 4, "orientation": 12, "x": 16, "y": 16}
"""Each factor with the number of its values; an image is one of each, in row-major order."""
SIDE = 32
LARGEST = 7.0
"""Half the side of the largest object in pixels."""
FINE = 4
"""Points a pixel along each axis, over which its brightness is a mean."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Factors(Dataset):
    """36,864 images of a square, an ellipse or a heart in white on black: x uint8[N, 32, 32, 1].

    Every combination of FACTORS is there once. Every tenth, in an order drawn once, is test. `values` tells the factors
    of each image, which models are not shown.
    """

    def load(self, split: str) -> RawBatch:
        return {"x": _images()[_indices(split)]}

    def values(self, split: str) -> np.ndarray:
        """The factors of each image of a split, i32[N, 5], in the order of FACTORS."""
        grid = np.unravel_index(_indices(split), tuple(FACTORS.values()))
        return np.stack(grid, axis=-1).astype(np.int32)


def _indices(split: str) -> np.ndarray:
    check_split(split)
    total = int(np.prod(tuple(FACTORS.values())))
    test = np.zeros(total, bool)
    test[np.random.default_rng(0).permutation(total)[::10]] = True
    return np.flatnonzero({"train": ~test, "test": test, "all": np.ones(total, bool)}[split])


@functools.cache
def _images() -> np.ndarray:
    """All images, uint8[N, 32, 32, 1]. An object is drawn once and placed at whole pixels."""
    shapes, scales, orientations, columns, rows = FACTORS.values()
    box = SIDE - columns + 1
    x = np.zeros((*FACTORS.values(), SIDE, SIDE), np.uint8)
    for i in range(shapes):
        for j in range(scales):
            for k in range(orientations):
                size = LARGEST * (0.5 + 0.5 * j / (scales - 1))
                drawn = _drawn(i, size, 2 * np.pi * k / orientations, box)
                for a in range(columns):
                    for b in range(rows):
                        x[i, j, k, a, b, b : b + box, a : a + box] = drawn
    return x.reshape(-1, SIDE, SIDE, 1)


def _drawn(shape: int, size: float, angle: float, box: int) -> np.ndarray:
    """uint8[box, box]: the object about the middle of its box, antialiased. size: half its side in pixels."""
    points = ((np.arange(box * FINE) + 0.5) / FINE - box / 2) / size
    right, down = np.meshgrid(points, points)
    u, v = np.cos(angle) * right + np.sin(angle) * down, np.cos(angle) * down - np.sin(angle) * right
    if shape == 0:
        inside = np.maximum(np.abs(u), np.abs(v)) < 0.8
    elif shape == 1:
        inside = u**2 + (v / 0.55) ** 2 < 1
    else:
        u, v = 1.25 * u, 0.29 - 1.25 * v  # its centre of mass in the middle
        inside = (u**2 + v**2 - 1) ** 3 < u**2 * v**3
    return np.rint(255 * inside.reshape(box, FINE, box, FINE).mean((1, 3))).astype(np.uint8)
