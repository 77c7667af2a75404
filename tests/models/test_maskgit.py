"""MaskGIT: its schedule, its mask, and samples of a known distribution."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import core
from jaxgen.errors import UserError
from jaxgen.models.maskgit import MaskedTransformer, MaskGIT, masked_left
from jaxgen.nets.transformer import Transformer
from jaxgen.optim import Adam

BODY = Transformer(width=16, depth=2, heads=2)
TINY = MaskGIT(network=MaskedTransformer(vocab=5, window=6, body=BODY), steps=3, optimizer=Adam(lr=3e-3))
X = np.random.default_rng(0).integers(0, 5, (8, 6)).astype(np.int32)


@pytest.fixture(scope="module")
def state():
    return core.init(TINY, core.run_key(0, core.INIT), {"x": X})


@pytest.mark.parametrize(("tokens", "steps"), [(64, 8), (64, 64), (49, 12), (6, 1), (5, 5)])
def test_each_step_settles_one_token_at_least_and_the_last_step_all(tokens, steps):
    left = [int(masked_left(tokens, steps, jnp.int32(i))) for i in range(steps)]
    assert np.all(np.diff([tokens, *left]) < 0)
    assert left[-1] == 0
    if steps == 8:
        assert left == [math.floor(64 * math.cos(math.pi * (i + 1) / 16)) for i in range(7)] + [0]


def test_a_masked_token_is_not_seen_and_all_others_are(state):
    """Masked tokens change nothing; other tokens do, before a position and after it."""
    mask = jnp.zeros((1, 6), bool).at[0, 2].set(True)
    logits = jax.jit(lambda x: TINY.logits(state.params, x, mask)[0, 2])
    x = jnp.asarray(X[:1])
    for place in range(6):
        other = x.at[0, place].set((x[0, place] + 1) % 5)
        assert bool(jnp.any(logits(other) != logits(x))) == (place != 2), place


def test_the_loss_is_of_masked_tokens_alone(state):
    """Where the head's bias alone speaks, each token costs what it costs, masked with whatever: NumPy's means of those
    that are masked."""
    params = jax.tree.map(jnp.zeros_like, state.params)
    params["network"]["bias"] = jnp.arange(5.0)
    cost = (np.log(np.exp(np.arange(5.0)).sum()) - np.arange(5.0))[X]
    plain = replace(TINY, label_smoothing=0.0)
    loss, seen = jax.jit(plain.seen)(params, state, core.sample_keys(0, 8), {"x": jnp.asarray(X)})
    numbers, (keys_ratio, keys_order, _) = seen.metrics, core.split_each(core.sample_keys(0, 8), 3)
    count = np.maximum(1, np.round(6 * np.cos(0.5 * np.pi * np.asarray(core.uniform_each(keys_ratio, (1,))))))
    mask = np.asarray(core.uniform_each(keys_order, (6,))).argsort(axis=1).argsort(axis=1) < count
    assert 8 < mask.sum() < 48
    assert float(loss) == pytest.approx(cost[mask].mean(), rel=1e-5)
    assert float(numbers["nats"]) == pytest.approx(cost[mask].mean(), rel=1e-5)
    # Of six tokens, evaluation looks at 1 to 6 of them masked.
    keys = core.sample_keys(0, 8)
    expected = np.zeros(8)
    for i in range(6):
        u = np.asarray(jax.vmap(lambda k: jax.random.uniform(k, (2, 6)))(core.fold_each(keys, i)))[:, 0]
        chosen = u.argsort(axis=1).argsort(axis=1) < i + 1
        expected += (cost * chosen).sum(axis=1) / (i + 1) / 6
    found = TINY.evaluate(state.replace(params=params), keys, {"x": X})["nats_per_token"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.ptp(expected) > 0.1


def test_codes_that_go_together_are_drawn_together():
    """The data are two rows of six tokens. Independent draws would give one of them in 1 of 32 samples."""
    rows = np.array([[0, 1, 0, 1, 1, 0], [2, 3, 4, 3, 2, 4]], np.int32)
    batches = {"x": np.stack([np.tile(rows, (8, 1))] * 400)}
    sharp = replace(TINY, label_smoothing=0.0)
    state = core.init(sharp, core.run_key(0, core.INIT), {"x": batches["x"][0]})
    state, _ = core.train_steps(sharp, state, core.run_key(0, core.TRAIN), batches)
    x = np.asarray(core.sample(sharp, state, core.sample_keys(0, 64)))
    whole = [(x == row).all(axis=1).mean() for row in rows]
    assert sum(whole) > 0.8
    assert min(whole) > 0.2


@pytest.mark.parametrize(
    ("change", "match"),
    [({"steps": 7}, "from 1 to 6"), ({"num_classes": 3}, "no labels")],
)
def test_settings_that_cannot_be_are_refused(change, match):
    with pytest.raises(UserError, match=match):
        replace(TINY, **change).check({"x": X})
    if "num_classes" not in change:
        with pytest.raises(UserError, match=match):
            replace(TINY, **change).check_cond(None)


def test_another_number_of_tokens_is_refused():
    with pytest.raises(UserError, match=r"pass --model\.network\.window 5"):
        TINY.check({"x": X[:, :5]})
    with pytest.raises(UserError, match="token 9 is out of range"):
        TINY.check({"x": np.full((2, 6), 9, np.int32)})
