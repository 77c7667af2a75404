"""GPT: cached logits against whole passes, texts longer than the window, codes and classes, refused inputs."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXPERIMENTS
from tiny_gpt import randomised, state_of, tiny

from jaxgen import core
from jaxgen.core.mesh import Layout
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.inference import held_out
from jaxgen.models import gpt
from jaxgen.models.gpt import GPT, check_prompt, joined, prompts
from jaxgen.models.shared import check_tokens
from jaxgen.nets.gpt import TokenTransformer
from jaxgen.nets.transformer import Transformer
from jaxgen.ops.decoding import Decoding, penalise
from jaxgen.optim import Adam, decayed

ROWS = [[3], [1, 4, 1], [5, 9, 2, 6, 5, 3, 5, 8]]
MODEL = tiny()


@pytest.fixture(scope="module")
def params():
    return randomised(MODEL)


def whole(model, params, tokens) -> np.ndarray:
    """Logits after each of the tokens, in one pass, padded so that all lengths share a program."""
    padded = np.zeros((1, model.network.window), np.int32)
    padded[0, : len(tokens)] = tokens
    return np.asarray(_whole(model.network, params, padded))[0, : len(tokens)]


@partial(jax.jit, static_argnums=0)
def _whole(network, params, x):
    return network.apply({"params": params["network"]}, x)


def written(model, params, rows, num, size=8):
    """Tokens drawn, and the logits each was drawn from, one step at a time."""
    cond = prompts(rows, model.network.window)
    cond["prompt"] = cond["prompt"][:, :size]
    keys = core.sample_keys(0, len(rows))

    @jax.jit
    def run(params):
        writer = model.begin(params, len(rows), cond, num)
        layers = model.network.body.decode_params(params["network"]["body"], len(rows))

        def step(writer, i):
            writer, logits = model.advance(params, layers, writer)
            token = model.decoding.draw(core.fold_each(keys, i), logits)
            return writer._replace(token=token), (token, logits)

        return jax.lax.scan(step, writer, jnp.arange(num))[1]

    tokens, logits = run(params)
    return np.asarray(tokens).T, np.asarray(logits).swapaxes(0, 1)


@pytest.mark.parametrize("keep", [0, 7])
def test_cached_logits_are_the_whole_passes(params, keep):
    """For ragged prompts in one batch, at every position, within the window and far beyond it. With `keep` one less
    than the window, each token is drawn from the last window of tokens, as in nanoGPT."""
    model = tiny(decoding=Decoding(keep=keep))
    tokens, logits = written(model, params, ROWS, 20)
    for row, drawn, given in zip(ROWS, tokens, logits):
        context, everything = list(row), list(row)
        for token, ours in zip(drawn, given):
            if len(context) > 8:
                context = context[-((keep or 4) + 1) :]
            if keep == 7:
                assert context == everything[-8:]
            np.testing.assert_allclose(ours, whole(model, params, context)[-1], atol=1e-4)
            context.append(int(token))
            everything.append(int(token))


def test_samples_are_prompts_and_what_follows(params):
    """In any batch, with any padding, in one call or in several."""
    model = tiny(decoding=Decoding(tokens=12))
    state = state_of(model, params)
    out = np.asarray(core.sample(model, state, core.sample_keys(0, 3), prompts(ROWS, 8)))
    assert out.shape == (3, 8 + 12)
    tokens, _ = written(model, params, ROWS, 12)
    for row, line, drawn in zip(ROWS, out, tokens):
        np.testing.assert_array_equal(line[: len(row) + 12], [*row, *drawn])
        assert not line[len(row) + 12 :].any()
    alone = core.sample(model, state, core.sample_keys(0, 1), {"prompt": np.array([[3]]), "length": np.array([1])})
    np.testing.assert_array_equal(alone[0], out[0, :13])
    writer, parts = model.begin(params, 3, prompts(ROWS, 8)), []
    for first in (0, 4, 8):
        writer, some = model.write(params, writer, core.sample_keys(0, 3), first, 4)
        parts.append(some)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), tokens)


@pytest.mark.parametrize("tokens", [6, 14])  # as many as the window holds, and more
def test_a_cache_that_grows_changes_no_token(params, tokens, monkeypatch):
    model = replace(MODEL, decoding=replace(MODEL.decoding, tokens=tokens, repetition_penalty=1.2))
    cond = prompts(ROWS[:2], model.network.window)
    cond["prompt"] = cond["prompt"][:, :3]
    keys, state = core.sample_keys(3, 2), state_of(model, params)
    assert len(model._stages(2)) == 1
    expected = jax.jit(model.sample)(state, keys, cond)
    monkeypatch.setattr(gpt, "STAGE_TOKENS", 2)
    stages = model._stages(2)
    assert len(stages) == 3 and sum(num for _, num in stages) == tokens
    np.testing.assert_array_equal(jax.jit(model.sample)(state, keys, cond), expected)


def test_no_token_depends_on_a_later_one(params):
    base = whole(MODEL, params, ROWS[2])
    for place in range(8):
        changed = list(ROWS[2])
        changed[place] = (changed[place] + 1) % 11
        moved = np.abs(whole(MODEL, params, changed) - base).max(axis=-1) > 0
        assert not moved[:place].any() and moved[place:].all()


def test_after_the_end_nothing_follows(params):
    model = tiny(decoding=Decoding(tokens=30, end=7))
    out = np.asarray(core.sample(model, state_of(model, params), core.sample_keys(1, 8), prompts([[3]] * 8, 8)))[:, 1:]
    ended = 0
    for line in out:
        if 7 in line:
            first = list(line).index(7)
            assert set(line[first:]) == {7}
            ended += 1
    assert ended


def test_a_penalty_is_for_the_prompt_and_what_was_drawn(params):
    """Greedy text by a loop over whole passes."""
    model = tiny(decoding=Decoding(tokens=6, temperature=0, repetition_penalty=3.0))
    out = core.sample(model, state_of(model, params), core.sample_keys(0, 1), prompts([[3, 1]], 8))
    text, plain = [3, 1], [3, 1]
    for _ in range(6):
        seen = np.isin(np.arange(11), text)[None]
        text.append(int(np.argmax(penalise(whole(model, params, text)[-1:], seen, 3.0))))
        plain.append(int(np.argmax(whole(model, params, plain)[-1])))
    np.testing.assert_array_equal(np.asarray(out)[0, :8], text)
    assert text != plain


def test_growing_prompts_and_other_seeds_compile_nothing(params):
    model = tiny(window=32, decoding=Decoding(tokens=3))
    state = state_of(model, randomised(model))
    core.sample(model, state, core.sample_keys(0, 2), prompts([[1], [2, 3]], 32))
    before = core.sample_program._cache_size()
    for seed in range(1, 4):
        core.sample(model, state, core.sample_keys(seed, 2), prompts([[1] * 4 * seed, [2, 3]], 32))
    assert core.sample_program._cache_size() == before
    assert prompts([[1] * 17], 32)["prompt"].shape == (1, 32) and prompts([[1] * 17], 20)["prompt"].shape == (1, 20)


# --- codes ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coded():
    model = tiny(num_classes=3, class_dropout=0.5, guidance=2.0)
    return model, randomised(model)


def test_codes_are_predicted_from_the_first_on(coded):
    """Their probabilities sum to one and depend on the class; guidance follows its formula."""
    model, params = coded
    x, y = jnp.array(ROWS[2] * 3).reshape(3, 8), jnp.arange(3)
    nats = jax.jit(model.nats)(params, {"x": x, "cond": y})
    assert nats.shape == (3, 8)
    assert float(jnp.abs(nats[0] - nats[1]).max()) > 1e-3
    firsts = jnp.repeat(jnp.arange(11), 3)[:, None] * jnp.ones((1, 8), jnp.int32)
    total = jnp.exp(-model.nats(params, {"x": firsts, "cond": jnp.tile(y, 11)}))[:, 0].reshape(11, 3).sum(0)
    np.testing.assert_allclose(total, 1, rtol=1e-5)

    sampled = core.sample(model, state_of(model, params), core.sample_keys(0, 4), jnp.array([0, 1, 2, 2]))
    assert sampled.shape == (4, 8) and int(sampled.min()) >= 0 and int(sampled.max()) < 11

    def step(model, y):
        writer = model.begin(params, 1, jnp.array([y]))
        return model.advance(params, model.network.body.decode_params(params["network"]["body"], 1), writer)[1]

    guided, plain = step(model, 1), step(replace(model, guidance=1.0), 1)
    assert guided.shape == (2, 11)
    np.testing.assert_allclose(guided[:1], plain, atol=1e-5)
    # The second row is the class that is none.
    np.testing.assert_allclose(guided[1:], step(replace(model, guidance=1.0, num_classes=4), 3), atol=1e-5)


def test_labels_left_out_in_training_are_the_class_that_is_none(coded):
    """With class dropout 1 all labels are dropped; without a key, none."""
    model, params = coded
    x, y = jnp.array(ROWS[2] * 3).reshape(3, 8), jnp.arange(3)
    dropped = replace(model, class_dropout=1.0).nats(params, {"x": x, "cond": y}, core.sample_keys(0, 3))
    np.testing.assert_allclose(dropped, model.nats(params, {"x": x, "cond": jnp.full(3, 3)}), atol=1e-6)
    assert not np.allclose(dropped, model.nats(params, {"x": x, "cond": y}), atol=1e-3)


def test_guidance_without_labels_left_out_is_refused_in_sampling_too(coded):
    model, params = coded
    for bad in (replace(model, class_dropout=0.0), tiny(guidance=2.0)):
        cond = jnp.array([0]) if bad.num_classes else prompts([[1]], 8)
        with pytest.raises(UserError, match="it needs classes"):
            core.sample(bad, state_of(bad, params), core.sample_keys(0, 1), cond)


def test_what_is_after_the_longest_prompt_counts_for_nothing(params):
    """Rows of data are one token longer than the window."""
    keys, rows = core.sample_keys(0, 2), np.array([[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [3, 2, 1, 4, 5, 6, 7, 8, 9, 10]])
    length = np.array([8, 3])
    expected = core.sample(MODEL, state_of(MODEL, params), keys, {"prompt": rows[:, :8], "length": length})
    found = core.sample(MODEL, state_of(MODEL, params), keys, {"prompt": rows, "length": length})
    for i, n in enumerate(length):
        np.testing.assert_array_equal(found[i, : n + 8], expected[i, : n + 8])


def test_bits_per_byte_are_all_bits_over_all_bytes(params):
    x, count = np.array(ROWS[2] * 3).reshape(3, 8), np.array([7, 30, 11])
    numbers = MODEL.evaluate(state_of(MODEL, params), core.sample_keys(0, 3), {"x": x, "bytes": count})
    nats = np.asarray(MODEL.nats(params, {"x": x}), np.float64)
    mean = held_out.mean_and_error(np.asarray(numbers["bits_per_byte"], np.float64))
    np.testing.assert_allclose(mean["mean"], nats.sum() / np.log(2) / 48, rtol=1e-5)
    assert mean["stderr"] > 0


def test_unconditional_codes_have_a_start_of_their_own():
    model = tiny(start=True)
    params = randomised(model)
    assert params["starts"]["embedding"].shape == (1, 16)
    assert core.sample(model, state_of(model, params), core.sample_keys(0, 2)).shape == (2, 8)
    with pytest.raises(UserError, match="leave the condition out"):
        core.sample(model, state_of(model, params), core.sample_keys(0, 1), prompts([[1]], 8))


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "message"),
    [([[3, 11]], "token 11 is out of range: the model knows 0 to 10"), ([[-1]], "token -1 is out of range"),
     ([[]], "a prompt is empty"), ([[1] * 9], "a prompt has 9 tokens, the window 8"), (None, "continues a prompt")],
)  # fmt: skip
def test_prompts_that_cannot_be_gone_on_from(params, rows, message):
    with pytest.raises(UserError, match=message):
        cond = None if rows is None else prompts(rows, 8)
        core.sample(MODEL, state_of(MODEL, params), core.sample_keys(0, 1), cond)


@pytest.mark.parametrize(
    ("prompt", "length", "message"),
    [([2, 4], [3], r"shapes \[2, 4\] and \[3\]"), ([4], [3], r"shapes \[4\] and"),
     ([2, 4], [2, 1], r"and \[2, 1\]"), ([1, 10], None, "has 10 tokens, the window 8"),
     ([1, 4], None, "length is 10, but 4")],
)  # fmt: skip
def test_prompts_and_lengths_of_shapes_that_do_not_go_together(prompt, length, message):
    lengths = np.array([10]) if length is None else np.ones(length, np.int32)
    with pytest.raises(UserError, match=message):
        check_prompt({"prompt": np.ones(prompt, np.int32), "length": lengths}, 11, 16 if prompt == [1, 4] else 8)


def test_data_that_does_not_fit():
    tokens = np.zeros((2, 9), np.int32)
    for model, batch, message in (
        (MODEL, {"x": np.zeros((2, 10), np.int32)}, "ask for 9 positions, the window has 8"),
        (MODEL, {"x": np.zeros((2, 9), np.float32)}, "integer tokens"),
        (tiny(guidance=2.0), {"x": tokens}, "it needs classes"),
        (tiny(start=True), {"x": tokens[:, :8], "bytes": np.zeros(2, np.int32)}, "leave --model.start out"),
        (tiny(start=True, decoding=Decoding(tokens=9)), {"x": tokens[:, :8]}, "codes end with the window"),
        (tiny(start=True), {"x": tokens[:, :6]}, "examples have 6 tokens, samples 8"),
        (tiny(num_classes=3), {"x": tokens[:, :8]}, "no labels"),
        (GPT(network=TokenTransformer(body=Transformer(width=16, heads=2))), {"x": tokens}, "causal is False"),
    ):
        with pytest.raises(UserError, match=message):
            model.check(batch)
    with pytest.raises(UserError, match="token 12 is out of range"):
        check_tokens(np.array([[0, 12]]), 11)


def test_weight_decay_is_of_matrices_and_embeddings_alone():
    """Biases and scales of stacked layers have two axes, and are left alone all the same."""
    mask = decayed(randomised(tiny(num_classes=2)))
    for path, chosen in jax.tree_util.tree_flatten_with_path(mask)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert chosen != name.endswith(("bias", "scale")), name


# --- the sketch's bugs ------------------------------------------------------------------------------------------


def test_sketch_starts_at_the_uniform_loss():
    """It was post-norm with embeddings and head of N(0, 1): losses of hundreds of nats at the first step."""
    for fields in ({}, {"pre_norm": False}):
        model = tiny(vocab=200, window=32, **fields)
        batch = {"x": jax.random.randint(jax.random.key(0), (8, 33), 0, 200)}
        state = core.init(model, jax.random.key(1), batch)
        assert float(jnp.mean(jax.jit(model.nats)(state.params, batch))) == pytest.approx(np.log(200), abs=0.2)


def test_sketch_samples_without_dropout_and_past_its_length(params):
    """Dropout was active in sampling, and positions ended with the window."""
    plain = tiny(decoding=Decoding(tokens=20))
    dropping = tiny(dropout=0.5, decoding=Decoding(tokens=20))
    both = [core.sample(m, state_of(m, params), core.sample_keys(0, 3), prompts(ROWS, 8)) for m in (plain, dropping)]
    np.testing.assert_array_equal(*both)
    losses = [
        jax.jit(dropping.nats)(params, {"x": jnp.zeros((2, 9), jnp.int32)}, core.sample_keys(seed, 2))
        for seed in (0, 1)
    ]
    assert float(jnp.abs(losses[0] - losses[1]).max()) > 1e-3


def test_sketch_is_a_preset():
    body = presets(EXPERIMENTS["gpt"])["sketch"].model.network.body
    assert not body.pre_norm and (body.width, body.depth, body.heads, body.dropout) == (768, 12, 12, 0.1)


def test_joined_moves_what_was_drawn_to_the_end_of_each_prompt():
    cond = {"prompt": np.array([[1, 0, 0], [1, 2, 3]]), "length": np.array([1, 3])}
    out = joined(cond, jnp.array([[7, 8], [7, 8]]), 9)
    np.testing.assert_array_equal(out, [[1, 7, 8, 9, 9], [1, 2, 3, 7, 8]])


@pytest.mark.slow
def test_a_mesh_trains_as_one_device_does():
    """Data and tensor parallel: the two layers of each pair are split, and the losses are the same."""
    model, losses = tiny(optimizer=Adam(lr=1e-2)), []
    batches = {"x": np.random.default_rng(0).integers(0, 11, (3, 8, 9)).astype(np.int32)}
    first = {"x": batches["x"][0]}
    for layout in (None, Layout.make("data=2,tensor=2", 8)):
        state, key, data = core.init(model, core.run_key(0, core.INIT), first, None, layout), jax.random.key(1), batches
        if layout is not None:
            data, key = layout.put(batches, layout.batch(1)), layout.put(key, layout.everywhere)
            blocks = state.params["network"]["body"]["blocks"]
            assert blocks["self_attention"]["qkv"]["kernel"].sharding.spec[2] == "tensor"
            assert blocks["token_mlp"]["down"]["kernel"].sharding.spec[1] == "tensor"
        _, metrics = core.train_steps(model, state, key, data, None, None, False, layout)
        losses.append(np.asarray(metrics["loss"]))
    np.testing.assert_allclose(*losses, rtol=1e-4)
