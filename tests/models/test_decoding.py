"""Filters of logits against NumPy, for each combination, and draws from them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import core
from jaxgen.errors import UserError
from jaxgen.ops.decoding import Decoding, min_p, penalise, top_k, top_p

LOGITS = np.random.default_rng(0).normal(size=(40, 23)).astype(np.float32) * 2


def probabilities(logits):
    e = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def left(logits) -> np.ndarray:
    return np.isfinite(np.asarray(logits))


@pytest.mark.parametrize("k", [1, 5, 23, 99])
def test_top_k_leaves_the_k_largest(k):
    expected = np.argsort(np.argsort(-LOGITS)) < k
    np.testing.assert_array_equal(left(top_k(jnp.asarray(LOGITS), k)), expected)


@pytest.mark.parametrize("p", [1e-6, 0.3, 0.9, 0.999])
def test_top_p_leaves_the_nucleus(p):
    kept = left(top_p(jnp.asarray(LOGITS), p))
    for row, chosen in zip(probabilities(LOGITS), kept):
        order, total, expected = np.argsort(-row), 0.0, set()
        for token in order:
            expected.add(int(token))
            total += row[token]
            if total >= p:
                break
        assert set(np.flatnonzero(chosen)) == expected


def test_min_p_leaves_what_is_likely_enough():
    p = probabilities(LOGITS)
    np.testing.assert_array_equal(left(min_p(jnp.asarray(LOGITS), 0.1)), p >= 0.1 * p.max(-1, keepdims=True))


def test_penalty_makes_seen_tokens_less_likely_whatever_their_sign():
    seen = np.zeros_like(LOGITS, bool)
    seen[:, ::3] = True
    expected = np.where(seen, np.where(LOGITS > 0, LOGITS / 1.5, LOGITS * 1.5), LOGITS)
    out = penalise(jnp.asarray(LOGITS), jnp.asarray(seen), 1.5)
    np.testing.assert_allclose(out, expected, rtol=1e-6)
    assert np.all(np.asarray(out)[seen] < LOGITS[seen])


def test_draws_follow_the_filtered_distribution():
    """Chi-square of 4,000 draws of one row, each by its own key."""
    decoding = Decoding(temperature=0.7, top_k=8, top_p=0.95)
    row = jnp.asarray(LOGITS[:1])
    keys = core.sample_keys(0, 4000)
    drawn = np.asarray(decoding.draw(keys, jnp.broadcast_to(row, (4000, 23))))
    p = probabilities(np.asarray(decoding.filtered(row)))[0]
    counts = np.bincount(drawn, minlength=23)
    assert counts[p == 0].sum() == 0
    some = p > 0
    chi = float(np.sum((counts[some] - 4000 * p[some]) ** 2 / (4000 * p[some])))
    assert chi < some.sum() - 1 + 4 * np.sqrt(2 * (some.sum() - 1))
    again = decoding.draw(core.sample_keys(0, 10), jnp.broadcast_to(row, (10, 23)))
    np.testing.assert_array_equal(again, drawn[:10])


def test_temperature_zero_is_the_likeliest():
    logits, keys = jnp.asarray(LOGITS), core.sample_keys(0, 40)
    np.testing.assert_array_equal(Decoding(temperature=0).draw(keys, logits), LOGITS.argmax(-1))
    assert left(Decoding(temperature=0).filtered(jnp.asarray(LOGITS))).sum() == 40


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"end": 23}, "end is 23: from -1 to 22"), ({"keep": 8}, "keep is 8: from 0 to 7")],
)
def test_settings_without_sense_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        Decoding(**fields).check(23, 8)
    assert jax.tree.leaves(Decoding().check(23, 8)) == []
