"""The colours that pictures are told in: k-means of their pixels, by NumPy in float64, the same on every machine."""

import numpy as np

CONSIDERED = 1 << 16
"""Distinct colours that are clustered at most; of more, so many are drawn."""
ROWS = 4096
"""Colours whose distances from all centres are computed together."""


def palette(pixels: np.ndarray, size: int, steps: int = 50, seed: int = 0) -> np.ndarray:
    """`size` colours for `pixels`, uint8[N, C], as uint8[size, C], the darkest first.

    Where the pixels have no more colours than that, it is these, exactly, and the last is repeated. Otherwise it is the
    centres of Lloyd's iteration from k-means++ seeds, each distinct colour weighted by its pixels, rounded to levels;
    centres that fall together are kept once, and the last is repeated.
    """
    colours, counts = np.unique(pixels, axis=0, return_counts=True)
    if len(colours) > size:
        rng = np.random.default_rng(seed)
        if len(colours) > CONSIDERED:
            some = np.sort(rng.choice(len(colours), CONSIDERED, replace=False))
            colours, counts = colours[some], counts[some]
        centres = clustered(colours.astype(np.float64), counts.astype(np.float64), size, steps, rng)
        colours = np.unique(np.rint(centres).astype(np.uint8), axis=0)
    order = np.lexsort((*colours.T[::-1], colours.sum(axis=1, dtype=np.int64)))
    return colours[order[np.minimum(np.arange(size), len(colours) - 1)]]


def clustered(z: np.ndarray, weights: np.ndarray, size: int, steps: int, rng: np.random.Generator) -> np.ndarray:
    """Centres f64[size, C] of distinct points z, f64[N, C] with N >= size, after `steps` of Lloyd's iteration or as
    soon as nothing moves. Each seed is drawn in proportion to weight and squared distance from the nearest earlier."""
    centres, far = z[[rng.choice(len(z), p=weights / weights.sum())]], np.full(len(z), np.inf)
    while len(centres) < size:
        far = np.minimum(far, np.sum((z - centres[-1]) ** 2, axis=1))
        share = weights * far
        centres = np.concatenate([centres, z[[rng.choice(len(z), p=share / share.sum())]]])
    for _ in range(steps):
        near = _nearest(z, centres)
        total = np.bincount(near, weights, size)
        sums = np.stack([np.bincount(near, weights * channel, size) for channel in z.T], axis=1)
        # A centre that is nearest to nothing stays where it is.
        moved = np.where(total[:, None] > 0, sums / np.maximum(total, 1)[:, None], centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def _nearest(z: np.ndarray, centres: np.ndarray) -> np.ndarray:
    square = np.sum(centres**2, axis=1)
    blocks = (z[start : start + ROWS] for start in range(0, len(z), ROWS))
    return np.concatenate([np.argmin(square - 2 * block @ centres.T, axis=1) for block in blocks])
