"""The autoencoder of latent diffusion: its loss, its latents, and what it refuses; as a first stage."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import first_stage
from messages import one_line

from jaxgen import core
from jaxgen.core.capabilities import LatentStage
from jaxgen.data import Emoji
from jaxgen.errors import UserError
from jaxgen.models.autoencoder_kl import AutoencoderKL
from jaxgen.nets.autoencoder_kl import LOGVAR, KLCoder, split_moments
from jaxgen.nets.pix2pix import PatchCritic
from jaxgen.runs.pretrained import Pretrained

TINY = AutoencoderKL(
    shape=(16, 24, 3), generator=KLCoder(widths=(8, 8, 16), blocks=1, latent=2, groups=4),
    critic=PatchCritic(channels=(4, 8)), gan_weight=0.8, kl_weight=0.3, scale=0.5,
)  # fmt: skip
X = jnp.asarray(np.tanh(np.random.default_rng(0).normal(size=(4, 16, 24, 3))), jnp.float32)


@pytest.fixture(scope="module")
def state():
    return core.init(TINY, core.run_key(0, core.INIT), {"x": X})


@pytest.fixture(scope="module")
def moments(state):
    return jax.jit(TINY.moments)(state.params["gen"], X)


@pytest.mark.parametrize("distance", ["l1", pytest.param("l2", marks=pytest.mark.slow)])
def test_the_loss_is_its_terms(state, distance):
    """KL per value of x, of two latents for 16 x 3 values; the game from its step on."""
    step = jax.jit(replace(TINY, gan_start=1, distance=distance).train_step)
    waiting, numbers = step(state, jax.random.key(0), {"x": X})
    pixels = "mae" if distance == "l1" else "mse"
    expected = numbers[pixels] + 0.3 * numbers["kl"] * 2 / 48
    assert float(numbers["loss"]) == pytest.approx(float(expected), rel=1e-5)
    for a, b in zip(jax.tree.leaves(waiting.params["critic"]), jax.tree.leaves(state.params["critic"])):
        np.testing.assert_array_equal(a, b)
    _, numbers = step(waiting, jax.random.key(1), {"x": X})
    expected = numbers[pixels] + 0.3 * numbers["kl"] * 2 / 48 + 0.8 * numbers["lambda"] * numbers["gan"]
    assert float(numbers["loss"]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.slow
def test_a_step_in_parts_is_the_step():
    """Draws of z go with the example, not with the part."""
    model = replace(TINY, critic=PatchCritic(channels=(4, 8), norm="instance"))
    state = core.init(model, core.run_key(0, core.INIT), {"x": X})
    whole, parts = (jax.jit(replace(model, accumulate=n).train_step) for n in (1, 2))
    _, one = whole(state, jax.random.key(0), {"x": X})
    _, two = parts(state, jax.random.key(0), {"x": X})
    for name in ("loss", "mse", "kl", "generator_grad_norm"):
        assert float(one[name]) == pytest.approx(float(two[name]), rel=1e-4), name


def test_kl_is_that_of_gaussians(state, moments):
    """Beside the difference of log densities over many draws."""
    mean, logvar = (np.asarray(m, np.float64)[:1] for m in moments)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((4000, *mean.shape))
    z = mean + np.exp(0.5 * logvar) * noise
    drawn = np.mean(-0.5 * (noise**2 + logvar) + 0.5 * z**2)
    numbers = core.evaluate(TINY, state, core.sample_keys(0, 4), {"x": X})
    assert float(numbers["kl"][0]) == pytest.approx(drawn, abs=0.01)


def test_latents_are_draws_times_the_scale(state, moments):
    assert isinstance(TINY, LatentStage) and TINY.draws_latents
    mean, logvar = moments
    assert mean.shape == (4, 4, 6, 2) == (4, *TINY.generator.latent_shape(TINY.shape))
    draw = jax.jit(jax.vmap(lambda key: TINY.to_latent(state, X, key)))
    z = np.asarray(draw(jax.random.split(jax.random.key(0), 2000)))
    deviation = 0.5 * np.exp(0.5 * logvar)
    np.testing.assert_allclose(z.mean(axis=0), 0.5 * mean, atol=0.15 * deviation.max())
    np.testing.assert_allclose(z.std(axis=0), deviation, rtol=0.1)
    back = jax.jit(TINY.from_latent)(state, 0.5 * mean)
    np.testing.assert_allclose(back, jax.jit(TINY.decode)(state.params["gen"], mean), atol=1e-5)


def test_logvar_is_bounded():
    mean, logvar = split_moments(jnp.array([[5.0, 1e4], [-2.0, -1e4]]).reshape(2, 1, 1, 2))
    np.testing.assert_array_equal(mean.ravel(), [5, -2])
    np.testing.assert_array_equal(logvar.ravel(), [LOGVAR[1], LOGVAR[0]])


def test_tiles_give_a_tile_what_it_would_give_alone(state):
    """Where one tile counts, as a picture of that tile: normalization is over it."""
    x = jnp.tile(X, (1, 1, 3, 1))[:, :, :56]  # 14 latents, in tiles of 8 from 0 and 6
    model, key = replace(TINY, tile=8, scale=1.0), jax.random.key(0)
    state = state.replace(params={**state.params, "gen": with_little_noise(state.params["gen"])})
    z = jax.jit(model.to_latent)(state, x, key)
    assert z.shape == (4, 4, 14, 2)
    left, right = (jax.jit(TINY.moments)(state.params["gen"], part)[0] for part in (x[:, :, :32], x[:, :, 24:]))
    np.testing.assert_allclose(z[:, :, :6], left[:, :, :6], atol=1e-4)
    np.testing.assert_allclose(z[:, :, 8:], right[:, :, 2:], atol=1e-4)
    back = jax.jit(model.from_latent)(state, z)
    alone = jax.jit(TINY.decode)(state.params["gen"], z[:, :, 6:])
    np.testing.assert_allclose(back[:, :, 32:], alone[:, :, 8:], atol=1e-4)
    few = jax.jit(model.from_latent)(state, z[:, :, :6])
    np.testing.assert_array_equal(few, jax.jit(TINY.decode)(state.params["gen"], z[:, :, :6]))


def with_little_noise(weights):
    """Weights whose logvar is -30."""
    bias = weights["network"]["quant_conv"]["bias"].at[2:].set(-100.0)
    layer = {**weights["network"]["quant_conv"], "bias": bias}
    return {**weights, "network": {**weights["network"], "quant_conv": layer}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": (18, 24, 3)}, "divide by 4"),
        ({"shape": (16, 24, 1)}, "3 channels"),
        ({"perceptual_weight": 1.0}, "--model.perceptual VGG16 HEADS"),
    ],
)
def test_what_does_not_fit_is_refused(changes, words):
    model = replace(TINY, **changes)
    with pytest.raises(UserError, match=words) as error:
        model.check({"x": jnp.zeros((1, *model.shape))})
    one_line(error)


def test_widths_are_multiples_of_groups():
    assert KLCoder(widths=(8, 12), groups=8).problem() == "widths has 12: multiples of groups = 8 are expected"
    assert KLCoder().problem() is None


def test_a_run_is_a_first_stage(tmp_path):
    run = first_stage("runs/autoencoder_kl-smoke-0", tmp_path)
    codec = Pretrained(run=str(run), form="latents").load()
    x = Emoji(size=16).batch_at(0, 0, 3)["x"]
    z = jax.jit(codec.encode)({"x": x}, jax.random.key(0))["x"]
    assert z.shape == (3, 8, 8, 4) and z.dtype == jnp.float32
    raw = jax.jit(codec.decode)(z)
    assert raw.shape == x.shape and raw.dtype == jnp.uint8
