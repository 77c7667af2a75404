"""The Inception score, exp E_x KL(p(y | x) || p(y)), section 4 of arXiv:1606.03498."""

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from jaxgen.errors import UserError
from jaxgen.metrics.collect import Collect, Rows
from jaxgen.metrics.inputs import check_features


def inception_score(logits: np.ndarray, splits: int = 10, shuffle: bool = True, seed: int = 2020) -> dict[str, float]:
    """{is, is_std}: mean and standard deviation over equal splits of the logits [N, K], in shuffled order.

    The order equals torch-fidelity's for the same seed. Terms with probability 0 count as 0, so one-hot predictions
    have a finite score. Raises UserError for fewer samples than splits.
    """
    logits = check_features(logits, what="logits").astype(np.float64)
    num = len(logits)
    if not 1 <= splits <= num:
        raise UserError(f"{splits} splits of {num} samples: choose 1 to {num} splits")
    if shuffle:
        logits = logits[np.random.RandomState(seed).permutation(num)]
    log_p = log_softmax(logits, axis=1)
    scores = []
    for i in range(splits):
        part = log_p[i * num // splits : (i + 1) * num // splits]
        p = np.exp(part)
        q = p.mean(axis=0, keepdims=True)
        ratio = np.where(p > 0, part - np.log(np.where(q > 0, q, 1.0)), 0.0)
        scores.append(np.exp(np.mean(np.sum(p * ratio, axis=1))))
    return {"is": float(np.mean(scores)), "is_std": float(np.std(scores))}


@dataclass(frozen=True, kw_only=True, eq=False)
class InceptionScore(Collect):
    """`inception_score` of the logits collected."""

    dim: int = 1008
    splits: int = 10
    shuffle: bool = True
    seed: int = 2020

    def compute(self, state: Rows) -> dict[str, float]:
        rows = self.rows(state)
        return {**inception_score(rows, self.splits, self.shuffle, self.seed), "num": len(rows)}
