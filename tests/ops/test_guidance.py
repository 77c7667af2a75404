"""Guidance: classifier-free in one pass, its interval and rescaling, autoguidance; one compile for all its values."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_diffusion import CALLS, LABELS, MODEL, NULL, Tiny, state_of

from jaxgen import core
from jaxgen.core.configuration import check_fields
from jaxgen.errors import UserError
from jaxgen.models.autoguided import Autoguided
from jaxgen.ops.guidance import Guidance
from jaxgen.ops.samplers import DDIM, Ancestral, DPMSolverPP, Euler, Heun


def denoise(model, state, cond):
    x = jax.random.normal(jax.random.key(5), (3, 4, 2))
    return np.asarray(jax.jit(lambda x, t: model.denoiser(state.params, cond)(x, t).x0)(x, jnp.array([10, 50, 90])))


def test_guidance_1_is_the_condition_and_0_is_none():
    state = state_of(MODEL)
    conditional, free = denoise(MODEL, state, LABELS), denoise(MODEL, state, NULL)
    assert np.abs(conditional - free).max() > 0.01
    scale = jnp.array([1.0, 0.0, 3.0])
    guided = denoise(MODEL, state, {"label": LABELS, "guidance": scale})
    np.testing.assert_allclose(guided[0], conditional[0], atol=1e-5)
    np.testing.assert_allclose(guided[1], free[1], atol=1e-5)
    np.testing.assert_allclose(guided[2], free[2] + 3 * (conditional[2] - free[2]), atol=1e-4)
    fixed = denoise(replace(MODEL, guidance=Guidance(scale=3.0)), state, LABELS)
    np.testing.assert_allclose(fixed[2], guided[2], atol=1e-4)


def test_guidance_is_one_forward_pass():
    """Regression: two passes. The loop's body evaluates the network once, on twice the batch."""
    state = state_of(MODEL)
    for cond, size in [(LABELS, 3), ({"label": LABELS, "guidance": jnp.full(3, 2.0)}, 6)]:
        CALLS.clear()
        keys = core.sample_keys(0, 3)
        jaxpr = jax.make_jaxpr(lambda keys, cond: MODEL.sample(state, keys, cond))(keys, cond)
        assert len(jaxpr.jaxpr.eqns) and set(CALLS) == {(size, 4, 2)}
        assert str(jaxpr).count("dot_general") == 3, "the network's three layers stand once in the program"


def test_guidance_outside_its_interval_does_nothing():
    state = state_of(MODEL)
    ratios = np.exp(-MODEL.schedule.logsnr(np.array([10, 50, 90])) / 2)
    model = replace(MODEL, guidance=Guidance(scale=4.0, interval=(float(ratios[0]) * 1.01, float(ratios[1]) * 1.01)))
    got, conditional = denoise(model, state, LABELS), denoise(MODEL, state, LABELS)
    np.testing.assert_allclose(got[[0, 2]], conditional[[0, 2]], atol=1e-5)
    always = denoise(replace(MODEL, guidance=Guidance(scale=4.0)), state, LABELS)
    np.testing.assert_allclose(got[1], always[1], atol=1e-5)


def test_rescaled_guidance_has_the_conditions_deviation():
    state = state_of(MODEL)
    plain = Guidance(scale=5.0)
    conditional, guided = (denoise(replace(MODEL, guidance=g), state, LABELS) for g in (Guidance(), plain))
    full, half = (denoise(replace(MODEL, guidance=replace(plain, rescale=r)), state, LABELS) for r in (1.0, 0.5))
    np.testing.assert_allclose(full.std((1, 2)), conditional.std((1, 2)), rtol=1e-4)
    np.testing.assert_allclose(half, (full + guided) / 2, atol=1e-4)


def test_autoguidance_goes_away_from_the_guide():
    """x_0 = guide + w (model - guide), where the guide is another network: at w = 0 it is the guide's prediction."""
    guide = replace(MODEL, network=Tiny(name=None), schedule=MODEL.schedule)
    states = state_of(MODEL), state_of(guide, seed=1)
    both = Autoguided(model=replace(MODEL, sampler=DDIM(1, clip=0.0)), guide=guide)
    joined = both.join(*states)

    def sampled(model, state, cond):
        return np.asarray(core.sample(model, state, core.sample_keys(0, 3), cond))

    one, other = (sampled(both.model, state, LABELS) for state in states)
    got = sampled(both, joined, {"label": LABELS, "guidance": jnp.array([0.0, 1.0, 2.5])})
    expected = other + np.array([0, 1, 2.5])[:, None, None] * (one - other)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3 * np.abs(expected).max())
    np.testing.assert_allclose(sampled(both, joined, LABELS), one, rtol=1e-4)


@pytest.mark.parametrize(
    "sampler", [Ancestral(5), DDIM(5, eta=1.0), Euler(5), Heun(4), DPMSolverPP(5)], ids=lambda s: type(s).__name__
)
def test_a_sampler_setting_compiles_once_whatever_the_seed_scale_or_class(sampler):
    model, state = replace(MODEL, sampler=sampler), state_of(MODEL)
    cond = {"label": LABELS, "guidance": jnp.full(3, 2.0)}
    core.sample(model, state, core.sample_keys(0, 3), cond)
    before = core.sample_program._cache_size()
    for seed, scale, labels in [(1, 2.0, LABELS), (0, 7.5, LABELS), (5, 0.0, NULL), (2, 1.0, LABELS[::-1])]:
        equal = replace(MODEL, sampler=replace(sampler))
        cond = {"label": labels, "guidance": jnp.full(3, scale)}
        assert np.all(np.isfinite(core.sample(equal, state, core.sample_keys(seed, 3), cond)))
    assert core.sample_program._cache_size() == before


def test_dropped_conditions_are_the_null_class():
    labels = jnp.arange(3000) % 3
    dropped = np.asarray(MODEL.drop(core.sample_keys(0, len(labels)), labels))
    none = dropped == -1
    assert abs(none.mean() - 0.5) < 5 * 0.5 / np.sqrt(3000)
    np.testing.assert_array_equal(dropped[~none], np.asarray(labels)[~none])
    np.testing.assert_array_equal(MODEL.inputs({}, NULL)["y"], 0)


@pytest.mark.parametrize("interval", [(1.0,), (2.0, 1.0)])
def test_an_interval_is_two_ends(interval):
    with pytest.raises(UserError, match="lowest and highest"):
        check_fields(Guidance(interval=interval))
