"""A run as the first stage of another: codes in, images out, and what is wrong with it said in one line."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXPERIMENTS, first_stage

from jaxgen import core
from jaxgen.codecs import Pixels
from jaxgen.core.configuration import from_json, to_json
from jaxgen.data import Digits, Emoji
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.models.pixelcnn import PixelCNN
from jaxgen.nets.pixelcnn import GatedPixelCNN
from jaxgen.ops.levels import Categorical
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.pretrained import Pretrained
from jaxgen.runs.restore import loaded_codec, open_run, restore

NAME = "runs/vqvae-smoke-0"
PRIOR = presets(EXPERIMENTS["vqvae_prior"])["smoke"]
RAW = {"x": Digits().arrays("test")["x"][:6], "cond": Digits().arrays("test")["cond"][:6]}


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Path:
    return first_stage(NAME, tmp_path_factory.mktemp("stage"))


@pytest.fixture(scope="module")
def restored(stage):
    """The first stage's model and state, as any run is restored."""
    trained = restore(RunFolder(stage))
    return trained.model, trained.state


def test_it_encodes_and_decodes_as_the_run_does(stage, restored):
    model, state = restored
    codec = Pretrained(run=str(stage)).load()
    batch = jax.jit(codec.encode)(RAW, jax.random.key(0))
    x = Pixels().encode(RAW, jax.random.key(0))["x"]
    np.testing.assert_array_equal(batch["x"], jax.jit(model.encode_codes)(state, x))
    np.testing.assert_array_equal(batch["cond"], RAW["cond"])
    raw = jax.jit(codec.decode)(batch["x"])
    assert raw.dtype == np.uint8
    np.testing.assert_array_equal(raw, Pixels().decode(jax.jit(model.decode_codes)(state, batch["x"])))


@pytest.mark.parametrize("form", ["levels", "latents"])
def test_other_forms_say_the_same(stage, form):
    tokens, other = (Pretrained(run=str(stage), form=f).load() for f in ("tokens", form))
    key = jax.random.key(0)
    x = jax.jit(other.encode)(RAW, key)["x"]
    assert x.shape == ((6, 2, 2, 1) if form == "levels" else (6, 2, 2, 8))
    codes = jax.jit(tokens.encode)(RAW, jax.random.key(1))["x"]
    np.testing.assert_array_equal(jax.jit(other.decode)(x), jax.jit(tokens.decode)(codes))
    if form == "levels":
        likelihood = Categorical(levels=16)
        np.testing.assert_allclose(likelihood.nearest(x), x, atol=1e-6)


def test_a_first_stage_that_was_trained_anew_is_read_anew(stage, tmp_path):
    """Regression: the weights of the first one were kept, by path and step, for as long as the process lived."""
    shutil.copytree(stage, tmp_path / "run")
    before = dict(Pretrained(run=str(tmp_path / "run")).load().source)
    run = RunFolder(tmp_path / "run")
    state = restore(run).state
    with Checkpoints(run.checkpoints) as checkpoints:
        shape = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), state)
        whole = checkpoints.restore(shape, int(state.step))
    shutil.rmtree(run.checkpoints)
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save(whole.replace(params=jax.tree.map(lambda a: 2 * a, whole.params)))
    after = dict(Pretrained(run=str(tmp_path / "run")).load().source)
    assert before["step"] == after["step"] and before["sha256"] != after["sha256"]


def test_it_is_a_value(stage):
    codec = Pretrained(run=str(stage))
    assert from_json(json.loads(json.dumps(to_json(codec)))) == codec
    assert hash(codec) == hash(Pretrained(run=str(stage)))


def test_a_run_goes_on_with_the_weights_it_began_with(stage, restored, tmp_path):
    """A first stage that was trained further is read at the step of then; one whose weights changed is refused."""
    _, state = restored
    mine = tmp_path / "vqvae-smoke-0"
    shutil.copytree(stage, mine)
    prior = replace(PRIOR, codec=Pretrained(run=str(mine)))
    run = RunFolder(tmp_path / "prior")
    codec = loaded_codec(run, prior)
    open_run(prior, run.path, None, codec)
    assert run.codec_record()["step"] == 0
    with Checkpoints(mine / "checkpoints") as checkpoints:
        checkpoints.save(state.replace(step=jnp.int32(10), params=jax.tree.map(lambda a: a + 1, state.params)))
    assert Pretrained(run=str(mine)).load().provenance["step"] == 10
    assert loaded_codec(run, prior).provenance == codec.provenance
    record = {**run.codec_record(), "sha256": "0" * 64}
    with pytest.raises(UserError, match="has other weights at step 0 than when this run began"):
        prior.codec.load(record)
    with pytest.raises(UserError, match=r"no checkpoint of step 5, with which this run began, only of \[0, 10\]"):
        prior.codec.load({**record, "step": 5})


def test_a_missing_first_stage_says_how_to_make_it():
    with pytest.raises(UserError, match=r"no run folder.*python experiments/vqvae\.py smoke --seed 0"):
        PRIOR.check()
    with pytest.raises(UserError, match=r"--codec\.run"):
        Pretrained().load()


def test_a_run_that_makes_no_codes_is_refused(tmp_path):
    RunFolder(tmp_path / "ae").create(presets(EXPERIMENTS["autoencoder"])["smoke"])
    with pytest.raises(UserError, match="a run of Autoencoder, which makes no codes"):
        Pretrained(run=str(tmp_path / "ae")).load()
    RunFolder(tmp_path / "vq").create(presets(EXPERIMENTS["vqvae"])["smoke"])
    with pytest.raises(UserError, match="has no checkpoints: train it first"):
        Pretrained(run=str(tmp_path / "vq")).load()


def test_a_model_of_another_vocabulary_is_refused(stage):
    prior = replace(PRIOR, codec=Pretrained(run=str(stage)))
    wrong = replace(prior.model, network=replace(prior.model.network, vocab=17))
    with pytest.raises(UserError, match=r"knows 17 codes, the first stage .* has 16: pass --model\.network\.vocab 16"):
        replace(prior, model=wrong).check()
    pixels = PixelCNN(shape=(2, 2, 1), likelihood=Categorical(levels=16))
    with pytest.raises(UserError, match=r"PixelCNN takes no tokens: try --codec\.form levels"):
        replace(prior, model=pixels).check()
    with pytest.raises(UserError, match=r"the first stage .* takes"):
        replace(prior, data=Emoji(size=16)).check()


# --- PixelCNN of codes ---


def test_pixelcnn_of_embedded_codes_samples_by_cache_what_the_whole_network_says(stage):
    """An embedding sees a code as a name: the cached sampler draws the same as the network anew for each."""
    model = PixelCNN(
        shape=(2, 2, 1), network=GatedPixelCNN(width=4, layers=1, first_size=3, head=4),
        likelihood=Categorical(levels=16), embed=3,
    )  # fmt: skip
    codec = Pretrained(run=str(stage), form="levels").load()
    codec.check_model(model)
    state = core.init(model, core.run_key(0, core.INIT), RAW, codec)
    assert state.params["embed"]["embedding"].shape == (16, 3)
    cached = core.sample(model, state, core.sample_keys(0, 8))
    anew = core.sample(replace(model, cached=False), state, core.sample_keys(0, 8))
    np.testing.assert_allclose(anew, cached, atol=1e-6)
    x = jax.jit(codec.encode)(RAW, jax.random.key(0))["x"]
    swapped = jax.tree.map(jnp.array, state.params)
    level = int(model.likelihood.level(x)[0, 0, 0, 0])
    swapped["embed"]["embedding"] = swapped["embed"]["embedding"].at[level].add(1.0)
    log_prob = jax.jit(model.log_prob)
    assert bool(jnp.any(log_prob(swapped, x) != log_prob(state.params, x)))
