"""CLIP: losses against loops, on one device and on four; what is read of pictures and texts; retrieval and classes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import DEVICES, EXPERIMENTS
from messages import one_line
from PIL import Image

from jaxgen import core
from jaxgen.core import INIT, TRAIN
from jaxgen.core.capabilities import ScoresText
from jaxgen.core.mesh import Layout
from jaxgen.core.model import count_params
from jaxgen.data import Captioned, Digits, Emoji
from jaxgen.errors import UserError
from jaxgen.experiment import on_images, presets
from jaxgen.inference.held_out import held_out_numbers
from jaxgen.metrics.retrieval import ranks, recalls
from jaxgen.models.clip import MOST_SCALE, info_nce, pairwise_sigmoid
from jaxgen.nets.clip import CLIPNetwork
from jaxgen.runs.restore import Trained

SMOKE = presets(EXPERIMENTS["clip"])["smoke"]
SIGMOID = replace(
    SMOKE, model=replace(SMOKE.model, objective="sigmoid", network=SMOKE.model.network.clone(scale=2.3026, bias=-10.0))
)


@pytest.fixture(scope="module")
def state():
    return started(SMOKE)


def started(experiment, **fields):
    batch = experiment.data.batch_at(0, 0, experiment.batch_size)
    return core.init(experiment.model, core.run_key(0, INIT), batch, experiment.codec, **fields)


def test_losses_are_those_of_loops():
    logits = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32) * 3
    by_rows = [-np.log(np.exp(logits[i, i]) / np.exp(logits[i]).sum()) for i in range(5)]
    by_columns = [-np.log(np.exp(logits[i, i]) / np.exp(logits[:, i]).sum()) for i in range(5)]
    assert float(info_nce(jnp.asarray(logits))) == pytest.approx((np.mean(by_rows) + np.mean(by_columns)) / 2, rel=1e-5)
    z = np.where(np.eye(5) == 1, 1, -1)
    each = [np.log1p(np.exp(-z[i, j] * logits[i, j])) for i in range(5) for j in range(5)]
    assert float(pairwise_sigmoid(jnp.asarray(logits))) == pytest.approx(sum(each) / 5, rel=1e-5)
    # Pictures and texts swapped are the same pairs; texts in another order are not.
    assert float(info_nce(jnp.asarray(logits.T))) == pytest.approx(float(info_nce(jnp.asarray(logits))), rel=1e-5)
    assert abs(float(info_nce(jnp.asarray(logits[::-1]))) - float(info_nce(jnp.asarray(logits)))) > 0.1


@pytest.mark.parametrize(
    "experiment", [pytest.param(SMOKE, id="infonce"), pytest.param(SIGMOID, id="sigmoid", marks=pytest.mark.slow)]
)
def test_negatives_are_those_of_all_devices(experiment):
    """Losses of steps on a mesh, and the gradient of the first, are those of one device."""
    model = experiment.model

    def trained(layout):
        raw = [experiment.data.batch_at(0, step, 16) for step in range(5)]
        batches, key = jax.tree.map(lambda *a: np.stack(a), *raw), core.run_key(0, TRAIN)
        if layout is not None:
            batches, key = layout.put(batches, layout.batch(1)), layout.put(key, layout.everywhere)
        state = started(experiment, layout=layout)
        state, metrics = core.train_steps(experiment.model, state, key, batches, experiment.codec, None, False, layout)
        return jax.device_get(metrics)

    def gradient(layout):
        batch = experiment.codec.encode(experiment.data.batch_at(0, 0, 16), jax.random.key(0))
        keys, state = jax.random.split(jax.random.key(0), 16), started(experiment)
        if layout is not None:
            batch, keys = layout.put((batch, keys), layout.batch())
            state = layout.put(state, layout.everywhere)
        found = jax.jit(jax.grad(lambda p, *rest: model.loss(p, *rest)[0]))(state.params, state, keys, batch)
        return jax.device_get(found)

    layout = Layout.make(f"data={DEVICES}", 16)
    for one, other in zip(jax.tree.leaves(gradient(None)), jax.tree.leaves(gradient(layout)), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-6)
    alone, apart = trained(None), trained(layout)
    np.testing.assert_allclose(apart["loss"], alone["loss"], rtol=1e-5)
    assert alone["loss"][0] == pytest.approx(np.log(16) if experiment is SMOKE else 10.0, rel=0.5)


def test_the_scale_stays_below_its_bound(state):
    high = {**state.params, "network": {**state.params["network"], "logit_scale": jnp.float32(9.0)}}
    batch = SMOKE.codec.encode(SMOKE.data.batch_at(0, 0, 16), jax.random.key(0))
    after, metrics = jax.jit(SMOKE.model.train_step)(state.replace(params=high), jax.random.key(0), batch)
    assert float(after.params["network"]["logit_scale"]) == pytest.approx(MOST_SCALE)
    assert metrics["scale"] > 100


def test_pictures_are_normalized_and_resized(state):
    model = SMOKE.model
    x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)), jnp.float32)
    expected = ((x + 1) / 2 - jnp.array(model.mean).reshape(1, 1, 1, 3)) / jnp.array(model.deviation).reshape(
        1, 1, 1, 3
    )
    np.testing.assert_allclose(model._pixels(x), expected, rtol=1e-5, atol=1e-6)
    wide = jnp.pad(jnp.repeat(jnp.repeat(x, 4, axis=1), 4, axis=2), ((0, 0), (0, 0), (9, 9), (0, 0)))
    assert model._pixels(wide).shape == (2, 16, 16, 3)
    same = model.embed_images(state.params, wide), model.embed_images(state.params, wide[:, :, 9:-9])
    np.testing.assert_allclose(*same, atol=1e-5)
    assert isinstance(model, ScoresText)
    np.testing.assert_allclose(jnp.linalg.norm(same[0], axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_padding_is_not_read(state, causal):
    """What stands after the end changes nothing; without a mask a network that sees all tokens would read it."""
    network = SMOKE.model.network
    text = network.text.clone(body=network.text.body.clone(causal=causal), end=257)
    model = replace(SMOKE.model, network=network.clone(text=text))
    made = SMOKE.data.tokens(["cat", "a dog"])
    other = np.where(made["text_mask"], made["text"], 7)
    mask = jnp.asarray(made["text_mask"])
    embedded = [model.embed_text(state.params, jnp.asarray(t), mask) for t in (made["text"], other)]
    np.testing.assert_allclose(*embedded, atol=1e-6)
    unmasked = model.embed_text(state.params, jnp.asarray(other))
    assert bool(np.allclose(unmasked, embedded[0], atol=1e-5)) == causal
    assert np.abs(embedded[0][0] - embedded[0][1]).max() > 1e-3


def test_ranks_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    queries, candidates = rng.normal(size=(2, 30, 4)).astype(np.float32)
    queries, candidates = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (queries, candidates))
    groups = rng.integers(0, 20, 30)
    for i, rank in enumerate(ranks(queries, candidates, groups, groups)):
        near = candidates @ queries[i]
        own = max(near[j] for j in range(30) if groups[j] == groups[i])
        assert rank == sum(near[j] >= own for j in range(30) if groups[j] != groups[i])
    alone = recalls(queries, queries, np.arange(30))
    assert all(values.mean() == 1 for values in alone.values())
    alike = recalls(np.ones((30, 4)), np.ones((30, 4)), np.arange(30))
    assert all(values.mean() == 0 for values in alike.values())
    # Alike up to the order in which a product is summed, which depends on the place in a matrix.
    alike = np.repeat(np.random.default_rng(1).normal(size=(1, 128)).astype(np.float32), 413, axis=0)
    alike /= np.linalg.norm(alike, axis=1, keepdims=True)
    assert (ranks(alike, alike, np.arange(413), np.arange(413)) == 412).all()
    assert (ranks(alike * np.nan, alike * np.nan, np.arange(413), np.arange(413)) == 412).all()
    both = recalls(queries, candidates, np.arange(30))
    assert both["text_to_image_r5"].mean() <= both["text_to_image_r10"].mean()


def test_evaluation_covers_the_whole_split(state):
    """Whatever the batch, and on a mesh too."""
    trained = Trained(SMOKE, SMOKE.codec, state, None, None)
    numbers, count = held_out_numbers(trained, "test", batch=200)
    assert count == 216 and {"similarity", "image_to_text_r1", "text_to_image_r10", "zero_shot"} <= set(numbers)
    assert 0 <= numbers["text_to_image_r1"]["mean"] < 0.1  # untrained
    parts, _ = held_out_numbers(trained, "test", batch=50)
    layout = Layout.make(f"data={DEVICES}", 16)
    apart = replace(trained, state=layout.put(jax.device_get(state), layout.everywhere), layout=layout)
    spread, _ = held_out_numbers(apart, "test", batch=200)
    for name, number in numbers.items():
        assert parts[name]["mean"] == pytest.approx(number["mean"], abs=1 / 216), name
        assert spread[name]["mean"] == pytest.approx(number["mean"], abs=1 / 216), name
    assert held_out_numbers(trained, "test", limit=7)[1] == 7


def test_the_published_network_has_its_size():
    """151,277,313 parameters, as OpenAI's ViT-B/32 has."""
    network, x = CLIPNetwork(), jnp.zeros((1, 224, 224, 3))
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, jnp.zeros((1, 77), jnp.int32))
    assert count_params(shapes) == 151_277_313


def test_a_folder_of_captioned_pictures_takes_the_place_of_emoji(tmp_path):
    for i, (split, kind, words) in enumerate(
        [("train", "a", "red dot"), ("train", "b", "blue"), ("test", "a", "green")]
    ):
        folder = tmp_path / split / kind
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 30, 3), 80 * i, np.uint8)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(words)
    experiment = on_images(replace(SMOKE, batch_size=2), str(tmp_path))
    experiment.check()
    batch = experiment.data.batch_at(0, 0, 2)
    assert batch["x"].shape == (2, 16, 16, 3) and set(batch) == {"x", "cond", "text", "text_mask"}
    assert experiment.data.captions("test") == ("green",) and experiment.data.class_names == ("a", "b")
    assert isinstance(experiment.data, Captioned)


def test_captions_are_the_examples_own():
    data = Captioned(data=Emoji(size=16), window=12, vocab_size=600)
    batch = data.batch_at(3, 5, 4)
    rows = data.indices_at(3, 5, 4)
    names = [data.captions()[i] for i in rows]
    np.testing.assert_array_equal(batch["text"], data.tokens(names)["text"])
    np.testing.assert_array_equal(batch["x"], Emoji(size=16).arrays()["x"][rows])
    assert batch["text"].max() < data.vocab == 600 and data.class_tokens()["text"].shape == (9, 12)
    assert list(data.files_to_keep()) == ["caption_tokenizer.json"]


def test_class_names_take_their_place_in_the_template():
    """Whatever braces stand in the template or in a name."""
    data = Captioned(data=Emoji(size=16), tokenizer="bytes", window=40, template="{x} {} {")
    said = data.class_tokens()
    for name, tokens, mask in zip(data.class_names, said["text"], said["text_mask"], strict=True):
        assert bytes(tokens[mask][1:-1].astype(np.uint8)).decode() == f"{{x}} {name.lower()} {{"


def test_one_text_of_all_classes_finds_none(state):
    """A network that gives all texts one vector has an accuracy of 0, not that of the first class."""
    params = state.params["network"]
    flat = {**params, "text_projection": jax.tree.map(jnp.zeros_like, params["text_projection"])}
    trained = Trained(SMOKE, SMOKE.codec, state.replace(params={"network": flat}), None, None)
    numbers, _ = held_out_numbers(trained, "test", batch=216)
    assert numbers["zero_shot"]["mean"] == numbers["image_to_text_r10"]["mean"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda e: replace(e, batch_size=1), "batch_size is 1: a picture is told from"),
     (lambda e: replace(e, data=replace(e.data, template="a very long description of {}")), "the same first 12 tokens"),
     (lambda e: replace(e, model=replace(e.model, accumulate=2)), "accumulate is 2: each example is compared"),
     (lambda e: replace(e, model=replace(e.model, objective="sigmoid")), "sigmoid has a bias"),
     (lambda e: replace(e, model=replace(e.model, mean=(0.5, 0.5))), "mean has 2 numbers"),
     (lambda e: replace(e, data=e.data.data), "has no captions"),
     (lambda e: replace(e, data=replace(e.data, data=Digits())), "Digits has no captions"),
     (lambda e: replace(e, data=replace(e.data, window=20)), "--data.window 12"),
     (lambda e: replace(e, data=replace(e.data, template="a photo")), "one {} is expected"),
     (lambda e: replace(e, data=replace(e.data, tokenizer="bpe")), r"--model\.network\.text\.vocab 1024"),
     (lambda e: replace(e, model=replace(e.model, shape=(18, 18, 3))), "whole patches")],
)  # fmt: skip
def test_settings_that_do_not_go_together_are_refused(change, message):
    with pytest.raises(UserError, match=message) as error:
        change(SMOKE).check()
    one_line(error)
