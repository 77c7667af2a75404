"""How far each coordinate of a code stands for one known factor of variation, and each factor for one coordinate.

codes: f32[N, D], of N images, such as the means of q(z | x); factors: i32[N, K], the values that made them.
"""

import numpy as np

from jaxgen.errors import UserError

BINS = 20
"""Equal bins that a coordinate is divided into, as in arXiv:1811.12359."""


def check_codes(codes: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays. Raises UserError for shapes that do not fit, or a factor with one value only."""
    codes, factors = np.asarray(codes, np.float64), np.asarray(factors)
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors) or len(codes) < 2:
        raise UserError(f"codes are of shape {codes.shape}, factors of {factors.shape}: [N, D] and [N, K] are expected")
    if not np.all(np.isfinite(codes)):
        raise UserError("codes are not finite: the run that made them has diverged")
    if np.any(factors.min(axis=0) == factors.max(axis=0)):
        raise UserError("a factor has one value in all images: nothing can stand for it, leave it out")
    return codes, factors


def mutual_information_gap(codes: np.ndarray, factors: np.ndarray, bins: int = BINS) -> dict[str, float]:
    """`mig`, eq. 6 of arXiv:1802.04942: over factors v_k, the mean of (I(z_1; v_k) - I(z_2; v_k)) / H(v_k), where z_1
    and z_2 are the coordinates that know most of it, each in `bins` bins. 1: every factor has one coordinate to itself;
    0: its information is in two alike, or nowhere. `informed`: the mean of I(z_1; v_k) / H(v_k). Raises UserError for
    shapes that do not fit, and for codes of one coordinate."""
    codes, factors = check_codes(codes, factors)
    if codes.shape[1] < 2:
        raise UserError("codes have one coordinate: a gap between two is asked for")
    low, high = codes.min(axis=0), codes.max(axis=0)
    binned = np.clip(((codes - low) / np.maximum(high - low, 1e-12) * bins).astype(int), 0, bins - 1)
    gaps, most = [], []
    for factor in factors.T:
        names, value = np.unique(factor, return_inverse=True)
        share = np.bincount(value) / len(value)
        entropy = -np.sum(share * np.log(share))
        known = np.sort([_information(z, value, bins, len(names)) for z in binned.T])[::-1] / entropy
        gaps.append(known[0] - known[1])
        most.append(known[0])
    return {"mig": float(np.mean(gaps)), "informed": float(np.mean(most))}


def _information(a: np.ndarray, b: np.ndarray, num_a: int, num_b: int) -> float:
    """I(a; b) in nats of integers below num_a and num_b, by their counts."""
    joint = np.bincount(a * num_b + b, minlength=num_a * num_b).reshape(num_a, num_b) / len(a)
    product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    there = joint > 0
    return float(np.sum(joint[there] * np.log(joint[there] / product[there])))


def factor_vae_score(
    codes: np.ndarray, factors: np.ndarray, *, votes: int = 800, size: int = 64, unused: float = 0.05, seed: int = 0
) -> float:
    """The metric of section 4 of arXiv:1802.05983, in [1 / K, 1].

    A vote: `size` images that share the value of one factor, and the coordinate whose variance over them is the least
    share of its variance over all. A classifier names the factor by the majority of votes for its coordinate; the
    score is how often it is right on as many votes again. Coordinates of a variance below `unused` of the largest are
    left out. Raises UserError for shapes that do not fit."""
    codes, factors = check_codes(codes, factors)
    variance = codes.var(axis=0)
    used = np.flatnonzero(variance > unused * variance.max())
    rng, num = np.random.default_rng(seed), factors.shape[1]

    def vote() -> tuple[int, int]:
        k = int(rng.integers(num))
        same = np.flatnonzero(factors[:, k] == factors[rng.integers(len(factors)), k])
        chosen = codes[rng.choice(same, size)][:, used]
        return int(np.argmin(chosen.var(axis=0) / variance[used])), k

    table = np.zeros((len(used), num), int)
    for _ in range(votes):
        table[vote()] += 1
    named = table.argmax(axis=1)
    return float(np.mean([named[d] == k for d, k in (vote() for _ in range(votes))]))
