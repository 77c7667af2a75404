"""The Fréchet distance between two sets of features, arXiv:1706.08500; FID if they are Inception's `pool3`.

`nets.inception` has the network and its resizing, `metrics.features` the compiled features of a batch of images.

    d^2 = |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2))                                       (eq. 6)
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxgen.errors import UserError
from jaxgen.metrics.collect import Collect, Rows
from jaxgen.metrics.inputs import check_features, warn_if_singular


@dataclass(frozen=True, eq=False)
class Gaussian:
    """The mean f64[D] and unbiased covariance f64[D, D] of `num` samples."""

    num: int
    mean: np.ndarray
    cov: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Gaussian":
        """The moments of features [N, D]."""
        moments = Moments(dim=np.shape(features)[-1])
        return moments.compute(moments.update(moments.init(), features))


@dataclass(frozen=True, eq=False)
class MomentState:
    """The count, mean f64[D] and scatter matrix f64[D, D], the sum of (x - mean)(x - mean)', of samples x."""

    count: int
    mean: np.ndarray
    scatter: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Mean and covariance of features [B, dim], batch by batch, in f64 on the host.

    In f32 the square root of a singular covariance turns rounding errors of 1e-8 into 1e-4, and the distance would
    depend on the batching of the samples.
    """

    dim: int

    def init(self) -> MomentState:
        return MomentState(0, np.zeros(self.dim), np.zeros((self.dim, self.dim)))

    def update(self, state: MomentState, features: jax.Array | np.ndarray, mask: Any = None) -> MomentState:
        """Adds the rows where mask, bool[B], is True; None means all. `features` may be sharded over a mesh."""
        rows = np.asarray(features)
        rows = rows if mask is None else rows[np.asarray(mask)]
        if not len(rows):
            return state
        rows = check_features(rows, self.dim).astype(np.float64)
        mean = rows.mean(axis=0)
        centred = rows - mean
        return merge_moments(state, MomentState(len(rows), mean, centred.T @ centred))

    def compute(self, state: MomentState) -> Gaussian:
        """Raises UserError for fewer than two samples. Warns (SingularCovariance) unless there are more than `dim`."""
        if state.count < 2:
            raise UserError(f"a covariance of {state.count} samples: at least two are needed")
        warn_if_singular(state.count, self.dim)
        return Gaussian(state.count, state.mean, state.scatter / (state.count - 1))


def merge_moments(a: MomentState, b: MomentState) -> MomentState:
    """The moments of the union of two sets, such as two batches or the shares of two processes."""
    count = a.count + b.count
    delta = b.mean - a.mean
    mean = a.mean + delta * (b.count / count)
    return MomentState(count, mean, a.scatter + b.scatter + np.outer(delta, delta) * (a.count * b.count / count))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """d^2 of the module docstring, by symmetric eigendecompositions.

    tr (C_1 C_2)^(1/2) = tr (R' C_2 R)^(1/2) with R R' = C_1. R' C_2 R is symmetric, so its eigenvalues are real and not
    negative. Those below the rounding error count as zero, since the root would turn 1e-16 into 1e-8 in every dimension
    without variance. Raises UserError for features of different dimensions.
    """
    if a.mean.shape != b.mean.shape:
        raise UserError(f"features have {len(a.mean)} and {len(b.mean)} dimensions: use the same network for both sets")
    values, vectors = np.linalg.eigh(a.cov)
    root = vectors * np.sqrt(_significant(values))
    cross = _significant(np.linalg.eigvalsh(root.T @ b.cov @ root))
    delta = a.mean - b.mean
    return float(delta @ delta + np.trace(a.cov) + np.trace(b.cov) - 2 * np.sum(np.sqrt(cross)))


def _significant(values: np.ndarray) -> np.ndarray:
    """The eigenvalues, where those below the rounding error of the largest are set to zero."""
    return np.where(values > values.max(initial=0.0) * len(values) * np.finfo(np.float64).eps, values, 0.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class FID(Moments):
    """Fréchet distance between the accumulated features and a reference."""

    reference: Gaussian

    def compute(self, state: MomentState) -> dict[str, float]:
        return {"fid": frechet_distance(super().compute(state), self.reference), "num": state.count}


@dataclass(frozen=True, kw_only=True, eq=False)
class IntraFID(Collect):
    """The mean over classes of the Fréchet distance within each class, section 5 of arXiv:1802.05637.

    reference: features of real data, [N, dim - 1], with labels [N]. The rows given to `update` are features with the
    label as an additional last column (`with_labels`), so `dim` is the number of features plus one. `capacity` counts
    the samples of all classes together.
    """

    reference: np.ndarray
    labels: np.ndarray

    def compute(self, state: Rows) -> dict[str, Any]:
        """{intra_fid, per_class: {label: distance}, num}. Raises UserError if a class has fewer than two samples."""
        rows = self.rows(state)
        features, labels = rows[:, :-1], rows[:, -1].astype(int)
        reference = check_features(self.reference, self.dim - 1, what="reference features")
        classes = np.unique(np.concatenate([labels, self.labels]))
        few = [int(c) for c in classes if min(np.sum(labels == c), np.sum(self.labels == c)) < 2]
        if few:
            raise UserError(f"class {few[0]} has fewer than two samples in one of the sets: draw more of it")
        per_class = {
            int(c): frechet_distance(Gaussian.of(features[labels == c]), Gaussian.of(reference[self.labels == c]))
            for c in classes
        }
        return {"intra_fid": float(np.mean(list(per_class.values()))), "per_class": per_class, "num": len(rows)}


def with_labels(features: jax.Array, labels: jax.Array) -> jax.Array:
    """The rows for `IntraFID`: features f32[B, D] and labels int[B] to f32[B, D + 1]."""
    return jax.numpy.concatenate([features, labels.astype(features.dtype)[:, None]], axis=1)
