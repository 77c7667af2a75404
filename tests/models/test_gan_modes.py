"""Mode coverage of mixtures whose answer is known."""

import math

import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.metrics.modes import mode_coverage

CENTRES, STD = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0)), -1).reshape(-1, 2), 0.1


def test_the_mixture_itself_covers_all_its_modes():
    """In two dimensions a fraction exp(-9 / 2) lies beyond three standard deviations."""
    rng = np.random.default_rng(0)
    k = rng.integers(25, size=20_000)
    found = mode_coverage(CENTRES[k] + STD * rng.normal(size=(20_000, 2)), CENTRES, STD)
    assert found["modes"] == 25
    assert found["good"] == pytest.approx(1 - math.exp(-4.5), abs=0.003)
    assert 0 <= found["mode_kl"] < 0.002


def test_collapse_is_counted():
    """Two of 25 modes, three to one, and the same number of samples between modes."""
    x = np.concatenate([np.repeat(CENTRES[[3]], 3, 0), CENTRES[[7]], np.full((4, 2), 0.5)])
    found = mode_coverage(x, CENTRES, STD)
    assert (found["modes"], found["good"]) == (2, 0.5)
    assert found["mode_kl"] == pytest.approx(0.75 * math.log(0.75 * 25) + 0.25 * math.log(0.25 * 25))


def test_the_edge_is_three_standard_deviations():
    at = lambda r: mode_coverage(CENTRES[:1] + np.array([[r * STD, 0]]), CENTRES, STD)["good"]  # noqa: E731
    assert (at(2.99), at(3.01)) == (1, 0)
    assert mode_coverage(np.full((1, 2), 9.0), CENTRES, STD) == {"modes": 0, "good": 0.0, "mode_kl": math.inf}


@pytest.mark.parametrize("x", [np.zeros((4, 3)), np.zeros(2), np.zeros((0, 2))])
def test_other_shapes_are_refused(x):
    with pytest.raises(UserError, match="are expected"):
        mode_coverage(x, CENTRES, STD)
