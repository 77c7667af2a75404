"""How well a score tells data from something else."""

import numpy as np

from jaxgen.errors import UserError


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Area under the receiver operating characteristic: the chance that one of `outside` scores higher than one of
    `inside`, ties counting half, which is the Mann-Whitney statistic over its number of pairs.

    inside, outside: f[N], f[M], scores that are to be high outside. 1 tells them apart, 1/2 is chance. Raises UserError
    for an empty set or a score that is NaN.
    """
    inside, outside = np.asarray(inside, np.float64), np.asarray(outside, np.float64)
    if not inside.size or not outside.size or np.isnan(inside).any() or np.isnan(outside).any():
        raise UserError(f"{inside.size} and {outside.size} scores were given: some of each are needed, and no NaN")
    order = np.sort(inside)
    below, upto = (np.searchsorted(order, outside, side) for side in ("left", "right"))
    return float(np.sum(below + upto) / (2 * inside.size * outside.size))
