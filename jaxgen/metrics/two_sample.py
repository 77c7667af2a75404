"""The nearest-neighbour two-sample score: can a classifier tell two sets of samples apart?"""

import numpy as np

from jaxgen.errors import UserError


def knn_two_sample(a: np.ndarray, b: np.ndarray, k: int = 5) -> float:
    """Leave-one-out accuracy in [0, 1] of a k-nearest-neighbour classifier between two sets.

    It is 1/2 for sets of one distribution and near 1 for sets that differ; well below 1/2, one set copies the other.
    a, b: [N, ...] of any dtype, compared by Euclidean distance over all axes but the first. Raises UserError for sets
    of unequal shape or at most k samples, or an even k, whose votes could tie. Section 3 of arXiv:1610.06545.
    """
    from sklearn.neighbors import NearestNeighbors

    if a.shape != b.shape or len(a) <= k:
        raise UserError(f"sets have shapes {a.shape} and {b.shape}: equal shapes of more than k = {k} are needed")
    if k % 2 == 0:
        raise UserError(f"k is {k}: an odd number is needed, so that no vote ties")
    both = np.concatenate([a, b]).reshape(2 * len(a), -1).astype(np.float64)
    label = np.repeat([0, 1], len(a))
    # kneighbors() without an argument leaves each point out of its own neighbours.
    neighbours = NearestNeighbors(n_neighbors=k).fit(both).kneighbors(return_distance=False)
    vote = label[neighbours].mean(axis=1) > 0.5
    return float(np.mean(vote == label))
