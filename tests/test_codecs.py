"""Codecs: every level comes back from encoding and decoding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXPERIMENTS

from jaxgen.codecs import Augmented, Binarize, Colours, Dequantize, Identity, Pixels
from jaxgen.data import Digits, ImageFolder
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment, presets
from jaxgen.models.image_gpt import ImageGPT
from jaxgen.nets.gpt import TokenTransformer
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import loaded_codec

LEVELS = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1)


def encode(codec, x, seed=0):
    batch = jax.jit(lambda x, key: codec.encode({"x": x, "cond": jnp.ones(len(x))}, key))(x, jax.random.key(seed))
    assert set(batch) == {"x", "cond"}, "other fields pass through"
    return batch["x"]


@pytest.mark.parametrize(
    "codec",
    [Pixels(), Pixels(low=0.0), Pixels(low=-0.3, high=2.7), Dequantize(), Dequantize(noise=False), Identity()],
)
@pytest.mark.parametrize("seed", range(3))
def test_all_256_levels_come_back(codec, seed):
    x = encode(codec, LEVELS, seed)
    np.testing.assert_array_equal(codec.decode(x), LEVELS)


def test_pixels_are_equal_steps_from_low_to_high():
    x = np.asarray(encode(Pixels(), LEVELS)).ravel()
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, np.linspace(-1, 1, 256), atol=1e-6)


@pytest.mark.parametrize("codec", [Pixels(), Binarize(), Dequantize()])
def test_decode_clips_values_out_of_range(codec):
    raw = codec.decode(jnp.array([-7.0, 7.0]))
    assert raw.dtype == jnp.uint8
    assert raw.tolist() == [0, 255]


@pytest.mark.parametrize("bits", range(1, 9))
def test_dequantize_keeps_the_high_bits(bits):
    codec = Dequantize(bits=bits)
    x = encode(codec, LEVELS)
    levels = LEVELS >> (8 - bits)
    noise = np.asarray(x, np.float64) * 2**bits - np.asarray(levels)
    assert noise.min() >= 0 and noise.max() < 1
    back = codec.decode(x)
    np.testing.assert_array_equal(back >> (8 - bits), levels)
    assert len(np.unique(back)) == 2**bits
    # Each level returns to the middle of its bin.
    assert np.abs(back.astype(int) - np.asarray(LEVELS).astype(int)).max() <= 2 ** (7 - bits)


def test_dequantization_noise_is_uniform():
    noise = np.asarray(encode(Dequantize(), jnp.zeros((1, 100, 100, 1), jnp.uint8)), np.float64) * 256
    assert abs(noise.mean() - 1 / 2) < 5 * np.sqrt(1 / 12 / noise.size)
    assert abs(noise.var() - 1 / 12) < 5 * np.sqrt(1 / 180 / noise.size)


@pytest.mark.parametrize("codec", [Dequantize(), Dequantize(low=-1.0)])
def test_dequantization_never_rounds_up_to_the_next_level(codec):
    """In f32, 255 + u rounds to 256 for u within 2^-17 of one: about thirty of these four million pixels."""
    x = jnp.full((64, 256, 256, 1), 255, jnp.uint8)
    assert float(encode(codec, x).max()) < 1
    assert int(jax.jit(codec.decode)(encode(codec, x - 1)).max()) == 254


def test_log_volume_is_the_width_of_a_level():
    assert np.isclose(Dequantize(bits=5, low=-1.0).log_volume, np.log(2 / 32))
    # A uniform density over the range gives every level 2^-bits.
    assert np.isclose(-np.log(2.0) + Dequantize(low=-1.0).log_volume, -8 * np.log(2))


def test_binarize_draws_with_the_pixels_probability():
    x = jnp.broadcast_to(jnp.array([0, 51, 128, 255], jnp.uint8), (10_000, 4))
    drawn = np.asarray(encode(Binarize(), x))
    assert set(np.unique(drawn)) == {0, 1}
    p = np.array([0, 51, 128, 255]) / 255
    assert np.all(np.abs(drawn.mean(0) - p) <= 5 * np.sqrt(p * (1 - p) / len(x)))
    assert not np.array_equal(drawn, encode(Binarize(), x, seed=1)), "anew at each visit"


def test_binarize_at_a_threshold():
    x = np.asarray(encode(Binarize(dynamic=False), LEVELS)).ravel()
    np.testing.assert_array_equal(x, np.arange(256) >= 128)


def test_binarize_decodes_probabilities():
    assert Binarize().decode(jnp.array([0.0, 0.2, 1.0])).tolist() == [0, 51, 255]


def test_codecs_without_weights_are_static():
    """So equal codecs share an executable, and different ones do not."""
    assert jax.tree.leaves(Pixels()) == []
    assert jax.tree.structure(Pixels()) == jax.tree.structure(Pixels())
    assert jax.tree.structure(Pixels()) != jax.tree.structure(Pixels(low=0.0))


# --- colours ---


def test_a_pixel_is_its_nearest_colour_by_brute_force_in_raster_order():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (5, 3, 4, 3), dtype=np.uint8)
    codec = Colours(shape=(3, 4, 3), size=9).load().measured([{"x": pictures[:3]}])
    tokens = np.asarray(encode(codec, jnp.asarray(pictures)))
    assert tokens.dtype == np.int32 and tokens.shape == (5, 12)
    table = np.asarray(codec.colours, float)
    for picture, row in zip(pictures, tokens):
        far = [((pixel - table) ** 2).sum(axis=1) for line in picture for pixel in line]
        np.testing.assert_array_equal(row, [f.argmin() for f in far])
    decoded = np.asarray(codec.decode(tokens))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, codec.colours[tokens].reshape(5, 3, 4, 3))
    np.testing.assert_array_equal(encode(codec, jnp.asarray(decoded)), tokens)


def test_digits_have_seventeen_levels_that_all_come_back():
    data = Digits()
    codec = Colours(shape=(8, 8, 1), size=17).load().measured([data.batch_at(0, 0, 256)])
    x = jnp.asarray(data.arrays("test")["x"])
    np.testing.assert_array_equal(codec.decode(encode(codec, x)), x)
    before = Colours(shape=(8, 8, 1), size=256).load()
    np.testing.assert_array_equal(before.decode(encode(before, x)), x)


def test_colours_are_kept_in_the_runs_record(tmp_path):
    experiment = Experiment(model=ImageGPT(), codec=Colours(shape=(8, 8, 1), size=5), data=Digits())
    codec = loaded_codec(None, experiment)
    assert not codec.draws and len(np.unique(codec.colours)) == 5
    np.testing.assert_array_equal(codec.colours, loaded_codec(None, experiment).colours)
    run = RunFolder(tmp_path)
    run.keep_codec(codec.provenance)
    # The data are not asked again.
    again = loaded_codec(run, dataclasses.replace(experiment, data=ImageFolder(folder="/nowhere")))
    np.testing.assert_array_equal(again.colours, codec.colours)
    assert again.shape == (8, 8, 1)
    for damaged in ({}, {"colours": [[0], [1]]}, {"colours": [[0], [1], [2], [3], [300]]}):
        with pytest.raises(UserError, match="is no table of"):
            experiment.codec.load(damaged)


def test_colours_of_other_pictures_or_for_other_models_are_refused():
    codec = Colours(shape=(8, 8, 1), size=17).load()
    with pytest.raises(UserError, match=r"--codec\.shape 4 4 3 --model\.shape 4 4 3"):
        codec.encode({"x": np.zeros((1, 4, 4, 3), np.uint8)}, jax.random.key(0))
    with pytest.raises(UserError, match=r"pass --model\.network\.vocab 17"):
        codec.check_model(ImageGPT())
    with pytest.raises(UserError, match="give both the shape"):
        codec.check_model(ImageGPT(shape=(4, 4, 1), network=TokenTransformer(vocab=17)))
    for way in (lambda: Colours().encode({}, jax.random.key(0)), lambda: Colours().decode(jnp.zeros(1))):
        with pytest.raises(UserError, match=r"call its load\(\)"):
            way()


def test_a_codec_that_changes_pictures_is_for_training_alone():
    experiment = presets(EXPERIMENTS["vae"])["smoke"]
    with pytest.raises(UserError, match="held-out pictures too"):
        dataclasses.replace(experiment, codec=Augmented(experiment.codec, shift=1)).check()
