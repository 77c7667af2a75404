"""The integer flow: a permutation of all images, whose probabilities sum to one; what is coded by it comes back."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import core
from jaxgen.core import TrainState
from jaxgen.core.coding import EntropyModel, MapsSymbols
from jaxgen.errors import UserError
from jaxgen.inference.compression import compress, decompress
from jaxgen.models.integer_flow import IntegerFlow
from jaxgen.nets.conditioners import CouplingResNet

NET = CouplingResNet(4, 1)
ONE = IntegerFlow(
    shape=(2, 2, 1), code_levels=3, scales=1, depth=5, components=2, num_classes=2, network=NET, prior=NET
)
THREE = IntegerFlow(shape=(4, 4, 1), code_levels=2, scales=3, depth=3, components=2, network=NET, prior=NET)


def started(model: IntegerFlow, seed: int = 0) -> TrainState:
    """Off the start, where all shifts are 0."""
    batch = {"x": jnp.zeros((1, *model.shape)), "cond": jnp.zeros(1, jnp.int32)}
    params = jax.jit(model.init_params)(jax.random.key(seed), batch)
    leaves, tree = jax.tree.flatten(params)
    keys = [jax.random.fold_in(jax.random.key(seed + 1), i) for i in range(len(leaves))]
    moved = [a + 0.3 * jax.random.normal(key, a.shape) for a, key in zip(leaves, keys)]
    return TrainState(step=jnp.zeros((), jnp.int32), params=jax.tree.unflatten(tree, moved), opt_state={})


def every_image(model: IntegerFlow) -> np.ndarray:
    """All levels, i32[K^D, D]."""
    size = int(np.prod(model.shape))
    return np.stack(np.meshgrid(*[np.arange(model.code_levels)] * size, indexing="ij"), -1).reshape(-1, size)


def values(model: IntegerFlow, levels: np.ndarray) -> jax.Array:
    return jnp.asarray(levels / (model.code_levels - 1) * 2 - 1, jnp.float32).reshape(-1, *model.shape)


def nats(model: IntegerFlow, state: TrainState, levels: np.ndarray, label: int = 0) -> np.ndarray:
    batch = {"x": values(model, levels), "cond": jnp.full(len(levels), label)}
    found = core.evaluate(model, state, core.sample_keys(0, len(levels)), batch)
    np.testing.assert_allclose(found["bits_per_dim"], found["nats"] / (levels.shape[1] * np.log(2)), rtol=1e-5)
    return np.asarray(found["nats"], np.float64)


turn = jax.jit(lambda model, *args: model.map_symbols(*args), static_argnums=0)
THERE, BACK = np.asarray(False), np.asarray(True)


@pytest.fixture(scope="module")
def three():
    """A model of three scales, its state, every image, and their z."""
    state, levels = started(THREE), every_image(THREE)
    return THREE, state, levels, np.asarray(turn(THREE, state, levels, None, THERE))


def check(model: IntegerFlow, state: TrainState, levels: np.ndarray, z: np.ndarray, label: int = 0) -> None:
    assert not np.array_equal(z, levels)
    assert len(np.unique(z, axis=0)) == len(levels) and z.min() == 0 and z.max() == model.code_levels - 1
    cond = jnp.full(len(levels), label) if model.num_classes else None
    np.testing.assert_array_equal(turn(model, state, z, cond, BACK), levels)
    np.testing.assert_allclose(np.exp(-nats(model, state, levels, label)).sum(), 1, rtol=1e-4)


def test_all_images_are_permuted_and_their_probabilities_sum_to_one(three):
    check(*three)


@pytest.mark.parametrize("label", [0, 1])
def test_images_of_a_class_are_permuted_and_their_probabilities_sum_to_one(label):
    state, levels = started(ONE), every_image(ONE)
    check(ONE, state, levels, np.asarray(turn(ONE, state, levels, jnp.full(len(levels), label), THERE)), label)


def test_every_pixel_changes_every_symbol(three):
    """None is left unchanged, and none depends on few."""
    _, _, levels, z = three
    place = levels.shape[1] - 1 - np.arange(levels.shape[1])
    number = levels @ (1 << place)
    assert np.array_equal(number, np.arange(len(levels)))
    depends = [np.mean(z[number ^ (1 << bit)] != z, axis=0) for bit in place]
    assert np.min(np.max(depends, axis=0)) > 0.01 and np.mean(np.asarray(depends) > 0) > 0.9


def test_the_coder_is_told_the_probabilities_that_the_model_has(three):
    _, state, levels, z = three
    chosen = np.random.default_rng(0).integers(len(levels), size=5)
    cache, total = THREE.code_init(state, 5, None), np.zeros(5)
    advance, push = jax.jit(THREE.code_next), jax.jit(THREE.code_push)
    for position in range(16):
        cache, p = advance(state, cache, np.int32(position))
        np.testing.assert_allclose(np.sum(p, axis=1), 1, rtol=1e-4)
        total -= np.log(np.asarray(p, np.float64)[np.arange(5), z[chosen, position]])
        cache = push(state, cache, np.int32(position), z[chosen, position])
    np.testing.assert_allclose(total, nats(THREE, state, levels)[chosen], rtol=1e-4)


def test_samples_are_as_frequent_as_they_are_likely():
    state, levels, num = started(ONE), every_image(ONE), 20_000
    cond = jnp.ones(num, jnp.int32)
    drawn = np.asarray(core.sample(ONE, state, core.sample_keys(0, num), cond))
    found = np.rint((drawn.reshape(num, 4) + 1) / 2 * 2).astype(int)
    counts = np.bincount(found @ 3 ** np.arange(4)[::-1], minlength=81)
    p = np.exp(-nats(ONE, state, levels, 1))
    assert np.all(np.abs(counts / num - p) < 5 * np.sqrt(p / num) + 1e-3)


@pytest.mark.parametrize("cut", [0.2, -0.2])
def test_gradients_of_shifts_are_differences_of_log_p(cut):
    """Regression: gradients straight through the rounding did not tell what moving a common value costs. Where a shift
    is rounded off, its gradient is the difference to the next integer on that side."""
    model = replace(ONE, depth=1, num_classes=0, code_levels=5)
    state, x = started(model), values(model, np.array([[0, 0, 0, 4], [1, 2, 3, 4]]))
    params = dict(state.params)
    out = params["steps0"]["out"]

    def log_p(shift: jax.Array) -> jax.Array:
        bias = jnp.broadcast_to(jnp.arcsinh(shift), out["bias"].shape)
        steps = {**params["steps0"], "out": {"kernel": jnp.zeros_like(out["kernel"]), "bias": bias}}
        return jnp.sum(model.log_prob({**params, "steps0": steps}, x))

    slope = jax.jit(jax.grad(log_p))(jnp.asarray(cut))
    expected = np.sign(cut) * (log_p(jnp.asarray(np.sign(cut))) - log_p(jnp.asarray(0.0)))
    np.testing.assert_allclose(slope, expected, rtol=1e-2)  # the bound of `stretched` is felt by a hundredth


# --- compression ---

CODED = replace(THREE, shape=(8, 8, 1), code_levels=256, components=3)


@pytest.fixture(scope="module")
def coded() -> TrainState:
    return started(CODED)


def test_it_is_a_model_to_compress_by():
    assert isinstance(CODED, EntropyModel) and isinstance(CODED, MapsSymbols)


def test_files_are_as_long_as_the_model_says_and_the_worst_images_come_back(coded):
    """Images that the model draws take what it says; any others come back too."""
    drawn = np.asarray(core.sample(CODED, coded, core.sample_keys(0, 300)))  # more than are held at once
    images = np.rint((drawn + 1) / 2 * 255).astype(np.uint8)
    data = compress(CODED, coded, images, b"mark")
    np.testing.assert_array_equal(decompress(CODED, coded, data, b"mark"), images)
    said = nats(CODED, coded, images.reshape(300, -1).astype(int)).sum() / np.log(2)
    assert 0.99 * said < 8 * len(data) < 1.02 * said

    rng = np.random.default_rng(0)
    hard = np.stack(
        [
            np.zeros((8, 8, 1)), np.full((8, 8, 1), 255), rng.integers(256, size=(8, 8, 1)),
            255 * (np.indices((8, 8, 1)).sum(0) % 2), np.arange(64).reshape(8, 8, 1) * 4,
        ]
    ).astype(np.uint8)  # fmt: skip
    data = compress(CODED, coded, hard)
    np.testing.assert_array_equal(decompress(CODED, coded, data), hard)
    assert len(data) < hard.size * 20 / 8 + 64


def test_damaged_files_are_one_line(coded):
    images = np.random.default_rng(1).integers(256, size=(3, 8, 8, 1)).astype(np.uint8)
    data = compress(CODED, coded, images, b"mark")
    cases = {
        "another model": (data, b"kram"),
        "cut short": (data[:-8], b"mark"),
        "checksum": (data[:-20] + bytes([data[-20] ^ 4]) + data[-19:], b"mark"),
    }
    for words, (wrong, mark) in cases.items():
        with pytest.raises(UserError, match=words) as error:
            decompress(CODED, coded, wrong, mark)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change, batch, said",
    [
        ({"shape": (6, 8, 1)}, (2, 6, 8, 1), "6x8x1 does not: choose fewer"),
        ({"shape": (64,)}, (2, 64), "height, width and channels"),
        ({}, (2, 4, 4, 1), "--model.shape 4 4 1"),
    ],
)
def test_refusals(change, batch, said):
    with pytest.raises(UserError, match=said):
        replace(CODED, **change).check({"x": jnp.zeros(batch)})
