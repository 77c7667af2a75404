"""Score distillation's gradient on a linear case, and the prior on transmittance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.ops.diffusion import Denoised
from jaxgen.ops.distillation import Distillation, Transmittance, noise_error, pulled
from jaxgen.ops.schedules import Linear, Straight

VP = Linear(100)


def test_the_gradient_is_weight_times_error_times_jacobian():
    """Of a linear rendering x = A theta, and a denoiser x0 = M x_t that must not be differentiated: eq. 3 of
    arXiv:2209.14988 in float64."""
    rng = np.random.default_rng(0)
    a, m, theta = rng.normal(size=(3, 4, 5)), rng.normal(size=(4, 4)), rng.normal(size=5)
    eps, t = rng.normal(size=(3, 4)), np.array([10, 50, 90])
    settings = Distillation(weighting=1.0)

    def loss(theta):
        x = jnp.einsum("bij,j->bi", jnp.asarray(a, jnp.float32), theta)

        def denoise(x_t, t):
            return Denoised(x_t @ jnp.asarray(m, jnp.float32).T)

        error, alpha, sigma = noise_error(denoise, VP, jax.lax.stop_gradient(x), jnp.asarray(t), jnp.float32(eps))
        return jnp.sum(pulled(x, settings.weight(alpha, sigma) * error))

    got = jax.jit(jax.grad(loss))(jnp.asarray(theta, jnp.float32))
    alpha, sigma = (level[:, None] for level in VP.levels(t))
    x = np.einsum("bij,j->bi", a, theta)
    noised = alpha * x + sigma * eps
    eps_hat = (noised - alpha * (noised @ m.T)) / sigma
    wanted = np.einsum("bi,bij->j", sigma**2 * (eps_hat - eps), a)
    np.testing.assert_allclose(got, wanted, rtol=2e-4)


def test_the_gradient_is_the_pull_to_the_bit():
    pull = jax.random.normal(jax.random.key(0), (2, 3, 4))
    x = 1000 * jax.random.normal(jax.random.key(1), (2, 3, 4))
    value, slope = jax.value_and_grad(lambda x: jnp.sum(pulled(x, pull)))(x)
    np.testing.assert_array_equal(slope, pull)
    np.testing.assert_allclose(value, np.sum(np.square(pull)) / 2, rtol=1e-5)


def test_a_perfect_denoiser_of_a_gaussian_pulls_to_its_mean():
    """For data N(m, s^2), E[eps_hat - eps] = sigma alpha (x - m) / (alpha^2 s^2 + sigma^2): gradient descent on it ends
    at m."""
    m, s = jnp.array([[0.3, -0.7]]), 0.5

    def denoise(x_t, t):
        alpha, sigma = VP.at(t, 2)
        gain = alpha * s**2 / (alpha**2 * s**2 + sigma**2)
        return Denoised(m + gain * (x_t - alpha * m))

    settings = Distillation()

    def step(x, key):
        key_t, key_eps = jax.random.split(key)
        t = settings.time(VP, jax.random.uniform(key_t, (64,)))
        many = jnp.broadcast_to(x, (64, 2))
        error, alpha, sigma = noise_error(denoise, VP, many, t, jax.random.normal(key_eps, (64, 2)))
        pull = jnp.mean(settings.weight(alpha, sigma) * error, axis=0, keepdims=True)
        return x - 0.2 * pull, x

    _, path = jax.lax.scan(step, jnp.full((1, 2), 3.0), jax.random.split(jax.random.key(0), 400))
    np.testing.assert_allclose(jnp.mean(path[200:], axis=0), m, atol=0.05)


@pytest.mark.parametrize("schedule", [VP, Straight()])
def test_times_are_uniform_between_their_ends(schedule):
    fraction = jnp.linspace(0, 1, 501)
    t = np.asarray(Distillation(lowest=0.1, highest=0.6).time(schedule, fraction), np.float64)
    share = t / (99 if schedule is VP else 1)
    np.testing.assert_allclose(share, 0.1 + 0.5 * np.asarray(fraction), atol=0.011)


def test_the_prior_rewards_light_up_to_its_target():
    """-min(tau, T): slope -1 below tau, 0 above; 1 - tau goes from 1/2 to 1/10 by a constant factor a step."""
    prior = Transmittance(start=0.5, target=0.9, anneal=100)
    light = jnp.array([0.2, 0.49, 0.6, 0.95])
    for step, tau in ((0, 0.5), (50, 1 - np.sqrt(0.05)), (100, 0.9), (900, 0.9)):
        at = jnp.int32(step)
        np.testing.assert_allclose(prior(light, at), -np.minimum(light, tau), rtol=1e-5)
        slope = jax.vmap(jax.grad(lambda one, at=at: prior(one, at)))(light)
        np.testing.assert_array_equal(slope, np.where(np.asarray(light) < tau, -1.0, 0.0))
    assert float(Transmittance(target=0.3, anneal=0).tau(jnp.int32(0))) == pytest.approx(0.3)
