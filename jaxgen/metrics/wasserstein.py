"""Wasserstein distances between two sets of equally many points, each of equal weight: features, or raw vectors.

W_p is the least (mean of |x_i - y_s(i)|^p)^(1/p) over matchings s. A sliced distance averages its p-th power over
directions, onto which both sets are projected: arXiv:1502.05252, eq. 7.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from jaxgen.errors import UserError
from jaxgen.metrics.collect import Collect, Rows
from jaxgen.metrics.inputs import check_features

PROJECTIONS = 1000
AT_A_TIME = 64
"""Directions that sets are projected onto together."""


def _pair(features: Any, reference: Any, p: float) -> tuple[np.ndarray, np.ndarray]:
    """Both in f64. Raises UserError for sets of different numbers or dimensions, and for p < 1."""
    features = check_features(features)
    reference = check_features(reference, features.shape[1], what="reference features")
    if len(features) != len(reference):
        raise UserError(f"there are {len(features)} and {len(reference)} points: give equally many of both")
    if p < 1:
        raise UserError(f"p is {p}: 1 or more is expected, as the distance is none below")
    return features.astype(np.float64), reference.astype(np.float64)


def wasserstein(features: Any, reference: Any, p: float = 2) -> float:
    """W_p of two sets [N, D] in the distance |x - y|, exact, by the best matching; its time grows as N^3.

    In one dimension the best matching is that of sorted values. Raises UserError as `_pair`."""
    x, y = _pair(features, reference, p)
    if x.shape[1] == 1:
        return float(np.mean(np.abs(np.sort(x, axis=0) - np.sort(y, axis=0)) ** p) ** (1 / p))
    centre = y.mean(axis=0)
    a, b = x - centre, y - centre
    square = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1)[None] - 2 * a @ b.T
    rows, columns = linear_sum_assignment(np.maximum(square, 0) ** (p / 2))
    # Anew from differences, as equal points are then at distance 0 to the bit.
    matched = np.sqrt(np.sum((x[rows] - y[columns]) ** 2, axis=1))
    return float(np.mean(matched**p) ** (1 / p))


def sliced_wasserstein(
    features: Any, reference: Any, projections: int = PROJECTIONS, p: float = 2, seed: int = 0
) -> dict[str, float]:
    """{sliced_wasserstein, sliced_wasserstein_stderr}: (mean of W_p^p over `projections` directions)^(1/p) of two sets
    [N, D], and its standard error over directions. These are uniform on the sphere, by `seed`. Never more than W_p.
    Raises UserError as `_pair`, and for fewer than two projections."""
    x, y = _pair(features, reference, p)
    if projections < 2:
        raise UserError(f"projections is {projections}: 2 or more are expected")
    ways = np.random.default_rng(seed).normal(size=(projections, x.shape[1]))
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    powers = []
    for some in np.split(ways, range(AT_A_TIME, projections, AT_A_TIME)):
        u, v = (np.sort(a @ some.T, axis=0) for a in (x, y))
        powers.append(np.mean(np.abs(u - v) ** p, axis=0))
    power = np.concatenate(powers)
    mean = float(power.mean())
    value = mean ** (1 / p)
    # d mean^(1/p) = value / (p mean) d mean.
    error = float(power.std(ddof=1)) / projections**0.5 * value / (p * mean) if mean else 0.0
    return {"sliced_wasserstein": value, "sliced_wasserstein_stderr": error}


@dataclass(frozen=True, kw_only=True, eq=False)
class Wasserstein(Collect):
    """`wasserstein` of the features collected from a reference [M, dim] of as many."""

    reference: np.ndarray
    p: float = 2

    def compute(self, state: Rows) -> dict[str, float]:
        rows = self.rows(state)
        return {"wasserstein": wasserstein(rows, self.reference, self.p), "p": self.p, "num": len(rows)}


@dataclass(frozen=True, kw_only=True, eq=False)
class SlicedWasserstein(Collect):
    """`sliced_wasserstein` of the features collected from a reference [M, dim] of as many."""

    reference: np.ndarray
    projections: int = PROJECTIONS
    p: float = 2
    seed: int = 0

    def compute(self, state: Rows) -> dict[str, float]:
        rows = self.rows(state)
        found = sliced_wasserstein(rows, self.reference, self.projections, self.p, self.seed)
        return {**found, "p": self.p, "projections": self.projections, "num": len(rows)}
