"""Sampling behind a measurement, on Gaussian data, whose posterior is known; and the maps that degrade pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import core
from jaxgen.errors import UserError
from jaxgen.ops.degrade import Blurred, Grey, Noisy, Small
from jaxgen.ops.diffusion import Denoised
from jaxgen.ops.posterior import conjugate_gradients, measured
from jaxgen.ops.samplers import DDIM, Ancestral, Heun, Start
from jaxgen.ops.schedules import Cosine, Karras

RNG = np.random.default_rng(0)
MEAN = np.array([0.3, -0.5, 0.8])
ROOT = RNG.normal(size=(3, 3)) * 0.6
COV = ROOT @ ROOT.T + 0.05 * np.eye(3)
A = np.array([[1.0, 0.5, -0.3], [0.2, -0.4, 0.9]])
Y, STD = np.array([0.4, -0.2]), 0.3


def posterior(std: float = STD) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of x given y = A x + std noise."""
    gain = COV @ A.T @ np.linalg.inv(A @ COV @ A.T + std**2 * np.eye(2))
    return MEAN + gain @ (Y - A @ MEAN), COV - gain @ A @ COV


def denoiser(schedule):
    """E[x_0 | x_t] of the Gaussian."""
    values, basis = np.linalg.eigh(COV)
    values, basis, mean = (jnp.asarray(a, jnp.float32) for a in (values, basis, MEAN))

    def denoise(x, t):
        alpha, sigma = schedule.at(t, x.ndim)
        shrink = alpha * values[None] / (alpha**2 * values[None] + sigma**2)
        return Denoised(mean[None] + (shrink * ((x - alpha * mean[None]) @ basis)) @ basis.T)

    return denoise


def draw(sampler, schedule, num, noise=None, iterations=2):
    a, y = jnp.asarray(A, jnp.float32), jnp.broadcast_to(jnp.asarray(Y, jnp.float32), (num, 2))
    denoise = measured(denoiser(schedule), schedule, lambda x: x @ a.T, y, STD, iterations)
    start = Start(noise=noise)
    return np.asarray(jax.jit(lambda keys: sampler(denoise, schedule, keys, (3,), start))(core.sample_keys(0, num)))


@pytest.mark.parametrize(("sampler", "schedule"), [(Heun(60, clip=0), Karras()), (DDIM(400, clip=0), Cosine(4000))])
def test_a_deterministic_sampler_returns_the_posterior_of_a_gaussian(sampler, schedule):
    """Its samples are an affine map of their starting noise: no sampling error is left."""
    found = draw(sampler, schedule, 4, jnp.concatenate([jnp.zeros((1, 3)), jnp.eye(3)]))
    root, (mean, cov) = (found[1:] - found[0]).T, posterior()
    assert np.linalg.norm(found[0] - mean) < 0.02 * np.linalg.norm(mean)
    assert np.linalg.norm(root @ root.T - cov) < 0.02 * np.linalg.norm(cov)


def test_a_random_sampler_returns_the_posterior_of_a_gaussian():
    found = draw(Ancestral(1000, clip=0), Cosine(), 30_000)
    mean, cov = posterior()
    assert np.linalg.norm(found.mean(axis=0) - mean) < 0.02 * np.linalg.norm(mean)
    assert np.linalg.norm(np.cov(found.T) - cov) < 0.02 * np.linalg.norm(cov)


def test_without_iterations_nothing_is_known_of_y():
    """The control of the two above: the data's own law, which is far from the posterior."""
    found = draw(Heun(60, clip=0), Karras(), 4, jnp.concatenate([jnp.zeros((1, 3)), jnp.eye(3)]), iterations=0)
    root = (found[1:] - found[0]).T
    assert np.linalg.norm(root @ root.T - COV) < 0.02 * np.linalg.norm(COV)
    assert np.linalg.norm(root @ root.T - posterior()[1]) > 0.2 * np.linalg.norm(COV)


def test_conjugate_gradients_solve_a_system_for_each_example():
    roots = RNG.normal(size=(5, 4, 4))
    systems = roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(4)
    r = RNG.normal(size=(5, 4))
    v = conjugate_gradients(lambda v: jnp.einsum("bij,bj->bi", jnp.asarray(systems, jnp.float32), v), jnp.asarray(r), 8)
    np.testing.assert_allclose(v, np.linalg.solve(systems, r[..., None])[..., 0], rtol=1e-3, atol=1e-4)


def test_a_direction_of_negative_curvature_is_not_taken():
    v = conjugate_gradients(lambda v: -v, jnp.ones((1, 3)), 3)
    np.testing.assert_array_equal(v, np.zeros((1, 3)))


# --- what pictures lose ---


@pytest.mark.parametrize("degrade", [Noisy(), Grey(), Small(2), Blurred(1.0)], ids=str)
def test_constant_pictures_keep_their_value(degrade):
    """Weights sum to one, so y is a picture in [-1, 1] as x is."""
    x = jnp.full((1, 8, 8, 3), 0.7)
    np.testing.assert_allclose(degrade(x), 0.7, rtol=1e-6)


def test_small_and_grey_are_means():
    x = RNG.normal(size=(2, 4, 6, 3)).astype(np.float32)
    np.testing.assert_allclose(Small(2)(jnp.asarray(x))[1, 1, 2], x[1, 2:4, 4:6].mean(axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(Grey()(jnp.asarray(x))[0, 3, 5, 0], x[0, 3, 5] @ [0.299, 0.587, 0.114], rtol=1e-5)


def test_blurred_is_scipys_gaussian():
    from scipy.ndimage import gaussian_filter

    x = RNG.normal(size=(1, 12, 9, 1)).astype(np.float32)
    expected = gaussian_filter(x[0, :, :, 0].astype(np.float64), 1.5, mode="mirror", radius=5)
    np.testing.assert_allclose(Blurred(1.5)(jnp.asarray(x))[0, :, :, 0], expected, atol=1e-5)


def test_pictures_that_cannot_lose_it_are_refused():
    with pytest.raises(UserError, match="no colours to lose"):
        Grey().check((8, 8, 1))
    with pytest.raises(UserError, match="do not shrink by 3"):
        Small(3).check((8, 8, 1))
