"""Whether a model memorizes: distances from samples to the nearest training example, compared with those from held-out
examples, arXiv:2004.05675, section 3.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

from jaxgen.metrics.collect import Collect, Rows
from jaxgen.metrics.inputs import check_features
from jaxgen.metrics.neighbours import centred, nearest_rows


def memorization(features: np.ndarray, train: np.ndarray, test: np.ndarray) -> dict[str, Any]:
    """{nn_ratio, copying_z, nearest} from features of samples [N, D], training [M, D] and held-out examples [L, D].

    nn_ratio: the median distance from a sample to its nearest training example, divided by that from a held-out
    example; near 1 without memorization, well below 1 for copies. copying_z: the z-score of the Mann-Whitney test on
    the two sets of distances (C_T of the paper, without its cells); below -3, samples are closer than chance allows;
    above 3, they are farther. nearest: i32[N], the nearest training example of each sample, for inspection.
    """
    train = check_features(train, what="training features")
    features = check_features(features, train.shape[1])
    test = check_features(test, train.shape[1], what="held-out features")
    base, fake, real = centred(train, features, test)
    fake_distance, index = (np.asarray(a) for a in nearest_rows(fake, base))
    real_distance = np.asarray(nearest_rows(real, base)[0])
    # If most held-out examples duplicate training examples, the median is 0 and the ratio is undefined.
    scale = float(np.sqrt(np.median(real_distance)))
    ratio = float(np.sqrt(np.median(fake_distance))) / scale if scale else float("nan")
    return {"nn_ratio": ratio, "copying_z": _mann_whitney_z(fake_distance, real_distance), "nearest": index}


def _mann_whitney_z(a: np.ndarray, b: np.ndarray) -> float:
    """The number of pairs with a > b, as standard deviations above its mean under equal distributions."""
    n, m = len(a), len(b)
    u = rankdata(np.concatenate([a, b]))[:n].sum() - n * (n + 1) / 2
    return float((u - n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12))


@dataclass(frozen=True, kw_only=True, eq=False)
class Memorization(Collect):
    """`memorization` of the features collected."""

    train: np.ndarray
    test: np.ndarray

    def compute(self, state: Rows) -> dict[str, Any]:
        rows = self.rows(state)
        return {**memorization(rows, self.train, self.test), "num": len(rows)}
