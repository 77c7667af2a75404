"""The diffusion process against brute force, and its samplers on Gaussian data, whose exact eps is known."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import core
from jaxgen.errors import UserError
from jaxgen.models.ddpm import DDPM
from jaxgen.nets.unet import UNet, time_embedding
from jaxgen.ops.diffusion import DDIM, Ancestral, Cosine, Linear, posterior, q_sample

SCHEDULES = [Linear(), Cosine()]


# --- schedules ---


def betas(schedule):
    abar = schedule.abar()
    return 1 - abar / np.append(1.0, abar[:-1])


@pytest.mark.parametrize("schedule", [Linear(), Linear(100), Cosine(), Cosine(20)])
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


def test_f32_tables_keep_beta_0_where_bf16_would_not():
    abar = jnp.asarray(Linear().abar(), jnp.float32)
    assert abs(float(1 - abar[0]) - 1e-4) < 1e-7
    assert float(1 - abar[0].astype(jnp.bfloat16)) == 0


# --- the forward process ---


@pytest.mark.parametrize("shape", [(4, 4, 4, 3), (4, 4), (3, 5, 2, 1)])
def test_q_sample_noises_each_example_by_its_own_time_when_batch_equals_width(shape):
    """Regression: a bare f32[B] table broadcast along the width, which only B == W lets pass unnoticed."""
    rng = np.random.default_rng(0)
    x0, eps = rng.normal(size=shape), rng.normal(size=shape)
    t, abar = rng.integers(0, 1000, shape[0]), Linear().abar()
    expected = np.stack([np.sqrt(abar[t[i]]) * x0[i] + np.sqrt(1 - abar[t[i]]) * eps[i] for i in range(shape[0])])
    got = q_sample(abar, jnp.float32(x0), jnp.asarray(t), jnp.float32(eps))
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("earlier", "later"), [(99, 100), (500, 501), (40, 500), (0, 400), (300, 900)])
def test_posterior_is_bayes_on_a_grid(schedule, earlier, later):
    """Regression: a posterior mean taken for x_0. q(x_prev | x_t, x_0) for a pair of times, adjacent or respaced, by
    multiplying the two forward densities on a fine grid."""
    abar = schedule.abar()
    prev, last = abar[earlier], abar[later]
    x0, x_t = 0.7, -0.4
    grid = np.linspace(-8, 8, 200_001)
    alpha = last / prev
    log = -0.5 * (grid - np.sqrt(prev) * x0) ** 2 / (1 - prev) - 0.5 * (x_t - np.sqrt(alpha) * grid) ** 2 / (1 - alpha)
    p = np.exp(log - log.max())
    p /= p.sum()
    mean = (p * grid).sum()
    a, b, variance = posterior(last, prev)
    np.testing.assert_allclose(a * x0 + b * x_t, mean, atol=1e-6)
    np.testing.assert_allclose(variance, (p * (grid - mean) ** 2).sum(), rtol=1e-5)


# --- samplers on Gaussian data ---


def law(sampler, schedule, mu, std):
    """Mean and std that `sampler` gives on data N(mu, std^2) with the exact eps: a loop of float64 scalars."""
    abar = schedule.abar()[sampler.times(schedule.num_steps)[::-1]]
    mean, var = 0.0, 1.0
    for now, a, b, c in zip(abar, *sampler.coefficients(abar, np.append(abar[1:], 1.0))):
        # E[x_0 | x] = mu + gain (x - alpha mu), so that each step is affine in x.
        gain = np.sqrt(now) * std**2 / (now * std**2 + 1 - now)
        mean = a * (mu + gain * (mean - np.sqrt(now) * mu)) + b * mean
        var = (a * gain + b) ** 2 * var + c**2
    return mean, np.sqrt(var)


FAMILIES = [Ancestral(), Ancestral(large=True), DDIM(), DDIM(eta=0.5), DDIM(eta=1.0)]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("std", [0.5, 1.3])
def test_every_sampler_returns_the_gaussian_it_was_given(family, schedule, std):
    """Regression: with the posterior mean misnamed x_0 the std was 0.42 for 0.50. Free of sampling error: what is left
    is the discretisation's, which is O(1 / steps)."""
    mean, got = law(replace(family, steps=0, clip=0.0), schedule, 0.3, std)
    assert abs(mean - 0.3) < 0.01
    assert abs(got / std - 1) < 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_respaced_samplers_err_in_proportion_to_their_step(family):
    """A sampler that forgot to respace (beta of one step for a jump of ten) would not converge at all."""
    error = [abs(law(replace(family, steps=k, clip=0.0), Cosine(4000), 0.3, 0.5)[1] - 0.5) for k in (100, 200, 400)]
    assert error[0] < 0.05
    assert 1.5 < error[0] / error[1] < 3
    assert 1.5 < error[1] / error[2] < 3


MU, COV = np.array([0.3, -0.2]), np.array([[0.25, 0.12], [0.12, 0.16]])


def exact_eps(schedule):
    """E[eps | x_t] = sigma_t (alpha_t^2 cov + sigma_t^2)^-1 (x_t - alpha_t mu) of N(MU, COV), x: f32[B, n, 2]."""
    abar = schedule.abar()[:, None, None]
    gain = np.sqrt(1 - abar) * np.linalg.inv(abar * COV + (1 - abar) * np.eye(2))
    gain, centre = jnp.asarray(gain, jnp.float32), jnp.asarray(np.sqrt(abar[:, 0]) * MU, jnp.float32)
    return lambda x, t: jnp.einsum("bij,bnj->bni", gain[t], x - centre[t][:, None])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "sampler", [Ancestral(clip=0), Ancestral(large=True, clip=0), DDIM(steps=500, clip=0), DDIM(500, 0, eta=0.5)]
)
def test_samples_have_the_mean_and_covariance_of_the_data(sampler, schedule):
    """The loop itself, with noise: within five standard errors of 4,096 draws, and 1 % for the discretisation."""
    keys, n = core.sample_keys(0, 16), 256
    x = np.asarray(sampler(exact_eps(schedule), schedule, keys, (n, 2)), np.float64).reshape(-1, 2)
    five = 5 / np.sqrt(len(x))
    assert np.all(np.abs(x.mean(0) - MU) < five * np.sqrt(np.diag(COV)) + 0.01)
    scale = np.sqrt(COV**2 + np.outer(np.diag(COV), np.diag(COV)))  # root N times a sample covariance's standard error
    assert np.all(np.abs(np.cov(x.T) - COV) < five * scale + 0.01 * np.abs(COV))


def small_problem(sampler, keys, frames=0):
    return jax.jit(lambda keys: sampler(exact_eps(Linear(100)), Linear(100), keys, (3, 2), frames))(keys)


@pytest.mark.parametrize("steps", [0, 30])
def test_ancestral_is_ddim_with_eta_1(steps):
    keys = core.sample_keys(1, 4)
    one = small_problem(Ancestral(steps, clip=0), keys)
    np.testing.assert_allclose(one, small_problem(DDIM(steps, clip=0, eta=1.0), keys), atol=1e-4)
    assert not np.allclose(one, small_problem(DDIM(steps, clip=0), keys), atol=1e-2)


@pytest.mark.parametrize("sampler", [Ancestral(20), DDIM(20), DDIM(20, eta=1.0)])
def test_a_sample_depends_on_its_key_alone(sampler):
    keys = core.sample_keys(2, 5)
    np.testing.assert_allclose(small_problem(sampler, keys)[:2], small_problem(sampler, keys[:2]), atol=1e-6)


def test_deterministic_ddim_draws_nothing_after_the_start(monkeypatch):
    """With eta 0 the sample is a function of the starting noise, which a Python 0 is folded for; the loop folds
    traced numbers."""
    true = core.fold_each

    def start_alone(keys, i):
        assert isinstance(i, int), "drew in the loop"
        return true(keys, i)

    monkeypatch.setattr("jaxgen.ops.diffusion.fold_each", start_alone)
    assert np.all(np.isfinite(small_problem(DDIM(20), core.sample_keys(3, 2))))
    with pytest.raises(AssertionError, match="drew in the loop"):
        small_problem(DDIM(20, eta=1.0), core.sample_keys(3, 2))


def test_ddim_noise_is_eta_times_equation_16():
    abar = Cosine().abar()[[999, 700, 300, 10]]
    prev = np.append(abar[1:], 1.0)
    full = np.sqrt(posterior(abar, prev)[2])
    for eta in (0.0, 0.3, 1.0):
        np.testing.assert_allclose(DDIM(eta=eta).coefficients(abar, prev)[2], eta * full, rtol=1e-9)


def test_x0_is_clipped():
    """A network that knows nothing (eps = 0) makes x0_hat = x / alpha, hundreds at the start."""

    def nothing(x, t):
        return jnp.zeros_like(x)

    keys = core.sample_keys(0, 4)
    assert np.abs(DDIM(10)(nothing, Linear(100), keys, (8,))).max() <= 1
    assert np.abs(DDIM(10, clip=0)(nothing, Linear(100), keys, (8,))).max() > 10


@pytest.mark.parametrize(("steps", "frames"), [(20, 5), (20, 7), (20, 20), (20, 1), (100, 24)])
def test_the_last_frame_is_the_sample(steps, frames):
    keys = core.sample_keys(4, 2)
    film = small_problem(Ancestral(steps), keys, frames)
    assert film.shape == (frames, 2, 3, 2)
    np.testing.assert_allclose(film[-1], small_problem(Ancestral(steps), keys), atol=1e-6)
    assert len(np.unique(np.asarray(film)[:, 0, 0, 0])) == frames, "frames are different states, none left empty"


def test_a_film_of_more_frames_than_steps_still_ends_in_the_sample():
    keys = core.sample_keys(4, 2)
    film = small_problem(DDIM(10), keys, 24)
    np.testing.assert_allclose(film[-1], small_problem(DDIM(10), keys), atol=1e-6)
    assert np.all(np.any(np.asarray(film) != 0, axis=(1, 2, 3))), "no frame is left empty"


def test_times_run_from_0_to_the_end():
    for steps in (2, 7, 50, 999, 1000):
        times = DDIM(steps).times(1000)
        assert len(times) == steps and times[0] == 0 and times[-1] == 999
        assert np.all(np.diff(times) > 0)
    assert len(Ancestral().times(1000)) == 1000
    assert DDIM(1).times(1000).tolist() == [999]


@pytest.mark.parametrize("steps", [101, -1])
def test_more_steps_than_times_are_refused(steps):
    with pytest.raises(UserError, match="choose 1 to 100"):
        DDIM(steps).times(100)


# --- the model ---

TINY = DDPM(
    network=UNet(width=8, mults=(1, 2), blocks=1, attention=()), schedule=Linear(100), sampler=DDIM(5),
    shape=(4, 4, 1), num_classes=3, ema_decay=0.0,
)  # fmt: skip


PREDICT = jax.jit(TINY.predict)


@pytest.fixture(scope="module")
def tiny_params():
    """Random everywhere, as layers that start at zero would hide what they are told."""
    shapes = core.abstract_state(TINY, {"x": jnp.zeros((4, 4, 4, 1)), "cond": jnp.zeros(4, int)}).params
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape) * 0.3, jnp.float32), shapes)


@pytest.fixture
def x():
    """One image four times over."""
    return jnp.float32(np.tile(np.random.default_rng(1).normal(size=(1, 4, 4, 1)), (4, 1, 1, 1)))


def test_the_network_uses_time(tiny_params, x):
    """Regression: t was an argument that nothing read."""
    y = jnp.zeros((4, 3))
    eps = np.asarray(PREDICT(tiny_params, x, jnp.array([0, 1, 50, 99]), y))
    for i in range(3):
        assert np.abs(eps[i] - eps[i + 1]).max() > 1e-3
    same = np.asarray(PREDICT(tiny_params, x, jnp.full(4, 50), y))
    np.testing.assert_allclose(same, np.broadcast_to(eps[2], same.shape), atol=1e-5)


def test_the_network_uses_the_label(tiny_params, x):
    eps = np.asarray(PREDICT(tiny_params, x, jnp.full(4, 50), jnp.eye(3)[jnp.array([0, 1, 2, 2])]))
    assert min(np.abs(eps[i] - eps[j]).max() for i, j in [(0, 1), (0, 2), (1, 2)]) > 1e-3
    np.testing.assert_allclose(eps[2], eps[3], atol=1e-5)


def test_time_embedding_tells_all_times_apart():
    e = np.asarray(time_embedding(jnp.arange(1000), 32), np.float64)
    t = np.arange(1000)[:, None] * 10_000.0 ** (-np.arange(16) / 16)
    np.testing.assert_allclose(e, np.concatenate([np.cos(t), np.sin(t)], 1), atol=1e-3)
    # Rows have norm 4, so two are equal where their product is 16.
    assert (e @ e.T - 16 * np.eye(1000)).max() < 16 - 0.005


def test_loss_is_one_for_a_network_that_says_nothing():
    """The last layer starts at zero, so the first loss is E eps^2 = 1, at any time and whatever the data."""
    batch = {"x": jnp.zeros((512, 4, 4, 1)) + 0.5, "cond": jnp.zeros(512, jnp.int32)}

    @jax.jit
    def first(key, batch):
        state = TINY.init(key, batch)
        return TINY.loss(state.params, state, jax.random.fold_in(key, 1), batch)[0]

    loss = first(jax.random.key(0), batch)
    assert abs(float(loss) - 1) < 5 * np.sqrt(2 / (512 * 16))


GOOD = {"x": jnp.zeros((2, 4, 4, 1)), "cond": jnp.array([0, 2])}


@pytest.mark.parametrize(
    ("model", "batch", "message"),
    [
        (TINY, {**GOOD, "x": jnp.zeros((2, 5, 4, 1))}, "pass --model.shape 5 4 1"),
        (TINY, {"x": GOOD["x"]}, "no labels"),
        (TINY, {**GOOD, "cond": jnp.array([0, 3])}, "label 3 is out of range"),
        (replace(TINY, shape=(5, 4, 1)), {**GOOD, "x": jnp.zeros((2, 5, 4, 1))}, "multiples of 2"),
        (replace(TINY, sampler=DDIM(500)), GOOD, "choose 1 to 100"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(model, batch, message):
    TINY.check(GOOD)
    with pytest.raises(UserError, match=message) as error:
        model.check(batch)
    assert "\n" not in str(error.value)
