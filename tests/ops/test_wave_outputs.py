"""Distributions of a sample of sound: they sum to one over their levels, and what is drawn has their probabilities."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxgen.ops.wave_outputs import Logistics, MuLaw, Normal

GRID = (np.arange(2000) + 0.5) / 2000
LEVELS = {MuLaw(16): 16, Logistics(3, 16): 16}


def params_of(output, scale=1.0, seed=0) -> jax.Array:
    return scale * jnp.asarray(np.random.default_rng(seed).standard_normal(output.outputs), jnp.float32)


def values_of(output) -> jax.Array:
    """All that can be drawn, in order."""
    return jnp.asarray(np.unique(jax.jit(output.nearest)(np.linspace(-1, 1, 5001, dtype=np.float32))))


def probabilities(output, params) -> np.ndarray:
    x = values_of(output)
    log_p = jax.jit(output.log_prob)(jnp.broadcast_to(params, (len(x), len(params))), x)
    return np.exp(np.asarray(log_p, np.float64))


@pytest.mark.parametrize("output", LEVELS)
def test_levels_sum_to_one_and_come_back(output):
    x = values_of(output)
    assert len(x) == LEVELS[output] and float(x[0]) == -1 and float(x[-1]) == 1
    np.testing.assert_array_equal(output.nearest(x), x)
    np.testing.assert_allclose(probabilities(output, params_of(output)).sum(), 1, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("output", LEVELS)
def test_draws_have_their_probabilities(output, temperature):
    """Over an even grid of both uniform numbers. What is drawn is what `nearest` gives, to the bit."""
    params, x = params_of(output), values_of(output)
    steps = GRID[::10] if isinstance(output, Logistics) else GRID[:1]
    u = jnp.asarray(np.stack(np.meshgrid(GRID, steps), axis=-1).reshape(-1, 2), jnp.float32)
    drawn = jax.jit(partial(output.draw, temperature=temperature))(jnp.broadcast_to(params, (len(u), len(params))), u)
    np.testing.assert_array_equal(output.nearest(drawn), drawn)
    found = np.array([np.mean(np.asarray(drawn) == value) for value in np.asarray(x)])
    if isinstance(output, MuLaw):
        expected = probabilities(output, params) ** (1 / temperature)
        expected /= expected.sum()
    else:
        # By scipy: the mixture's mass between midpoints, weights and scales cooled.
        weight, mean, log_scale = (np.asarray(a, np.float64) for a in output._mixture.split(params))
        weight = np.exp(weight / temperature) / np.exp(weight / temperature).sum()
        edges = np.concatenate([[-np.inf], (np.asarray(x)[1:] + np.asarray(x)[:-1]) / 2, [np.inf]])
        cdf = stats.logistic.cdf(edges[:, None], mean, temperature * np.exp(log_scale)) @ weight
        expected = np.diff(cdf)
    np.testing.assert_allclose(found, expected, atol=6e-3)


def test_mu_law_levels_are_the_companded_ones():
    """Level l is at sign(y) ((1 + mu)^|y| - 1) / mu with y = 2 l / mu - 1: fine near zero, and each comes back."""
    output = MuLaw(256)
    y = 2 * np.arange(256) / 255 - 1
    x = jnp.asarray(np.sign(y) * (256 ** np.abs(y) - 1) / 255, jnp.float32)
    np.testing.assert_array_equal(output.level(x), np.arange(256))
    np.testing.assert_allclose(output.nearest(x), x, atol=1e-6)
    logits = params_of(output)
    log_p = jax.jit(output.log_prob)(jnp.broadcast_to(logits, (256, 256)), x)
    np.testing.assert_allclose(log_p, jax.nn.log_softmax(logits), atol=1e-5)


def test_normal_is_the_density_of_a_step():
    output, params = Normal(), jnp.array([0.2, 0.4])
    x = np.linspace(-1, 1, 65_536)
    sigma = np.exp(7 * np.tanh(0.4 / 7) - 2)
    log_p = jax.jit(output.log_prob)(np.broadcast_to(params, (len(x), 2)), x.astype(np.float32))
    np.testing.assert_allclose(log_p, stats.norm.logpdf(x, 0.2, sigma) + np.log(2 / 65_535), atol=1e-3)
    np.testing.assert_allclose(np.exp(np.asarray(log_p, np.float64)).sum(), 1, atol=2e-3)
    u = jnp.asarray(np.stack([GRID, GRID], axis=-1), jnp.float32)
    drawn = np.asarray(jax.jit(partial(output.draw, temperature=0.5))(np.broadcast_to(params, (len(u), 2)), u))
    np.testing.assert_allclose([drawn.mean(), drawn.std()], [0.2, sigma / 2], rtol=5e-3)
    # u = 0 is no infinity.
    assert np.all(np.isfinite(output.draw(params, jnp.zeros(2)))) and np.all(Logistics(2).draw(jnp.zeros(6), u[0]) < 1)
