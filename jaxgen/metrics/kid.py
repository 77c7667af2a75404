"""Kernel Inception distance: the squared maximum mean discrepancy under k(x, y) = (x'y / D + 1)^3, arXiv:1801.01401."""

from dataclasses import dataclass

import numpy as np

from jaxgen.errors import UserError
from jaxgen.metrics.collect import Collect, Rows
from jaxgen.metrics.inputs import check_features


def cubic_mmd2(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimate from x, y: [n, D], section 2.1 of arXiv:1801.01401. It can be below 0."""
    n, dim = x.shape
    within = 0.0
    for a in (x, y):
        k = (a @ a.T / dim + 1) ** 3
        within += (k.sum() - np.trace(k)) / (n * (n - 1))
    return float(within - 2 * ((x @ y.T / dim + 1) ** 3).mean())


def kid(
    features: np.ndarray, reference: np.ndarray, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> dict[str, float]:
    """{kid, kid_std}: mean and standard deviation over random subsets of both sets, [N, D] and [M, D].

    The same seed draws the same subsets as in torch-fidelity. Computed in f64, since kernel values near 1 cancel to
    differences of 1e-6. Raises UserError if a set is smaller than a subset.
    """
    features = check_features(features)
    reference = check_features(reference, features.shape[1], what="reference features")
    least = min(len(features), len(reference))
    if not 2 <= subset_size <= least or subsets < 1:
        raise UserError(f"{subsets} subsets of {subset_size} out of {least} samples: choose a size from 2 to {least}")
    x, y = features.astype(np.float64), reference.astype(np.float64)
    rng = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        ours = rng.choice(len(x), subset_size, replace=False)
        theirs = rng.choice(len(y), subset_size, replace=False)
        values.append(cubic_mmd2(x[ours], y[theirs]))
    return {"kid": float(np.mean(values)), "kid_std": float(np.std(values))}


@dataclass(frozen=True, kw_only=True, eq=False)
class KID(Collect):
    """`kid` of the features collected against a reference [M, dim]."""

    reference: np.ndarray
    subsets: int = 100
    subset_size: int = 1000
    seed: int = 2020

    def compute(self, state: Rows) -> dict[str, float]:
        rows = self.rows(state)
        return {**kid(rows, self.reference, self.subsets, self.subset_size, self.seed), "num": len(rows)}
