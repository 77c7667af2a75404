"""Line drawings of pictures: Canny's edge detector, doi:10.1109/TPAMI.1986.4767851."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np


def canny(x: np.ndarray, sigma: float = 1.0, low: float = 0.05, high: float = 0.1) -> np.ndarray:
    """bool[N, H, W] of x: uint8[N, H, W, C]: where the picture, smoothed by a Gaussian of `sigma` pixels, changes most.

    An edge is a pixel whose gradient (Sobel's, of the channel where it is the steepest) is no smaller than on either
    side along it and above `low`, and which is connected through such pixels, corners included, to one above `high`.
    A step from black to white has gradient 1 before smoothing.
    """
    # Of few at a time: some ten f32 copies of them are made.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = list(pool.map(lambda i: _canny(x[i : i + 64], sigma, low, high), range(0, len(x), 64)))
    return np.concatenate(parts) if parts else np.zeros(x.shape[:3], bool)


def _canny(x: np.ndarray, sigma: float, low: float, high: float) -> np.ndarray:
    from scipy import ndimage  # here, as start-up should not pay for it

    smooth = ndimage.gaussian_filter(x.astype(np.float32) / 255, (0, sigma, sigma, 0), mode="nearest")

    def slope(along: int, across: int) -> np.ndarray:
        difference = ndimage.correlate1d(smooth, [-1, 0, 1], along, mode="nearest")
        return ndimage.correlate1d(difference, [0.25, 0.5, 0.25], across, mode="nearest")

    dy, dx = slope(1, 2), slope(2, 1)
    steepest = np.argmax(dy**2 + dx**2, axis=-1)[..., None]
    dy, dx = (np.take_along_axis(d, steepest, axis=-1)[..., 0] for d in (dy, dx))
    gradient = np.hypot(dy, dx)
    edge = _ridge(gradient, dy, dx) & (gradient > low)
    # Components within each picture: what lies in the planes before and behind is no neighbour.
    structure = np.zeros((3, 3, 3), int)
    structure[1] = 1
    labels, count = ndimage.label(edge, structure)
    kept = np.zeros(count + 1, bool)
    kept[labels[edge & (gradient > high)]] = True
    return kept[labels]


def _ridge(gradient: np.ndarray, dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
    """Where the gradient, f32[N, H, W], is at least what it is a pixel up and down its own direction, between the two
    pixels that lie there by linear interpolation; it is 0 outside the picture."""
    height, width = gradient.shape[1:]
    padded = np.pad(gradient, ((0, 0), (1, 1), (1, 1)))

    def at(y: int, x: int) -> np.ndarray:
        return padded[:, 1 + y : 1 + y + height, 1 + x : 1 + x + width]

    steep, falling = np.abs(dy) >= np.abs(dx), dy * dx >= 0
    large, small = np.maximum(np.abs(dy), np.abs(dx)), np.minimum(np.abs(dy), np.abs(dx))
    weight = small / np.where(large > 0, large, 1)
    ridge = np.ones(gradient.shape, bool)
    for side in (1, -1):
        straight = np.where(steep, at(side, 0), at(0, side))
        diagonal = np.where(falling, at(side, side), np.where(steep, at(side, -side), at(-side, side)))
        ridge &= gradient >= (1 - weight) * straight + weight * diagonal
    return ridge
