"""Chains and the partition function against densities known in closed form."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import sample_keys, uniform_each
from jaxgen.ops.langevin import AIS, Langevin, _reflect, hmc_step

MEAN = jnp.array([1.0, -0.5])
PRECISION = jnp.array([[2.0, 0.8], [0.8, 1.0]])
OFFSET = 3.0


def energy(x):
    """Of N(MEAN, PRECISION^-1), not normalised."""
    d = x - MEAN[None]
    return 0.5 * jnp.sum(d * (d @ PRECISION), axis=-1) - OFFSET


LOG_Z = math.log(2 * math.pi) - 0.5 * math.log(2.0 - 0.64) + OFFSET


def check_moments(x, mean_error=0.06, cov_error=0.1):
    np.testing.assert_allclose(np.mean(x, axis=0), MEAN, atol=mean_error)
    np.testing.assert_allclose(np.cov(np.asarray(x).T), np.linalg.inv(PRECISION), atol=cov_error)


def test_langevin_reaches_a_gaussian():
    chain = Langevin(steps=300, step=0.03, noise=None, clip=0)
    run = jax.jit(lambda keys, x: chain(energy, keys, x, frames=3))
    film = run(sample_keys(0, 4000), jnp.full((4000, 2), 4.0))
    assert film.shape == (3, 4000, 2)
    check_moments(film[-1])
    # Chain i is by keys[i] alone.
    np.testing.assert_allclose(chain(energy, sample_keys(0, 2), jnp.full((2, 2), 4.0)), film[-1, :2], atol=1e-5)


def test_one_step_is_the_papers():
    """x - step clip(grad) + noise z, kept within bounds."""
    x = jnp.array([[0.0, 0.0], [5.0, 0.99]])
    new = Langevin(steps=1, step=10.0, noise=0.0, clip=0.03)(energy, sample_keys(0, 2), x, bound=1.0)
    gradient = np.clip((np.asarray(x) - np.asarray(MEAN)) @ np.asarray(PRECISION), -0.03, 0.03)
    np.testing.assert_allclose(new, np.clip(x - 10.0 * gradient, -1, 1), atol=1e-6)
    tiny = Langevin(steps=1, step=0.5, noise=None, clip=1e-9)(energy, sample_keys(0, 5000), jnp.zeros((5000, 2)))
    np.testing.assert_allclose(np.std(tiny), 1.0, atol=0.03)


def test_hmc_leaves_its_density_alone_and_chances_are_chances():
    exact = (
        MEAN[None] + jax.random.normal(jax.random.key(1), (4000, 2)) @ jnp.linalg.cholesky(jnp.linalg.inv(PRECISION)).T
    )
    x, chance = jax.jit(lambda k, x: hmc_step(energy, k, x, 0.6, 5))(sample_keys(1, 4000), exact)
    check_moments(x)
    assert 0.5 < np.mean(chance) < 1
    assert np.max(chance) <= 1


def test_walls_reflect():
    x, p = _reflect(jnp.array([0.5, 1.2, -1.2, 3.5]), jnp.ones(4), 1.0)
    np.testing.assert_allclose(x, [0.5, 0.8, -0.8, -0.5], atol=1e-6)
    np.testing.assert_allclose(p, [1, -1, -1, 1])
    assert np.max(np.abs(uniform_each(sample_keys(0, 50), (3,), -0.2, 0.2))) <= 0.2


@pytest.mark.parametrize("leapfrog", [10, 1])
def test_ais_finds_a_gaussians_log_z(leapfrog):
    found = jax.jit(lambda keys: AIS(100, leapfrog, scale=2.0)(energy, keys, (2,)))(sample_keys(2, 500))
    assert abs(found.log_z - LOG_Z) < 0.05
    assert 250 < found.ess <= 500
    assert 0.4 < np.mean(found.acceptance[50:]) < 0.95


def test_ais_in_a_box_agrees_with_a_grid():
    """A density that the walls cut off."""
    found = jax.jit(lambda keys: AIS(100, 5, bound=1.5)(energy, keys, (2,)))(sample_keys(3, 500))
    side = (np.arange(400) + 0.5) / 400 * 3 - 1.5
    points = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2).astype(np.float32)
    expected = math.log(np.mean(np.exp(-np.asarray(energy(points), np.float64))) * 9)
    assert abs(found.log_z - expected) < 0.05
    assert np.max(np.abs(found.x)) <= 1.5
