"""Noise conditioning augmentation of super-resolution: its closed form, what the network is told, and text."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_diffusion import Tiny, state_of

from jaxgen import core
from jaxgen.core.keys import fold_each, normal_each
from jaxgen.errors import UserError
from jaxgen.models.super_resolution import AUGMENT, SINUSOIDS, SuperResolution, augmented
from jaxgen.nets.clip import TextTower, tower
from jaxgen.nets.unet import time_embedding
from jaxgen.ops.guidance import Guidance
from jaxgen.ops.samplers import DDIM
from jaxgen.ops.schedules import Linear

PLAIN = SuperResolution(
    network=Tiny(), schedule=Linear(100), sampler=DDIM(3, clip=0.0), shape=(4, 4, 1), factor=2, ema_decay=0.0
)
MODEL = replace(PLAIN, augment=0.8, level=0.3)
X = jnp.tanh(jax.random.normal(jax.random.key(1), (3, 4, 4, 1)))
BATCH = {"x": X}
SMALL = MODEL.shrink(X)


@pytest.fixture(scope="module")
def state():
    return state_of(MODEL, BATCH)


def drawn(state, cond, model=MODEL, seed=0):
    return np.asarray(core.sample(model, state, core.sample_keys(seed, len(cond["image"])), cond))


def test_the_closed_form_from_nothing_to_all():
    """The picture itself at level 0 and the noise itself at 1, bit for bit; between them the variance stays."""
    z, eps = (np.random.default_rng(i).normal(size=(3, 4, 4, 1)).astype(np.float32) for i in (0, 1))
    found = np.asarray(augmented(z, eps, jnp.array([0.0, 1.0, 1 / 3])))
    np.testing.assert_array_equal(found[0], z[0])
    np.testing.assert_array_equal(found[1], eps[1])
    np.testing.assert_allclose(found[2], np.sqrt(3) / 2 * z[2] + eps[2] / 2, rtol=1e-5, atol=1e-6)
    many = augmented(jnp.full((1, 40_000), 0.6), jax.random.normal(jax.random.key(0), (1, 40_000)), jnp.array([0.25]))
    assert abs(np.mean(many) - 0.6 * np.cos(np.pi / 8)) < 5 * np.sin(np.pi / 8) / 200
    assert abs(np.std(many) - np.sin(np.pi / 8)) < 0.01


def test_level_0_is_the_condition_of_plain_super_resolution():
    """The network sees the same enlarged picture, and beside it the sinusoids of 0."""
    keys = core.sample_keys(0, 3)
    cond = replace(MODEL, level=0.0).drawn_told(keys, {"image": SMALL})
    np.testing.assert_array_equal(cond["image"], SMALL)
    told, plain = MODEL.inputs({}, cond), PLAIN.inputs({}, {"image": SMALL})
    np.testing.assert_array_equal(told["image"], plain["image"])
    np.testing.assert_array_equal(told["y"], time_embedding(jnp.zeros(3), SINUSOIDS))
    assert "y" not in plain and "level" not in PLAIN.drawn_told(core.sample_keys(0, 3), {"image": SMALL})
    # A condition without a level, as in evaluation, is one of level 0.
    np.testing.assert_array_equal(MODEL.inputs({}, {"image": SMALL})["y"], told["y"])


def test_samples_are_told_the_level_of_the_noise_they_see(state):
    """By hand: noise of each sample's own key, enlarged, with the sinusoids of the level, into the network."""
    levels = jnp.array([0.1, 0.3, 0.7])
    told = MODEL.drawn_told(core.sample_keys(0, 3), {"image": SMALL, "level": levels})
    eps = np.asarray(normal_each(fold_each(core.sample_keys(0, 3), AUGMENT), (2, 2, 1)))
    for i, s in enumerate(np.asarray(levels)):
        expected = np.cos(np.pi / 2 * s) * SMALL[i] + np.sin(np.pi / 2 * s) * eps[i]
        np.testing.assert_allclose(told["image"][i], expected, rtol=1e-5, atol=1e-6)
        alone = time_embedding(jnp.array([1000 * s]), SINUSOIDS)
        np.testing.assert_allclose(MODEL.inputs({}, told)["y"][i], alone[0], atol=1e-3)
    # The model's own level is what a condition without one gets.
    base = drawn(state, {"image": SMALL})
    np.testing.assert_array_equal(drawn(state, {"image": SMALL, "level": jnp.full(3, 0.3)}), base)
    np.testing.assert_array_equal(drawn(state, {"image": SMALL}, MODEL.at_level(0.3)), base)
    assert np.abs(drawn(state, {"image": SMALL}, MODEL.at_level(0.6)) - base).max() > 1e-3
    few = np.asarray(core.sample(MODEL, state, core.sample_keys(0, 2), {"image": SMALL[:2]}))
    np.testing.assert_allclose(few, base[:2], atol=1e-5)


def test_training_draws_levels_evenly_up_to_the_highest():
    keys = core.sample_keys(0, 4000)
    cond = {"image": jnp.zeros((4000, 2, 2, 1))}
    told = MODEL.drop(keys, cond)
    levels = np.asarray(told["level"])
    assert 0 <= levels.min() < 0.01 and 0.79 < levels.max() <= 0.8
    assert abs(levels.mean() - 0.4) < 5 * 0.8 / np.sqrt(12 * 4000)
    # Of black pictures in the middle of their range nothing but noise is seen, as strong as is told.
    ratio = np.asarray(told["image"]).std(axis=(1, 2, 3)) / np.sin(np.pi / 2 * levels)
    assert abs(np.sqrt(np.mean(ratio**2)) - np.sqrt(3 / 4)) < 0.02  # of four pixels about their mean
    np.testing.assert_array_equal(MODEL.drop(core.sample_keys(0, 5), {"image": cond["image"][:5]})["level"], levels[:5])


def test_texts_and_levels_are_told_together():
    """Guidance leaves the picture and its level alone, and takes the text away."""
    text = TextTower(vocab=20, window=4, body=tower(8, 1, 2))
    model = replace(MODEL, text=text, class_dropout=0.5, guidance=Guidance(scale=2.0))
    said = {"text": jnp.array([[17, 3, 19, 0]] * 3), "text_mask": jnp.array([[1, 1, 1, 0]] * 3, bool)}
    cond = model.condition({**BATCH, **said})
    assert set(cond) == {"image", "text", "text_mask"}
    told = model.drop(core.sample_keys(0, 3), cond)
    assert set(told) == {"image", "text", "text_mask", "level"}
    params, _ = model.init_told(jax.random.key(0), cond)
    inputs = model.inputs(params, told)
    assert inputs["context"].shape == (3, 4, 8) and inputs["y"].shape == (3, SINUSOIDS)
    labelled = replace(MODEL, num_classes=3).inputs({}, {**told, "label": jnp.array([0, 1, -1])})
    np.testing.assert_array_equal(labelled["y"][:, :3], [[1, 0, 0], [0, 1, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("model", "cond", "message"),
    [
        (MODEL, {"image": jnp.zeros((2, 4, 4, 1))}, r"\(4, 4, 1\) were given, \(2, 2, 1\) is expected"),
        (MODEL, {"image": SMALL, "level": jnp.full(3, 0.9)}, r"levels go to 0\.9: 0 to augment = 0\.8"),
        (PLAIN, {"image": SMALL, "level": jnp.full(3, 0.1)}, "trained without augment"),
    ],
)
def test_conditions_with_levels_are_checked(model, cond, message):
    with pytest.raises(UserError, match=message):
        model.check_cond(cond)


def test_a_level_beyond_training_is_refused():
    with pytest.raises(UserError, match=r"level is 0\.9: at most augment = 0\.8"):
        MODEL.at_level(0.9)
    with pytest.raises(UserError, match="at most augment = 0"):
        PLAIN.at_level(0.1)
