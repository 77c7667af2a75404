"""EDM2: learnt weights of noise levels, and magnitudes that stay over a whole training, whatever moves them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import DEVICES
from flax import linen as nn

from jaxgen import core
from jaxgen.core.mesh import Layout
from jaxgen.models.edm import EDM
from jaxgen.nets.magnitude import UNIT, MPDense, MPFourier, Uncertainty
from jaxgen.ops.magnitude import mp_silu, mp_sum
from jaxgen.ops.power_ema import exponent
from jaxgen.optim import Adam, path_name

STEPS = 300


class MPTiny(nn.Module):
    """Three layers that keep magnitudes, and one that does not."""

    dtype: None = None

    def check(self, shape):
        """Takes any shape."""

    @nn.compact
    def __call__(self, x, t, out, y=None, train=False):
        h = mp_sum(MPDense(16, name="in")(x), MPDense(16, name="time")(MPFourier(8)(t)))
        gain = self.param("gain", nn.initializers.zeros, ())
        return MPDense(out, name="out")(mp_silu(h), gain) + nn.Dense(out, name="plain")(x)


MODEL = EDM(
    network=MPTiny(), shape=(4,), uncertainty=8, ema_decay=0.99, optimizer=Adam(lr=0.05, b2=0.99, t_ref=STEPS // 3)
)
DATA = np.random.default_rng(0).normal(size=(512, 4)).astype(np.float32)


def magnitudes(tree) -> dict[str, np.ndarray]:
    """Of each output of every kernel of fixed magnitude."""
    leaves = {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    return {n: np.sqrt(np.mean(a**2, axis=0)) for n, a in leaves.items() if n.endswith(f"/{UNIT}")}


def train(model, layout=None, steps=STEPS, skip=False):
    """The state before and after steps, and metrics."""
    state = core.init(model, core.run_key(0, core.INIT), {"x": DATA[:16]}, None, layout)
    start = jax.device_get(state)
    batches = {"x": DATA[np.random.default_rng(1).integers(0, 512, (steps, 16))]}
    key = core.run_key(0, core.TRAIN)
    if layout is not None:
        batches, key = layout.put(batches, layout.batch(1)), layout.put(key, layout.everywhere)
    state, metrics = core.train_steps(model, state, key, batches, None, None, skip, layout)
    return start, jax.device_get(state), jax.device_get(metrics)


@pytest.fixture(scope="module")
def trained():
    return train(MODEL)


def test_magnitudes_stay_over_a_whole_training(trained):
    """Show: within 1 %; here to a millionth, though the kernels themselves have turned."""
    start, state, metrics = trained
    for tree in (start.params, state.params):
        found = magnitudes(tree)
        assert {n.split("/")[-2] for n in found} >= {"in", "time", "out"} and len(found) == 4  # and u's
        assert all(np.abs(one - 1).max() < 1e-6 for one in found.values())
    before, after = (s.params["network"]["in"][UNIT] for s in (start, state))
    assert np.abs(after - before).mean() > 0.2
    assert np.abs(state.params["network"]["plain"]["kernel"] - start.params["network"]["plain"]["kernel"]).max() > 0.01
    assert metrics["loss"][-50:].mean() < metrics["loss"][:50].mean()


def test_averages_of_kernels_are_shorter_and_answer_alike(trained):
    """A layer normalizes what it is given: an average works as its direction does."""
    _, state, _ = trained
    found = magnitudes(state.ema)
    assert all(one.max() < 1 + 1e-6 for one in found.values()) and min(one.min() for one in found.values()) < 0.999
    x, t = jnp.asarray(DATA[:8]), jnp.full(8, 0.3)
    longer = jax.tree_util.tree_map_with_path(lambda p, a: 2 * a if path_name(p).endswith(UNIT) else a, state.ema)
    one, two = (MODEL.answer(params, x, t, {}) for params in (state.ema, longer))
    np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("mesh", ["data=2,fsdp=2"])
def test_magnitudes_stay_on_a_mesh(trained, mesh):
    """Kernels that devices share the rows of."""
    assert DEVICES >= 4
    _, state, metrics = train(MODEL, Layout.make(mesh, 16), steps=20)
    assert all(np.abs(one - 1).max() < 1e-6 for one in magnitudes(state.params).values())
    np.testing.assert_allclose(metrics["loss"], trained[2]["loss"][:20], rtol=2e-4)


def test_what_is_not_trained_keeps_every_bit():
    start, state, _ = train(replace(MODEL, trainable="network/(out|gain)"), steps=5)
    for name in ("in", "time"):
        np.testing.assert_array_equal(state.params["network"][name][UNIT], start.params["network"][name][UNIT])
    moved = state.params["network"]["out"][UNIT]
    assert np.abs(moved - start.params["network"]["out"][UNIT]).max() > 1e-3
    np.testing.assert_allclose(np.sqrt(np.mean(moved**2, axis=0)), 1, atol=1e-6)


# --- averages ---


def test_power_function_averages_are_sums_over_all_steps():
    """Of a training followed step by step: each step's parameters weigh what eq. 108 says."""
    model, steps = replace(MODEL, ema_lengths=(0.1, 0.2), uncertainty=0), 40
    state = core.init(model, core.run_key(0, core.INIT), {"x": DATA[:16]})
    assert list(state.opt_state) == ["all", "averages"] and list(state.opt_state["averages"]) == ["0.2"]
    rows = DATA[np.random.default_rng(1).integers(0, 512, (steps, 1, 16))]
    seen = []
    for row in rows:
        state, _ = core.train_steps(model, state, core.run_key(0, core.TRAIN), {"x": row})
        seen.append(np.asarray(state.params["network"]["plain"]["kernel"], np.float64))
    t = np.arange(steps + 1) / steps
    for length, tree in model.running_averages(state).items():
        shares = np.diff(t ** (exponent(length) + 1))
        np.testing.assert_allclose(tree["network"]["plain"]["kernel"], np.tensordot(shares, seen, 1), atol=1e-5)
    assert state.sampling_params is state.ema


# --- learnt weights of noise levels ---


def test_the_loss_is_weighted_by_the_error_that_is_expected(trained):
    """Eq. 21 by hand, and its least value: where exp(u) is the mean error at each level."""
    _, state, _ = trained
    keys, batch = core.sample_keys(0, 64), {"x": jnp.asarray(DATA[:64])}
    loss, metrics = jax.jit(MODEL.loss)(state.params, state, keys, batch)
    sigma, _, errors = MODEL.times_and_errors(state.params, state, core.sample_keys(0, 64), batch)
    features = MPFourier(8).apply({}, jnp.log(sigma) / 4)
    kernel = np.asarray(state.params["uncertainty"]["MPDense_0"][UNIT], np.float64)
    u = np.asarray(features, np.float64) @ (kernel / np.linalg.norm(kernel))
    np.testing.assert_allclose(loss, np.mean(errors * np.exp(-u[:, 0]) + u[:, 0]), rtol=1e-4)
    np.testing.assert_allclose(metrics["weighted_mse"], np.mean(errors), rtol=1e-5)


def test_noise_levels_of_larger_errors_weigh_less():
    """u alone, trained on errors that are known: exp(u) becomes their mean at each level, up to what u can say."""
    sigma = jnp.exp(jnp.linspace(-3, 3, 64))
    errors = jnp.exp(0.5 * jnp.sin(jnp.log(sigma)))
    network, optimizer = Uncertainty(256), Adam(lr=0.1)
    params = network.init(jax.random.key(0), sigma)

    @jax.jit
    def run(params, state):
        def loss(params):
            u = network.apply(params, jnp.log(sigma) / 4)
            return jnp.mean(errors * jnp.exp(-u) + u)

        def step(carry, _):
            params, state = carry
            return optimizer.step(jax.grad(loss)(params), state, params), None

        return jax.lax.scan(step, (params, state), None, 500)[0][0]

    u = network.apply(run(params, optimizer.start(params)), jnp.log(sigma) / 4)
    np.testing.assert_allclose(u, jnp.log(errors), atol=0.1)
