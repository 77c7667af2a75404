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
    """The metric of section 4 of arXiv:1802.05983, in [0, 1]; about 1 / K by chance.

    A vote: `size` images that share the value of one factor, and the coordinate whose variance over them is the least
    share of its variance over all. A classifier names the factor by the majority of votes for its coordinate; the
    score is how often it is right on as many votes again. Coordinates of a variance below `unused` of the largest are
    left out. Raises UserError for shapes that do not fit."""
    codes, factors = check_codes(codes, factors)
    variance = codes.var(axis=0)
    used = np.flatnonzero(variance >= unused * variance.max())  # of a collapsed code all, which tell nothing
    scale = np.maximum(variance[used], np.finfo(np.float64).tiny)
    rng, num = np.random.default_rng(seed), factors.shape[1]

    def vote() -> tuple[int, int]:
        k = int(rng.integers(num))
        same = np.flatnonzero(factors[:, k] == factors[rng.integers(len(factors)), k])
        chosen = codes[rng.choice(same, size)][:, used]
        return int(np.argmin(chosen.var(axis=0) / scale)), k

    table = np.zeros((len(used), num), int)
    for _ in range(votes):
        table[vote()] += 1
    named = table.argmax(axis=1)
    return float(np.mean([named[d] == k for d, k in (vote() for _ in range(votes))]))


def dci(
    codes: np.ndarray, factors: np.ndarray, *, trees: int = 30, most: int = 2000, seed: int = 0
) -> dict[str, float]:
    """`disentanglement`, `completeness` and `informativeness`, each in [0, 1]: eqs. 2 to 4 of Eastwood and Williams
    (ICLR 2018).

    Boosted trees (scikit-learn's, `trees` for each value of a factor) tell each factor from the codes; R[d, k] is how
    much coordinate d counts in that for factor k, R's columns sum to one. disentanglement: 1 less the entropy, in base
    K, of each coordinate's row of R, scaled to sum to one, weighted by its sum: does a coordinate stand for one factor?
    completeness: the mean over factors of 1 less the entropy, in base D, of the column: is a factor in one coordinate?
    informativeness: the mean share of factors told right where the trees were not fitted, as in arXiv:1811.12359; the
    paper has one less a normalized error. Half of the images, of each half `most` at most, are fitted to, in an order
    drawn by `seed`; the others are told. Raises UserError for shapes that do not fit, and for one coordinate or
    factor, whose entropies have no base.
    """
    from sklearn.ensemble import GradientBoostingClassifier  # imported here, as it takes a second

    codes, factors = check_codes(codes, factors)
    if codes.shape[1] < 2 or factors.shape[1] < 2:
        given = f"codes have {codes.shape[1]} coordinates, images {factors.shape[1]} factors"
        raise UserError(f"{given}: 2 of each are needed for entropies")
    order, half = np.random.default_rng(seed).permutation(len(codes)), len(codes) // 2
    fitted, told = order[: min(half, most)], order[half : half + most]
    importance, right = np.zeros((codes.shape[1], factors.shape[1])), []
    for k, factor in enumerate(factors.T):
        if len(np.unique(factor[fitted])) < 2:
            raise UserError(f"factor {k} has one value in {len(fitted)} images that are fitted to: give more")
        model = GradientBoostingClassifier(n_estimators=trees, random_state=seed)
        model.fit(codes[fitted], factor[fitted])
        importance[:, k] = model.feature_importances_
        right.append(model.score(codes[told], factor[told]))
    weight = importance.sum(axis=1)
    by_code, by_factor = (1 - _entropies(table) for table in (importance, importance.T))
    return {
        "disentanglement": float(np.sum(by_code * weight) / max(weight.sum(), 1e-12)),
        "completeness": float(np.mean(by_factor)),
        "informativeness": float(np.mean(right)),
    }


def _entropies(table: np.ndarray) -> np.ndarray:
    """Of each row, scaled to sum to one, the entropy in base of its length; 1 for a row of zeros."""
    total = table.sum(axis=1, keepdims=True)
    p = np.where(total > 0, table / np.where(total > 0, total, 1), 1 / table.shape[1])
    return -np.sum(p * np.log(np.where(p > 0, p, 1)), axis=1) / np.log(table.shape[1])
