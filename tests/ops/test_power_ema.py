"""Power-function averages against sums over all steps in float64, and other lengths made of snapshots of two."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.ops.power_ema import LONGEST, Profile, coefficients, exponent, inner, length_of, newcomer


def shares(steps: int, length: float) -> np.ndarray:
    """Weight of each step's parameters at the last of them: the integral of eq. 108 over the step."""
    t = np.arange(steps + 1) / steps
    return np.diff(t ** (exponent(length) + 1))


def test_the_exponent_gives_the_profile_its_length():
    """sigma_rel is the standard deviation of p(t) over T, by quadrature."""
    t = (np.arange(200_000) + 0.5) / 200_000
    for length in (0.01, 0.05, 0.1, 0.2, LONGEST):
        p = (exponent(length) + 1) * t ** exponent(length)
        mean = np.mean(p * t)
        np.testing.assert_allclose(np.sqrt(np.mean(p * (t - mean) ** 2)), length, rtol=1e-4)
        np.testing.assert_allclose(length_of(exponent(length)), length, rtol=1e-9)
    assert exponent(0.05) == pytest.approx(16.97, abs=0.01) and exponent(0.1) == pytest.approx(6.94, abs=0.01)


def test_the_recursion_gives_each_step_its_share_of_the_profile():
    steps, length = 300, 0.1
    weights = np.zeros(steps)
    for t in range(1, steps + 1):
        weight = float(newcomer(length, jnp.asarray(t)))
        weights *= 1 - weight
        weights[t - 1] += weight
    np.testing.assert_allclose(weights, shares(steps, length), atol=1e-8)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)


def test_a_newcomers_weight_is_exact_late_in_training():
    """1 - (1 - 1 / t)^(gamma + 1) in f32 would be off by a tenth at a million steps."""
    for t in (1, 2, 1000, 3_000_000):
        exact = -np.expm1((exponent(0.05) + 1) * np.log1p(-1 / t)) if t > 1 else 1.0
        np.testing.assert_allclose(newcomer(0.05, jnp.asarray(t)), exact, rtol=1e-5)


def test_inner_products_are_integrals():
    a, b = [Profile(40, 0.05), Profile(100, 0.2)], [Profile(70, 0.1), Profile(100, 0.2), Profile(40, 0.28)]
    t = (np.arange(400_000) + 0.5) * (100 / 400_000)

    def density(p):
        g = exponent(p.length)
        return np.where(t <= p.step, (g + 1) * (t / p.step) ** g / p.step, 0)

    expected = [[np.sum(density(x) * density(y)) * (100 / 400_000) for y in b] for x in a]
    np.testing.assert_allclose(inner(a, b), expected, rtol=1e-4)
    assert np.isfinite(inner([Profile(10**9, 0.01)], [Profile(10**9, 0.01)])).all()


def test_a_length_that_was_kept_is_its_snapshot():
    have = [Profile(s, n) for s in (100, 200, 300) for n in (0.05, 0.1)]
    weights, missed = coefficients(have, [Profile(300, 0.1), Profile(200, 0.05)])
    expected = np.zeros((6, 2))
    expected[5, 0] = expected[2, 1] = 1
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    assert missed.max() < 1e-6


def test_the_fit_is_the_best_there_is():
    """Its distance is the one measured on a grid, and no other combination is nearer."""
    have, want = [Profile(s, n) for s in (250, 500, 1000) for n in (0.05, 0.1)], Profile(1000, 0.17)
    weights, missed = coefficients(have, [want])
    table = np.stack([np.pad(shares(p.step, p.length), (0, 1000 - p.step)) for p in have])
    target = shares(1000, 0.17)

    def distance(w):
        return np.linalg.norm(w @ table - target) / np.linalg.norm(target)

    assert distance(weights[:, 0]) == pytest.approx(missed[0], rel=0.02)
    rng = np.random.default_rng(0)
    for _ in range(20):
        other = weights[:, 0] + 0.01 * rng.normal(size=6)
        assert distance(other / other.sum()) > distance(weights[:, 0])


@pytest.mark.parametrize(
    ("length", "apart", "most"),
    [(0.03, 1e-4, 5e-3), (0.07, 1e-5, 5e-4), (0.12, 1e-5, 5e-4), (0.2, 2e-4, 3e-3), (0.25, 5e-3, 3e-2)],
)
def test_an_average_made_afterwards_is_the_one_kept_from_the_start(length, apart, most):
    """Of parameters that walk at random, by 64 snapshots. How far apart depends on how far the length is from those
    that were kept."""
    steps, rng = 6400, np.random.default_rng(0)
    walk = np.cumsum(rng.normal(size=(steps, 50)), axis=0) / steps**0.5
    have = [Profile(s, n) for s in range(100, steps + 1, 100) for n in (0.05, 0.1)]
    kept = np.stack([shares(p.step, p.length) @ walk[: p.step] for p in have])
    weights, missed = coefficients(have, [Profile(steps, length)])
    true = shares(steps, length) @ walk
    assert np.linalg.norm(weights[:, 0] @ kept - true) < apart * np.linalg.norm(true)
    assert missed[0] < most
