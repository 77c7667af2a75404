"""Samplers of few steps, on Gaussian data and against loops."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Mixture, run

from jaxgen.core import normal_each, sample_keys
from jaxgen.core.keys import fold_each
from jaxgen.errors import UserError
from jaxgen.ops.diffusion import Denoised
from jaxgen.ops.few_steps import Halved, Renoised
from jaxgen.ops.samplers import DDIM
from jaxgen.ops.schedules import Cosine, Karras, ScaledLinear, Straight
from jaxgen.ops.trigflow import Trig

SCHEDULES = [Cosine(100), Karras(), Straight(), ScaledLinear(), Trig()]
MU, STD = 0.3, 0.6


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("steps", [1, 3])
def test_renoising_by_the_exact_consistency_function_draws_the_data(schedule, steps):
    """f of Gaussian data is affine: quantiles stay what they are. Against a loop too."""

    def f(x, alpha, sigma):
        return MU + STD * (x - alpha * MU) / (alpha**2 * STD**2 + sigma**2) ** 0.5

    def denoise(x, t):
        return Denoised(f(x, *schedule.at(t, x.ndim)))

    sampler = Renoised(steps)
    x = jax.jit(lambda keys: sampler(denoise, schedule, keys, (2,)))(sample_keys(0, 4000))
    x = np.asarray(x, np.float64)
    # What is left of the mean at the noisiest time is not known to pure noise, or its signal is missed.
    np.testing.assert_allclose([x.mean(), x.std()], [MU, STD], atol=0.03)
    table = sampler.table(schedule)
    noise = [np.asarray(normal_each(fold_each(sample_keys(0, 3), i), (2,)), np.float64) for i in range(steps + 1)]
    again = run(table, schedule, f, table.start * noise[0], noise[1:])
    np.testing.assert_allclose(x[:3], again, atol=5e-3)


def test_the_second_of_two_steps_has_as_much_noise_as_data():
    t = Renoised(2).table(Straight()).t
    np.testing.assert_allclose(t, [1, 0.5])
    table = Renoised(3, angles=(1.1, 0.4)).table(Karras())
    np.testing.assert_allclose(table.t, [80, math.tan(1.1), math.tan(0.4)], rtol=1e-6)
    np.testing.assert_allclose(table.column("c"), [math.tan(1.1), math.tan(0.4), 0], rtol=1e-6)
    for bad in (Renoised(2, angles=(0.5, 0.4)), Renoised(3, angles=(0.4, 1.1))):
        with pytest.raises(UserError, match="decreasing"):
            bad.table(Karras())


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_halved_steps_visit_levels_of_the_finest_grid(schedule):
    grid = schedule.grid(16)
    for steps in (16, 4, 1):
        table = Halved(steps, of=16, clip=0.0).table(schedule)
        np.testing.assert_array_equal(table.t, grid.t[:: 16 // steps])
        assert table.column("c").max() == 0
    finest, plain = (s.table(schedule) for s in (Halved(16, of=16), DDIM(16)))
    np.testing.assert_allclose(finest.a, plain.a, atol=1e-12)
    np.testing.assert_allclose(finest.b, plain.b, atol=1e-12)
    with pytest.raises(UserError, match="divisor"):
        Halved(3, of=16).table(schedule)


def test_halved_steps_are_ddim_steps():
    """Of a mixture's exact denoiser, against a float64 loop over alpha' x_0 + sigma' eps."""
    schedule, mixture = Cosine(1000), Mixture()
    grid = schedule.grid(8)
    x = np.random.default_rng(0).normal(size=5)
    expected = x
    for i in range(0, 8, 2):
        alpha, sigma, after = grid.alpha[i], grid.sigma[i], (grid.alpha[i + 2], grid.sigma[i + 2])
        x0 = mixture.x0(expected, alpha, sigma)
        expected = after[0] * x0 + after[1] * (expected - alpha * x0) / sigma
    np.testing.assert_allclose(run(Halved(4, of=8).table(schedule), schedule, mixture.x0, x), expected, atol=1e-9)
    assert jnp.isfinite(expected).all()
