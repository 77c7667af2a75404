"""Mode coverage: how many components of a Gaussian mixture the samples reach, and how many samples belong to none.

As in arXiv:1705.07761, a sample is good if it lies within three standard deviations of the nearest centre, and a mode
is covered if at least one good sample is nearest to it.
"""

import numpy as np

from jaxgen.errors import UserError


def mode_coverage(x: np.ndarray, centres: np.ndarray, std: float, within: float = 3.0) -> dict[str, float]:
    """Coverage of the K modes `centres` f64[K, D], each N(centre, std^2), by samples x: f32[N, D].

    Returns `modes`, the number with at least one good sample; `good`, the fraction of samples within `within` standard
    deviations of their nearest centre; and `mode_kl`, KL(shares of the modes among good samples || 1 / K) in nats: 0 if
    all modes are equally frequent, infinite without a good sample. Raises UserError for shapes that do not fit.
    """
    x, centres = np.asarray(x, np.float64), np.asarray(centres, np.float64)
    if x.ndim != 2 or centres.ndim != 2 or x.shape[1] != centres.shape[1] or not len(x):
        raise UserError(f"samples are of shape {x.shape}, centres of {centres.shape}: [N, D] and [K, D] are expected")
    distance = np.linalg.norm(x[:, None] - centres[None], axis=-1)
    nearest = distance.argmin(axis=1)
    good = distance.min(axis=1) <= within * std
    counts = np.bincount(nearest[good], minlength=len(centres))
    share = counts[counts > 0] / max(1, counts.sum())
    kl = float(np.sum(share * np.log(share * len(centres)))) if good.any() else float("inf")
    return {"modes": int(np.sum(counts > 0)), "good": float(good.mean()), "mode_kl": kl}
