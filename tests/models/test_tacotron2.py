"""Tacotron 2: a text has its frames whatever its batch and padding are; losses are masked; attention that is led."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import core
from jaxgen.core import sample_keys
from jaxgen.errors import UserError
from jaxgen.models.tacotron2 import Tacotron2
from jaxgen.nets.tacotron2 import Tacotron2Net

BANDS, B, T, F = 6, 8, 12, 18
NET = Tacotron2Net(
    vocab=20, bands=BANDS, reduction=2, encoder=16, encoder_layers=2, prenet=(16, 16), attention_rnn=16, attention=12,
    location_filters=4, location_size=5, decoder_rnn=16, postnet=12, postnet_layers=3, mean=-5.0, deviation=2.0,
    zoneout=0.1,
)  # fmt: skip
MODEL = Tacotron2(network=NET, max_frames=24, guided=1.0, guided_width=0.3)


def batch_of(seed=0):
    rng = np.random.default_rng(seed)
    text_length = np.array([3, 12, 7, 5, 10, 12, 4, 8], np.int32)
    length = np.array([5, 18, 11, 8, 15, 17, 6, 12], np.int32)
    text = rng.integers(1, 20, (B, T)) * (np.arange(T) < text_length[:, None])
    x = np.where(np.arange(F)[None, :, None] < length[:, None, None], rng.normal(-5, 2, (B, F, BANDS)), MODEL.silence)
    return {
        "text": text.astype(np.int32), "text_length": text_length, "x": x.astype(np.float32), "length": length
    }  # fmt: skip


@pytest.fixture(scope="module")
def state():
    """After a few steps, so that running statistics are none of the start, with a gate that opens at some step."""
    batch = batch_of()
    stack = jax.tree.map(lambda a: np.stack([a] * 4), batch)
    state = core.init(MODEL, jax.random.key(0), batch)
    state, _ = core.train_steps(MODEL, state, jax.random.key(1), stack)
    gate = state.params["network"]["gate"]
    sharp = {"kernel": 60 * gate["kernel"], "bias": gate["bias"]}
    return state.replace(params={"network": {**state.params["network"], "gate": sharp}})


def alone(cond, i, size):
    """Row i of a condition, padded to `size` symbols."""
    length = int(cond["length"][i])
    text = np.zeros((1, size), np.int32)
    text[0, :length] = cond["text"][i, :length]
    return {"text": text, "length": cond["length"][i : i + 1]}


def test_a_text_has_the_same_frames_alone_among_others_and_padded(state):
    """And stops at the same one, by a threshold at which some stop and others do not."""
    batch = batch_of()
    cond = {"text": batch["text"], "length": batch["text_length"]}
    speak = jax.jit(dataclasses.replace(MODEL, threshold=0.8).speak)
    together = speak(state, sample_keys(0, B), cond)
    assert len(set(together.length.tolist())) > 2 and set(together.stopped.tolist()) == {False, True}
    for i in (0, 1, 6):
        for size in sorted({int(cond["length"][i]), T, 32}):
            one = speak(state, sample_keys(0, 1, i), alone(cond, i, size))
            assert int(one.length[0]) == int(together.length[i])
            assert bool(one.stopped[0]) == bool(together.stopped[i])
            np.testing.assert_allclose(one.mel[0], together.mel[i], atol=1e-5)
            least = min(size, T)
            np.testing.assert_allclose(one.alignment[0, :, :least], together.alignment[i, :, :least], atol=1e-5)
            assert not np.any(one.alignment[0, :, int(cond["length"][i]) :])


def test_frames_after_the_end_are_silent(state):
    cond = MODEL.sample_cond(B, batch_of())
    spoken = jax.jit(dataclasses.replace(MODEL, threshold=0.7).speak)(state, sample_keys(0, B), cond)
    assert set(np.asarray(spoken.length) % 2) == {0} and int(spoken.length.min()) < 24
    for mel, length in zip(spoken.mel, spoken.length):
        np.testing.assert_array_equal(mel[length:], np.float32(MODEL.silence))
    np.testing.assert_allclose(jnp.sum(spoken.alignment, axis=2)[0, : spoken.length[0] // 2], 1.0, rtol=1e-5)


def test_evaluation_depends_on_no_padding(state):
    """Of frames and of text, nor on what is in it."""
    batch = batch_of()
    keys = sample_keys(3, B)
    found = core.evaluate(MODEL, state, keys, batch)
    wide = {
        **batch,
        "text": np.pad(batch["text"], ((0, 0), (0, 5))),
        "x": np.pad(batch["x"], ((0, 0), (0, 7), (0, 0)), constant_values=3.0),
    }
    wider = core.evaluate(MODEL, state, sample_keys(3, B), wide)
    few = core.evaluate(MODEL, state, sample_keys(3, 2, 4), jax.tree.map(lambda a: a[4:6], batch))
    for name, values in found.items():
        assert values.shape == (B, 2)
        np.testing.assert_allclose(wider[name], values, rtol=1e-4, err_msg=name)
        np.testing.assert_allclose(few[name], values[4:6], rtol=1e-4, err_msg=name)
        np.testing.assert_array_equal(values[:, 1], -(-batch["length"] // 2))


def test_a_step_of_training_depends_on_no_padding():
    """Without dropout, batch statistics included: the same loss, gradient and running means."""
    still = dataclasses.replace(MODEL, network=NET.clone(dropout=0.0, rnn_dropout=0.0, zoneout=0.0))
    batch = batch_of()
    wide = {
        **batch, "text": np.pad(batch["text"], ((0, 0), (0, 4))), "x": np.pad(batch["x"], ((0, 0), (0, 6), (0, 0)))
    }  # fmt: skip
    states = []
    for given in (batch, wide):
        state = core.init(still, jax.random.key(0), batch)
        state, metrics = core.train_steps(still, state, jax.random.key(1), jax.tree.map(lambda a: a[None], given))
        states.append((metrics, state.extra))
    for a, b in zip(*map(jax.tree.leaves, states)):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5)


def test_the_terms_of_the_loss(state):
    """Beside a loop over examples, steps and symbols."""
    batch, keys = batch_of(), sample_keys(3, B)
    frames, steps = MODEL._given(batch)
    masks = MODEL._masks(jax.vmap(lambda k: jax.random.split(k)[0])(keys), jnp.arange(F // 2))
    variables = {"params": state.params["network"], **state.extra["network"]}
    decoded, refined = NET.apply(variables, batch["text"], batch["text_length"], frames, 2 * steps, masks)
    found = core.evaluate(MODEL, state, sample_keys(3, B), batch)
    for b in range(B):
        count, symbols = -(-int(batch["length"][b]) // 2), int(batch["text_length"][b])
        target = np.full((2 * count, BANDS), MODEL.silence)
        target[: batch["length"][b]] = batch["x"][b, : batch["length"][b]]
        target = (target + 5.0) / 2.0
        for name, y in (("mel", decoded.frames), ("mel_post", refined)):
            expected = np.mean((np.asarray(y[b, : 2 * count]) - target) ** 2)
            np.testing.assert_allclose(found[name][b, 0] / count, expected, rtol=1e-4)
        p = np.asarray(jax.nn.sigmoid(decoded.gates[b, :count]), np.float64)
        gate = -np.log(p[-1]) - np.sum(np.log(1 - p[:-1]))
        np.testing.assert_allclose(found["gate"][b, 0], gate, rtol=1e-3, atol=1e-5)
        off = 0.0
        for s in range(count):
            for j in range(symbols):
                weight = 1 - np.exp(-((j / symbols - s / count) ** 2) / (2 * 0.3**2))
                off += float(decoded.alignment[b, s, j]) * weight
        np.testing.assert_allclose(found["off_diagonal"][b, 0], off, rtol=1e-3, atol=1e-5)


def test_what_a_network_says_is_what_it_is_given(state):
    """Where all it is given in training is its own, it is given what it says in use; where nothing is, the truth."""
    batch = batch_of()
    frames, steps = MODEL._given(batch)
    masks = MODEL._masks(sample_keys(0, B), jnp.arange(F // 2))
    variables = {"params": state.params["network"], **state.extra["network"]}

    def given(share):
        own = jax.jit(dataclasses.replace(MODEL, own=share)._own)
        return own(variables, sample_keys(1, B), batch, frames, masks)

    np.testing.assert_array_equal(given(0.0), frames)
    own = given(1.0)
    taught, _ = NET.apply(variables, batch["text"], batch["text_length"], own, 2 * steps, masks)
    np.testing.assert_allclose(taught.frames, own, atol=1e-5)
    said = jax.jit(dataclasses.replace(MODEL, max_frames=F, threshold=1.0).speak)(
        state, sample_keys(0, B), {"text": batch["text"], "length": batch["text_length"]}
    )
    refined = NET.apply(variables, own, jnp.full(B, F), method="refine") * NET.deviation + NET.mean
    np.testing.assert_allclose(refined, said.mel, atol=1e-4)
    half = np.all(np.asarray(given(0.5) == frames).reshape(B, -1, 2 * BANDS), axis=2)
    assert 0.2 < np.mean(half) < 0.8 and len(set(map(tuple, half))) == B


@pytest.mark.slow
def test_a_share_of_its_own_frames_trains():
    model, batch = dataclasses.replace(MODEL, own=0.5), batch_of()
    stack = jax.tree.map(lambda a: np.stack([a] * 12), batch)
    state = core.init(model, jax.random.key(0), batch)
    _, metrics = core.train_steps(model, state, jax.random.key(1), stack)
    assert np.all(np.isfinite(metrics["loss"])) and metrics["mel_post"][-1] < metrics["mel_post"][0]


def test_a_window_leads_the_attention(state):
    """What is looked at most never goes back, nor further than the window at once."""
    cond = MODEL.sample_cond(B, batch_of())
    model = dataclasses.replace(MODEL, window=2, threshold=1.0)
    spoken = jax.jit(model.speak)(state, sample_keys(0, B), cond)
    looked = np.argmax(spoken.alignment, axis=2)
    moves = np.diff(looked, axis=1)
    assert moves.min() >= 0 and moves.max() <= 2
    assert np.all(looked < np.asarray(cond["length"])[:, None])
    np.testing.assert_allclose(np.sum(spoken.alignment, axis=2), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": None}, "are expected, as SpeechFolder"),
        ({"x": np.zeros((B, F, 7), np.float32)}, "have 7 bands, the network 6"),
        ({"text": np.zeros((B, T), np.float32)}, "rows of integer tokens"),
    ],
)
def test_other_data_are_refused(change, message):
    batch = {name: array for name, array in {**batch_of(), **change}.items() if array is not None}
    with pytest.raises(UserError, match=message):
        MODEL.check(batch)


@pytest.mark.parametrize(
    ("cond", "message"),
    [
        (None, "texts are expected"),
        ({"text": np.full((1, 3), 20, np.int32), "length": np.array([3], np.int32)}, "symbol 20 is out of range"),
        ({"text": np.ones((1, 3), np.int32), "length": np.array([0], np.int32)}, "0 to 0 symbols are in rows of 3"),
        ({"text": np.ones((1, 3), np.int32), "length": np.array([4], np.int32)}, "4 to 4 symbols are in rows of 3"),
    ],
)
def test_other_conditions_are_refused(cond, message):
    with pytest.raises(UserError, match=message):
        MODEL.check_cond(cond)


def test_settings_that_do_not_go_together_are_refused():
    assert "odd" in (NET.clone(location_size=4).problem() or "")
    assert "even" in (NET.clone(encoder=15).problem() or "")
    with pytest.raises(UserError, match="batch normalization mixes"):
        dataclasses.replace(MODEL, accumulate=2).check(batch_of())
