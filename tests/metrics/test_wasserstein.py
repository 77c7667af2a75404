"""Wasserstein distances against closed forms, all matchings of small sets, and each other."""

from itertools import permutations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm, wasserstein_distance

from jaxgen.errors import UserError
from jaxgen.metrics.wasserstein import SlicedWasserstein, Wasserstein, sliced_wasserstein, wasserstein
from jaxgen.scoring import features, scores

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 5)), RNG.normal(size=(60, 5)) * 1.5 + 0.3
SLICED = "sliced_wasserstein"


@pytest.mark.parametrize("p", [1, 2, 3])
def test_the_best_of_all_matchings(p):
    for dim in (1, 3):
        x, y = RNG.normal(size=(6, dim)), RNG.normal(size=(6, dim))
        each = [np.mean(np.linalg.norm(x - y[list(s)], axis=1) ** p) for s in permutations(range(6))]
        assert wasserstein(x, y, p) == pytest.approx(min(each) ** (1 / p), rel=1e-12)


@pytest.mark.parametrize("p", [1, 2])
def test_a_shift_is_its_length(p):
    """Whatever the set: no matching is shorter than the distance of the means. Sliced: E (w . s)^2 = |s|^2 / D."""
    shift = np.array([3.0, 0, -4, 0, 0])
    moved = RNG.permutation(X) + shift
    assert wasserstein(X, moved, p) == pytest.approx(5, rel=1e-12)
    if p == 2:
        found = sliced_wasserstein(X, moved, 4000)
        assert abs(found[SLICED] - 5 / 5**0.5) < 4 * found[f"{SLICED}_stderr"] < 0.2


def test_gaussians_by_their_quantiles():
    """W_2^2 = (m - n)^2 + (s - t)^2 in one dimension; W_1 is scipy's."""
    u = norm.ppf((np.arange(200_000) + 0.5) / 200_000)[:, None]
    x, y = 0.3 + 1.1 * u, RNG.permutation(2.0 + 0.4 * u)
    assert wasserstein(x, y) == pytest.approx(np.hypot(1.7, 0.7), rel=1e-4)
    one = wasserstein(x[::100], y[:2000], 1)
    assert one == pytest.approx(wasserstein_distance(x[::100, 0], y[:2000, 0]), rel=1e-12)
    assert sliced_wasserstein(x[::100], y[:2000], 2, 1)[SLICED] == pytest.approx(one, rel=1e-12)


def test_gaussians_of_two_scales_by_sliced_distances():
    """Of N(0, s^2 I) and N(0, t^2 I) every projection has the distance |s - t|."""
    x, y = 3 * RNG.normal(size=(20_000, 4)), RNG.normal(size=(20_000, 4))
    assert sliced_wasserstein(x, y, 30)[SLICED] == pytest.approx(2, rel=0.02)


def test_equal_sets_in_any_order_are_at_distance_0():
    mixed = RNG.permutation(X)
    assert wasserstein(X, mixed) == 0 and sliced_wasserstein(X, mixed, 70) == {SLICED: 0, f"{SLICED}_stderr": 0}
    assert wasserstein(mixed, Y[::-1]) == pytest.approx(wasserstein(X, Y), rel=1e-12)
    assert sliced_wasserstein(mixed, Y, 70) == pytest.approx(sliced_wasserstein(X, Y, 70))


@pytest.mark.parametrize("p", [1, 2])
def test_a_metric_and_its_slices(p):
    """Symmetry, the triangle's inequality, p and p; a projection brings no two points further apart."""
    z = RNG.normal(size=X.shape)
    xy, yz, xz = wasserstein(X, Y, p), wasserstein(Y, z, p), wasserstein(X, z, p)
    assert xz <= xy + yz and xy == pytest.approx(wasserstein(Y, X, p))
    assert wasserstein(X, Y, 1) <= wasserstein(X, Y, 2)
    sliced = sliced_wasserstein(X, Y, 300, p)
    assert 0 < sliced[SLICED] < xy
    other = sliced_wasserstein(X, Y, 300, p, seed=1)
    assert other != sliced == sliced_wasserstein(X, Y, 300, p)
    spread = np.hypot(*(found[f"{SLICED}_stderr"] for found in (sliced, other)))
    assert abs(other[SLICED] - sliced[SLICED]) < 4 * spread < 0.2 * xy


def test_what_was_collected_in_parts():
    x, y = X.astype(np.float32), Y.astype(np.float32)
    for metric, expected in (
        (Wasserstein(capacity=60, dim=5, reference=y), {"wasserstein": wasserstein(x, y)}),
        (SlicedWasserstein(capacity=60, dim=5, reference=y, projections=9), sliced_wasserstein(x, y, 9)),
    ):
        state = metric.init()
        for part in (x[:13], x[13:]):
            state = metric.update(state, jnp.asarray(part))
        found = metric.compute(state)
        assert found["num"] == 60 and {name: found[name] for name in expected} == pytest.approx(expected)


def test_scores_say_how_many_points_and_projections_they_are_of(monkeypatch):
    """And bear the name of the features."""
    monkeypatch.setattr(scores, "MATCHED", 40)
    network = features.Network("digits_cnn", None, {})  # pyright: ignore[reportArgumentType]
    both, sliced = scores.scores(
        ["wasserstein", SLICED], network, {"features": X}, {"features": np.concatenate([Y, Y])}, None
    )
    assert both["settings"] == {"p": 2, "num_each": 40}
    assert sliced["settings"] == {"p": 2, "projections": 1000, "projections_seed": 0, "num_each": 60}
    assert list(both["values"]) == ["wasserstein_digits_cnn"]
    assert 0 < sliced["values"]["sliced_wasserstein_digits_cnn"] < both["values"]["wasserstein_digits_cnn"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: wasserstein(X, Y[:9]), "60 and 9 points: give equally many"),
        (lambda: wasserstein(X, Y[:, :2]), r"\[N, 5\] is expected"),
        (lambda: wasserstein(X, np.full_like(Y, np.nan)), "not finite"),
        (lambda: wasserstein(X, Y, 0.5), "1 or more is expected"),
        (lambda: sliced_wasserstein(X, Y, 1), "projections is 1"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(UserError, match=words):
        call()
