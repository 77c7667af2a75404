"""Gaussianization of pixels' marginal: uniform within levels, inverse, log-determinant, mass of one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

from jaxgen.nets.conditioners import GlowNet
from jaxgen.nets.flows import Identity, LinearStep, MultiScale
from jaxgen.nets.marginal import Marginal

SHAPE = (64, 4, 4, 2)


def pixels(seed=0):
    """Mostly of level 0 in the first channel, of level 12 of 16 in the second, uniform within the level."""
    rng = np.random.default_rng(seed)
    level = np.where(rng.uniform(size=SHAPE) < 0.8, np.array([0, 12]), rng.integers(16, size=SHAPE))
    return jnp.asarray((level + rng.uniform(size=SHAPE)) / 16 - 0.5, jnp.float32)


def test_the_first_batch_is_gaussian():
    x, flow = pixels(), Marginal(Identity(), bits=4)
    z, _ = flow.apply(flow.init(jax.random.key(0), x), x)
    z = np.sort(np.asarray(z).reshape(-1, 2), axis=0)
    # The largest difference of distribution functions; that of 1,024 Gaussians is below this one time in a thousand.
    ranks = (np.arange(len(z)) + 0.5)[:, None] / len(z)
    assert np.abs(np.asarray(norm.cdf(z)) - ranks).max() < 0.06


def test_density_of_the_marginal_alone():
    """That of a histogram: the mass of a level times the number of levels, whatever the point within it."""
    x, flow = pixels(), Marginal(Identity(), bits=4)
    variables = flow.init(jax.random.key(0), x)
    points = jnp.asarray((np.arange(160) + 0.5) / 160 - 0.5, jnp.float32)
    at = jnp.broadcast_to(points[:, None, None, None], (160, 1, 1, 2))
    z, _ = flow.apply(variables, at)
    each = jax.vmap(lambda x: jax.grad(lambda x: flow.apply(variables, x)[0][0, 0, 0, 0])(x)[0, 0, 0, 0])(at[:, None])
    density = np.asarray(norm.pdf(z[:, 0, 0, 0]) * each)
    counts = np.histogram(np.asarray(x)[..., 0], 16, (-0.5, 0.5))[0] + 1
    np.testing.assert_allclose(density, np.repeat(16 * counts / counts.sum(), 10), rtol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_inverse_and_logdet(seed):
    x = pixels(seed)[:5]
    flow = Marginal(MultiScale(LinearStep(GlowNet(6)), levels=1, depth=2), bits=4)
    variables = jax.tree.map(lambda a: a + 0.05 * jnp.cos(jnp.arange(a.size).reshape(a.shape)), flow.init(
        jax.random.key(seed), pixels()
    ))  # fmt: skip
    y, logdet = jax.jit(flow.apply)(variables, x)
    back, logdet_back = jax.jit(lambda v, y: flow.apply(v, y, None, True))(variables, y)
    np.testing.assert_allclose(back, x, atol=1e-5)
    jacobian = jax.vmap(jax.jacrev(lambda x: flow.apply(variables, x[None])[0][0]))(x).reshape(5, 32, 32)
    np.testing.assert_allclose(logdet, np.linalg.slogdet(np.asarray(jacobian, np.float64))[1], atol=2e-3)
    np.testing.assert_allclose(logdet_back, -logdet, atol=2e-3)


def test_levels_that_were_never_seen_are_possible():
    flow = Marginal(Identity(), bits=8)
    variables = flow.init(jax.random.key(0), jnp.full((2, 4, 4, 1), -0.4999))
    x = jnp.full((1, 4, 4, 1), 0.3)
    z, logdet = flow.apply(variables, x)
    assert np.all(np.isfinite(z)) and np.all(np.isfinite(logdet))
    np.testing.assert_allclose(flow.apply(variables, z, None, True)[0], x, atol=1 / 256)
