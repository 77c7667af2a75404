"""TrigFlow: any schedule's denoiser as F, and the tangent of consistency training, on Gaussian data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import gaussian_x0

from jaxgen.ops.diffusion import Denoised
from jaxgen.ops.schedules import Cosine, Geometric, Karras, Linear, ScaledLinear, Straight
from jaxgen.ops.trigflow import Trig, cos_sin, flow_between, flow_of, noised, normalised, stepped, tangent

MU, STD = 0.4, 0.7
SCHEDULES = [Linear(200), Cosine(100), ScaledLinear(), Geometric(60), Karras(), Straight(), Trig()]


def gaussian(schedule):
    """The exact denoiser of N(MU, STD^2) under a schedule."""

    def denoise(x, t):
        return Denoised(gaussian_x0(x, *schedule.at(t, x.ndim), MU, STD))

    return denoise


def exact(x, t):
    """F, float64: E[cos eps - sin x_0 | x_t] of two jointly normal variables."""
    cos, sin = np.cos(t), np.sin(t)
    gain = 1 / (cos**2 * STD**2 + sin**2)
    x0 = MU + cos * STD**2 * gain * (x - cos * MU)
    return cos * sin * gain * (x - cos * MU) - sin * x0


def path(x, t, s):
    """x_s of the ODE's path through x_t of Gaussian data: quantiles stay what they are."""
    scale = np.sqrt((np.cos(s) ** 2 * STD**2 + np.sin(s) ** 2) / (np.cos(t) ** 2 * STD**2 + np.sin(t) ** 2))
    return np.cos(s) * MU + scale * (x - np.cos(t) * MU)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_a_denoiser_of_any_schedule_is_the_same_flow(schedule):
    """Between two steps of a schedule in discrete time as well."""
    low, high = schedule.angles
    t = np.linspace(max(low, 0.02), min(high, 1.565), 40)
    x = np.random.default_rng(0).normal(size=(40, 3))
    got = flow_of(gaussian(schedule), schedule)(jnp.float32(x), jnp.float32(t))
    np.testing.assert_allclose(got, exact(x, t[:, None]), atol=2e-4)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_time_of_an_angle_has_its_level(schedule):
    low, high = schedule.angles
    angle = np.linspace(low, high, 50)
    alpha, sigma = schedule.levels(schedule.of_angle(angle))
    np.testing.assert_allclose(np.arctan2(sigma, alpha), angle, rtol=1e-6)
    # The table's steps are among them, and inside a program it is the same.
    times = schedule.path(5)
    alpha, sigma = schedule.levels(times)
    np.testing.assert_allclose(schedule.of_angle(np.arctan2(sigma, alpha)), times, rtol=1e-6, atol=1e-6)
    inner = angle[5:-5]
    got = schedule.at(jax.jit(schedule.of_angle)(jnp.float32(inner)), 1)
    np.testing.assert_allclose(got, schedule.levels(schedule.of_angle(inner)), rtol=1e-3)


def test_a_step_is_the_ddim_step():
    """Against the update alpha' x_0 + sigma' eps of x_0hat and eps_hat."""
    x, t, s = np.random.default_rng(1).normal(size=(5, 2)), np.linspace(0.2, 1.5, 5), np.linspace(0, 1.2, 5)
    f = exact(x, t[:, None])
    x0 = np.cos(t)[:, None] * x - np.sin(t)[:, None] * f
    eps = (x - np.cos(t)[:, None] * x0) / np.sin(t)[:, None]
    expected = np.cos(s)[:, None] * x0 + np.sin(s)[:, None] * eps
    got = stepped(lambda x, t: jnp.float32(f), jnp.float32(x), jnp.float32(t), jnp.float32(s))
    np.testing.assert_allclose(got, expected, atol=1e-5)
    back = flow_between(jnp.float32(x), got, jnp.float32(t - s))
    np.testing.assert_allclose(back, f, atol=1e-4)


def consistent(x, t):
    """F of the exact consistency function: (cos x - f) / sin."""
    cos, sin = cos_sin(t, x.ndim)
    scale = STD / jnp.sqrt(cos**2 * STD**2 + sin**2)
    f = MU + scale * (x - cos * MU)
    return (cos * x - f) / sin


T = jnp.linspace(0.05, 1.55, 64)
X = 1.5 * jax.random.normal(jax.random.key(0), (64, 3))


def test_the_exact_consistency_function_is_a_fixed_point():
    """Its tangent is 0 along the ODE; along another velocity, or of F of diffusion, it is not."""
    velocity = jnp.float32(exact(np.asarray(X, np.float64), np.asarray(T, np.float64)[:, None]))
    value, g = tangent(consistent, X, T, velocity)
    np.testing.assert_allclose(g, 0, atol=2e-5)
    np.testing.assert_allclose(value, consistent(X, T), rtol=1e-6)
    cos, sin = cos_sin(T, 2)
    end = path(np.asarray(X, np.float64), np.asarray(T, np.float64)[:, None], 0.0)
    np.testing.assert_allclose(cos * X - sin * value, end, atol=1e-5)
    assert np.abs(tangent(consistent, X, T, velocity + 0.1)[1]).max() > 0.01
    assert np.abs(tangent(flow_of(gaussian(Trig()), Trig()), X, T, velocity)[1]).max() > 0.1


def test_the_tangent_is_the_slope_of_f_along_the_path():
    """cos(t) df / dt by differences in float64, for a function that is no consistency function."""

    def flow(x, t, xp):
        return xp.sin(1.3 * x + 2 * t) + 0.5 * x * t

    velocity = 0.3 * X**2
    _, g = tangent(lambda x, t: flow(x, t[:, None], jnp), X, T, velocity)
    x, t, v = (np.asarray(a, np.float64) for a in (X, T[:, None], velocity))

    def f(h):
        at, there = t + h, x + h * v
        return np.cos(at) * there - np.sin(at) * flow(there, at, np)

    expected = np.cos(t) * (f(1e-5) - f(-1e-5)) / 2e-5
    np.testing.assert_allclose(g, expected, atol=2e-4)
    # Warm-up begins with the target of diffusion training, weighted by cos^2.
    _, cold = tangent(lambda x, t: flow(x, t[:, None], jnp), X, T, velocity, 0.0)
    np.testing.assert_allclose(cold, -(np.cos(t) ** 2) * (flow(x, t, np) - v), atol=1e-4)


def test_noised_data_move_by_their_velocity():
    x0, eps, t = X[:4], X[4:8], np.array([0.1, 0.5, 1.0, 1.5])
    x, velocity = noised(x0, eps, jnp.float32(t))
    later, earlier = (noised(x0, eps, jnp.float32(t + h))[0] for h in (5e-3, -5e-3))
    np.testing.assert_allclose((later - earlier) / 1e-2, velocity, atol=1e-3)
    np.testing.assert_allclose(x, np.cos(t)[:, None] * x0 + np.sin(t)[:, None] * eps, atol=1e-6)


def test_a_normalised_tangent_has_about_unit_size():
    g = jnp.stack([jnp.full((4, 2), 1000.0), jnp.full((4, 2), 0.1), jnp.zeros((4, 2))])
    np.testing.assert_allclose(normalised(g)[:, 0, 0], [1000 / 1000.1, 0.5, 0], rtol=1e-5)
    assert np.all(np.isfinite(jax.grad(lambda g: jnp.sum(normalised(g)))(g)))
