"""Speculative decoding draws from the large model's own distribution; beam search finds what a full search finds."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_gpt import randomised, state_of, tiny

from jaxgen import core
from jaxgen.errors import UserError
from jaxgen.models.decoding.beam import beam_search
from jaxgen.models.decoding.speculative import speculate
from jaxgen.models.gpt import prompts
from jaxgen.ops.decoding import Decoding

V = 4
MODEL = tiny(vocab=V, decoding=Decoding(tokens=3, temperature=1.5))
PROMPTS = [[1], [2, 0, 3]]
NATS = jax.jit(MODEL.nats)


@pytest.fixture(scope="module")
def state():
    return state_of(MODEL, randomised(MODEL))


@pytest.fixture(scope="module")
def draft():
    """Another model, which is wrong about most tokens."""
    return state_of(MODEL, randomised(MODEL, seed=1))


def cond(rows, size=3):
    given = prompts(rows, 8)
    return {**given, "prompt": given["prompt"][:, :size]}


def conditionals(state, row) -> list[np.ndarray]:
    """log p of the first token after `row`, of the second after each first, of the third: f64[V], f64[V, V], ...; by
    whole passes over all texts, which end in what no token before it sees."""
    every = np.array(list(itertools.product(range(V), repeat=3)))
    x = np.concatenate([np.tile(row, (len(every), 1)), every, np.zeros((len(every), 6 - len(row)), int)], axis=1)
    nats = np.asarray(NATS(state.params, {"x": jnp.asarray(x)}), np.float64)[:, len(row) - 1 :][:, :3]
    return [-nats[:: V ** (2 - t), t].reshape((V,) * (t + 1)) for t in range(3)]


def text_log_probs(state, row, length) -> dict:
    """log p of every continuation of `length` tokens."""
    total = np.zeros(())
    for given in conditionals(state, row)[:length]:
        total = total[..., None] + given
    return dict(zip(itertools.product(range(V), repeat=length), total.reshape(-1).tolist()))


def chi_square(tokens, expected) -> float:
    """How many standard deviations the statistic of counts lies above its mean."""
    counts = np.bincount(np.asarray(tokens) @ V ** np.arange(tokens.shape[1])[::-1], minlength=len(expected))
    chi = np.sum((counts - len(tokens) * expected) ** 2 / (len(tokens) * expected))
    return float((chi - (len(expected) - 1)) / np.sqrt(2 * (len(expected) - 1)))


@pytest.mark.parametrize("row", PROMPTS, ids=["one", "three"])
def test_speculation_is_distributed_as_sampling(state, draft, row):
    """Of 2,000 texts of three tokens, beside the exact probabilities of all 64, where the draft is often wrong."""
    num = 2000
    given = cond([row] * num)
    expected = np.ones(())
    for log_p in conditionals(state, row):
        tempered = log_p / 1.5 - np.logaddexp.reduce(log_p / 1.5, axis=-1, keepdims=True)
        expected = expected[..., None] * np.exp(tempered)
    expected = expected.reshape(-1)
    tokens, passes = speculate(MODEL, state, MODEL, draft, core.sample_keys(0, num), given, gamma=2)
    drawn = np.asarray(tokens)[:, len(row) : len(row) + 3]
    assert chi_square(drawn, expected) < 4
    # It is no sample of the draft's, and not all that was drafted was kept.
    assert chi_square(drawn, np.roll(expected, 1)) > 10
    assert 1 < float(passes.mean()) < 3
    plain = np.asarray(core.sample(MODEL, state, core.sample_keys(1, num), given))[:, len(row) : len(row) + 3]
    assert chi_square(plain, expected) < 4


def test_a_draft_that_is_the_model_is_kept_and_greedy_text_is_the_same(state, draft):
    long = replace(MODEL, decoding=Decoding(tokens=6, temperature=0))
    given = cond(PROMPTS)
    expected = core.sample(long, state, core.sample_keys(0, 2), given)
    for other, most in ((state, 2), (draft, 6)):
        tokens, passes = speculate(long, state, long, other, core.sample_keys(0, 2), given, gamma=3)
        np.testing.assert_array_equal(tokens, expected)
        assert int(passes.max()) <= most


def test_speculation_ends_with_the_end_token(state, draft):
    model = replace(MODEL, decoding=Decoding(tokens=6, end=2))
    tokens, _ = speculate(model, state, model, draft, core.sample_keys(0, 30), cond([[1]] * 30, 1))
    ended = [list(line) for line in np.asarray(tokens)[:, 1:] if 2 in line]
    assert ended and all(set(line[line.index(2) :]) == {2} for line in ended)


def test_all_beams_find_the_likeliest_texts(state):
    """With as many beams as prefixes none is lost; ragged prompts share a batch."""
    tokens, scores = beam_search(MODEL, state, cond(PROMPTS), beams=V)
    wide = replace(MODEL, decoding=Decoding(tokens=2))
    for row, line, score in zip(PROMPTS, *map(np.asarray, beam_search(wide, state, cond(PROMPTS), beams=V))):
        every = text_log_probs(state, row, 2)
        best = sorted(every, key=every.get, reverse=True)[:V]
        assert [tuple(t) for t in line[:, len(row) : len(row) + 2].tolist()] == best
        np.testing.assert_allclose(score, [every[t] for t in best], atol=1e-4)
    for row, line, score in zip(PROMPTS, np.asarray(tokens), np.asarray(scores)):
        every = text_log_probs(state, row, 3)
        written = line[:, len(row) : len(row) + 3].tolist()
        np.testing.assert_allclose(score, [every[tuple(t)] for t in written], atol=1e-4)
        assert np.all(np.diff(score) <= 0)


def test_a_beam_that_has_ended_stays(state):
    """Of texts that end at token 2 or after three tokens, the likeliest, all of them being in the race."""
    model = replace(MODEL, decoding=Decoding(tokens=2, end=2))
    tokens, scores = beam_search(model, state, cond([[1]], 1), beams=V)
    every = {**text_log_probs(state, [1], 2)}
    ended = {(2, 2): text_log_probs(state, [1], 1)[(2,)]}
    every = {t: p for t, p in every.items() if t[0] != 2} | ended
    best = sorted(every, key=every.get, reverse=True)[:V]
    assert [tuple(t) for t in np.asarray(tokens)[0, :, 1:].tolist()] == best
    np.testing.assert_allclose(scores[0], [every[t] for t in best], atol=1e-4)


def test_padding_takes_no_place_in_the_window(state, draft):
    """`prompts` pads to 8, but a prompt of 3 still leaves room for 6 more, as the last one is never read."""
    model, keys = replace(MODEL, decoding=Decoding(tokens=6, temperature=0)), core.sample_keys(0, 1)
    wide, short = cond([[2, 0, 3]], 8), cond([[2, 0, 3]], 3)
    expected = core.sample(model, state, keys, short)[:, :9]
    np.testing.assert_array_equal(speculate(model, state, model, draft, keys, wide)[0][:, :9], expected)
    beam, _ = beam_search(model, state, wide, beams=1)
    np.testing.assert_array_equal(beam[0, :, :9], expected)


def test_what_cannot_be_done_is_refused(state, draft):
    other = tiny(vocab=5)
    keys, given = core.sample_keys(0, 2), cond(PROMPTS)
    for model, small, fields, message in (
        (MODEL, other, {}, "the draft knows 5 tokens, the model 4"), (MODEL, MODEL, {"gamma": 0}, "gamma is 0"),
        (replace(MODEL, decoding=Decoding(tokens=8)), MODEL, {}, "exceed the window of 8"),
        (replace(MODEL, decoding=Decoding(tokens=2, repetition_penalty=2.0)), MODEL, {}, "repetition_penalty"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            speculate(model, state, small, draft, keys, given, **fields)
    with pytest.raises(UserError, match="beams is 5"):
        beam_search(MODEL, state, given, beams=5)
    with pytest.raises(UserError, match="exceed the window"):
        beam_search(replace(MODEL, decoding=Decoding(tokens=8)), state, given)
