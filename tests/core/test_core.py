"""The compiled entry points on a model small enough to follow by hand: keys, averages, compile counts, donation."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import core
from jaxgen.codecs import Pixels
from jaxgen.core import EVAL, INIT, SAMPLE, TRAIN, LossModel
from jaxgen.errors import UserError
from jaxgen.optim import Adam


@dataclass(frozen=True, kw_only=True)
class Point(LossModel):
    """A noisy parabola: loss = mean (w - x + noise)^2, w: f32[3]."""

    noise: float = 0.1

    def init_params(self, key, batch):
        return {"w": jax.random.normal(key, (3,))}

    def loss(self, params, state, keys, batch):
        error = params["w"][None] - batch["x"] + self.noise * core.normal_each(keys, batch["x"].shape[1:])
        return jnp.mean(error**2), {"noise": jnp.mean(core.normal_each(core.fold_each(keys, 0), ()))}

    def sample(self, state, keys, cond=None):
        return state.sampling_params["w"][None] + core.normal_each(keys, (3,))


MODEL = Point(optimizer=Adam(lr=0.1))
DATA = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
INDICES = np.random.default_rng(1).integers(0, 20, (6, 4)).astype(np.int32)


def train(model=MODEL, calls=(6,), codec=None, resident=False, data=DATA):
    """State and metrics after calls of so many steps each, on the host."""
    state, at, metrics = core.init(model, core.run_key(0, INIT), {"x": data[:4]}, codec), 0, []
    for steps in calls:
        chosen = INDICES[at : at + steps]
        key = core.run_key(0, TRAIN)
        if resident:
            state, m = core.train_steps(model, state, key, chosen, codec, {"x": jnp.asarray(data)})
        else:
            state, m = core.train_steps(model, state, key, {"x": data[chosen]}, codec)
        at += steps
        metrics.append(m)
    return jax.device_get(state), jax.tree.map(lambda *m: np.concatenate(m), *metrics)


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        np.testing.assert_array_equal(x, y)


def assert_alike(a, b):
    """Programs of other forms: to the bit on CPUs by the jax of the constraints, to a unit in the last place by later
    ones."""
    if jax.__version_info__ < (0, 11):
        assert_equal(a, b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a, b)


# --- keys ---


def words(keys):
    return np.asarray(jax.random.key_data(keys))


def test_sample_keys_depend_on_neither_count_nor_start():
    many = words(core.sample_keys(3, 10))
    np.testing.assert_array_equal(words(core.sample_keys(3, 4)), many[:4])
    np.testing.assert_array_equal(words(core.sample_keys(3, 4, start=5)), many[5:9])
    assert len(np.unique(many, axis=0)) == 10
    assert not np.array_equal(words(core.sample_keys(4, 10)), many)


def test_uses_of_a_run_share_no_key():
    keys = [words(core.run_key(seed, use)).tolist() for seed in (0, 1) for use in (INIT, TRAIN, SAMPLE, EVAL)]
    assert len({tuple(key) for key in keys}) == 8


def test_fold_each_is_fold_in_row_by_row():
    for data in (np.array([5, 6, 7]), 5):
        rows = [words(jax.random.fold_in(core.sample_keys(0, 3)[i], np.broadcast_to(data, 3)[i])) for i in range(3)]
        np.testing.assert_array_equal(words(core.fold_each(core.sample_keys(0, 3), data)), np.stack(rows))
    one = jax.random.key(1)
    rows = [words(jax.random.fold_in(one, i)) for i in (2, 9)]
    np.testing.assert_array_equal(words(core.fold_each(one, jnp.array([2, 9]))), np.stack(rows))


def test_normal_each_draws_a_row_from_its_key_alone():
    rows = np.asarray(core.normal_each(core.sample_keys(0, 5), (2, 3)))
    np.testing.assert_array_equal(core.normal_each(core.sample_keys(0, 2, start=3), (2, 3)), rows[3:])
    np.testing.assert_array_equal(jax.random.normal(core.sample_keys(0, 5)[1], (2, 3)), rows[1])
    assert len(np.unique(rows)) == 30


def test_keys_are_checked():
    core.check_keys(core.sample_keys(0, 2))
    for bad in (jax.random.key(0), jax.random.PRNGKey(0), jnp.zeros((2, 2), jnp.uint32)):
        with pytest.raises(UserError, match="sample_keys"):
            core.check_keys(bad)


# --- averages ---


@pytest.mark.parametrize(("step", "decay"), [(0, 0.1), (8, 0.5), (89, 90 / 99), (10**6, 0.99)])
def test_update_ema_is_its_formula_with_the_ramp(step, decay):
    ema, params = np.array([1.0, -2.0]), np.array([3.0, 0.5])
    got = core.update_ema({"w": jnp.float32(ema)}, {"w": jnp.float32(params)}, 0.99, jnp.asarray(step))
    np.testing.assert_allclose(got["w"], decay * ema + (1 - decay) * params, rtol=1e-5)


def test_the_average_follows_the_parameters():
    model = replace(MODEL, ema_decay=0.9)
    start = jax.device_get(core.init(model, core.run_key(0, INIT), {"x": DATA[:4]}))
    ema = np.asarray(start.ema["w"], np.float64)
    np.testing.assert_array_equal(ema, start.params["w"])
    for step in range(6):
        w = np.asarray(train(model, (1,) * (step + 1))[0].params["w"], np.float64)
        decay = min(0.9, (1 + step) / (10 + step))
        ema = decay * ema + (1 - decay) * w
    state, _ = train(model)
    np.testing.assert_allclose(state.ema["w"], ema, rtol=1e-5)
    assert state.sampling_params is state.ema


def test_no_average_is_none_and_not_an_alias():
    state, _ = train()
    assert state.ema is None
    assert state.sampling_params is state.params


# --- training ---


@pytest.mark.parametrize("codec", [None, Pixels()])
def test_k_steps_in_one_call_are_k_calls_of_one_step(codec):
    data = DATA if codec is None else np.arange(60, dtype=np.uint8).reshape(20, 3)
    one, together = train(calls=(6,), codec=codec, data=data), train(calls=(1,) * 6, codec=codec, data=data)
    assert_alike(one, together)
    assert_alike(one, train(calls=(2, 4), codec=codec, data=data))
    assert int(one[0].step) == 6


@pytest.mark.parametrize("codec", [None, Pixels()])
def test_data_on_the_device_are_the_batches_passed(codec):
    data = DATA if codec is None else np.arange(60, dtype=np.uint8).reshape(20, 3)
    assert_equal(train(codec=codec, data=data), train(codec=codec, data=data, resident=True))


def test_every_step_draws_anew():
    _, metrics = train()
    assert len(np.unique(metrics["noise"])) == 6


def test_a_step_is_the_optimizers():
    """Gradient, update and gradient norm of one noiseless step, by hand: Adam's first update is lr * sign(gradient)."""
    model = replace(MODEL, noise=0.0)
    w = np.asarray(core.init(model, core.run_key(0, INIT), {"x": DATA[:4]}).params["w"], np.float64)
    grad = 2 * (w - DATA[INDICES[0]].mean(0)) / 3
    state, metrics = train(model, (1,))
    np.testing.assert_allclose(state.params["w"], w - 0.1 * np.sign(grad), rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], [np.linalg.norm(grad)], rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], [np.mean((w - DATA[INDICES[0]]) ** 2)], rtol=1e-5)


def test_the_state_is_donated():
    state = core.init(MODEL, core.run_key(0, INIT), {"x": DATA[:4]})
    new, _ = core.train_steps(MODEL, state, core.run_key(0, TRAIN), {"x": DATA[INDICES]})
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(new))


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_no_buffer_stands_twice_in_a_state(decay):
    """Donating one buffer under two names is an error."""
    state = replace(MODEL, ema_decay=decay).init(core.run_key(0, INIT), {"x": DATA[:4]})
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(pointers)) == len(pointers)


def test_abstract_state_is_the_shape_of_init():
    for codec in (None, Pixels()):
        state = core.init(MODEL, core.run_key(0, INIT), {"x": DATA[:4]}, codec)
        shapes = jax.tree.map(lambda a: (a.shape, a.dtype), state)
        assert jax.tree.map(lambda a: (a.shape, a.dtype), core.abstract_state(MODEL, {"x": DATA[:4]}, codec)) == shapes


# --- compiling ---


def test_equal_models_share_an_executable_and_different_ones_do_not():
    train()
    before = core.train_steps._cache_size()
    train(Point(optimizer=Adam(lr=0.1)))
    assert core.train_steps._cache_size() == before
    train(replace(MODEL, noise=0.2))
    assert core.train_steps._cache_size() == before + 1
    train(replace(MODEL, optimizer=Adam(lr=0.2)))
    assert core.train_steps._cache_size() == before + 2


def test_a_new_seed_or_codec_of_equal_value_compiles_nothing():
    data = np.arange(60, dtype=np.uint8).reshape(20, 3)
    train(codec=Pixels(), data=data)
    before = core.train_steps._cache_size()
    state = core.init(MODEL, core.run_key(9, INIT), {"x": data[:4]}, Pixels())
    core.train_steps(MODEL, state, core.run_key(9, TRAIN), {"x": data[INDICES]}, Pixels())
    assert core.train_steps._cache_size() == before


# --- sampling ---


def test_sample_decodes_and_takes_the_average():
    state, _ = train(replace(MODEL, ema_decay=0.9))
    x = core.sample(MODEL, state, core.sample_keys(0, 4))
    noise = core.normal_each(core.sample_keys(0, 4), (3,))
    np.testing.assert_allclose(x, state.ema["w"] + np.asarray(noise), atol=1e-6)
    raw = core.sample(MODEL, state, core.sample_keys(0, 4), None, Pixels())
    np.testing.assert_array_equal(raw, Pixels().decode(x))


def test_count_params():
    assert core.count_params({"a": jnp.zeros((2, 3)), "b": {"c": jnp.zeros(4), "d": jnp.zeros(())}}) == 11
