"""MeanFlow and shortcut models: their targets on Gaussian data, whose flow map is known; steps, guidance, refusals."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from gaussian_flow import MEAN, STD, average, carried, drawn, exact, keys, velocity
from tiny_diffusion import Tiny

from jaxgen import core
from jaxgen.core.keys import split_each
from jaxgen.errors import UserError
from jaxgen.models.flow_map import FlowMap
from jaxgen.models.mean_flow import MeanFlow
from jaxgen.models.shortcut import Shortcut
from jaxgen.nets.dit import DiT
from jaxgen.nets.mmdit import MMDiT
from jaxgen.nets.time_mlp import TimeMLP
from jaxgen.nets.unet import UNet
from jaxgen.ops import flow_maps
from jaxgen.ops.samplers import Heun, Leaps, Start
from jaxgen.ops.schedules import Straight
from jaxgen.optim import Adam


class Told(nn.Module):
    """A linear network of x, time, span and class."""

    def check(self, shape):
        """Takes any shape."""

    @nn.compact
    def __call__(self, x, t, out, y=None, context=None, context_mask=None, train=False, span=None):
        assert span is not None
        told = jnp.stack([t, span, t * span], axis=-1)
        h = nn.Dense(out, name="x")(x) * (1 + nn.Dense(out, name="t")(told))
        return h if y is None else h + nn.Dense(out, use_bias=False, name="y")(y)


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


# --- targets ---


def test_the_exact_average_velocity_is_its_own_target(double):
    """The MeanFlow identity and self-consistency, both to rounding; for a wrong u both differ from it."""
    z, t, span = drawn(200)
    answer, target = flow_maps.mean_flow(average, z, t, span, velocity(z, t))
    np.testing.assert_allclose(target, answer, atol=2e-5)  # `expand` is of f32
    np.testing.assert_allclose(flow_maps.two_halves(average, z, t, span), answer, atol=2e-5)
    np.testing.assert_allclose(carried(z, t, t - span), z - span[:, None] * answer, atol=2e-5)
    wrong = lambda z, t, span: velocity(z, t)  # noqa: E731
    for other in (flow_maps.mean_flow(wrong, z, t, span, velocity(z, t))[1], flow_maps.two_halves(wrong, z, t, span)):
        assert np.abs(other - velocity(z, t)).max() > 0.1


def test_target_is_the_difference_along_the_trajectory(double):
    """Of any u: v - span (u of a moment later - u of a moment before), where t and span grow alike; without a
    gradient."""
    z, t, span = drawn(50)
    v = velocity(z, t)

    def u(z, t, span):
        return jnp.sin(2 * z) * jnp.cos(t)[:, None] + z[:, ::-1] * (span**2)[:, None]

    h = 1e-5
    later, before = (u(z + k * v, t + k, span + k) for k in (h, -h))
    answer, target = flow_maps.mean_flow(u, z, t, span, v)
    np.testing.assert_allclose(answer, u(z, t, span))
    np.testing.assert_allclose(target, v - span[:, None] * (later - before) / (2 * h), atol=1e-6)
    slopes = jax.grad(lambda z: jnp.sum(flow_maps.mean_flow(u, z, t, span, v)[1]))(z)
    np.testing.assert_array_equal(slopes, 0)


def test_weight_is_the_papers():
    error = jnp.array([0.0, 1.0, 3.0])
    np.testing.assert_allclose(flow_maps.adaptive(error, 0.5), 1 / np.sqrt(np.asarray(error) + 1e-3), rtol=1e-6)
    np.testing.assert_array_equal(flow_maps.adaptive(error, 0.0), 1)


@pytest.mark.parametrize("right", [True, False])
def test_the_exact_network_is_where_mean_flow_comes_to_rest(right):
    """The expected slope of the loss in the network's gain is 0, within four standard errors of a batch; it is not for
    a network that takes the velocity for its average."""
    model = exact(MeanFlow, right, spans=1.0, power=0.0, logit_std=0.0)
    rng = np.random.default_rng(1)
    x = jnp.float32(np.asarray(MEAN) + np.asarray(STD) * rng.normal(size=(256, 64, 2)))
    params = {"network": {"gain": jnp.float32(1)}}
    state = core.TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state={}, ema=None, extra={})

    def slope(i, x):
        of = core.sample_keys(i, 64)
        return jax.grad(lambda params: model.loss(params, state, of, {"x": x})[0])(params)["network"]["gain"]

    slopes = np.asarray(jax.jit(lambda x: jax.lax.map(lambda row: slope(*row), (jnp.arange(256), x)))(x))
    error = slopes.std() / 16
    assert (abs(slopes.mean()) < 4 * error) == right


def test_the_exact_network_agrees_with_itself_in_a_shortcut_model():
    """Long steps are right to rounding, and flow matching is learnt by the rest of the batch alone."""
    x = MEAN[None] + STD[None] * jax.random.normal(jax.random.key(0), (64, 2))
    params = {"network": {"gain": jnp.float32(1)}}
    state = core.TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state={}, ema=None, extra={})
    for right in (True, False):
        model = exact(Shortcut, right, finest=4096)
        loss, metrics = jax.jit(model.loss)(params, state, keys(), {"x": x})
        assert (metrics["consistency_mse"] < 1e-4) == right and loss > 0.1


# --- samplers ---


def test_any_number_of_leaps_is_the_flow_map():
    model = exact(MeanFlow)
    state = core.TrainState(
        step=jnp.zeros((), jnp.int32), params={"network": {"gain": jnp.float32(1)}}, opt_state={}, ema=None, extra={}
    )
    z = jax.random.normal(jax.random.key(3), (64, 2))
    start = Start(noise=z)
    for sampler in (Leaps(steps=1), Leaps(steps=3), Heun(steps=200, clip=0.0)):
        own = replace(model, sampler=sampler)
        found = jax.jit(own._sample, static_argnums=(2, 3))(state, keys(), None, start)
        np.testing.assert_allclose(found, MEAN[None] + STD[None] * z, atol=1e-3)
    mask = jnp.array([[True, False]])
    found = model.inpaint(state, keys(), jnp.full((64, 2), 9.0), mask)
    np.testing.assert_array_equal(found[:, 0], 9.0)


def test_steps_are_told_how_far_they_go():
    schedule, t = Straight(shift=3.0), jnp.array([1.0, 0.0])
    times = np.append(schedule.times(4), 0.0)
    t = jnp.float32(times[[0, 2, 3]])
    np.testing.assert_allclose(Leaps(steps=4).span(schedule, t), (times[:-1] - times[1:])[[0, 2, 3]], rtol=1e-6)
    model = exact(Shortcut, finest=8, sampler=Leaps(steps=8))
    np.testing.assert_array_equal(model.times_told(jnp.array([0.5]), True)["span"], 0.0)  # as flow matching
    model = replace(model, sampler=Leaps(steps=4))
    np.testing.assert_allclose(model.times_told(jnp.array([0.5]), True)["span"], 0.25)
    np.testing.assert_array_equal(model.times_told(jnp.array([0.5]))["span"], 0.0)


# --- networks ---

X, T, SPAN = jax.random.normal(jax.random.key(0), (2, 4, 4, 3)), jnp.array([3.0, 7.0]), jnp.array([1.0, 2.0])
WORDS = jax.random.normal(jax.random.key(1), (2, 3, 4))
NETWORKS = {
    "time_mlp": (TimeMLP(8, 1), {}),
    "dit": (DiT(8, 1, 2, 2), {}),
    "mmdit": (MMDiT(8, 1, 2, 2), {"context": WORDS}),
    "unet": (UNet(8, (1,), 1, ()), {}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_told_spans(name):
    """Parameters that a network without spans has keep their names, and its answer is kept until the new ones move."""
    network, told = NETWORKS[name]
    plain = jax.eval_shape(lambda: network.init(jax.random.key(0), X, T, 3, **told))["params"]
    whole = jax.eval_shape(lambda: network.init(jax.random.key(0), X, T, 3, **told, span=SPAN))["params"]
    assert whole.keys() - plain.keys() == {"span"}
    assert jax.tree.structure({k: v for k, v in whole.items() if k != "span"}) == jax.tree.structure(plain)
    leaves, tree = jax.tree.flatten(whole)
    rng = np.random.default_rng(0)
    params = jax.tree.unflatten(tree, [jnp.float32(0.3 * rng.normal(size=a.shape)) for a in leaves])
    apply = jax.jit(lambda p, span: network.apply({"params": p}, X, T, 3, **told, span=span))
    start = {**params, "span": {**params["span"], "out": jax.tree.map(jnp.zeros_like, params["span"]["out"])}}
    np.testing.assert_array_equal(apply(start, SPAN), apply(start, None))
    change = np.abs(apply(params, SPAN) - apply(params, SPAN[::-1]))
    assert change.max(axis=(1, 2, 3)).min() > 1e-4


# --- guidance ---

GUIDED = MeanFlow(shape=(2,), network=Told(), num_classes=3, class_dropout=0.5, target_guidance=2.5, mix=0.2)
LABELS = jnp.arange(64) % 3


@pytest.fixture(scope="module")
def guided():
    """Random parameters of `GUIDED`, a state of them, and a batch."""
    batch = {"x": jax.random.normal(jax.random.key(5), (64, 2)), "cond": LABELS}
    state = jax.jit(GUIDED.init)(jax.random.key(0), batch)
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda a: jnp.float32(0.4 * rng.normal(size=a.shape)), state.params)
    return params, state.replace(params=params), batch


def test_guided_velocity_is_the_papers(guided):
    """omega v + kappa u(z, t, 0 | c) + (1 - omega - kappa) u(z, t, 0), of the scale omega / (1 - kappa)."""
    params, _, batch = guided
    t, v = jnp.linspace(0.1, 1, 64), jnp.ones((64, 2))
    z = batch["x"]
    told, null = (GUIDED.answer(params, z, t, GUIDED.inputs(params, y)) for y in (LABELS, jnp.full(64, -1)))
    omega = 2.5 * 0.8
    np.testing.assert_allclose(
        GUIDED._guided(params, LABELS, z, t, v), omega * v + 0.2 * told + (1 - omega - 0.2) * null, atol=1e-5
    )


def test_examples_without_a_condition_are_not_guided(guided):
    """Their loss is that of no guidance; those of the others differ."""
    params, state, batch = guided
    keep = np.asarray(GUIDED.keeps(split_each(keys(), 6)[4]))
    assert 10 < keep.sum() < 54
    each = {}
    for model in (GUIDED, replace(GUIDED, target_guidance=1.0)):
        loss = jax.jit(lambda key, x, y, m=model: m.loss(params, state, key[None], {"x": x[None], "cond": y[None]})[1])
        each[model.target_guidance] = np.array([loss(*row)["loss"] for row in zip(keys(), batch["x"], LABELS)])
    same = np.isclose(each[2.5], each[1.0], rtol=1e-5)
    np.testing.assert_array_equal(same, ~keep)


def test_shortest_steps_of_a_shortcut_model_are_guided(guided):
    params, _, batch = guided
    model = Shortcut(shape=(2,), network=Told(), num_classes=3, class_dropout=0.5, target_guidance=1.5, finest=4)
    z, t = batch["x"], jnp.ones(64)
    u = {y: model.average_velocity(params, model.inputs(params, jnp.full(64, y) if y < 0 else LABELS)) for y in (0, -1)}

    def shortest(z, t, half):
        return u[-1](z, t, 0 * half) + 1.5 * (u[0](z, t, 0 * half) - u[-1](z, t, 0 * half))

    for span, step in ((0.5, shortest), (1.0, u[0])):  # steps of 1/4 and of 1/2
        spans = jnp.full(64, span)
        expected = flow_maps.two_halves(step, z, t, spans)
        np.testing.assert_allclose(model._halves(params, LABELS, z, t, spans), expected, atol=1e-5)


def test_a_part_of_a_batch_has_its_share_of_long_steps(guided):
    params, state, batch = guided
    model = Shortcut(shape=(2,), network=Told(), num_classes=3, finest=8, optimizer=Adam(lr=1e-3))
    steps = [
        jax.jit(replace(model, accumulate=parts).train_step)(
            state.replace(opt_state={"all": model.optimizer.start(params, None)}), jax.random.key(1), batch
        )[1]
        for parts in (1, 4)
    ]
    for name in steps[0]:
        np.testing.assert_allclose(steps[1][name], steps[0][name], rtol=1e-4)


# --- refusals ---


def test_what_cannot_be_is_said():
    with pytest.raises(UserError, match="is not told how far a step goes"):
        FlowMap(shape=(2,), network=Tiny()).check({"x": jnp.zeros((4, 2))})
    assert "class_dropout" in (MeanFlow(target_guidance=2.0).problem() or "")
    assert "class_dropout" in (Shortcut(target_guidance=2.0).problem() or "")
    for finest in (1, 6):
        assert "power of two" in (Shortcut(finest=finest).problem() or "")
    assert Shortcut().problem() is None and MeanFlow().problem() is None


# --- training ---


@pytest.mark.slow
@pytest.mark.parametrize("kind", [MeanFlow, Shortcut])
def test_a_step_of_a_trained_model_is_the_odes(kind):
    """On Gaussian data, where the ODE leads from z to the mean plus z standard deviations: to 5 % of their spread."""
    settings: dict[str, Any] = {"spans": 0.75, "power": 0.0, "logit_std": 0.0} if kind is MeanFlow else {}
    steps, at_once = 4000, 500
    model = kind(
        shape=(2,), network=TimeMLP(width=64, depth=2), ema_decay=0.998, optimizer=Adam(lr=2e-3, decay_steps=steps),
        **settings,
    )  # fmt: skip
    state = core.init(model, core.run_key(0, core.INIT), {"x": jnp.zeros((8, 2))})
    rng = np.random.default_rng(0)
    for _ in range(steps // at_once):
        x = np.asarray(MEAN) + np.asarray(STD) * rng.normal(size=(at_once, 512, 2))
        state, _ = core.train_steps(model, state, core.run_key(0, core.TRAIN), {"x": jnp.float32(x)})
    z = jax.random.normal(jax.random.key(9), (1000, 2))
    start = Start(noise=z)
    found = jax.jit(model._sample, static_argnums=(2, 3))(state, core.sample_keys(1, 1000), None, start)
    error = np.sqrt(np.mean(np.sum((found - (MEAN[None] + STD[None] * z)) ** 2, axis=1)))
    assert error < 0.05 * float(jnp.sqrt(jnp.sum(STD**2)))
