"""Samplers on data whose denoiser is known: their law without sampling error, their order, the scan itself."""

from dataclasses import dataclass, replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Mixture, law, run

from jaxgen import core
from jaxgen.errors import UserError
from jaxgen.ops.diffusion import Denoised, log_variances, posterior
from jaxgen.ops.samplers import DDIM, FROM_NOISE, Ancestral, AnnealedLangevin, DPMSolverPP, Euler, Heun, Start
from jaxgen.ops.schedules import Cosine, Geometric, Karras, Linear, Sigmoid, Straight, VariancePreserving

# --- the distribution of samples on Gaussian data ---

VP = [Linear(), Cosine(), Sigmoid()]
MANY = {
    "ancestral": Ancestral(1000), "ancestral large": Ancestral(1000, large=True), "ddim": DDIM(1000),
    "ddim eta 0.5": DDIM(1000, eta=0.5), "ddim eta 1": DDIM(1000, eta=1.0), "euler": Euler(1000), "heun": Heun(60),
    "dpm-solver++": DPMSolverPP(240),
}  # fmt: skip
CHURNED = {"euler churn": Euler(1000, churn=10), "heun churn": Heun(200, churn=40, churn_min=0.01, churn_max=50.0)}
LAWS = [(name, s) for name in MANY for s in (*VP, Karras(), Straight())] + [(name, Karras()) for name in CHURNED]


@pytest.mark.parametrize(("name", "schedule"), LAWS, ids=str)
@pytest.mark.parametrize("std", [0.5, 1.3])
def test_every_sampler_returns_the_gaussian_it_was_given(name, schedule, std):
    """Regression: with the posterior mean misnamed x_0 the std was 0.42 for 0.50. What is left is the discretisation's
    error, and where noise is infinite steps away, that of starting without the data."""
    sampler = (MANY | CHURNED)[name]
    mean, got = law(sampler.table(schedule), schedule, 0.3, std)
    assert abs(mean - 0.3) < 0.01
    assert abs(got / std - 1) < 0.01


@pytest.mark.parametrize("std", [0.5, 1.3])
def test_annealed_langevin_returns_the_gaussian_it_was_given(std):
    """It starts far from the data's distribution and forgets its start; the last x0_hat removes the last noise."""
    schedule = Geometric(60, sigma_min=0.05, sigma_max=20)
    mean, got = law(AnnealedLangevin(each=100, step=0.2).table(schedule), schedule, 0.3, std)
    assert abs(mean - 0.3) < 0.01
    assert abs(got / std - 1) < 0.02


@pytest.mark.parametrize("family", [Ancestral(), Ancestral(large=True), DDIM(), DDIM(eta=0.5), DDIM(eta=1.0)])
def test_respaced_samplers_err_in_proportion_to_their_step(family):
    """A sampler that forgot to respace (beta of one step for a jump of ten) would not converge at all."""
    schedule = Cosine(4000)
    error = [abs(law(replace(family, steps=k).table(schedule), schedule, 0.3, 0.5)[1] - 0.5) for k in (100, 200, 400)]
    assert error[0] < 0.05
    assert 1.5 < error[0] / error[1] < 3
    assert 1.5 < error[1] / error[2] < 3


# --- order of convergence, on a mixture ---

DATA = Mixture()


def solver_error(sampler, schedule):
    """Largest distance from the exact solution of the ODE, which in one dimension keeps quantiles."""
    table = sampler.table(schedule)
    p = np.linspace(0.02, 0.98, 25)
    alpha, sigma = (level[0] for level in schedule.levels(table.t[:1]))
    got = run(table, schedule, DATA.x0, DATA.quantile(p, alpha, sigma))
    return np.abs(got - DATA.quantile(p)).max()


@dataclass(frozen=True)
class EvenLogSNR(VariancePreserving):
    """logsnr linear in t: where steps in log(alpha / sigma) are even, as the theory of DPM-Solver has them."""

    def abar(self):
        return 1 / (1 + np.exp(-np.linspace(18, -10, self.num_steps)))


ORDERS = [(DDIM(), 1), (Euler(), 1), (Heun(), 2), (DPMSolverPP(), 2)]
# Ends close to data, so that the last step, which is of first order, is none of the error.
CLOSE = {"vp": EvenLogSNR(20_481), "karras": Karras(sigma_min=1e-4), "straight": Straight()}


@pytest.mark.parametrize("where", CLOSE)
@pytest.mark.parametrize(("sampler", "order"), ORDERS, ids=str)
def test_order_of_convergence(sampler, order, where):
    # Steps that divide the discrete schedule's times, as rounded ones would hide the order.
    counts = [161, 321, 641] if where == "vp" else [160, 320, 640]
    error = [solver_error(replace(sampler, steps=n), CLOSE[where]) for n in counts]
    slope = np.log2(np.array(error[:-1]) / error[1:])
    if where == "straight" and isinstance(sampler, DPMSolverPP):
        # log(alpha / sigma) begins at -inf, where its steps do not shrink: a logarithm is lost.
        assert np.all((slope > 1.65) & (slope < 2))
    else:
        np.testing.assert_allclose(slope, order, atol=0.2)


@pytest.mark.parametrize("schedule", [Karras(), Straight(), Cosine()])
def test_euler_is_ddim(schedule):
    """In increments of alpha and sigma."""
    one, two = Euler(25).table(schedule), DDIM(25).table(schedule)
    np.testing.assert_allclose([one.a, one.b], [two.a, two.b], atol=1e-12)


def test_heun_is_the_papers_algorithm_1():
    """Written out with derivatives (x - D(x)) / sigma."""
    schedule = Karras()
    sigmas = np.append(schedule.times(12), 0.0)
    x = y = 80 * np.linspace(-2, 2, 9)
    for now, then in pairwise(sigmas):
        slope = (x - DATA.x0(x, 1.0, now)) / now
        ahead = x + (then - now) * slope
        if then:
            slope = (slope + (ahead - DATA.x0(ahead, 1.0, then)) / then) / 2
        x = x + (then - now) * slope
    table = Heun(12).table(schedule)
    np.testing.assert_allclose(run(table, schedule, DATA.x0, y), x, atol=1e-9)
    assert Heun(12).evaluations(schedule) == len(table.t) == 23


def test_churn_is_the_papers_algorithm_2():
    """Euler's half of it, noise added before each step up to (1 + gamma) sigma, with S_noise and S_tmin."""
    schedule, n = Karras(), 10
    sampler = Euler(n, churn=3.0, churn_min=0.1, churn_max=1e9, churn_noise=1.007)
    sigmas = np.append(schedule.times(n), 0.0)
    noise = np.random.default_rng(0).normal(size=(n + 1, 5))
    x = 80 * noise[0]
    for i, (now, then) in enumerate(pairwise(sigmas)):
        raised = now * (1 + (min(3.0 / n, np.sqrt(2) - 1) if now >= 0.1 else 0.0))
        x = x + np.sqrt(raised**2 - now**2) * 1.007 * noise[i + 1]
        x = x + (then - raised) * (x - DATA.x0(x, 1.0, raised)) / raised
    # The table adds a step's noise at the end of the one before it, and the first one's to the start.
    table = sampler.table(schedule)
    first = 80 * noise[0] + np.sqrt(table.start**2 - 80**2) * noise[1]
    noise = np.append(noise[2:], noise[:1], axis=0)
    np.testing.assert_allclose(run(table, schedule, DATA.x0, first, noise), x, atol=1e-9)


@pytest.mark.parametrize("schedule", [Linear(), Straight()])
def test_churn_is_refused_where_there_is_no_level_to_raise_to(schedule):
    with pytest.raises(UserError, match="churn is 5"):
        Heun(10, churn=5).table(schedule)
    with pytest.raises(UserError, match="alpha = 1"):
        AnnealedLangevin(10).table(schedule)


# --- the scan ---

SCANNED = [
    (Ancestral(30, clip=0), Linear(100)), (DDIM(30, clip=0, eta=0.5), Cosine(100)), (Heun(15, clip=0), Karras()),
    (Heun(15, clip=0, churn=10), Karras()), (DPMSolverPP(15, clip=0), Linear(100)),
    (DPMSolverPP(9, clip=0), Straight()), (AnnealedLangevin(each=2, step=0.3), Geometric(20, sigma_max=5)),
]  # fmt: skip


def sample(sampler, schedule, keys, shape=(3, 2), start=FROM_NOISE, frames=0):
    return jax.jit(lambda keys: sampler(DATA.denoise(schedule), schedule, keys, shape, start, frames))(keys)


@pytest.mark.parametrize(("sampler", "schedule"), SCANNED, ids=str)
def test_the_scan_is_the_loop(sampler, schedule):
    keys = core.sample_keys(0, 4)
    table = sampler.table(schedule)
    noise = [np.asarray(core.normal_each(core.fold_each(keys, i), (3, 2)), float) for i in range(len(table.t) + 1)]
    expected = run(table, schedule, DATA.x0, table.start * noise[0], noise[1:])
    np.testing.assert_allclose(sample(sampler, schedule, core.sample_keys(0, 4)), expected, atol=2e-3)


@pytest.mark.parametrize(
    ("sampler", "schedule"),
    [(Ancestral(200), Cosine(200)), (DDIM(100), Linear()), (Heun(20), Karras()), (Heun(50, churn=20), Karras()),
     (DPMSolverPP(30), Cosine()), (Euler(100), Straight())],
    ids=str,
)  # fmt: skip
def test_samples_have_the_mean_and_std_of_a_mixture(sampler, schedule):
    """The stochastic loop on non-Gaussian data, within five standard errors and 2 %."""
    x = np.asarray(sample(replace(sampler, clip=0.0), schedule, core.sample_keys(0, 16), (512,)), np.float64).ravel()
    mean, std = DATA.moments
    assert abs(x.mean() - mean) < 5 * std / np.sqrt(x.size) + 0.02 * std
    assert abs(x.std() / std - 1) < 5 / np.sqrt(2 * x.size) + 0.02
    # The shape too: the Kolmogorov-Smirnov distance against its 0.1 % quantile under chance.
    distance = np.abs(DATA.cdf(np.sort(x)) - (np.arange(x.size) + 0.5) / x.size).max()
    assert distance < 1.95 / np.sqrt(x.size) + 0.01


def test_a_learned_variance_is_used():
    """Predicted at its upper bound, samples are those of variance beta; at its lower, of the posterior."""
    schedule = Cosine(50)
    keys = core.sample_keys(1, 4)

    def learned(fraction):
        def denoise(x, t):
            return Denoised(DATA.denoise(schedule)(x, t).x0, jnp.full_like(x, fraction))

        return Ancestral(20, clip=0)(denoise, schedule, keys, (3, 2))

    upper = Ancestral(20, clip=0, large=True)(DATA.denoise(schedule), schedule, keys, (3, 2))
    lower = Ancestral(20, clip=0)(DATA.denoise(schedule), schedule, keys, (3, 2))
    np.testing.assert_allclose(learned(1.0), upper, atol=1e-5)
    np.testing.assert_allclose(learned(0.0), lower, atol=1e-5)
    assert np.abs(upper - lower).max() > 0.01
    low, high = log_variances(schedule.grid(20))
    assert np.all(low <= high + 1e-12)


@pytest.mark.parametrize("steps", [0, 30])
def test_ancestral_is_ddim_with_eta_1(steps):
    keys, schedule = core.sample_keys(1, 4), Linear(100)
    one = sample(Ancestral(steps, clip=0), schedule, keys)
    np.testing.assert_allclose(one, sample(DDIM(steps, clip=0, eta=1.0), schedule, keys), atol=1e-4)
    assert not np.allclose(one, sample(DDIM(steps, clip=0), schedule, keys), atol=1e-2)


def test_ddim_noise_is_eta_times_equation_16():
    grid = Cosine().grid(4)
    abar, prev = grid.alpha[:-1] ** 2, grid.alpha[1:] ** 2
    full = np.sqrt((1 - prev) / (1 - abar)) * np.sqrt(1 - abar / prev)
    for eta in (0.0, 0.3, 1.0):
        np.testing.assert_allclose(DDIM(4, eta=eta).table(Cosine()).c, eta * full, rtol=1e-9)
    np.testing.assert_allclose(posterior(grid.alpha[:-1], grid.sigma[:-1], grid.alpha[1:], grid.sigma[1:])[2], full**2)


@pytest.mark.parametrize("sampler", [Ancestral(20), DDIM(20), DDIM(20, eta=1.0), Heun(10), DPMSolverPP(10)])
def test_a_sample_depends_on_its_key_alone(sampler):
    keys = core.sample_keys(2, 5)
    many, few = sample(sampler, Linear(100), keys), sample(sampler, Linear(100), keys[:2])
    np.testing.assert_allclose(many[:2], few, atol=1e-6)


def test_deterministic_ddim_draws_nothing_after_the_start(monkeypatch):
    """With eta 0 the sample is a function of the starting noise, which a Python 0 is folded for; the loop folds
    traced numbers."""
    true = core.fold_each

    def start_alone(keys, i):
        assert isinstance(i, int), "drew in the loop"
        return true(keys, i)

    monkeypatch.setattr("jaxgen.ops.samplers.fold_each", start_alone)
    assert np.all(np.isfinite(sample(DDIM(20), Linear(100), core.sample_keys(3, 2))))
    with pytest.raises(AssertionError, match="drew in the loop"):
        sample(DDIM(20, eta=1.0), Linear(100), core.sample_keys(3, 2))


def test_x0_is_clipped():
    """An uninformative network (eps = 0) gives x0_hat = x / alpha, which is in the hundreds at the start."""
    schedule = Linear(100)

    def nothing(x, t):
        return Denoised(x / schedule.at(t, x.ndim)[0])

    keys = core.sample_keys(0, 4)
    assert np.abs(DDIM(10)(nothing, schedule, keys, (8,))).max() <= 1
    assert np.abs(DDIM(10, clip=0)(nothing, schedule, keys, (8,))).max() > 10


@pytest.mark.parametrize(("steps", "frames"), [(20, 5), (20, 7), (20, 20), (20, 1), (100, 24), (10, 24)])
def test_the_last_frame_is_the_sample(steps, frames):
    keys = core.sample_keys(4, 2)
    film = sample(Ancestral(steps), Linear(100), keys, frames=frames)
    assert film.shape == (min(steps, frames), 2, 3, 2)
    np.testing.assert_allclose(film[-1], sample(Ancestral(steps), Linear(100), keys), atol=1e-6)
    assert len(np.unique(np.asarray(film)[:, 0, 0, 0])) == len(film), "frames are different states, none left empty"


# --- images as starting points, and inpainting ---


@pytest.mark.parametrize(
    ("sampler", "schedule"),
    [(DDIM(100), Cosine()), (Ancestral(100), Cosine()), (Heun(20), Karras()), (Heun(50, churn=20), Karras()),
     (DPMSolverPP(40), Cosine()), (Euler(100), Straight())],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("strength", [0.3, 0.6])
def test_images_half_noised_come_back_with_the_datas_law(sampler, schedule, strength):
    """Data noised to any level has that level's distribution, from which any sampler returns to the data's."""
    rng = np.random.default_rng(0)
    k = rng.choice(2, size=(16, 256), p=DATA.weight)
    image = jnp.float32(DATA.mean[k] + DATA.std[k] * rng.normal(size=k.shape))
    start = Start(image=image, strength=strength)
    got = sample(replace(sampler, clip=0.0), schedule, core.sample_keys(5, 16), (256,), start)
    x = np.sort(np.asarray(got, np.float64).ravel())
    assert np.abs(DATA.cdf(x) - (np.arange(x.size) + 0.5) / x.size).max() < 1.95 / np.sqrt(x.size) + 0.01
    assert 0.001 < np.abs(got - image).mean() < 0.9


@pytest.mark.parametrize("strength", [0.1, 0.5, 0.7, 0.9])
def test_equal_strength_is_equal_noise(strength):
    """All samplers of ten steps first ask about the level that lies ceil(10 strength) steps from the end: Heun's two
    rows a step, and 0.7 * 10 > 7 in floating point, change nothing."""
    seen = []

    def denoise(x, t):
        jax.debug.callback(lambda t: seen.append(float(t[0])), t, ordered=True)
        return Denoised(jnp.zeros_like(x))

    for sampler in (DDIM(10), Euler(10), Heun(10), DPMSolverPP(10)):
        seen.clear()
        image = jnp.zeros((1, 4))
        start = Start(image=image, strength=strength)
        jax.block_until_ready(sampler(denoise, Cosine(), core.sample_keys(0, 1), (4,), start))
        jax.effects_barrier()
        assert seen[0] == Cosine().grid(10).t[10 - round(10 * strength)], sampler


def test_strength_says_how_far_an_image_moves():
    image = jnp.zeros((4, 64)) + 0.5

    def varied(start):
        return sample(DDIM(50), Cosine(), core.sample_keys(0, 4), (64,), start)

    moved = [float(jnp.abs(varied(Start(image=image, strength=s)) - image).mean()) for s in (0.02, 0.3, 0.7, 1.0)]
    assert moved[0] < 0.05
    assert np.all(np.diff(moved) > 0)
    np.testing.assert_array_equal(varied(Start(image=image, strength=1.0)), varied(FROM_NOISE))


CORRELATION = 0.8


def correlated(schedule):
    """The denoiser of pairs: unit variances scaled by a half, correlation 0.8."""
    cov = jnp.array([[[1, CORRELATION], [CORRELATION, 1]]]) / 4

    def denoise(x, t):
        alpha, sigma = schedule.at(t, 3)
        gain = alpha * cov @ jnp.linalg.inv(alpha**2 * cov + sigma**2 * jnp.eye(2)[None])
        return Denoised(jnp.einsum("bij,bnj->bni", gain, x))

    return denoise


def test_inpainting_keeps_the_known_and_learns_from_it():
    """E[x_1 | x_0] = 0.8 x_0. Replacing the known part alone makes the rest fit it but half; taking each step more than
    once, nearly (section 4.2 of arXiv:2201.09865)."""
    schedule = Cosine()
    image = jnp.ones((8, 128, 2))
    mask = jnp.array([True, False]).reshape(1, 1, 2)

    def slope(resample):
        start = Start(image=image, mask=mask, resample=resample)
        got = Ancestral(100, clip=0)(correlated(schedule), schedule, core.sample_keys(6, 8), (128, 2), start)
        np.testing.assert_array_equal(got[..., 0], 1)
        return float(got[..., 1].mean())

    once, often = slope(1), slope(8)
    assert 0.2 < once < often
    assert abs(often - CORRELATION) < 0.08


@pytest.mark.parametrize("levels", [1, 2, 232])
def test_sampling_starts_at_the_noisiest_level_there_is(levels):
    schedule = Geometric(num_steps=levels)
    assert schedule.start == schedule.grid(0).sigma[0]


def test_what_cannot_be_asked_of_a_sampler_is_refused():
    keys, image = core.sample_keys(0, 2), jnp.zeros((2, 4))
    with pytest.raises(UserError, match="strength is 0"):
        Start(image=image, strength=0)
    with pytest.raises(UserError, match="without an image"):
        Start(mask=jnp.ones((2, 4), bool))
    with pytest.raises(UserError, match="use Ancestral or DDIM"):
        sample(Heun(10), Karras(), keys, (4,), Start(image=image, mask=jnp.ones((2, 4), bool), resample=3))
