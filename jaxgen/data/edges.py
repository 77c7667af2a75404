"""Edge maps of pictures: Canny's edge detector, doi:10.1109/TPAMI.1986.4767851."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np


def canny(x: np.ndarray, sigma: float = 1.0, low: float = 0.05, high: float = 0.1) -> np.ndarray:
    """The edges of x: uint8[N, H, W, C] as bool[N, H, W].

    Each picture is smoothed by a Gaussian of `sigma` pixels. A pixel's gradient is Sobel's, in the channel where it is
    largest; a step from black to white has gradient 1 before smoothing. Candidates are pixels whose gradient exceeds
    `low` and is a local maximum along its own direction. A candidate is an edge if a path of candidates, diagonal
    steps included, connects it to one whose gradient exceeds `high`.
    """
    # In small chunks, as about ten f32 copies of each are made.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = list(pool.map(lambda i: _canny_chunk(x[i : i + 64], sigma, low, high), range(0, len(x), 64)))
    return np.concatenate(parts) if parts else np.zeros(x.shape[:3], bool)


def _canny_chunk(x: np.ndarray, sigma: float, low: float, high: float) -> np.ndarray:
    from scipy import ndimage  # imported here to keep start-up fast

    smooth = ndimage.gaussian_filter(x.astype(np.float32) / 255, (0, sigma, sigma, 0), mode="nearest")

    def slope(along: int, across: int) -> np.ndarray:
        difference = ndimage.correlate1d(smooth, [-1, 0, 1], along, mode="nearest")
        return ndimage.correlate1d(difference, [0.25, 0.5, 0.25], across, mode="nearest")

    dy, dx = slope(1, 2), slope(2, 1)
    steepest = np.argmax(dy**2 + dx**2, axis=-1)[..., None]
    dy, dx = (np.take_along_axis(d, steepest, axis=-1)[..., 0] for d in (dy, dx))
    gradient = np.hypot(dy, dx)
    edge = _local_maxima(gradient, dy, dx) & (gradient > low)
    # Connected components within each picture: pixels of other pictures are not neighbours.
    structure = np.zeros((3, 3, 3), int)
    structure[1] = 1
    labels = np.zeros(edge.shape, np.int32)
    ndimage.label(edge, structure, output=labels)
    kept = np.zeros(labels.max(initial=0) + 1, bool)
    kept[labels[edge & (gradient > high)]] = True
    return kept[labels]


def _local_maxima(gradient: np.ndarray, dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
    """bool[N, H, W]: whether the gradient, f32[N, H, W], is a maximum along its own direction.

    It is compared with its values one pixel to either side, each interpolated linearly between two pixels. Outside the
    picture the gradient is 0.
    """
    height, width = gradient.shape[1:]
    padded = np.pad(gradient, ((0, 0), (1, 1), (1, 1)))

    def at(y: int, x: int) -> np.ndarray:
        return padded[:, 1 + y : 1 + y + height, 1 + x : 1 + x + width]

    steep, falling = np.abs(dy) >= np.abs(dx), dy * dx >= 0
    large, small = np.maximum(np.abs(dy), np.abs(dx)), np.minimum(np.abs(dy), np.abs(dx))
    weight = small / np.where(large > 0, large, 1)
    maximum = np.ones(gradient.shape, bool)
    for side in (1, -1):
        straight = np.where(steep, at(side, 0), at(0, side))
        diagonal = np.where(falling, at(side, side), np.where(steep, at(side, -side), at(-side, side)))
        maximum &= gradient >= (1 - weight) * straight + weight * diagonal
    return maximum
