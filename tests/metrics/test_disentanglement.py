"""Scores of disentanglement on codes whose value is known, and the data set of known factors."""

import numpy as np
import pytest

from jaxgen.data import Factors
from jaxgen.data.factors import FACTORS
from jaxgen.errors import UserError
from jaxgen.metrics.disentanglement import factor_vae_score, mutual_information_gap

RNG = np.random.default_rng(0)
VALUES = RNG.integers(0, [3, 4, 12], size=(20_000, 3))
NOISE = RNG.normal(size=VALUES.shape)


def test_one_coordinate_for_each_factor():
    codes = np.concatenate([VALUES[:, ::-1], 0.1 * NOISE[:, :1]], axis=1)
    found = mutual_information_gap(codes, VALUES)
    assert found["mig"] == pytest.approx(1, abs=5e-3) and found["informed"] == pytest.approx(1, abs=1e-9)
    assert factor_vae_score(codes, VALUES) == 1


def test_a_factor_in_two_coordinates_has_no_gap():
    codes = np.concatenate([VALUES, VALUES[:, :1] + 5], axis=1)
    assert mutual_information_gap(codes, VALUES)["mig"] == pytest.approx(2 / 3, abs=5e-3)


def test_information_of_a_coarser_code():
    """The parity of 12 values: log 2 of log 12."""
    codes = np.stack([VALUES[:, 2] % 2, 0 * VALUES[:, 2]], axis=1)
    found = mutual_information_gap(codes, VALUES[:, 2:])
    assert found["mig"] == found["informed"] == pytest.approx(np.log(2) / np.log(12), abs=1e-3)


def test_codes_that_know_nothing():
    assert mutual_information_gap(NOISE, VALUES)["informed"] < 0.02
    assert factor_vae_score(NOISE, VALUES) == pytest.approx(1 / 3, abs=0.06)


def test_turned_codes_score_lower():
    """A rotation by 45 degrees mixes two factors; both scores fall, though all is still known."""
    scaled = (VALUES - VALUES.mean(0)) / VALUES.std(0)
    turn = np.array([[1, 1, 0], [-1, 1, 0], [0, 0, np.sqrt(2)]]) / np.sqrt(2)
    straight, turned = (mutual_information_gap(scaled @ m, VALUES)["mig"] for m in (np.eye(3), turn))
    assert straight > 0.95 and turned < 0.5


@pytest.mark.parametrize("score", [mutual_information_gap, factor_vae_score])
@pytest.mark.parametrize(
    "codes, factors, said",
    [
        (NOISE[:5], VALUES, "are of shape"),
        (NOISE[:, 0], VALUES, "are of shape"),
        (np.full_like(NOISE, np.nan), VALUES, "not finite"),
        (NOISE, 0 * VALUES, "one value"),
    ],
)
def test_refusals(score, codes, factors, said):
    with pytest.raises(UserError, match=said):
        score(codes, factors)


# --- the data set ------------------------------------------------------------------------------------------------


def test_every_combination_is_there_once():
    data = Factors()
    x, values = data.arrays("all")["x"], data.values("all")
    assert x.shape == (36_864, 32, 32, 1) and x.dtype == np.uint8
    assert len(np.unique(values, axis=0)) == len(x) == np.prod(list(FACTORS.values()))
    splits = [data.values(split) for split in ("train", "test")]
    assert [len(v) for v in splits] == [33_177, 3_687]
    assert len(np.unique(np.concatenate(splits), axis=0)) == len(x)


def test_factors_do_what_they_say():
    data = Factors()
    x, values = data.arrays("all")["x"][..., 0] / 255.0, data.values("all")
    pixel = np.arange(32)
    mass = x.sum((1, 2))
    across, down = (x.sum(1) @ pixel / mass, x.sum(2) @ pixel / mass)
    for place, centre in (("x", across), ("y", down)):
        value = values[:, list(FACTORS).index(place)]
        still = [np.ptp(centre[value == v] - v) for v in (0, 15)]
        assert max(still) < 0.5
        assert np.corrcoef(centre, value)[0, 1] > 0.99
    for shape in range(3):
        areas = [mass[(values[:, 0] == shape) & (values[:, 1] == s)] for s in range(4)]
        assert all(a.max() < 1.05 * a.min() for a in areas)  # neither place nor turn changes the area
        assert np.mean(areas[3]) == pytest.approx(4 * np.mean(areas[0]), rel=0.1)
    assert x.max() == 1 and np.all(x[:, [0, -1]].sum((1, 2)) == 0)  # nothing is cut off
