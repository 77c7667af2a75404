"""Texts as conditions of diffusion: dropped and negative ones, guidance, padding, and what is refused."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import core
from jaxgen.data import Captioned, Digits, Emoji
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.models.conditions import without
from jaxgen.models.flow_matching import FlowMatching
from jaxgen.nets.clip import TextTower, tower
from jaxgen.nets.dit import DiT
from jaxgen.nets.unet import UNet
from jaxgen.ops.guidance import Guidance
from jaxgen.ops.samplers import Euler

TOWER = TextTower(vocab=20, window=6, body=tower(8, 1, 2, activation="gelu"))
MODEL = FlowMatching(
    shape=(4, 4, 1), network=DiT(width=8, depth=1, heads=2, patch=2), text=TOWER, class_dropout=0.5,
    sampler=Euler(steps=3, clip=0.0), ema_decay=0.0,
)  # fmt: skip
TEXT = jnp.array([[17, 3, 19, 0, 0, 0], [17, 4, 5, 19, 0, 0], [17, 3, 4, 5, 6, 19]])
MASK = jnp.array([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1] * 6], bool)
COND = {"text": TEXT, "text_mask": MASK}
BATCH = {"x": jnp.zeros((3, 4, 4, 1)), **COND}


def state_of(model, scale=0.3):
    """Random parameters: at initialisation the output is zero."""
    state = core.init(model, jax.random.key(0), BATCH)
    leaves, tree = jax.tree.flatten(state.params)
    rng = np.random.default_rng(0)
    return state.replace(params=tree.unflatten([jnp.float32(scale * rng.normal(size=p.shape)) for p in leaves]))


@pytest.fixture(scope="module")
def state():
    return state_of(MODEL)


def sampled(state, cond, scale=None, model=MODEL, keys=None):
    keys = core.sample_keys(0, 3) if keys is None else keys
    scales = {} if scale is None else {"guidance": jnp.full(len(keys), scale)}
    return np.asarray(core.sample(model, state, keys, {**cond, **scales}))


def test_padding_and_neighbours_change_nothing(state):
    base = sampled(state, COND)
    np.testing.assert_allclose(sampled(state, {**COND, "text": TEXT.at[0, 4].set(9)}), base, atol=1e-5)
    shorter = {name: a[:2, :5] for name, a in COND.items()}
    np.testing.assert_allclose(sampled(state, shorter, keys=core.sample_keys(0, 2)), base[:2], atol=1e-5)
    one = {name: a[1:] for name, a in COND.items()}
    np.testing.assert_allclose(sampled(state, one, keys=core.sample_keys(0, 3)[1:]), base[1:], atol=1e-5)
    assert np.abs(sampled(state, {**COND, "text": TEXT.at[0, 1].set(9)}) - base)[0].max() > 1e-3


def test_guidance_1_is_the_conditional_model_and_0_the_unconditional(state):
    base = sampled(state, COND)
    np.testing.assert_allclose(sampled(state, COND, 1.0), base, atol=1e-5)
    none = sampled(state, {"text": TEXT, "text_mask": jnp.zeros_like(MASK)})
    np.testing.assert_allclose(sampled(state, COND, 0.0), none, atol=1e-5)
    assert np.abs(none - base).max() > 1e-3


@pytest.mark.parametrize("empty", [(), (17, 19)])
def test_a_negative_text_takes_the_place_of_none(empty):
    model = replace(MODEL, empty=empty)
    state = state_of(model)
    base = sampled(state, COND, model=model)
    same = {"negative": TEXT, "negative_mask": MASK}
    np.testing.assert_allclose(sampled(state, COND | same, 5.0, model), base, atol=1e-4)
    other = {"negative": TEXT[::-1], "negative_mask": MASK[::-1]}
    led = sampled(state, COND | other, 0.0, model)
    expected = sampled(state, {"text": TEXT[::-1], "text_mask": MASK[::-1]}, model=model)
    np.testing.assert_allclose(led, expected, atol=1e-5)
    assert np.abs(led - sampled(state, COND, 0.0, model)).max() > 1e-3


def test_the_empty_caption_stands_for_no_condition():
    model = replace(MODEL, empty=(17, 19))
    state = state_of(model)
    said = jnp.tile(jnp.array([17, 19, 19, 19, 19, 19]), (3, 1))
    np.testing.assert_array_equal(without(COND, (17, 19))["text"], said)
    expected = sampled(state, {"text": said}, model=model)
    np.testing.assert_allclose(sampled(state, COND, 0.0, model), expected, atol=1e-5)


def test_captions_are_dropped_by_the_examples_keys():
    keys, cond = core.sample_keys(0, 3000), {name: jnp.tile(a, (1000, 1)) for name, a in COND.items()}
    dropped = MODEL.drop(keys, cond)
    none = ~np.asarray(dropped["text_mask"]).any(axis=1)
    assert abs(none.mean() - 0.5) < 5 * 0.5 / np.sqrt(3000)
    np.testing.assert_array_equal(np.asarray(dropped["text_mask"])[~none], np.asarray(cond["text_mask"])[~none])
    few = MODEL.drop(core.sample_keys(0, 7), {name: a[:7] for name, a in cond.items()})
    np.testing.assert_array_equal(few["text_mask"], dropped["text_mask"][:7])
    said = replace(MODEL, empty=(17, 19)).drop(core.sample_keys(0, 3000), {"text": cond["text"]})["text"]
    np.testing.assert_array_equal(np.asarray(said)[:, 1] == 19, none)


@pytest.mark.parametrize(
    "network",
    [
        DiT(width=8, depth=1, heads=2, patch=2),
        pytest.param(UNet(8, (1, 2), 1, (), head_dim=8, cross_attention=(2,)), marks=pytest.mark.slow),
    ],
    ids=["dit", "unet"],
)  # fmt: skip
def test_the_text_is_learnt_along(network):
    """Pictures are bright or dark as their text says; the text alone tells which."""
    model = replace(MODEL, network=network, class_dropout=0.1, optimizer=replace(MODEL.optimizer, lr=1e-2))
    bright = np.arange(32) % 2
    text = np.where(np.arange(6) == 1, 3 + bright[:, None], [17, 0, 19, 0, 0, 0]).astype(np.int32)
    batch = {
        "x": jnp.float32(np.ones((32, 4, 4, 1)) * (2 * bright - 1).reshape(-1, 1, 1, 1)),
        "text": jnp.asarray(text), "text_mask": jnp.asarray(np.arange(6) < 3)[None].repeat(32, axis=0),
    }  # fmt: skip
    state = core.init(model, jax.random.key(0), batch)
    stacked = jax.tree.map(lambda a: jnp.broadcast_to(a, (150, *a.shape)), batch)
    state, metrics = core.train_steps(model, state, jax.random.key(1), stacked)
    assert np.all(np.isfinite(metrics["loss"]))
    cond = {name: batch[name][:8] for name in ("text", "text_mask")}
    mean = np.asarray(core.sample(model, state, core.sample_keys(1, 8), cond)).mean(axis=(1, 2, 3))
    assert np.all((mean > 0) == (bright[:8] > 0)) and np.abs(mean).min() > 0.4


def test_what_does_not_go_together_is_refused():
    with pytest.raises(UserError, match="no text was given"):
        core.sample(MODEL, state_of(MODEL), core.sample_keys(0, 3))
    with pytest.raises(UserError, match="negative has shape"):
        MODEL.check_cond({**COND, "negative": TEXT[:, :4]})
    with pytest.raises(UserError, match="token 20 is out of range"):
        MODEL.check_cond({"text": TEXT.at[0, 0].set(20)})
    with pytest.raises(UserError, match="7 tokens, the model knows 6"):
        MODEL.check_cond({"text": jnp.zeros((3, 7), int)})
    with pytest.raises(UserError, match="a guidance scale was given"):
        replace(MODEL, class_dropout=0.0).check_cond({**COND, "guidance": jnp.ones(3)})
    with pytest.raises(UserError, match=r"guidance.scale is 2.0"):
        replace(MODEL, class_dropout=0.0, guidance=Guidance(scale=2.0)).check(BATCH)
    with pytest.raises(UserError, match="the data has no captions"):
        Experiment(model=replace(MODEL, shape=(8, 8, 1)), data=Digits(), batch_size=4).check()
    data = Captioned(data=Emoji(size=16), tokenizer="bytes", window=6)
    with pytest.raises(UserError, match=r"--model\.text\.vocab 258"):
        Experiment(model=replace(MODEL, shape=(16, 16, 3)), data=data, batch_size=4).check()


def test_classes_of_a_folder_are_told_by_their_names():
    assert MODEL.fitted((8, 8, 3), 5) == replace(MODEL, shape=(8, 8, 3))


def test_padding_is_read_as_the_end_where_an_empty_caption_says_so():
    """As in Stable Diffusion: whatever stands after the end in the data is its last token there."""
    model = replace(MODEL, empty=(17, 19))
    state = state_of(model)
    base = sampled(state, COND, 3.0, model)
    padded = jnp.where(MASK, TEXT, 19)
    np.testing.assert_allclose(sampled(state, {"text": padded}, 3.0, model), base, atol=1e-5)
    np.testing.assert_allclose(sampled(state, {**COND, "text": TEXT.at[0, 4].set(9)}, 3.0, model), base, atol=1e-5)
    assert np.abs(sampled(state, {"text": TEXT}, 3.0, model) - base)[:2].max() > 1e-3


def test_a_negative_text_without_a_mask_is_read_whole(state):
    negative = jnp.full(TEXT.shape, 7).at[:, 0].set(17)
    masked = {**COND, "negative": negative, "negative_mask": jnp.ones(TEXT.shape, bool)}
    bare = {**COND, "negative": negative}
    np.testing.assert_allclose(sampled(state, bare, 3.0), sampled(state, masked, 3.0), atol=1e-6)
