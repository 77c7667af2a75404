"""Improved precision and recall, arXiv:1904.06991, and density and coverage, arXiv:2002.09797.

The manifold of a set is the union of balls about its points, each as large as the distance to the k-th neighbour.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from jaxgen.errors import UserError
from jaxgen.metrics.collect import Collect, Rows
from jaxgen.metrics.inputs import check_features
from jaxgen.metrics.neighbours import centred, contain_any, count_balls, squared_radii


def prdc(features: np.ndarray, reference: np.ndarray, k: int = 3) -> dict[str, float]:
    """{precision, recall, density, coverage} of generated features [N, D] against real ones [M, D].

    precision, eq. 2 of arXiv:1904.06991: the fraction of generated points inside the real manifold. recall: the
    fraction of real points inside the generated manifold. density, section 3 of arXiv:2002.09797: the mean number of
    real balls around a generated point, divided by k (may exceed 1). coverage: the fraction of real balls that contain
    a generated point. The papers use k = 3 for the first two and k = 5 for the others. A point on the border of a ball
    is inside. Raises UserError for k or fewer points in a set.
    """
    features = check_features(features)
    reference = check_features(reference, features.shape[1], what="reference features")
    if not 1 <= k < min(len(features), len(reference)):
        raise UserError(f"k is {k} for {len(features)} and {len(reference)} samples: choose 1 or more, below both")
    real, fake = centred(reference, features)
    real_radius, fake_radius = squared_radii(real, k), squared_radii(fake, k)
    inside = count_balls(fake, real, real_radius)
    return {
        "precision": float(jnp.mean(inside > 0)),
        "recall": float(jnp.mean(count_balls(real, fake, fake_radius) > 0)),
        "density": float(jnp.mean(inside) / k),
        "coverage": float(jnp.mean(contain_any(real, real_radius, fake))),
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class PRDC(Collect):
    """`prdc` of the features collected against a reference [M, dim]."""

    reference: np.ndarray
    k: int = 3

    def compute(self, state: Rows) -> dict[str, float]:
        rows = self.rows(state)
        return {**prdc(rows, self.reference, self.k), "k": self.k, "num": len(rows)}
