"""Stable Diffusion's schedule and samplers, on a mixture whose denoiser is known."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Mixture, law, run

from jaxgen import core
from jaxgen.errors import UserError
from jaxgen.ops.pndm import PNDM
from jaxgen.ops.samplers import DDIM, FROM_NOISE, Ancestral, DPMSolverPP, Euler, Start
from jaxgen.ops.schedules import Karras, Linear, ScaledLinear, Straight

DATA = Mixture()
KARRAS = ScaledLinear(spacing="karras")


def sample(sampler, schedule, keys, shape=(3, 2), start=FROM_NOISE):
    return jax.jit(lambda keys: sampler(DATA.denoise(schedule), schedule, keys, shape, start))(keys)


def test_leading_times_are_a_step_after_multiples():
    np.testing.assert_array_equal(ScaledLinear().times(50), np.arange(981, 0, -20))
    np.testing.assert_array_equal(ScaledLinear().times(30), np.arange(29, -1, -1) * 33 + 1)
    np.testing.assert_array_equal(ScaledLinear().times(999), np.arange(999, 0, -1))
    for schedule in (ScaledLinear(), KARRAS, ScaledLinear(offset=7)):
        np.testing.assert_array_equal(schedule.times(1000), np.arange(999, -1, -1))
        np.testing.assert_array_equal(schedule.times(0), np.arange(999, -1, -1))
        with pytest.raises(UserError, match="choose 1 to 1000"):
            schedule.times(1001)
    assert ScaledLinear(offset=900).times(2).max() == 999


def test_karras_times_are_evenly_spaced_in_the_seventh_root():
    grid = KARRAS.grid(20)
    root = (grid.sigma[:-1] / grid.alpha[:-1]) ** (1 / 7)
    np.testing.assert_allclose(np.diff(root), (root[-1] - root[0]) / 19, rtol=1e-9)
    alpha, sigma = KARRAS.levels(np.array([999, 0]))
    np.testing.assert_allclose(root[[0, -1]] ** 7, sigma / alpha, rtol=1e-9)
    np.testing.assert_allclose(grid.alpha**2 + grid.sigma**2, 1, rtol=1e-12)
    # The level in a compiled program is that of the time itself, the network's time is a whole number.
    t = jnp.asarray(grid.t, jnp.float32)
    np.testing.assert_allclose(np.stack(KARRAS.at(t, 1)), [grid.alpha[:-1], grid.sigma[:-1]], rtol=1e-4)
    np.testing.assert_array_equal(KARRAS.network_time(t), np.round(grid.t))


def test_levels_of_whole_times_are_the_tables():
    for t in (np.arange(1000), np.arange(1000.0)):
        np.testing.assert_allclose(ScaledLinear().levels(t), ScaledLinear().table(), rtol=1e-9)
    assert ScaledLinear().grid(50).sigma[-1] == 0
    first = ScaledLinear(end="first").grid(50)
    np.testing.assert_allclose(first.sigma[-1], 0.00085**0.5, rtol=1e-9)
    np.testing.assert_allclose(first.alpha[-1] ** 2 + first.sigma[-1] ** 2, 1, rtol=1e-12)


@pytest.mark.parametrize("schedule", [ScaledLinear(), ScaledLinear(spacing="ends"), KARRAS])
def test_pndm_returns_the_gaussian_it_was_given(schedule):
    """But for the data's share of the noisiest level, 7 %, without which sampling starts."""
    mean, std = law(PNDM(100).table(schedule), schedule, 0.3, 0.5)
    assert abs(mean - 0.3) < 0.015
    assert abs(std - 0.5) < 0.005


def test_pndm_takes_one_evaluation_more_than_steps():
    for schedule in (ScaledLinear(), Linear(), Karras()):
        assert [PNDM(steps).evaluations(schedule) for steps in (1, 2, 3, 20)] == [1, 3, 4, 21]
        one, ddim = PNDM(1).table(schedule), DDIM(1).table(schedule)
        np.testing.assert_allclose([one.a, one.b], [ddim.a, ddim.b], atol=1e-9)
    with pytest.raises(UserError, match="PNDM starts where alpha is above 0, not as Straight: use DPMSolverPP"):
        PNDM(10).table(Straight())


def test_pndm_is_nearer_to_the_exact_solution_than_ddim():
    """In one dimension the ODE keeps quantiles."""
    schedule, p = ScaledLinear(spacing="ends"), np.linspace(0.02, 0.98, 25)
    x = DATA.quantile(p, *(level[0] for level in schedule.levels(np.array([999]))))
    exact = DATA.quantile(p)
    error = {
        type(s).__name__: np.abs(run(s.table(schedule), schedule, DATA.x0, x) - exact).max()
        for s in (DDIM(40), PNDM(40))
    }
    assert error["PNDM"] < error["DDIM"] / 4


@pytest.mark.parametrize("sampler", [PNDM(12), DPMSolverPP(12, clip=0)], ids=str)
@pytest.mark.parametrize("schedule", [ScaledLinear(end="first"), KARRAS], ids=str)
def test_the_scan_is_the_loop(sampler, schedule):
    keys = core.sample_keys(0, 4)
    table = sampler.table(schedule)
    z = np.asarray(core.normal_each(core.fold_each(keys, 0), (3, 2)), float)
    expected = run(table, schedule, DATA.x0, table.start * z)
    np.testing.assert_allclose(sample(sampler, schedule, core.sample_keys(0, 4)), expected, atol=2e-3)


def test_pndm_from_an_image_starts_with_the_one_prediction_there_is():
    """From the sixth of eight steps: the four latest predictions begin as four times the first one."""
    schedule, steps = ScaledLinear(), 8
    image = np.random.default_rng(0).normal(size=(2, 3, 2)).astype(np.float32) * 0.4
    keys = core.sample_keys(0, 2)
    z = np.asarray(core.normal_each(core.fold_each(keys, 0), (3, 2)), float)
    grid = schedule.grid(steps)
    x, past = grid.alpha[5] * image + grid.sigma[5] * z, []
    for i in range(5, steps):
        alpha, sigma = grid.alpha[i], grid.sigma[i]
        eps = (x - alpha * DATA.x0(x, alpha, sigma)) / sigma
        past = [eps, *past] if past else [eps] * 4
        e = (55 * past[0] - 59 * past[1] + 37 * past[2] - 9 * past[3]) / 24
        x0 = (x - sigma * e) / alpha
        x = grid.alpha[i + 1] * x0 + grid.sigma[i + 1] * e
    start = Start(image=jnp.asarray(image), strength=3 / 8)
    got = sample(PNDM(steps), schedule, core.sample_keys(0, 2), start=start)
    np.testing.assert_allclose(got, x, atol=2e-3)


def test_ancestral_is_eulers_ancestral_method():
    """Written out with x / alpha, as in k-diffusion: a step down to sigma_down, then noise of sigma_up."""
    schedule = ScaledLinear()
    table, grid = Ancestral(15, clip=0).table(schedule), schedule.grid(15)
    ratio = grid.sigma / grid.alpha
    for i, (here, there) in enumerate(pairwise(ratio)):
        up = (there**2 * (here**2 - there**2) / here**2) ** 0.5
        down = (there**2 - up**2) ** 0.5
        x, x0 = 0.7, -0.4
        expected = (x + (x - x0) / here * (down - here)) * grid.alpha[i + 1]
        np.testing.assert_allclose(table.a[i] * x0 + table.b[i] * x * grid.alpha[i], expected, rtol=1e-9)
        np.testing.assert_allclose(table.c[i], up * grid.alpha[i + 1], rtol=1e-9)


@pytest.mark.parametrize("sampler", [DDIM(10, clip=0), PNDM(10), Euler(10, clip=0)], ids=str)
def test_what_is_kept_of_an_image_is_kept_exactly(sampler):
    """Also where the last step leads to the first time's level, whose noise is not added."""
    image = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 2)), jnp.float32)
    mask = jnp.asarray([[[True, False], [True, True], [False, False]]])
    schedule = ScaledLinear(end="first")
    if isinstance(sampler, Euler):
        schedule = ScaledLinear()
    got = sample(sampler, schedule, core.sample_keys(0, 2), start=Start(image=image, mask=mask))
    np.testing.assert_array_equal(np.where(mask, got, 0), np.where(mask, image, 0))
    assert np.abs(np.where(mask, 0, got - image)).max() > 0.1
