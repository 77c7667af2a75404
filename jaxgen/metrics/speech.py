"""Numbers of synthetic speech: how far its sound is from a reference, whether its attention follows the text, whether
it ends in time, and whether what was recognised is what was written.

All take arrays of one utterance without padding. F: frames, T: symbols of the text.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy.fft import dct

from jaxgen.data.speech_text import cleaned

CEPSTRA = 13
SKIP = 3
"""Symbols that attention may pass over in one step and still read the text in order: spaces and silent letters."""


def dynamic_time_warping(cost: np.ndarray) -> tuple[float, np.ndarray]:
    """The least sum of cost, f[N, M], along a path from (0, 0) to (N - 1, M - 1) in steps of (1, 0), (0, 1) and (1, 1),
    and the path, i64[L, 2]. Of equal ways the diagonal one is taken."""
    n, m = cost.shape
    total = np.full((n + 1, m + 1), np.inf)
    total[0, 0] = 0
    # By anti-diagonals, of which all cells depend on the two before alone.
    for d in range(n + m - 1):
        i = np.arange(max(0, d - m + 1), min(n, d + 1))
        j = d - i
        total[i + 1, j + 1] = cost[i, j] + np.minimum(total[i, j], np.minimum(total[i, j + 1], total[i + 1, j]))
    path = [(n - 1, m - 1)]
    while path[-1] != (0, 0):
        i, j = path[-1]
        path.append(min([(i - 1, j - 1), (i - 1, j), (i, j - 1)], key=lambda ij: total[ij[0] + 1, ij[1] + 1]))
    return float(total[n, m]), np.array(path[::-1])


def cepstra(log_mel: np.ndarray, num: int = CEPSTRA) -> np.ndarray:
    """f64[F, num]: c_1 to c_num of a log mel f[F, bands], without c_0, the loudness.

    At band n a log mel is c_0 + 2 sum_k c_k cos(pi k (n + 1/2) / bands)."""
    log_mel = np.asarray(log_mel, np.float64)
    every = np.asarray(dct(log_mel, axis=1)) / (2 * log_mel.shape[1])
    return every[:, 1 : num + 1]


def mel_cepstral_distortion(log_mel: np.ndarray, reference: np.ndarray) -> float:
    """MCD in dB between two log mels, f[F, bands] and f[F', bands]: the mean of 10 / ln 10 sqrt(2 sum_k (m_k - m'_k)^2)
    over the pairs of frames that dynamic time warping of it matches. Kubichek (1993), whose cepstra m are of log power,
    twice the c of a log mel of magnitudes: log mels that differ by 1 dB (root mean square) are 1 dB apart.

    It compares spectrograms of one kind: others' numbers are of other cepstra.
    """
    a, b = 2 * cepstra(log_mel), 2 * cepstra(reference)
    squares = np.sum(a**2, 1)[:, None] + np.sum(b**2, 1)[None] - 2 * a @ b.T
    cost = 10 / np.log(10) * np.sqrt(2 * np.maximum(squares, 0))
    total, path = dynamic_time_warping(cost)
    return total / len(path)


class Alignment(NamedTuple):
    """How attention went through a text."""

    sharpness: float
    """The mean over frames of the greatest weight: 1 where each sees one symbol, 1 / T where it sees all alike."""
    monotony: float
    """The share of steps at which the place of the greatest weight stays or moves on by at most 3 symbols."""
    coverage: float
    """The furthest place that was reached, as a share of the text."""


def alignment(weights: np.ndarray) -> Alignment:
    """Of attention weights f[F, T], each row of which sums to one."""
    weights = np.asarray(weights, np.float64)
    place = weights.argmax(axis=1)
    moved = np.diff(place)
    # One step: with fewer frames than two there is none that could go wrong.
    monotony = np.mean((moved >= 0) & (moved <= SKIP)) if len(moved) else 1.0
    return Alignment(
        float(weights.max(axis=1).mean()), float(monotony), float((place.max() + 1) / weights.shape[1])
    )  # fmt: skip


def stop_error_rate(
    frames: Sequence[int] | np.ndarray,
    reference: Sequence[int] | np.ndarray,
    stopped: Sequence[bool] | np.ndarray,
    low: float = 0.7,
    high: float = 1.4,
) -> float:
    """The share of utterances that did not stop by themselves, or not after `low` to `high` times the reference's
    frames. All of one length N."""
    ratio = np.asarray(frames, np.float64) / np.asarray(reference, np.float64)
    good = np.asarray(stopped, bool) & (ratio >= low) & (ratio <= high)
    return float(np.mean(~good))


# --- words ----------------------------------------------------------------------------------------------------


def edit_distance(a: Sequence, b: Sequence) -> int:
    """The least number of insertions, deletions and substitutions that make b of a."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y)))
    return row[-1]


def words_of(text: str) -> list[str]:
    """The words of a text as it is read out, without punctuation; hyphens part words."""
    kept = (c if c.isalnum() or c == "'" else " " for c in cleaned(text))
    return [word for word in ("".join(kept)).split() if word.strip("'")]


def error_rate(
    truths: Sequence[str], found: Sequence[str], unit: Literal["word", "character"] = "word"
) -> float:  # fmt: skip
    """The edit distances between texts and what was recognised, summed, over the number of words or characters of the
    texts: 0 where all was understood, above 1 where more was heard than said."""
    pairs = [(words_of(truth), words_of(heard)) for truth, heard in zip(truths, found, strict=True)]
    if unit == "character":
        pairs = [(list(" ".join(truth)), list(" ".join(heard))) for truth, heard in pairs]
    return sum(edit_distance(*pair) for pair in pairs) / max(1, sum(len(truth) for truth, _ in pairs))
