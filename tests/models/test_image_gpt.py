"""Image GPT: pixels as tokens, exact bits, raster order, completions that keep what is given."""

from dataclasses import replace
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_gpt import randomised, state_of

from jaxgen import core
from jaxgen.codecs import Colours
from jaxgen.data import Digits
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.inference import editing
from jaxgen.models import gpt
from jaxgen.models.image_gpt import ImageGPT
from jaxgen.nets.gpt import TokenTransformer
from jaxgen.nets.transformer import Transformer
from jaxgen.runs.restore import Trained

BODY = Transformer(width=16, depth=2, heads=2, causal=True)


def tiny(shape=(4, 3, 1), vocab=5, **fields) -> ImageGPT:
    return ImageGPT(shape=shape, network=TokenTransformer(vocab=vocab, window=shape[0] * shape[1], body=BODY), **fields)


MODEL = tiny(num_classes=3)
Y = jnp.array([0, 2, 1, 2])
X = np.random.default_rng(0).integers(0, 5, (4, 12)).astype(np.int32)
UPPER = np.broadcast_to(np.arange(4).reshape(1, 4, 1, 1) < 2, (1, 4, 3, 1))


@pytest.fixture(scope="module")
def state():
    return state_of(MODEL, randomised(MODEL, scale=0.4))


def test_probabilities_of_all_pictures_sum_to_one():
    """And bits/dim are minus their binary logarithm over H W C."""
    model = tiny((2, 2, 3), 2)
    every = np.array(list(product(range(2), repeat=4)), np.int32)
    numbers = core.evaluate(model, state_of(model, randomised(model)), core.sample_keys(0, 16), {"x": every})
    nats = np.asarray(numbers["nats"], np.float64)
    assert np.exp(-nats).sum() == pytest.approx(1, abs=1e-5) and np.ptp(nats) > 0.1
    np.testing.assert_allclose(numbers["bits_per_dim"], nats / np.log(2) / 12, rtol=1e-6)


def test_a_pixel_depends_on_those_before_it_in_raster_order_alone(state):
    """The Jacobian of each pixel's -log p by the inputs' embeddings: zero from the pixel itself on, nonzero before."""
    params = state.params["network"]

    def nats(shift):
        """shift: f32[T, width], added to the embedding of each pixel by its position, which is read one place later."""
        moved = {**params, "positions": params["positions"].at[1:].add(shift[:-1])}
        return MODEL.nats({**state.params, "network": moved}, {"x": X[:1], "cond": Y[:1]})[0]

    moves = np.abs(jax.jit(jax.jacobian(nats))(jnp.zeros((12, 16)))).max(axis=-1)
    assert not np.triu(moves).any()
    assert (moves[np.tril_indices(12, -1)] > 0).all()


def completed(state, keys, x, mask, y):
    return np.asarray(jax.jit(MODEL.inpaint)(state, keys, x, jnp.asarray(mask), y))


def test_what_is_given_stays_and_the_rest_goes_on_from_it(state):
    """Whatever lies under the mask's false part is not seen; what is given is."""
    x, y = np.tile(X, (16, 1)), jnp.tile(Y, 16)

    def filled(x, mask=UPPER):
        return completed(state, core.sample_keys(0, 64), x, mask, y)

    done = filled(x)
    np.testing.assert_array_equal(done[:, :6], x[:, :6])
    assert not np.array_equal(done[:, 6:], x[:, 6:])
    np.testing.assert_array_equal(filled(np.concatenate([x[:, :6], (x[:, 6:] + 1) % 5], axis=1)), done)
    other = filled(np.concatenate([(x[:, :6] + 1) % 5, x[:, 6:]], axis=1))
    assert not np.array_equal(other[:, 6:], done[:, 6:])
    holes = np.random.default_rng(1).random((64, 4, 3, 1)) < 0.5
    kept = holes.reshape(64, 12)
    np.testing.assert_array_equal(filled(x, holes)[kept], x[kept])


def test_with_nothing_given_a_completion_is_a_sample_and_samples_do_not_see_their_batch(state):
    sample = jax.jit(MODEL.sample)
    many = np.asarray(sample(state, core.sample_keys(0, 4), Y))
    nothing = np.zeros((1, 4, 3, 1), bool)
    np.testing.assert_array_equal(completed(state, core.sample_keys(0, 4), X, nothing, Y), many)
    np.testing.assert_array_equal(sample(state, core.sample_keys(0, 2), Y[:2]), many[:2])
    alone = completed(state, core.sample_keys(0, 4)[2:3], X[2:3], UPPER, Y[2:3])
    np.testing.assert_array_equal(alone, completed(state, core.sample_keys(0, 4), X, UPPER, Y)[2:3])


def test_completions_follow_the_models_conditional(state):
    """The last pixel, drawn many times, has the probabilities that `nats` gives it; in stages as in one."""
    num = 4000
    last = np.arange(12).reshape(1, 4, 3, 1) < 11
    every = jnp.asarray(np.concatenate([np.tile(X[:1, :11], (5, 1)), np.arange(5)[:, None]], axis=1), jnp.int32)
    p = np.exp(-np.asarray(MODEL.nats(state.params, {"x": every, "cond": jnp.zeros(5, jnp.int32)}))[:, -1])
    assert p.sum() == pytest.approx(1, abs=1e-5)
    x, y = np.tile(X[:1], (num, 1)), np.zeros(num, np.int32)
    drawn = completed(state, core.sample_keys(5, num), x, last, y)[:, -1]
    assert np.all(np.abs(np.bincount(drawn, minlength=5) / num - p) < 5 * np.sqrt(p * (1 - p) / num))


def test_a_cache_that_grows_takes_the_given_pixels_of_its_part(state, monkeypatch):
    whole = completed(state, core.sample_keys(1, 4), X, UPPER, Y)
    monkeypatch.setattr(gpt, "STAGE_TOKENS", 4)
    assert len(MODEL._stages(0)) == 3
    staged = jax.jit(lambda s, k: MODEL.inpaint(s, k, X, jnp.asarray(UPPER), Y))(state, core.sample_keys(1, 4))
    np.testing.assert_array_equal(staged, whole)


def test_a_picture_keeps_its_own_pixels_not_their_nearest_colours(state):
    image = np.random.default_rng(2).integers(0, 256, (4, 3, 1), dtype=np.uint8)
    codec = Colours(shape=(4, 3, 1), size=5).load()
    trained = Trained(Experiment(model=MODEL, data=Digits(), codec=Colours(shape=(4, 3, 1), size=5)), codec, state)
    editing.check_model(MODEL, image=True, mask=True, between=False)
    stays = UPPER[0]
    raw = editing.redraw(trained, core.sample_keys(0, 4), image, stays, Y)
    np.testing.assert_array_equal(raw[:, :2], np.broadcast_to(image[:2], (4, 2, 3, 1)))
    assert set(np.unique(raw[:, 2:])) <= {0, 64, 128, 191, 255} and len(np.unique(raw[:, 2:], axis=0)) > 1


def test_it_is_fitted_to_other_pictures():
    fitted = MODEL.fitted((6, 6, 3), 0)
    assert fitted.shape == (6, 6, 3) and fitted.window == fitted.num_tokens == 36 and fitted.num_classes == 0
    assert fitted.natural_codec() == Colours(shape=(6, 6, 3), size=5)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"shape": (4, 4, 1)}, "height times width as the window"), ({"start": False}, "needs a start token")],
)
def test_settings_that_cannot_be_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        replace(MODEL, **change).check({"x": X, "cond": Y})


def test_each_pixel_is_drawn_once(state):
    with pytest.raises(UserError, match="draws each pixel once"):
        MODEL.inpaint(state, core.sample_keys(0, 4), X, UPPER, Y, resample=2)
