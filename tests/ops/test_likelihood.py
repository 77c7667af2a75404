"""Decoder distributions against SciPy, enumeration and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxgen.ops.likelihood import Bernoulli, DiscretizedLogistic, Gaussian, soft_bound

LEVELS = np.linspace(-1, 1, 256)


def test_soft_bound_is_bounded_monotone_and_the_identity_near_zero():
    x = jnp.linspace(-40, 40, 801)
    y = np.asarray(soft_bound(x, 6.0))
    assert np.all(np.abs(y) <= 6) and np.all(np.diff(y) >= -1e-6)  # jitted, f32 rounds both ways
    np.testing.assert_allclose(soft_bound(jnp.array([-0.1, 0.0, 0.1]), 6.0), [-0.1, 0, 0.1], rtol=1e-3)
    # A clip would have slope 0 beyond the bound.
    assert float(jax.grad(soft_bound)(8.0, 6.0)) > 0.1


def test_bernoulli_is_scipys():
    logits = np.linspace(-8, 8, 33)
    for x in (0, 1):
        expected = scipy.stats.bernoulli.logpmf(x, 1 / (1 + np.exp(-logits)))
        got = Bernoulli().log_prob(jnp.float32(logits), jnp.full(33, float(x)))
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(Bernoulli().mean(jnp.float32(logits)), 1 / (1 + np.exp(-logits)), rtol=1e-5)


@pytest.mark.parametrize("logit", [-100.0, 100.0])
@pytest.mark.parametrize("x", [0.0, 1.0])
def test_bernoulli_is_finite_where_cross_entropy_after_a_sigmoid_is_not(logit, x):
    """Regression: the sketch took logs of a sigmoid, which rounds to 0 or 1 in f32."""
    value, grad = jax.value_and_grad(Bernoulli().log_prob)(logit, x)
    np.testing.assert_allclose(value, -np.logaddexp(0, -logit if x else logit), atol=1e-6)
    np.testing.assert_allclose(grad, x - (logit > 0), atol=1e-6)


@pytest.mark.parametrize("std", [0.1, 1.0, 2.5])
def test_fixed_gaussian_is_scipys_with_its_constants(std):
    """Regression: without log sigma^2 + log 2 pi the number is no density and no bound of log p."""
    x, mu = np.linspace(-2, 2, 9), np.linspace(-1, 1, 9)
    got = Gaussian(learned=False, std=std).log_prob(jnp.float32(mu), jnp.float32(x))
    np.testing.assert_allclose(got, scipy.stats.norm.logpdf(x, mu, std), rtol=1e-4, atol=1e-5)


def test_learned_gaussian_is_scipys_with_its_constants():
    x, mu, raw = np.linspace(-2, 2, 9), np.linspace(-1, 1, 9), np.linspace(-20, 20, 9)
    likelihood = Gaussian(bound=4.0)
    params = jnp.float32(np.stack([mu, raw], -1))
    expected = scipy.stats.norm.logpdf(x, mu, np.exp(0.5 * 4 * np.tanh(raw / 4)))
    np.testing.assert_allclose(likelihood.log_prob(params, jnp.float32(x[:, None]))[:, 0], expected, rtol=1e-4)
    np.testing.assert_allclose(likelihood.mean(params)[:, 0], mu, rtol=1e-6)


@pytest.mark.parametrize("likelihood", [Gaussian(), Gaussian(learned=False, std=0.3)])
def test_gaussian_density_integrates_to_one(likelihood):
    x = np.linspace(-12, 12, 20_001)
    params = jnp.broadcast_to(jnp.array([0.4, -1.0])[: likelihood.num_params], (len(x), likelihood.num_params))
    log_prob = np.asarray(likelihood.log_prob(params, jnp.float32(x[:, None])), np.float64)[:, 0]
    np.testing.assert_allclose(np.trapezoid(np.exp(log_prob), x), 1, atol=1e-4)


def logistic(mu, raw, x=LEVELS):
    """log P of each level, f32[256]."""
    params = jnp.broadcast_to(jnp.array([mu, raw], jnp.float32), (len(x), 2))
    return DiscretizedLogistic().log_prob(params, jnp.asarray(x, jnp.float32)[:, None])[:, 0]


@pytest.mark.parametrize("mu", [-30.0, -1.0, -0.3, 0.0, 1 / 255, 0.99, 1.0, 30.0])
@pytest.mark.parametrize("raw", [-50.0, -7.0, -2.0, 0.0, 3.0, 50.0])
def test_probabilities_of_all_levels_sum_to_one(mu, raw):
    log_prob = np.asarray(logistic(mu, raw), np.float64)
    assert np.all(np.isfinite(log_prob)) and np.all(log_prob <= 0)
    np.testing.assert_allclose(np.exp(log_prob).sum(), 1, atol=2e-4)


def test_fewer_levels_are_a_distribution_of_rounded_pixels():
    """All 256 values of a byte fall on 32 levels, each as often. Regression: a byte had the mass of a level around it,
    so that the sum over bytes was 8.19, and bits/dim up to three too low."""
    x = np.linspace(-1, 1, 256, dtype=np.float32)
    log_prob = DiscretizedLogistic(levels=32).log_prob(jnp.tile(jnp.float32([0.2, 0.5]), (256, 1)), x[:, None])[:, 0]
    levels, first = np.unique(np.round((x + 1) * 15.5), return_index=True)
    assert len(levels) == 32
    np.testing.assert_allclose(np.exp(np.asarray(log_prob, np.float64))[first].sum(), 1, atol=1e-4)


def test_discretized_logistic_is_a_difference_of_scipys_cdfs():
    """In float64, for which the difference is accurate in the bulk."""
    for mu, raw in [(0.2, 0.0), (-0.9, 1.0), (0.5, -1.0)]:
        edges = np.concatenate([[-np.inf], LEVELS[:-1] + 1 / 255, [np.inf]])
        cdf = scipy.stats.logistic.cdf(edges, mu, np.exp(7 * np.tanh(raw / 7) - 2))
        keep = np.diff(cdf) > 1e-8
        np.testing.assert_allclose(np.asarray(logistic(mu, raw))[keep], np.log(np.diff(cdf)[keep]), atol=1e-3)
        assert keep.sum() > 20


@pytest.mark.parametrize("mu", [-1e4, -1.0, 0.0, 1e4])
@pytest.mark.parametrize("raw", [-1e4, -7.0, 0.0, 1e4])
def test_logistic_and_its_gradient_are_finite_at_extremes(mu, raw):
    values = logistic(mu, raw)
    grads = jax.grad(lambda p: jnp.sum(logistic(p[0], p[1])))(jnp.array([mu, raw]))
    assert np.all(np.isfinite(values)) and np.all(np.isfinite(grads))


def test_a_far_mean_is_pulled_back():
    """A difference of sigmoids underflows to log 0 without a gradient; ours still has a useful gradient."""
    grad = jax.grad(lambda mu: logistic(mu, 0.0, np.array([0.0]))[0])
    assert float(grad(40.0)) < -1 and float(grad(-40.0)) > 1


def test_discrete_distinguishes_probabilities_from_densities():
    assert Bernoulli().discrete and DiscretizedLogistic().discrete and not Gaussian().discrete
    assert (Bernoulli().num_params, Gaussian().num_params, Gaussian(learned=False).num_params) == (1, 2, 1)
    assert DiscretizedLogistic().num_params == 2
    np.testing.assert_array_equal(DiscretizedLogistic().mean(jnp.array([[-5.0, 0.0], [0.5, 1.0]]))[:, 0], [-1, 0.5])
