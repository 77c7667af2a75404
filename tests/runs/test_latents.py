"""Latents of a first stage: standardized by what was measured as a run began, and encoded once before training."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXPERIMENTS, first_stage
from PIL import Image

from jaxgen import core
from jaxgen.codecs import Augmented, Binarize, Dequantize, Identity, Pixels
from jaxgen.core.mesh import Layout
from jaxgen.data import Captioned, Digits, Emoji, ImageFolder, Mirrored
from jaxgen.errors import UserError
from jaxgen.experiment import on_images, presets
from jaxgen.ops.samplers import Euler
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.pretrained import Pretrained
from jaxgen.runs.restore import MEASURED, loaded_codec, open_run, restore
from jaxgen.train.encoding import CHUNK, encoded_once
from jaxgen.train.loop import train

SMOKE = presets(EXPERIMENTS["latent_diffusion"])["smoke"]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    stage = first_stage(SMOKE.codec.run, tmp_path_factory.mktemp("stage"))
    return replace(SMOKE, codec=replace(SMOKE.codec, run=str(stage)))


@pytest.fixture(scope="module")
def codec(experiment):
    return loaded_codec(None, experiment)


def test_latents_are_standardized_by_a_thousand_training_examples(experiment, codec):
    plain = experiment.codec.load()
    batches = [experiment.data.batch_at(0, step, 64) for step in range(MEASURED // 64)]
    encode = jax.jit(lambda codec, x: codec.encode({"x": x}, jax.random.key(0))["x"])
    z = np.concatenate([np.asarray(encode(plain, batch["x"]), np.float64) for batch in batches]).reshape(-1, 8)
    np.testing.assert_allclose(codec.mean, z.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(codec.deviation, z.std(axis=0), rtol=1e-4)
    assert z.std() < 0.5  # or nothing would be tested
    whole = np.concatenate([np.asarray(encode(codec, batch["x"]), np.float64) for batch in batches]).reshape(-1, 8)
    np.testing.assert_allclose(whole.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(whole.std(axis=0), 1, rtol=1e-4)


def test_standardized_latents_are_the_same_pictures(experiment, codec):
    plain, raw = experiment.codec.load(), experiment.data.batch_at(0, 0, 8)
    one, other = (jax.jit(lambda c: c.decode(c.encode(raw, jax.random.key(0))["x"]))(c) for c in (plain, codec))
    assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1
    unrounded = jax.jit(lambda c: c.unrounded(c.encode(raw, jax.random.key(0))["x"]))(codec)
    np.testing.assert_allclose(np.clip(unrounded, 0, 1) * 255, other, atol=0.51)


@pytest.mark.parametrize(("changed", "words"), [
    ({"sampler": Euler(clip=1.0)}, "latents have a deviation of one and go beyond: pass --model.sampler.clip 0"),
    ({"ode_steps": 10}, "latents are no pixels"), ({"bound_steps": 10}, "latents are no pixels"),
])  # fmt: skip
def test_what_holds_of_pixels_alone_is_refused(experiment, changed, words):
    with pytest.raises(UserError, match=words):
        replace(experiment, model=replace(experiment.model, **changed)).check()


def test_a_run_keeps_what_it_measured(experiment, codec, tmp_path):
    run = open_run(experiment, tmp_path / "run", None, codec)
    other = replace(experiment, data=Digits(), seed=5)
    again = loaded_codec(RunFolder(run.path), other)
    np.testing.assert_array_equal(again.mean, codec.mean)
    np.testing.assert_array_equal(again.deviation, codec.deviation)
    as_they_are = replace(experiment.codec, standardize=False)
    assert loaded_codec(None, replace(experiment, codec=as_they_are)).mean is None


def test_a_run_is_read_where_its_data_are_not():
    """Most codecs measure nothing, so that sampling needs no data set."""
    gone = replace(SMOKE, codec=Pixels(), data=ImageFolder(folder="/nowhere"))
    assert loaded_codec(None, gone) == Pixels()


def test_a_channel_that_never_changes_keeps_its_scale(experiment):
    codec = experiment.codec.load()
    blind = replace(codec, state=jax.tree.map(jnp.zeros_like, codec.state))
    np.testing.assert_array_equal(blind.measured([experiment.data.batch_at(0, 0, 4)]).deviation, 1)


def test_examples_are_encoded_once_as_in_each_step(codec):
    raw = {name: array[: CHUNK + 9] for name, array in Digits().arrays("train").items()}
    data, left = encoded_once(raw, codec, 1 << 30)
    assert left == Identity()
    each = jax.jit(codec.encode)(raw, jax.random.key(1))
    np.testing.assert_allclose(data["x"], each["x"], atol=1e-5)
    np.testing.assert_array_equal(data["cond"], raw["cond"])
    layout = Layout.make("data=2", CHUNK, 1)
    over, _ = encoded_once(raw, layout.put(codec, layout.everywhere), 1 << 30, layout)
    np.testing.assert_allclose(over["x"], data["x"], atol=1e-5)


def test_what_draws_or_does_not_fit_is_encoded_in_each_step(codec):
    raw = Digits().arrays("train")
    for budget, one in ((1000, codec), (1 << 30, Augmented(codec, True, 0)), (1 << 30, Pixels())):
        data, left = encoded_once(raw, one, budget)
        assert data is raw and left is one
    assert encoded_once(None, codec, 1 << 30) == (None, codec)
    draws = [Binarize(), Dequantize(), Augmented(Pixels(), True, 0), Binarize(dynamic=False), Dequantize(noise=False)]
    assert [c.draws for c in draws] == [True, True, True, False, False]


def test_a_resumed_run_ends_as_one_that_was_not_interrupted(experiment, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(experiment, whole)
    train(replace(experiment, steps=10), parts)
    train(experiment, parts)
    one, other = (restore(RunFolder(path)) for path in (whole, parts))
    np.testing.assert_array_equal(one.codec.mean, other.codec.mean)
    jax.tree.map(np.testing.assert_array_equal, one.state.params, other.state.params)
    # The samples are pictures.
    x = core.sample(one.model, one.state, core.sample_keys(0, 4), jnp.arange(4), one.codec)
    assert x.shape == (4, 8, 8, 1) and x.dtype == np.uint8


# --- mirrored pictures, and folders of one's own ---


def test_mirrored_pictures_follow_the_others():
    plain, data = Emoji(size=16), Mirrored(data=Emoji(size=16))
    x, both = plain.arrays("train")["x"], data.arrays("train")
    assert data.count("train") == 2 * len(x) and data.count("test") == plain.count("test")
    np.testing.assert_array_equal(both["x"][len(x) + 3], x[3, :, ::-1])
    np.testing.assert_array_equal(both["cond"][: len(x)], both["cond"][len(x) :])
    assert data.captions("train")[len(x) + 3] == plain.captions("train")[3]
    assert len(data.captions("test")) == data.count("test") and data.class_names == plain.class_names
    text = Captioned(data=data, tokenizer="bytes", window=12).arrays("train")["text"]
    np.testing.assert_array_equal(text[: len(x)], text[len(x) :])


def test_a_folder_takes_the_place_of_the_pictures_within(experiment, tmp_path):
    for i in range(20):
        file = tmp_path / "pictures" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9), 10 * i, np.uint8)).save(file)
    fitted = on_images(replace(experiment, data=Mirrored(data=Digits())), str(tmp_path / "pictures"), channels=1)
    assert fitted.model.shape == (2, 2, 8) and fitted.model.num_classes == 2
    assert isinstance(fitted.data, Mirrored) and fitted.data.data == ImageFolder(
        folder=str(tmp_path / "pictures"), size=8, channels=1
    )
    fitted = on_images(presets(EXPERIMENTS["text_to_image"])["smoke"], str(tmp_path / "pictures"))
    assert fitted.model.num_classes == 0 and fitted.model.shape == (16, 16, 3)


def test_a_codec_says_the_shapes_of_latents(experiment):
    assert experiment.codec.shape_of((8, 8, 1)) == (2, 2, 8) and experiment.codec.raw_shape((2, 2, 8)) == (8, 8, 1)
    assert Pretrained(run="none").shape_of((3, 3, 1)) == Pixels().raw_shape((3, 3, 1)) == (3, 3, 1)
