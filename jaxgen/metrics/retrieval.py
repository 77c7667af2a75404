"""Retrieval: how often what belongs together is among the k nearest, R@k."""

from collections.abc import Mapping

import numpy as np

DEPTHS = (1, 5, 10)
WAYS = ("image_to_text", "text_to_image")
RECALLS = tuple(f"{way}_r{k}" for way in WAYS for k in DEPTHS)
"""The names that `recalls` gives."""
BLOCK = 1024  # queries compared at a time
ROUNDING = 1e-6  # of products of unit vectors: equal ones differ by it, by their place in a matrix


def ranks(queries: np.ndarray, candidates: np.ndarray, query_groups: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """i64[N]: for each query, how many candidates are at least as near as the nearest of its own group.

    queries: f32[N, D], candidates: f32[M, D], unit vectors. query_groups: int[N], groups: int[M]: a candidate is right
    if its group is the query's. A tie with a wrong one counts as wrong, and so does what is no number: vectors that are
    all alike, or those of a network that has diverged, find nothing.
    """
    found = []
    for start in range(0, len(queries), BLOCK):
        near = queries[start : start + BLOCK] @ candidates.T
        own = query_groups[start : start + BLOCK, None] == groups[None]
        best = np.where(own, near, -np.inf).max(axis=1, keepdims=True)
        found.append(np.sum(~(near < best - ROUNDING) & ~own, axis=1))
    return np.concatenate(found)


def recalls(pictures: np.ndarray, texts: np.ndarray, groups: np.ndarray) -> Mapping[str, np.ndarray]:
    """R@1, 5 and 10 of the text of each picture and of the picture of each text, f64[N] of 0 and 1 by name.

    pictures, texts: f32[N, D]. groups: int[N], equal for pairs of the same text, any of which is right.
    """
    found = {
        "image_to_text": ranks(pictures, texts, groups, groups),
        "text_to_image": ranks(texts, pictures, groups, groups),
    }
    return {f"{way}_r{k}": (rank < k).astype(np.float64) for way, rank in found.items() for k in DEPTHS}
