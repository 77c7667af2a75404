"""Scores of disentanglement on codes whose value is known, and the data set of known factors."""

import numpy as np
import pytest

from jaxgen.data import Factors
from jaxgen.data.factors import FACTORS
from jaxgen.errors import UserError
from jaxgen.metrics.disentanglement import _entropies, dci, factor_vae_score, mutual_information_gap

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


def test_dci_of_one_coordinate_for_each_factor():
    codes = np.concatenate([VALUES[:, ::-1], NOISE[:, :1]], axis=1)
    found = dci(codes, VALUES, trees=3, most=1000)
    assert found == pytest.approx(dict.fromkeys(found, 1), abs=0.02)
    assert list(found) == ["disentanglement", "completeness", "informativeness"]
    assert found == dci(codes, VALUES, trees=3, most=1000)


def test_dci_tells_disentanglement_and_completeness_apart():
    """A factor in two coordinates that each know half of it: still one factor a coordinate. Two in one: the reverse."""
    spread = np.concatenate([VALUES[:, :2], VALUES[:, 2:] // 4, VALUES[:, 2:] % 4], axis=1)
    found = dci(spread, VALUES, trees=3, most=1000)
    assert found["disentanglement"] > 0.98 and found["completeness"] < 0.85
    shared = np.stack([VALUES[:, 0] + 3 * VALUES[:, 1], VALUES[:, 2]], axis=1)
    found = dci(shared, VALUES, trees=10, most=1000)
    assert found["disentanglement"] < 0.85 and found["completeness"] > 0.95
    assert found["informativeness"] > 0.98


def test_dci_of_turned_codes_is_lower_though_all_is_known():
    scaled = (VALUES[:, :2] - VALUES[:, :2].mean(0)) / VALUES[:, :2].std(0)
    turned = dci(scaled @ np.array([[1, 1], [-1, 1]]), VALUES[:, :2], trees=10, most=1000)
    assert turned["disentanglement"] < 0.3 and turned["completeness"] < 0.3 and turned["informativeness"] > 0.98


def test_dci_of_codes_that_know_nothing():
    found = dci(NOISE, VALUES[:, :2], trees=3, most=1000)
    assert found["informativeness"] == pytest.approx((1 / 3 + 1 / 4) / 2, abs=0.06)


def test_entropies_of_importance():
    """By hand: of one, of two alike among four, of all alike; of a coordinate that counts for nothing."""
    table = np.array([[0, 3, 0, 0], [0, 2, 2, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    np.testing.assert_allclose(_entropies(table), [0, 0.5, 1, 1])


def test_dci_needs_two_of_each_and_values_that_differ():
    for codes, factors in ((NOISE[:, :1], VALUES), (NOISE, VALUES[:, :1])):
        with pytest.raises(UserError, match="2 of each are needed"):
            dci(codes, factors)
    rare = VALUES.copy()
    rare[:, 0] = np.arange(len(rare)) == 0
    with pytest.raises(UserError, match="factor 0 has one value in 50"):
        dci(NOISE, rare, most=50, seed=1)


def test_a_collapsed_code_tells_nothing():
    factors = np.random.default_rng(0).integers(0, 3, (300, 2))
    assert factor_vae_score(np.zeros((300, 4)), factors) == pytest.approx(1 / 2, abs=0.08)


@pytest.mark.parametrize("score", [mutual_information_gap, factor_vae_score, dci])
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
