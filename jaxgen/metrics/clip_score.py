"""CLIP score, arXiv:2104.08718: how near pictures are to their texts in a space of both.

u, v: the embeddings of a picture and of its text.

    CLIP-S(u, v) = 2.5 max(cos(u, v), 0)                                                       (section 3)
"""

import numpy as np

from jaxgen.errors import UserError
from jaxgen.metrics.inputs import check_features

WEIGHT = 2.5


def clip_scores(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """CLIP-S of each pair, f64[N] in [0, 2.5], of embeddings f32[N, D] of any norm. Raises UserError for embeddings
    that are not finite or of two spaces."""
    u = directions(images, "embeddings of images")
    v = directions(texts, "embeddings of texts")
    if u.shape != v.shape:
        raise UserError(f"embeddings are {u.shape} of images and {v.shape} of texts: equal shapes are expected")
    return WEIGHT * np.maximum(np.sum(u * v, axis=1), 0)


def directions(embeddings: np.ndarray, what: str = "embeddings") -> np.ndarray:
    """Embeddings scaled to norm 1, f64[N, D]. Raises UserError for one that is zero or not finite."""
    rows = check_features(embeddings, what=what).astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not norms.all():
        raise UserError(f"{what} are zero: the weights of the network are wrong")
    return rows / norms


def mismatched(groups: np.ndarray, seed: int = 0) -> np.ndarray:
    """i64[N]: for each row another one, at random among those of other groups, int[N]. Raises UserError where all are
    of one group."""
    order = np.argsort(groups, kind="stable")
    _, place, size = np.unique(groups, return_inverse=True, return_counts=True)
    first = np.cumsum(size) - size  # of each group in that order
    first, size = first[place], size[place]
    others = len(groups) - size
    if not others.all():
        raise UserError(f"all {len(groups)} texts are the same: pictures cannot be put beside others'")
    drawn = np.random.default_rng(seed).integers(others)
    return order[np.where(drawn < first, drawn, drawn + size)]
