"""DALL-E 2's prior and decoder: the objective written out, the best of two, guidance, and what they are told."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_diffusion import Tiny, state_of

from jaxgen import core
from jaxgen.core.keys import fold_each, split_each
from jaxgen.errors import UserError
from jaxgen.models.clip_decoder import CLIPDecoder
from jaxgen.models.clip_prior import CANDIDATE, CLIPPrior, nearest, to_norm
from jaxgen.models.conditions import without
from jaxgen.nets.clip import TextTower, tower
from jaxgen.nets.prior import PriorTransformer
from jaxgen.nets.transformer import Transformer
from jaxgen.nets.unet import UNet
from jaxgen.ops.guidance import Guidance
from jaxgen.ops.samplers import DDIM
from jaxgen.ops.schedules import Cosine

D = 6
MODEL = CLIPPrior(
    shape=(D,), network=PriorTransformer(body=Transformer(width=8, depth=1, heads=2, causal=True)),
    text=TextTower(vocab=20, window=5, body=tower(8, 1, 2)), schedule=Cosine(50), sampler=DDIM(4, clip=0.0),
    class_dropout=0.4, ema_decay=0.0, evaluate_times=3,
)  # fmt: skip
rng = np.random.default_rng(0)
TEXT = {
    "text": jnp.array([[17, 3, 19, 0, 0], [17, 4, 5, 19, 0], [17, 3, 4, 5, 19]]),
    "text_mask": jnp.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1] * 5], bool),
    "text_embedding": to_norm(jnp.float32(rng.normal(size=(3, D)))),
}
BATCH = {"x": to_norm(jnp.float32(rng.normal(size=(3, D)))), **TEXT}


@pytest.fixture(scope="module")
def state():
    return state_of(MODEL, BATCH)


def drawn(state, cond, model=MODEL):
    return np.asarray(core.sample(model, state, core.sample_keys(0, 3), cond))


def test_the_loss_is_equation_2(state):
    """In a loop over examples, in float64, with the network's answers: E |f(z^(t), t, y) - z|^2, y dropped or not."""
    keys = core.sample_keys(3, 3)
    loss, _ = jax.jit(MODEL.loss)(state.params, state, keys, BATCH)
    keys_t, keys_eps, keys_drop, _ = split_each(core.sample_keys(3, 3), 4)
    times, _ = MODEL.draw_times(keys_t, state)
    alphas, sigmas = MODEL.schedule.table()
    total, dropped = 0.0, 0
    answer_of = jax.jit(lambda params, x, t, cond: MODEL.answer(params, x, t, MODEL.inputs(params, cond)))
    for i in range(3):
        z, t = np.asarray(BATCH["x"][i], np.float64), int(times[i])
        eps = np.asarray(jax.random.normal(keys_eps[i], (D,)), np.float64)
        cond = {name: a[i : i + 1] for name, a in TEXT.items()}
        if not jax.random.bernoulli(keys_drop[i], 1 - MODEL.class_dropout):
            dropped += 1
            cond |= {"text_mask": jnp.zeros((1, 5), bool), "text_embedding": jnp.zeros((1, D))}
        noised = jnp.float32(alphas[t] * z + sigmas[t] * eps)[None]
        answer = np.asarray(answer_of(state.params, noised, times[i : i + 1], cond), np.float64)[0]
        total += np.mean((answer - z) ** 2)
    assert 0 < dropped < 3
    np.testing.assert_allclose(loss, total / 3, rtol=1e-4)


def test_samples_have_the_norm_of_embeddings_and_are_the_nearer_of_two(state):
    samples = drawn(state, TEXT)
    np.testing.assert_allclose(np.linalg.norm(samples, axis=1), np.sqrt(D), rtol=1e-5)
    candidates = []
    for k in range(2):
        keys = fold_each(core.sample_keys(0, 3), CANDIDATE + k)
        candidates.append(np.asarray(to_norm(jax.jit(MODEL._sample)(state, keys, TEXT))))
    for i in range(3):
        products = [float(np.dot(one[i], TEXT["text_embedding"][i])) for one in candidates]
        np.testing.assert_allclose(samples[i], candidates[int(np.argmax(products))][i], atol=1e-5)
    one = drawn(state, TEXT, replace(MODEL, best_of=1))
    np.testing.assert_allclose(one, candidates[0], atol=1e-5)


def test_the_nearest_of_candidates_by_hand():
    z = jnp.array([[[1.0, 0], [0, 1]], [[0, 2.0], [3, 0]], [[-1, 0], [0, 2.0]]])
    np.testing.assert_array_equal(nearest(z, jnp.array([[1.0, 0.1], [0.0, 1]])), [[1, 0], [0, 2]])


def test_guidance_leads_from_no_text_or_from_a_negative_one(state):
    """Scale 0 draws without the text: neither its tokens nor its embedding tell anything."""
    none = TEXT | {"text_mask": jnp.zeros((3, 5), bool), "text_embedding": jnp.zeros((3, D))}
    single = replace(MODEL, best_of=1)
    expected = drawn(state, none, single)
    scale = {"guidance": jnp.zeros(3)}
    np.testing.assert_allclose(drawn(state, TEXT | scale, single), expected, atol=1e-5)
    other = {"text": TEXT["text"][::-1], "text_mask": TEXT["text_mask"][::-1]}
    negative = {"negative": other["text"], "negative_mask": other["text_mask"]}
    led = TEXT | negative | {"negative_embedding": TEXT["text_embedding"][::-1]}
    expected = drawn(state, other | {"text_embedding": TEXT["text_embedding"][::-1]}, single)
    np.testing.assert_allclose(drawn(state, led | scale, single), expected, atol=1e-5)
    assert np.abs(expected - drawn(state, TEXT, single)).max() > 1e-3


def test_evaluation_compares_with_the_texts_own_embedding(state):
    numbers = core.evaluate(MODEL, state, core.sample_keys(0, 3), BATCH)
    z, text = np.asarray(BATCH["x"]), np.asarray(BATCH["text_embedding"])
    np.testing.assert_allclose(numbers["text_similarity"], (z * text).sum(axis=1) / D, rtol=1e-4)
    assert np.all(np.abs(numbers["prior_similarity"]) <= 1.0001)


@pytest.mark.parametrize(
    ("cond", "message"),
    [
        ({name: TEXT[name] for name in ("text", "text_mask")}, r"text_embedding has shape None, \(6,\) is expected"),
        (TEXT | {"text_embedding": jnp.zeros((3, 5))}, r"text_embedding has shape \(5,\)"),
        ({"text_embedding": TEXT["text_embedding"]}, "no text was given"),
    ],
)
def test_conditions_of_the_prior_are_checked(cond, message):
    with pytest.raises(UserError, match=message):
        MODEL.check_cond(cond)


def test_settings_that_no_prior_has_are_refused():
    for model, message in [
        (replace(MODEL, text=None), "a prior reads texts"),
        (replace(MODEL, objective="hybrid"), "choose simple"),
        (replace(MODEL, shape=(5,)), "model.shape"),
    ]:
        with pytest.raises(UserError, match=message):
            model.check(BATCH)


# --- the decoder ---

DECODER = CLIPDecoder(
    shape=(4, 4, 1), dim=D, tokens=0, network=Tiny(), schedule=Cosine(50), sampler=DDIM(3, clip=0.0), class_dropout=0.5,
    ema_decay=0.0,
)  # fmt: skip
PICTURES = {"x": jnp.zeros((3, 4, 4, 1)), "embedding": BATCH["x"]}


def test_the_decoder_draws_of_an_embedding_and_is_guided_away_from_none():
    state = state_of(DECODER, PICTURES)
    cond = {"embedding": BATCH["x"]}
    base = drawn(state, cond, DECODER)
    assert np.abs(drawn(state, {"embedding": BATCH["x"][::-1]}, DECODER) - base).max() > 1e-3
    none = drawn(state, without(cond), DECODER)
    np.testing.assert_array_equal(without(cond)["embedding"], np.zeros((3, D)))
    np.testing.assert_allclose(drawn(state, cond | {"guidance": jnp.zeros(3)}, DECODER), none, atol=1e-5)
    # The network is linear in what it is told, so that guidance extrapolates the samples as well.
    led = drawn(state, cond, replace(DECODER, guidance=Guidance(scale=3.0)))
    np.testing.assert_allclose(led, none + 3 * (base - none), rtol=1e-4)


def test_the_decoder_attends_to_tokens_of_the_embedding():
    network = UNet(8, (1, 2), 1, (), head_dim=8, cross_attention=(2,))
    model = replace(DECODER, tokens=2, network=network)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), PICTURES)).params
    assert params["tokens"]["tokens"]["kernel"].shape == (D, 2 * D)
    told = model.inputs({"tokens": {"tokens": {"kernel": jnp.eye(D, 2 * D), "bias": jnp.ones(2 * D)}}}, PICTURES)
    np.testing.assert_allclose(told["context"][:, 0], BATCH["x"] + 1, rtol=1e-6)
    np.testing.assert_allclose(told["context"][:, 1], 1.0)
    np.testing.assert_array_equal(told["y"], BATCH["x"])


def test_what_the_decoder_cannot_be_told_is_refused():
    with pytest.raises(UserError, match=r"embedding has shape \(4,\), \(6,\) is expected"):
        DECODER.check_cond({"embedding": jnp.zeros((2, 4))})
    with pytest.raises(UserError, match="embedding has shape None"):
        DECODER.check({"x": PICTURES["x"]})
    assert "told an embedding alone" in (replace(DECODER, num_classes=3).problem() or "")
