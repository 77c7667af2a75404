"""PixelCNN: what each output depends on, sums of probabilities, and pixel-by-pixel passes equal to whole ones."""

import itertools
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import core
from jaxgen.core import TrainState
from jaxgen.errors import UserError
from jaxgen.models.pixelcnn import PixelCNN
from jaxgen.nets.pixelcnn import GatedPixelCNN, PlainPixelCNN, causal_mask
from jaxgen.nets.pixelcnn_pp import PixelCNNPP
from jaxgen.ops.conv import conv, narrow_conv
from jaxgen.ops.levels import Binary, Categorical, LogisticMixture

PLAIN = PixelCNN(
    network=PlainPixelCNN(width=6, layers=3, first_size=3), likelihood=Categorical(levels=3), shape=(4, 6, 3)
)
# As deep as it takes to reach the far corner by 3 x 3 kernels.
GATED = PixelCNN(
    network=GatedPixelCNN(width=6, layers=6, first_size=3, head=6, coordinates=True),
    likelihood=Categorical(levels=3), shape=(4, 6, 3), num_classes=2,
)  # fmt: skip
PP = PixelCNN(
    network=PixelCNNPP(width=4, blocks=1, levels=2, dropout=0.5), likelihood=LogisticMixture(components=2, levels=5),
    shape=(4, 6, 3), num_classes=2,
)  # fmt: skip
LABELS = jnp.array([0, 1, 1])


def state_of(model: PixelCNN, size: float = 0.2) -> TrainState:
    """Random parameters, biases too."""
    batch = {"x": jnp.zeros((1, *model.shape)), "cond": LABELS[:1]}
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape) * size, jnp.float32), shapes.params)
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state={})


def images_of(model: PixelCNN, num: int = 3) -> jax.Array:
    levels = np.random.default_rng(1).integers(0, model.likelihood.levels, (num, *model.shape))
    return model.likelihood.value(jnp.asarray(levels))


@dataclass(frozen=True)
class Case:
    """A model, parameters and images, and log p of every level of each of their values by the whole network at once,
    f32[B, H W C, levels]."""

    model: PixelCNN
    state: TrainState
    x: jax.Array
    y: jax.Array | None
    log_probs: np.ndarray

    @property
    def cond(self):
        return LABELS if self.model.num_classes else None


def whole(model: PixelCNN, params, x, y) -> jax.Array:
    answer = model.answer(params, x, y)
    each = [model.likelihood.log_probs(answer, x, c) for c in range(model.shape[-1])]
    return jnp.stack(each, axis=3).reshape(x.shape[0], -1, model.likelihood.levels)


whole = jax.jit(whole, static_argnums=0)


@pytest.fixture(scope="module", params=["plain", "gated", "pp"])
def case(request) -> Case:
    model = {"plain": PLAIN, "gated": GATED, "pp": PP}[request.param]
    state, x = state_of(model), images_of(model)
    y = jax.nn.one_hot(LABELS, 2) if model.num_classes else None
    return Case(model, state, x, y, np.asarray(whole(model, state.params, x, y)))


# --- what sees what ---


def sensitivity(model: PixelCNN) -> np.ndarray:
    """bool[n, n], n = H W C: whether output i, one for each channel, moves with input j."""
    groups = model._groups
    y = jax.nn.one_hot(LABELS[:1], 2) if model.num_classes else None
    x, rng = images_of(model, 1), np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: model.network.init(key, x, 3, y, groups=groups), jax.random.key(0))
    # Positive weights under biases of 1: no ReLU is shut, nothing cancels.
    params = jax.tree.map(
        lambda p: jnp.asarray(rng.uniform(0.02, 0.08, p.shape) + (p.ndim == 1), jnp.float32), shapes["params"]
    )

    def outputs(x: jax.Array) -> jax.Array:
        return model.network.apply({"params": params}, x[None], 3, y, groups=groups).reshape(-1)

    jacobian = jax.jit(jax.jacrev(outputs))(x[0])
    return np.abs(np.asarray(jacobian).reshape(jacobian.shape[0], -1)) > 0


def before(model: PixelCNN) -> np.ndarray:
    """bool[n, n]: whether value j comes before what is answered for value i: earlier pixels and, unless the answer is
    joint, earlier channels."""
    n, channels = int(np.prod(model.shape)), model.shape[-1]
    value = np.arange(n)
    unit = value // channels if model.likelihood.joint else value
    return unit[None] < unit[:, None]


@pytest.mark.parametrize("model", [GATED, PP], ids=["gated", "pp"])
def test_each_output_sees_all_that_comes_before_and_nothing_else(model):
    """The Jacobian is zero for every later pixel and channel, and there is no blind spot."""
    np.testing.assert_array_equal(sensitivity(model), before(model))


def test_the_plain_stack_sees_only_what_comes_before_and_has_a_blind_spot():
    seen = sensitivity(PLAIN)
    assert not np.any(seen & ~before(PLAIN))
    pixels = seen.reshape(4, 6, 3, 4, 6, 3).any(axis=(2, 5))
    # Each row up adds one column to the right at 3 x 3, however deep the stack.
    np.testing.assert_array_equal(pixels[3, 1].sum(axis=1), [5, 4, 3, 2])


def test_mask_b_keeps_the_left_neighbour():
    """Regression: the sketch zeroed the row from the centre's left on, so that pixels did not see the last one."""
    mask = causal_mask((2, 3), 1, 1, 1, 1, first=False)[:, :, 0, 0]
    np.testing.assert_array_equal(mask, [[1, 1, 1], [1, 1, 0]])
    mask = causal_mask((2, 3), 1, 1, 1, 1, first=True)[:, :, 0, 0]
    np.testing.assert_array_equal(mask, [[1, 1, 1], [1, 0, 0]])


def test_masks_order_the_channels_of_a_pixel():
    """Two features for each of R, G, B: mask A sees those before, mask B itself too."""
    for first, table in [(True, [[0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1], [0] * 6]),
                         (False, [[1] * 6, [0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1]])]:  # fmt: skip
        np.testing.assert_array_equal(causal_mask((1, 1), 0, 3, 6, 3, first)[0, 0], table)


def test_training_mode_leaks_nothing(case):
    """Regression: batch norm by the statistics of a batch let later pixels, and other images, into every output."""
    model, pixel = case.model, 9
    later = np.arange(24) >= pixel
    changed = jnp.where(later.reshape(1, 4, 6, 1), 0.3, case.x).at[1:].set(0.1)
    answer = jax.jit(lambda x: model.answer(case.state.params, x, case.y, jax.random.key(5))[0].reshape(24, -1))
    np.testing.assert_array_equal(answer(case.x)[:pixel], answer(changed)[:pixel])
    assert not np.array_equal(answer(case.x)[pixel + 1 :], answer(changed)[pixel + 1 :])


@pytest.mark.parametrize(("size", "pads"), [((2, 3), ((1, 0), (1, 1))), ((1, 2), ((0, 0), (1, 0)))])
def test_narrow_convolutions_have_the_gradients_of_wide_ones(size, pads):
    rng = np.random.default_rng(0)
    x, kernel, weight = (
        jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 4, 5, 3), (*size, 3, 4), (2, 4, 5, 4))
    )

    @jax.jit
    def both(x, kernel):
        def gradients(convolve):
            return jax.grad(lambda x, kernel: jnp.sum(weight * convolve(x, kernel) ** 2), (0, 1))(x, kernel)

        return gradients(lambda x, k: narrow_conv(x, k, pads)), gradients(lambda x, k: conv(x, k, (1, 1), pads))

    for narrow, wide in zip(*both(x, kernel), strict=True):
        np.testing.assert_allclose(narrow, wide, rtol=1e-4, atol=1e-4)


# --- probabilities ---


@pytest.mark.parametrize("shape", [(2, 2, 1), (1, 2, 3)])
@pytest.mark.parametrize("network", [PlainPixelCNN(width=6, layers=1), GatedPixelCNN(width=6, layers=2, head=6)])
def test_probabilities_of_all_binary_images_sum_to_one(network, shape):
    """16 images of 2 x 2 pixels, 64 of two RGB pixels."""
    model = PixelCNN(network=network, likelihood=Binary(), shape=shape)
    images = jnp.asarray(list(itertools.product([0.0, 1.0], repeat=int(np.prod(shape))))).reshape(-1, *shape)
    nats = core.evaluate(model, state_of(model, 0.7), core.sample_keys(0, len(images)), {"x": images})["nats"]
    p = np.exp(-np.asarray(nats, np.float64))
    assert p.max() > 1.5 * p.min()
    np.testing.assert_allclose(p.sum(), 1, atol=1e-5)


def test_evaluate_is_the_sum_over_values(case):
    metrics = core.evaluate(case.model, case.state, core.sample_keys(0, 3), {"x": case.x, "cond": LABELS})
    levels = np.asarray(case.model.likelihood.level(case.x)).reshape(3, -1, 1)
    nats = -np.take_along_axis(case.log_probs, levels, axis=-1).sum(axis=(1, 2))
    np.testing.assert_allclose(metrics["nats"], nats, rtol=1e-4)
    np.testing.assert_allclose(metrics["bits_per_dim"], nats / (72 * np.log(2)), rtol=1e-4)


# --- from pixel to pixel ---

step = jax.jit(PixelCNN.next_log_probs, static_argnums=0)


def coded(case: Case, x_at) -> np.ndarray:
    """f32[B, n, levels] as a coder gets them, shown x_at(position)."""
    coder, found = case.model.start(case.state.params, case.x, case.y), []
    for position in range(72):
        coder, log_probs = step(case.model, case.state.params, coder, x_at(position), jnp.int32(position), case.y)
        found.append(np.asarray(log_probs))
    return np.stack(found, axis=1)


def test_cached_probabilities_are_those_of_the_whole_network(case):
    np.testing.assert_allclose(coded(case, lambda _: case.x), case.log_probs, atol=1e-4)


def test_a_decoder_gets_the_encoders_bits(case):
    """The decoder has zeros, or anything, where the encoder has later values."""
    x = np.asarray(case.x).reshape(3, -1)

    def decoded_so_far(position: int) -> jax.Array:
        rest = np.full_like(x[:, position:], np.nan if position % 2 else 0.7)
        return jnp.asarray(np.concatenate([x[:, :position], rest], axis=1)).reshape(case.x.shape)

    np.testing.assert_array_equal(coded(case, decoded_so_far), coded(case, lambda _: case.x))


def test_cached_samples_are_the_naive_ones_and_follow_the_model(case):
    """Regression: the sketch's RGB sampler read the logits of three channels in the wrong order. Every value drawn
    inverts, at its own uniform number, the distribution that the whole network gives it."""
    keys = core.sample_keys(3, 3)
    x = core.sample(case.model, case.state, keys, case.cond)
    naive = core.sample(replace(case.model, cached=False), case.state, core.sample_keys(3, 3), case.cond)
    np.testing.assert_array_equal(x, naive)
    assert len(np.unique(np.asarray(x))) > 2
    log_probs = np.asarray(whole(case.model, case.state.params, x, case.y), np.float64)
    upper = np.cumsum(np.exp(log_probs), axis=-1)
    level = np.asarray(case.model.likelihood.level(x)).reshape(3, -1, 1)
    u = np.stack([jax.random.uniform(key, case.model.shape).reshape(-1) for key in core.sample_keys(3, 3)])
    assert np.all(u < np.take_along_axis(upper, level, axis=-1)[..., 0] + 1e-4)
    assert np.all(u > np.take_along_axis(upper - np.exp(log_probs), level, axis=-1)[..., 0] - 1e-4)


def test_completion_keeps_what_is_given_and_goes_on_from_it(case):
    """From the upper half of a sample, the same keys give its lower half; below other pixels, another one."""
    model, complete = case.model, jax.jit(case.model.inpaint)
    state = state_of(model, size=0.5)  # so that pixels heed each other
    x = core.sample(model, state, core.sample_keys(3, 3), case.cond)
    upper = (jnp.arange(4) < 2).reshape(1, 4, 1, 1)
    hidden = jnp.where(upper, x, jnp.nan)
    np.testing.assert_array_equal(complete(state, core.sample_keys(3, 3), hidden, upper, case.cond), x)
    other = complete(state, core.sample_keys(3, 3), case.x, upper, case.cond)
    np.testing.assert_array_equal(other[:, :2], case.x[:, :2])
    assert not np.array_equal(other[:, 2:], x[:, 2:])


# --- what is refused ---


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (replace(PLAIN, network=GatedPixelCNN(width=8)), "width of 8 cannot be split among 3"),
        (replace(PLAIN, network=GatedPixelCNN(width=9, head=9, size=4)), "size is 4: an odd number from 1 on"),
        (replace(PLAIN, network=GatedPixelCNN(width=9, head=9, first_size=4)), "first_size is 4: an odd number from 3"),
        (replace(PLAIN, network=GatedPixelCNN(width=9, head=9, first_size=1)), "first_size is 1: an odd number from 3"),
        (replace(PLAIN, network=PixelCNNPP(levels=3), likelihood=LogisticMixture()), "cannot be halved 2 times"),
        (replace(PLAIN, network=PixelCNNPP(levels=2)), "computes all channels of a pixel at once"),
        (replace(PLAIN, shape=(4, 6)), "height, width and channels"),
        (replace(PLAIN, num_classes=3), "has no labels"),
    ],
)
def test_what_cannot_be_modelled_is_refused(model, words):
    with pytest.raises(UserError, match=words):
        model.check({"x": jnp.zeros((2, 4, 6, 3))})
