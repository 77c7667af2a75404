"""CLIP score against a loop, and texts of others."""

import numpy as np
import pytest
from messages import one_line

from jaxgen.errors import UserError
from jaxgen.metrics.clip_score import clip_scores, directions, mismatched


def test_it_is_that_of_a_loop():
    """Whatever the norms; opposite directions score 0, equal ones 2.5."""
    rng = np.random.default_rng(0)
    u, v = rng.normal(size=(2, 50, 8)).astype(np.float32)
    u[0], u[1] = 3 * v[0], -v[1]
    found = clip_scores(u, v)
    for i in range(50):
        cosine = sum(float(a) * float(b) for a, b in zip(u[i], v[i]))
        cosine /= sum(float(a) ** 2 for a in u[i]) ** 0.5 * sum(float(b) ** 2 for b in v[i]) ** 0.5
        assert found[i] == pytest.approx(2.5 * max(cosine, 0), abs=1e-9)
    assert found[0] == pytest.approx(2.5) and found[1] == 0 and 0 < np.mean(found == 0) < 1
    np.testing.assert_allclose(clip_scores(7 * u, v / 7), found, rtol=1e-5, atol=1e-7)


def test_others_are_of_other_groups_and_all_of_them_alike():
    groups = np.array([3, 0, 3, 3, 7, 0])
    found = np.stack([mismatched(groups, seed) for seed in range(3000)])
    assert np.all(groups[found] != groups)
    for i, group in enumerate(groups):
        others = np.flatnonzero(groups != group)
        share = np.bincount(found[:, i], minlength=6)[others] / len(found)
        np.testing.assert_allclose(share, 1 / len(others), atol=0.04)
    np.testing.assert_array_equal(mismatched(groups, 5), mismatched(groups, 5))


@pytest.mark.parametrize(
    ("call", "words"),
    [(lambda: clip_scores(np.ones((3, 4)), np.ones((3, 5))), "equal shapes are expected"),
     (lambda: clip_scores(np.ones((3, 4)), np.full((3, 4), np.nan)), "texts are not finite"),
     (lambda: directions(np.zeros((2, 4))), "are zero"),
     (lambda: mismatched(np.zeros(5, int)), "all 5 texts are the same")],
)  # fmt: skip
def test_what_has_no_score_is_told(call, words):
    with pytest.raises(UserError, match=words) as error:
        call()
    one_line(error)
