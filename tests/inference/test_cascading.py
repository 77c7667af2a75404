"""Chains of runs: the same as each by hand, for any batch; refusals before anything is computed; embeddings as data."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXPERIMENTS, first_stage
from PIL import Image
from safetensors.numpy import load_file

import jaxgen
from jaxgen import __main__ as commands
from jaxgen.core import compiled
from jaxgen.data import Captioned, Emoji
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.inference import cascading
from jaxgen.inference.embedded import Embedded
from jaxgen.inference.prompts import embed_images, embed_texts
from jaxgen.inference.restoring import Degraded
from jaxgen.nets.time_mlp import TimeMLP
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.marks import mark
from jaxgen.runs.restore import open_run

PROMPTS = ["red apple", "cat face"]


def random_run(experiment, path):
    """A run at step 0 of random parameters: at initialisation, networks give zero."""
    folder = open_run(experiment, path, None, experiment.codec)
    batch = experiment.data.batch_at(0, 0, 2)
    like = compiled.abstract_state(experiment.model, batch, experiment.codec)
    rng = np.random.default_rng(0)
    state = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), like)
    params = jax.tree.map(lambda a: jnp.float32(0.3 * rng.normal(size=a.shape)), like.params)
    with Checkpoints(folder.checkpoints) as checkpoints:
        checkpoints.save(state.replace(params=params, ema=params))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cascade")


@pytest.fixture(scope="module")
def clip(folder):
    return first_stage("runs/clip-smoke-0", folder)


def small(script, clip=""):
    """The smoke preset with a network that compiles at once."""
    experiment, changes = presets(EXPERIMENTS[script])["smoke"], {}
    model = experiment.model
    if script != "clip_prior":
        changes = {"network": TimeMLP(width=8, depth=1), **({"tokens": 0} if script == "clip_decoder" else {})}
    if clip:
        experiment = dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, clip=str(clip)))
    return dataclasses.replace(experiment, model=dataclasses.replace(model, **changes))


@pytest.fixture(scope="module")
def chain(folder, clip):
    """Of a prior of embeddings, a decoder to 8 pixels, and an enlarging run to 16: read back."""
    scripts = {"clip_prior": clip, "clip_decoder": clip, "cascade": ""}
    return [jaxgen.load(random_run(small(name, use), folder / name)) for name, use in scripts.items()]


def by_hand(stages, num, seed, prompts, batch):
    """Each run's own samples, put into the condition of the next."""
    prior, decoder, enlarging = stages
    texts = [prompts[i * len(prompts) // num] for i in range(num)]
    z = prior.sample(num, seed=seed, prompts=prompts, batch=batch)
    pictures = decoder.sample(num, seed=seed + 1, cond={"embedding": z}, batch=batch)
    said = enlarging.experiment.data.tokens(texts)
    return z, pictures, enlarging.sample(num, seed=seed + 2, cond={"image": pictures, **said}, batch=batch)


def test_a_chain_is_each_run_by_hand_to_the_bit(chain):
    z, pictures, large = by_hand(chain, 4, 7, PROMPTS, 4)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 4.0, rtol=1e-5)
    assert pictures.shape == (4, 8, 8, 3) and large.shape == (4, 16, 16, 3) and large.std() > 10
    prior, *later = chain
    np.testing.assert_array_equal(prior.sample(4, seed=7, prompts=PROMPTS, cascade=later, batch=4), large)
    np.testing.assert_array_equal(prior.sample(4, seed=7, prompts=PROMPTS, cascade=later[:1], batch=4), pictures)
    assert np.any(prior.sample(4, seed=8, prompts=PROMPTS, cascade=later, batch=4) != large)


def test_a_later_stage_is_told_the_texts_of_the_first(chain):
    """In its own tokens, and away from the same negative text."""
    enlarging, raw = chain[2], np.zeros((3, 8, 8, 3), np.uint8)
    tokens = enlarging.experiment.data.tokens
    texts = cascading.told(chain[0], None, PROMPTS, 3)
    assert texts == ["red apple", "red apple", "cat face"]
    cond = cascading.conditions(enlarging, raw, texts, "dog")
    assert set(cond) == {"image", "text", "text_mask", "negative", "negative_mask"}
    np.testing.assert_array_equal(cond["text"], tokens(texts)["text"])
    np.testing.assert_array_equal(cond["negative"], tokens(["dog"] * 3)["text"])
    # Of a first stage without prompts, the captions that it was told.
    drawn = chain[0].model.sample_cond(3, chain[0].examples)
    assert cascading.told(chain[0], drawn, (), 3) == [name[:10] for name in Emoji(size=16).captions("test")[:3]]


def test_the_batch_and_the_number_change_no_picture_of_a_chain(chain):
    prior, *later = chain
    four = prior.sample(4, seed=7, prompts=PROMPTS[:1], cascade=later, batch=4)
    three = prior.sample(4, seed=7, prompts=PROMPTS[:1], cascade=later, batch=3)
    np.testing.assert_array_equal(three, four)
    np.testing.assert_array_equal(prior.sample(3, seed=7, prompts=PROMPTS[:1], cascade=later, batch=3), four[:3])


def test_the_command_draws_the_chain(chain, tmp_path, capsys):
    prior, *later = chain
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(PROMPTS))
    stages = [word for run in later for word in ("--cascade", str(run.folder.path))]
    words = ["--prompts", str(file), "--num", "4", "--seed", "7", "--batch", "4", "--out", str(tmp_path / "out")]
    commands.call(["sample", str(prior.folder.path), *words, *stages])
    drawn = load_file(tmp_path / "out" / "samples.safetensors")["x"]
    np.testing.assert_array_equal(drawn, by_hand(chain, 4, 7, PROMPTS, 4)[2])
    said = json.loads(Image.open(tmp_path / "out" / "samples.png").text["jaxgen"])
    assert [stage["run"] for stage in said["cascade"]] == ["clip_decoder", "cascade"]
    assert said["cascade"][1]["weights"] == later[1].weights
    commands.call(["sample", str(prior.folder.path), *words, *stages, "--level", "0.4"])
    other = load_file(tmp_path / "out" / "samples.safetensors")["x"]
    louder = cascading.at_level(later[1], 0.4)
    assert louder.experiment.model.level == 0.4
    expected = prior.sample(4, seed=7, prompts=PROMPTS, cascade=[later[0], louder], batch=4)
    np.testing.assert_array_equal(other, expected)
    assert np.any(other != drawn)


def test_a_prior_alone_shows_the_pictures_of_the_nearest_embeddings(chain):
    data = chain[0].experiment.data
    known = data.arrays("all")["x"]
    shown = data.shown(known[[5, 2]] * 0.5)
    np.testing.assert_array_equal(shown, data.data.arrays("all")["x"][[5, 2]])


def test_what_does_not_fit_is_refused_before_anything_is_drawn(chain, monkeypatch, folder, clip):
    monkeypatch.setattr(compiled, "sample", lambda *_: pytest.fail("something was drawn"))
    prior, decoder, enlarging = chain
    with pytest.raises(UserError, match=r"clip_prior draws \[16\], cascade goes on from \[8, 8, 3\]"):
        prior.sample(2, prompts=PROMPTS, cascade=[enlarging])
    with pytest.raises(UserError, match=r"cascade draws \[16, 16, 3\], cascade goes on from \[8, 8, 3\]"):
        decoder.sample(2, cascade=[enlarging, enlarging])
    with pytest.raises(UserError, match="CLIPPrior, which goes on from nothing"):
        decoder.sample(2, cascade=[prior])
    with pytest.raises(UserError, match="clip_decoder is a run of CLIPDecoder, which takes no --level"):
        cascading.at_level(decoder, 0.1)
    with pytest.raises(UserError, match=r"level is 0\.9: at most augment"):
        cascading.at_level(enlarging, 0.9)
    with pytest.raises(UserError, match="cascade is told texts, of which the first stage has none"):
        cascading.conditions(enlarging, np.zeros((2, 8, 8, 3), np.uint8), ())
    # Regression: the whole first stage was drawn before.
    with monkeypatch.context() as patched:
        patched.setattr(cascading, "told", lambda *_: [])
        patched.setattr(cascading, "check", lambda *_: None)
        with pytest.raises(UserError, match="cascade is told texts, of which the first stage has none"):
            decoder.sample(2, cascade=[enlarging])
    # Regression: what was edited was drawn under held-out pictures and embeddings.
    with pytest.raises(UserError, match="CLIPDecoder goes on from what another run draws, and edits no picture"):
        decoder.edit(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="SuperResolution goes on from what another run draws"):
        enlarging.restore(np.zeros((16, 16, 3), np.uint8), Degraded())
    path = str(prior.folder.path)
    for flags, message in [
        (["--cascade", str(enlarging.folder.path)], "goes on from"),
        (["--level", "0.2"], "--level is of a run that --cascade names"),
        (["--cascade", "x", "--image", "x"], "--cascade was given with --image"),
    ]:
        with pytest.raises(UserError, match=message):
            commands.call(["sample", path, "--prompt", "a", *flags])


def test_embeddings_of_another_clip_are_refused(chain, folder):
    prior, decoder, _ = chain
    record = decoder.folder.path / "embedder.json"
    kept = record.read_text()
    record.write_text(kept.replace(json.loads(kept)["weights"], "0" * 16))
    try:
        with pytest.raises(UserError, match=r"embeddings of the CLIP .*, clip_decoder goes on from those of 0000"):
            cascading.check([prior, decoder])
    finally:
        record.write_text(kept)


# --- embeddings as data ---


def test_embeddings_have_norm_sqrt_d_and_are_those_of_the_clip(chain, clip):
    data = chain[0].experiment.data
    arrays, run = data.arrays("test"), jaxgen.load(clip)
    pictures = data.data.arrays("test")["x"]
    np.testing.assert_allclose(np.linalg.norm(arrays["x"], axis=1), 4.0, rtol=1e-5)
    np.testing.assert_allclose(arrays["x"], 4 * embed_images(run, pictures), atol=1e-5)
    captions = list(data.captions("test"))
    np.testing.assert_allclose(arrays["text_embedding"][:5], 4 * embed_texts(run, captions[:5]), atol=1e-5)
    plain = Captioned(data=data.data, tokenizer="bytes", window=12)
    np.testing.assert_array_equal(arrays["text"], plain.tokens(captions)["text"])
    drawn = chain[1].experiment.data.arrays("test")
    np.testing.assert_array_equal(drawn["embedding"], arrays["x"])
    halved = pictures.reshape(-1, 8, 2, 8, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(drawn["x"], halved, atol=0.5001)


def test_a_run_is_told_of_by_the_weights_that_it_began_with(chain, tmp_path):
    data = chain[0].experiment.data
    text = data.beside(["red apple"], chain[0].folder.path)["text_embedding"]
    kept = json.loads((chain[0].folder.path / "embedder.json").read_text())
    (tmp_path / "embedder.json").write_text(json.dumps(kept))
    np.testing.assert_array_equal(data.beside(["red apple"], tmp_path)["text_embedding"], text)
    (tmp_path / "embedder.json").write_text(json.dumps(kept | {"weights": "f" * 16}))
    with pytest.raises(UserError, match="has other weights at step 0"):
        data.beside(["red apple"], tmp_path)
    # What is hashed are the pictures: embeddings differ by rounding elsewhere.
    assert mark(data, "test") == mark(data.data, "test")


def test_data_that_cannot_be_embedded_are_refused(clip, tmp_path):
    with pytest.raises(UserError, match=r"no run folder.*experiments/clip\.py emoji --seed 3"):
        Embedded(data=Emoji(size=16), clip="runs/clip-emoji-3").arrays("test")
    with pytest.raises(UserError, match="reads captions as bytes, tokenizer is bpe"):
        Embedded(data=Emoji(size=16), clip=str(clip)).arrays("test")
    with pytest.raises(UserError, match="give a side below theirs"):
        Embedded(data=Emoji(size=16), tokenizer="bytes", window=12, clip=str(clip), form="pictures", size=20).arrays(
            "test"
        )
    assert "leave both out" in (Embedded(shift=2).problem() or "")
