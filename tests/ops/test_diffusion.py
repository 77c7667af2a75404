"""The diffusion process against brute force: schedules, posterior, forms of an answer, the bound, the ODE's density."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Mixture
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm

from jaxgen import core
from jaxgen.errors import UserError
from jaxgen.ops.diffusion import (
    Denoised,
    bits_per_dim,
    convert,
    discretized_gaussian,
    error_scale,
    join,
    posterior,
    q_sample,
    split,
    to_noise,
    variational_bound,
)
from jaxgen.ops.schedules import Cosine, Geometric, Karras, Linear, Schedule, Sigmoid, Straight

DISCRETE = [Linear(), Linear(100), Cosine(), Cosine(20), Sigmoid(), Sigmoid(50, tau=0.9)]
SCHEDULES = [*DISCRETE, Geometric(), Karras(), Straight(), Straight(shift=3.0)]


# --- schedules ---


def betas(schedule):
    abar = schedule.abar()
    return 1 - abar / np.append(1.0, abar[:-1])


@pytest.mark.parametrize("schedule", DISCRETE, ids=str)
def test_abar_falls_strictly_in_float64(schedule):
    abar = schedule.abar()
    assert abar.dtype == np.float64
    assert abar.shape == (schedule.num_steps,)
    assert np.all(np.diff(np.append(1.0, abar)) < 0)
    assert 0 < abar[-1] < 1e-3, "the last x_t is noise"


def test_linear_has_the_ends_of_section_4():
    np.testing.assert_allclose(betas(Linear())[[0, -1]], [1e-4, 0.02], rtol=1e-9)
    np.testing.assert_allclose(np.diff(betas(Linear()), 2), 0, atol=1e-12)


def test_fewer_linear_steps_reach_as_far():
    """log abar at the end is minus the sum of the betas to first order, which scaling by 1000 / T keeps."""
    np.testing.assert_allclose(betas(Linear(100))[[0, -1]], [1e-3, 0.2], rtol=1e-9)
    np.testing.assert_allclose(betas(Linear(100)).sum(), betas(Linear()).sum(), rtol=1e-9)


def test_too_few_linear_steps_are_refused():
    with pytest.raises(UserError, match="10 steps"):
        Linear(10).abar()


def test_cosine_is_equation_17():
    def f(t):
        return np.cos((t / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2

    # abar after t + 1 steps; the clip of beta acts on the last one alone.
    np.testing.assert_allclose(Cosine().abar()[:-1], f(np.arange(1, 1000)) / f(0), rtol=1e-9)
    np.testing.assert_allclose(betas(Cosine())[-1], 0.999, rtol=1e-6)


def test_sigmoid_is_symmetric_about_the_middle():
    """abar at t and 1 - t add up to one, as the sigmoid is odd about 0 between -3 and 3."""
    abar = np.append(1.0, Sigmoid().abar()[:-1])
    np.testing.assert_allclose(abar[1:] + abar[:0:-1], 1, atol=1e-9)
    np.testing.assert_allclose(abar[500], 0.5, atol=1e-9)


def test_f32_tables_keep_beta_0_where_bf16_would_not():
    abar = jnp.asarray(Linear().abar(), jnp.float32)
    assert abs(float(1 - abar[0]) - 1e-4) < 1e-7
    assert float(1 - abar[0].astype(jnp.bfloat16)) == 0


def test_karras_is_equation_5():
    i = np.arange(18)
    expected = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(Karras().times(18), expected, rtol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_grids_lead_from_noise_to_data(schedule):
    """logsnr rises strictly at each level, the last of which is the data's; f32 levels agree with float64's."""
    for steps in (1, 2, 7, 20):
        grid = schedule.grid(steps)
        assert len(grid.t) == steps == len(grid.alpha) - 1 == len(grid.sigma) - 1
        assert (grid.alpha[-1], grid.sigma[-1]) == (1, 0)
        logsnr = schedule.logsnr(grid.t)
        assert logsnr.dtype == np.float64
        assert np.all(np.diff(logsnr) > 0)
        assert schedule.start**2 == pytest.approx(grid.alpha[0] ** 2 + grid.sigma[0] ** 2, rel=1e-3) or (
            schedule.start == grid.sigma[0]
        )
        traced = schedule.at(jnp.asarray(grid.t.copy()), 3)
        assert traced[0].shape == (steps, 1, 1) and traced[0].dtype == jnp.float32
        np.testing.assert_allclose(np.ravel(traced), np.ravel([grid.alpha[:-1], grid.sigma[:-1]]), rtol=1e-5, atol=1e-7)
        assert np.all(np.isfinite(schedule.network_time(jnp.asarray(grid.t.copy()))))


@pytest.mark.parametrize("steps", [101, -1])
def test_more_steps_than_times_are_refused(steps):
    with pytest.raises(UserError, match="choose 1 to 100"):
        Linear(100).times(steps)


@pytest.mark.parametrize("schedule", [Karras(), Straight()])
def test_continuous_time_needs_a_number_of_steps(schedule):
    with pytest.raises(UserError, match="choose 1 or more"):
        schedule.times(0)


def test_times_run_from_the_end_to_0():
    for steps in (2, 7, 50, 999, 1000):
        times = Linear().times(steps)
        assert len(times) == steps and times[0] == 999 and times[-1] == 0
        assert np.all(np.diff(times) < 0)
    assert len(Linear().times(0)) == 1000
    assert Linear().times(1).tolist() == [999]


# --- the forward process ---


@pytest.mark.parametrize("shape", [(4, 4, 4, 3), (4, 4), (3, 5, 2, 1)])
@pytest.mark.parametrize("schedule", [Linear(), Karras(), Straight()], ids=str)
def test_q_sample_noises_each_example_by_its_own_time_when_batch_equals_width(schedule, shape):
    """Regression: a bare f32[B] table broadcast along the width, which only B == W lets pass unnoticed."""
    rng = np.random.default_rng(0)
    x0, eps = rng.normal(size=shape), rng.normal(size=shape)
    t = rng.choice(schedule.times(50), shape[0])
    alpha, sigma = schedule.levels(t)
    expected = np.stack([alpha[i] * x0[i] + sigma[i] * eps[i] for i in range(shape[0])])
    got = q_sample(schedule, jnp.float32(x0), jnp.asarray(t), jnp.float32(eps))
    np.testing.assert_allclose(got, expected, atol=1e-6 * max(1, sigma.max()))


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Karras(), Straight()], ids=str)
@pytest.mark.parametrize(("earlier", "later"), [(99, 100), (500, 501), (40, 500), (1, 400), (300, 900)])
def test_posterior_is_bayes_on_a_grid(schedule, earlier, later):
    """Regression: a posterior mean taken for x_0. q(x_prev | x_t, x_0) for a pair of times, adjacent or respaced, by
    multiplying the two forward densities on a fine grid."""
    times = schedule.times(1000)[::-1]
    (alpha_prev, alpha), (sigma_prev, sigma) = schedule.levels(times[[earlier, later]])
    x0, x_t = 0.7, alpha * 0.7 - 0.9 * sigma
    width = 10 * sigma_prev
    grid = np.linspace(alpha_prev * x0 - width, alpha_prev * x0 + width, 400_001)
    step = sigma**2 - (alpha / alpha_prev * sigma_prev) ** 2
    log = norm.logpdf(grid, alpha_prev * x0, sigma_prev) + norm.logpdf(x_t, alpha / alpha_prev * grid, np.sqrt(step))
    p = np.exp(log - log.max())
    p /= p.sum()
    mean = (p * grid).sum()
    a, b, variance = posterior(alpha, sigma, alpha_prev, sigma_prev)
    np.testing.assert_allclose(a * x0 + b * x_t, mean, atol=1e-5 * sigma_prev)
    np.testing.assert_allclose(variance, (p * (grid - mean) ** 2).sum(), rtol=1e-4)


# --- forms of a prediction ---

KINDS = ("eps", "x0", "v", "score", "velocity", "trig")


@pytest.mark.parametrize(("source", "target"), list(itertools.product(KINDS, KINDS)))
@settings(max_examples=25, deadline=None)
@given(
    angle=st.floats(0.01, 1.56), scale=st.floats(0.1, 10), x=st.floats(-5, 5), value=st.floats(-5, 5),
)  # fmt: skip
def test_there_and_back_is_the_identity(source, target, angle, scale, x, value):
    """For every pair, at any level of any schedule: alpha and sigma need not be on a circle."""
    alpha, sigma = scale * math.cos(angle), scale * math.sin(angle)
    there = convert(value, x, alpha, sigma, source, target)
    np.testing.assert_allclose(convert(there, x, alpha, sigma, target, source), value, atol=1e-6, rtol=1e-6)
    # Both forms give the same x_0 and eps, which combine to x.
    x0, eps = split(source, value, x, alpha, sigma)
    np.testing.assert_allclose(split(target, there, x, alpha, sigma), (x0, eps), atol=1e-6, rtol=1e-6)
    np.testing.assert_allclose(alpha * x0 + sigma * eps, x, atol=1e-6)


def test_forms_are_what_the_papers_say():
    x0, eps, alpha, sigma = 0.3, -1.2, 0.8, 0.6
    expected = {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0, "score": -eps / sigma, "velocity": eps - x0}
    expected["trig"] = expected["v"]  # as 0.8^2 + 0.6^2 = 1
    for kind in KINDS:
        assert join(kind, x0, eps, alpha, sigma) == pytest.approx(expected[kind])
    # The score is the gradient of log q(x_t | x_0).
    x = alpha * x0 + sigma * eps
    slope = jax.grad(lambda x: -0.5 * (x - alpha * x0) ** 2 / sigma**2)(x)
    assert slope == pytest.approx(expected["score"], rel=1e-5)
    with pytest.raises(ValueError, match="unknown form"):
        join("noise", x0, eps, alpha, sigma)


@pytest.mark.parametrize("kind", KINDS)
def test_error_scale_is_that_of_a_wrong_x0(kind):
    alpha, sigma, x, x0 = 0.8, 0.6, 0.5, 0.2
    answers = [convert(guess, x, alpha, sigma, "x0", kind) for guess in (x0, x0 + 0.1)]
    assert (answers[0] - answers[1]) ** 2 == pytest.approx(error_scale(kind, alpha, sigma) * 0.01)


# --- the variational bound ---


@pytest.mark.parametrize("std", [0.003, 0.02, 0.3, 30.0])
def test_discretized_gaussian_sums_to_one_and_is_the_integral(std):
    levels = jnp.linspace(-1, 1, 256)[:, None] * jnp.ones((1, 4))
    mean = jnp.array([[-1.3, -0.2, 0.1, 1.05]]) * jnp.ones((256, 1))
    log_p = discretized_gaussian(levels, mean, jnp.full((256, 4), 2 * math.log(std)))
    np.testing.assert_allclose(np.exp(np.asarray(log_p, np.float64)).sum(0), 1, rtol=1e-4)
    half, x = 1 / 255, np.linspace(-1, 1, 256)[:, None]
    upper, lower = np.where(x > 0.999, np.inf, x + half), np.where(x < -0.999, -np.inf, x - half)
    mean = np.asarray(mean, np.float64)
    # In either tail, where the difference of two numbers near one would round to 0.
    sign = np.where(x > mean, -1, 1)
    ends = norm.cdf(sign * (upper - mean) / std), norm.cdf(sign * (lower - mean) / std)
    p = np.abs(ends[0] - ends[1])
    there = p > 1e-12
    np.testing.assert_allclose(np.asarray(log_p)[there], np.log(p[there]), atol=2e-3)


@pytest.mark.parametrize("x", [-1.0, 0.0, 1.0])
def test_discretized_gaussian_has_gradients(x):
    """Also at the end levels, whose infinite edges could make them NaN."""
    grads = jax.grad(lambda m, v: discretized_gaussian(jnp.float32(x), m, v), (0, 1))(0.4, -3.0)
    assert np.all(np.isfinite(grads))


def wrong(schedule):
    """A wrong denoiser, so that no term is zero."""
    return lambda x, t: Denoised(0.9 * x + 0.03)


@pytest.mark.parametrize(
    ("schedule", "large"), [(Linear(100), False), (Cosine(50), True), (Straight(), False)], ids=str
)
def test_bound_terms_are_monte_carlo_kls(schedule, large):
    """Each KL from forward densities alone: x_prev drawn on the way to x_t, log q by Bayes, log p as the sampler does.
    The decoder's term by scipy."""
    steps, level, draws = 6, 200 / 255 * 2 - 1, 4000
    grid = schedule.grid(steps)
    x0 = jnp.full((draws, 1), level)
    prior, terms = jax.jit(lambda keys: variational_bound(wrong(schedule), schedule, x0, keys, steps, large))(
        core.sample_keys(0, draws)
    )
    terms = np.asarray(terms, np.float64) * math.log(2)
    assert terms.shape == (steps, draws)
    first = norm(grid.alpha[0] * level, grid.sigma[0])
    np.testing.assert_allclose(
        prior[0] * math.log(2), -first.entropy() + first.expect(lambda x: -norm.logpdf(x)), atol=1e-4
    )
    rng = np.random.default_rng(0)
    variances = []
    for i in range(steps):
        alpha, sigma, alpha2, sigma2 = grid.alpha[i], grid.sigma[i], grid.alpha[i + 1], grid.sigma[i + 1]
        step = sigma**2 - (alpha / alpha2 * sigma2) ** 2
        ratio = alpha / alpha2
        if i < steps - 1:
            prev = alpha2 * level + sigma2 * rng.normal(size=200_000)
            x = ratio * prev + np.sqrt(step) * rng.normal(size=prev.size)
            log_q = (
                norm.logpdf(prev, alpha2 * level, sigma2)
                + norm.logpdf(x, ratio * prev, np.sqrt(step))
                - norm.logpdf(x, alpha * level, sigma)
            )
            variances.append((1 / (ratio**2 / step + 1 / sigma2**2), step))
        else:
            x = alpha * level + sigma * rng.normal(size=200_000)
        # The reverse step: the Gaussian product of x_prev's two neighbours, with what is believed of x_0.
        var, high = variances[-1] if i == steps - 1 else variances[i]
        guess = 0.9 * x + 0.03
        a, b, _ = posterior(alpha, sigma, alpha2, sigma2)
        std = np.sqrt(high if large and i < steps - 1 else var)
        if i < steps - 1:
            expected = log_q - norm.logpdf(prev, a * guess + b * x, std)
        else:
            mass = norm.cdf(level + 1 / 255, guess, std) - norm.cdf(level - 1 / 255, guess, std)
            expected = -np.log(mass)
        error = 4 * np.hypot(expected.std() / np.sqrt(expected.size), terms[i].std() / np.sqrt(draws))
        assert abs(terms[i].mean() - expected.mean()) < error + 1e-3, i


def test_the_bound_bounds_what_can_be_summed():
    """Two equally likely levels have one bit; the exact denoiser's bound is slightly above it."""
    schedule, level = Cosine(4000), np.float32(101 / 255 * 2 - 1)

    def exact(x, t):
        alpha, sigma = schedule.at(t, x.ndim)
        return Denoised(level * jnp.tanh(alpha * level * x / sigma**2))

    x0 = jnp.where(jnp.arange(2000)[:, None] % 2, level, -level)
    prior, terms = jax.jit(lambda keys: variational_bound(exact, schedule, x0, keys))(core.sample_keys(0, 2000))
    total = np.asarray(prior + terms.sum(0), np.float64)
    assert 1 - 4 * total.std() / np.sqrt(2000) < total.mean() < 1.2


# --- the density of the probability-flow ODE ---

DATA = Mixture()


@pytest.mark.parametrize("schedule", [Cosine(), Linear(), Karras(), Straight(), Geometric(400, 0.002, 50)], ids=str)
@pytest.mark.parametrize("probes", [0, 1])
def test_ode_likelihood_of_a_mixture_is_the_analytic_one(schedule, probes):
    """The coordinates are independent, so the Jacobian is diagonal and one probe of signs is exact too."""
    rng = np.random.default_rng(0)
    k = rng.choice(2, size=(6, 3), p=DATA.weight)
    x = DATA.mean[k] + DATA.std[k] * rng.normal(size=k.shape)
    steps = 399 if schedule.continuous or isinstance(schedule, Geometric) else 500
    ode = jax.jit(lambda x, keys: to_noise(DATA.denoise(schedule), schedule, x, keys, steps, probes))
    noise, log_p, _ = ode(jnp.float32(x), core.sample_keys(0, 6))
    np.testing.assert_allclose(log_p, np.log(DATA.pdf(x)).sum(1), atol=1e-2)
    # The map keeps quantiles; it starts from the least noisy level.
    levels = [schedule.levels(schedule.path(steps + 1)[i]) for i in (-1, 0)]
    np.testing.assert_allclose(DATA.cdf(noise, *levels[1]), DATA.cdf(x, *levels[0]), atol=2e-3)


def correlated(schedule: Schedule, cov: np.ndarray):
    """The denoiser of N(0, cov)."""
    cov, eye = jnp.float32(cov)[None], jnp.eye(len(cov))[None]

    def denoise(x, t):
        alpha, sigma = schedule.at(t, 3)
        return Denoised(jnp.einsum("bij,bj->bi", alpha * cov @ jnp.linalg.inv(alpha**2 * cov + sigma**2 * eye), x))

    return denoise


@pytest.mark.parametrize("schedule", [Cosine(), Karras(), Straight()], ids=str)
def test_hutchinsons_estimate_is_right_on_average(schedule):
    """With correlated coordinates single probes are inexact; the mean of 1,000 is the exact trace."""
    cov = np.array([[0.5, 0.3, 0.0], [0.3, 0.4, -0.1], [0.0, -0.1, 0.3]])
    x = jnp.tile(jnp.array([[0.5, -0.2, 0.7]]), (1000, 1))

    def log_p(probes, num):
        ode = jax.jit(lambda x, k: to_noise(correlated(schedule, cov), schedule, x, k, 200, probes))
        _, log_p, stderr = ode(x[:num], core.sample_keys(1, num))
        return np.asarray(log_p, np.float64), np.asarray(stderr, np.float64)

    expected = multivariate_normal(np.zeros(3), cov).logpdf(np.asarray(x[0]))
    exact, none = log_p(0, 1)
    np.testing.assert_allclose(exact, expected, atol=1e-2)
    assert none == 0
    one, _ = log_p(1, 1000)
    assert one.std() > 0.05
    assert abs(one.mean() - expected) < 1e-2 + 4 * one.std() / np.sqrt(1000)
    four, stderr = log_p(4, 1000)
    assert four.std() == pytest.approx(one.std() / 2, rel=0.15)
    assert np.sqrt(np.mean(stderr**2)) == pytest.approx(four.std(), rel=0.1)


def test_bits_per_dim_of_evenly_spread_levels_is_8():
    """A density of 1 / (256 widths of a level) in each of 10 dimensions."""
    log_p = jnp.array([-10 * math.log(256 * 2 / 255)])
    np.testing.assert_allclose(bits_per_dim(log_p, 10), 8, rtol=1e-6)
