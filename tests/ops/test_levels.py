"""Distributions over the levels of a pixel's channels: sums over all of them, naive sums, inversion."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxgen.ops.levels import Binary, Categorical, LogisticMixture

SMALL = [Binary(), Categorical(levels=3), LogisticMixture(components=2, levels=3)]


def params_of(likelihood, channels, rows=1, seed=0, size=2.0):
    params = np.random.default_rng(seed).normal(size=(rows, likelihood.outputs(channels)))
    return jnp.asarray(size * params, jnp.float32)


log_prob_of = jax.jit(lambda likelihood, params, x: likelihood.log_prob(params, x), static_argnums=0)


@pytest.mark.parametrize("likelihood", SMALL)
def test_probabilities_of_all_rgb_pixels_sum_to_one(likelihood):
    levels = np.array(list(itertools.product(range(likelihood.levels), repeat=3)))
    params = jnp.broadcast_to(params_of(likelihood, 3), (len(levels), likelihood.outputs(3)))
    log_prob = np.asarray(log_prob_of(likelihood, params, likelihood.value(jnp.asarray(levels))), np.float64)
    np.testing.assert_allclose(np.exp(log_prob.sum(-1)).sum(), 1, atol=1e-5)


@pytest.mark.parametrize("likelihood", [*SMALL, Categorical(), LogisticMixture()])
def test_the_levels_of_a_channel_sum_to_one_and_are_what_log_prob_says(likelihood):
    params = params_of(likelihood, 3, rows=7)
    levels = jnp.asarray(np.random.default_rng(1).integers(0, likelihood.levels, (7, 3)))
    x = likelihood.value(levels)
    np.testing.assert_array_equal(likelihood.level(x), levels)
    np.testing.assert_array_equal(likelihood.nearest(x), x)
    each = np.asarray(log_prob_of(likelihood, params, x))
    table = jax.jit(likelihood.log_probs)
    for c in range(3):
        # Channels after c are not read.
        log_probs = np.asarray(table(params, x.at[:, c:].set(0.3), jnp.int32(c)))
        np.testing.assert_allclose(np.exp(log_probs.astype(np.float64)).sum(-1), 1, atol=2e-4)
        np.testing.assert_allclose(log_probs[np.arange(7), levels[:, c]], each[:, c], atol=1e-3, rtol=1e-4)


def test_a_mixture_is_a_naive_sum_of_scipys_logistics():
    """Eq. 2 and 3 of the paper: green's mean by red, blue's by both, one component for the whole pixel."""
    likelihood = LogisticMixture(components=2, levels=8)
    params = params_of(likelihood, 3, rows=5, seed=3, size=0.7)
    x = np.asarray(likelihood.value(jnp.asarray(np.random.default_rng(4).integers(0, 8, (5, 3)))), np.float64)
    for row in range(5):
        p = np.asarray(params[row], np.float64).reshape(10, 2)
        weight, mu, raw, a = scipy.special.softmax(p[0]), p[1:4], p[4:7], np.tanh(p[7:])
        means = [mu[0], mu[1] + a[0] * x[row, 0], mu[2] + a[1] * x[row, 0] + a[2] * x[row, 1]]
        for c in range(3):
            scale = np.exp(7 * np.tanh(raw[c] / 7) - 2)
            edges = [-np.inf if x[row, c] == -1 else x[row, c] - 1 / 7, np.inf if x[row, c] == 1 else x[row, c] + 1 / 7]
            weight = weight * np.diff([scipy.stats.logistic.cdf(e, means[c], scale) for e in edges], axis=0)[0]
        got = log_prob_of(likelihood, params[row], jnp.asarray(x[row], jnp.float32)).sum()
        np.testing.assert_allclose(got, np.log(weight.sum()), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("likelihood", SMALL)
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_draws_invert_the_distribution(likelihood, temperature):
    """Evenly spaced u give each level as often as it is likely."""
    n = 4000
    params = jnp.broadcast_to(params_of(likelihood, 2), (n, likelihood.outputs(2)))
    x = jnp.full((n, 2), likelihood.low)
    drawn = jax.jit(lambda u: likelihood.draw(params, x, 1, u, temperature))((jnp.arange(n) + 0.5) / n)
    shares = np.bincount(np.asarray(likelihood.level(drawn)), minlength=likelihood.levels) / n
    p = scipy.special.softmax(np.asarray(likelihood.log_probs(params, x, 1)[0], np.float64) / temperature)
    np.testing.assert_allclose(shares, p, atol=2 / n)


def test_the_last_level_is_the_highest_when_sums_round_down():
    likelihood = Categorical()
    drawn = likelihood.draw(jnp.zeros((1, 256)), jnp.zeros((1, 1)), 0, jnp.full(1, np.nextafter(np.float32(1), 0)))
    assert float(drawn[0]) == 1


def test_a_mixtures_gradient_is_finite_far_out():
    likelihood = LogisticMixture(components=2)
    grad = jax.jit(jax.grad(lambda p, x: likelihood.log_prob(p, x).sum()))
    for size in (1e3, -1e3):
        assert np.all(np.isfinite(grad(size * params_of(likelihood, 3)[0], jnp.array([-1.0, 0.2, 1.0]))))
