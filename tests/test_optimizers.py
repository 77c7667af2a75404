"""Lion, Muon, schedule-free AdamW and Prodigy against NumPy in float64, and each in a model's training."""

import dataclasses
from functools import cache
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import EXPERIMENTS, first_stage
from messages import one_line
from small_runs import final_state, same

from jaxgen import core
from jaxgen.cli.train import Options, flags_of
from jaxgen.core import abstract_state
from jaxgen.core.configuration import field_types
from jaxgen.core.mesh import Layout
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.nets.hidden import hidden_matrices
from jaxgen.optim import (
    KINDS,
    Adam,
    Lion,
    Muon,
    Prodigy,
    RMSprop,
    ScheduleFree,
    path_name,
    switched,
    with_optimizers,
)  # fmt: skip
from jaxgen.runs.initial import begin
from jaxgen.train.loop import train

NEW = ["lion", "muon", "schedule-free", "prodigy"]
SHAPES = {"layer": {"kernel": (8, 6), "bias": (6,)}}


def drawn(shapes, seed=0):
    """f32 arrays from N(0, 1) in a tree of shapes."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: rng.normal(size=s).astype("f"), shapes, is_leaf=lambda s: isinstance(s, tuple))


def walked(optimizer, params, grads):
    """The parameters and the state after one step for each of `grads`."""

    @jax.jit
    def run(params):
        state = optimizer.start(params)
        for grad in grads:
            params, state = optimizer.step(grad, state, params)
        return params, state

    return run(params)


def test_lion_is_the_papers_algorithm_2():
    optimizer = Lion(lr=0.1, b1=0.8, b2=0.95, weight_decay=0.3)
    params, grads = drawn(SHAPES), [drawn(SHAPES, seed) for seed in (1, 2, 3)]
    got, _ = walked(optimizer, params, grads)
    for name, decay in (("kernel", 0.3), ("bias", 0.0)):
        p, m = np.float64(params["layer"][name]), 0.0
        for grad in grads:
            g = np.float64(grad["layer"][name])
            p = p - 0.1 * (np.sign(0.8 * m + 0.2 * g) + decay * p)
            m = 0.95 * m + 0.05 * g
        np.testing.assert_allclose(got["layer"][name], p, rtol=1e-5, atol=1e-6)


# --- Muon -------------------------------------------------------------------------------------------------------


def newton_schulz(x):
    """Five steps of the quintic that approaches the sign of singular values, in float64."""
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = x.T if x.shape[0] > x.shape[1] else x
    wide = wide / np.linalg.norm(wide)
    for _ in range(5):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide.T if x.shape[0] > x.shape[1] else wide


@pytest.mark.parametrize("shape", [(8, 6), (6, 8), (3, 3, 5, 6)], ids=str)
def test_muon_turns_a_matrix_into_nearly_u_v(shape):
    """Of a convolution [height * width * in, out]. The rate's sign and the factor of arXiv:2502.16982 are in it."""
    grad = drawn({"kernel": shape})
    zeros = jax.tree.map(jnp.zeros_like, grad)
    moved, _ = walked(Muon(lr=0.5), {"hidden": zeros}, [{"hidden": grad}])
    matrix = np.float64(grad["kernel"]).reshape(-1, shape[-1])
    update = -np.float64(moved["hidden"]["kernel"]).reshape(matrix.shape) / (0.5 * 0.2 * max(matrix.shape) ** 0.5)
    np.testing.assert_allclose(update, newton_schulz(matrix), atol=2e-4)
    u, _, v = np.linalg.svd(matrix, full_matrices=False)
    along = u.T @ update @ v.T  # the identity, were it U V^T
    assert np.all((np.diag(along) > 0.65) & (np.diag(along) < 1.25))
    np.testing.assert_allclose(along, np.diag(np.diag(along)), atol=1e-4)


def test_muon_has_nesterovs_momentum():
    """Steps two and three, in float64; what is no hidden matrix goes by Adam with the same rate."""
    params, grads = drawn(SHAPES), [drawn(SHAPES, seed) for seed in (1, 2, 3)]
    got, _ = walked(Muon(lr=0.1, weight_decay=0.3, b2=0.99), params, grads)
    p, m = np.float64(params["layer"]["kernel"]), 0.0
    for t, grad in enumerate(grads, start=1):
        g = np.float64(grad["layer"]["kernel"])
        m = 0.95 * m + 0.05 * g
        ahead = 0.95 * m / (1 - 0.95 ** (t + 1)) + 0.05 * g / (1 - 0.95**t)
        p = p - 0.1 * (0.2 * 8**0.5 * newton_schulz(ahead) + 0.3 * p)
    np.testing.assert_allclose(got["layer"]["kernel"], p, atol=1e-4)
    by_adam, _ = walked(Adam(lr=0.1, weight_decay=0.3, b2=0.99), params, grads)
    np.testing.assert_allclose(got["layer"]["bias"], by_adam["layer"]["bias"], rtol=1e-5)


def test_stacked_layers_are_matrices_of_their_own():
    stack = drawn({"blocks": {"up": {"kernel": (3, 8, 6)}}})
    zeros = jax.tree.map(jnp.zeros_like, stack)
    whole, _ = walked(Muon(), zeros, [stack])
    for i in range(3):
        alone = {"up": {"kernel": stack["blocks"]["up"]["kernel"][i]}}
        one, _ = walked(Muon(), jax.tree.map(jnp.zeros_like, alone), [alone])
        np.testing.assert_allclose(whole["blocks"]["up"]["kernel"][i], one["up"]["kernel"], atol=1e-6)


@cache
def chosen_of(script):
    """By path: the axes of rows and columns of what Muon moves, None of all else."""
    experiment = presets(EXPERIMENTS[script])["smoke"]
    batch = experiment.data.batch_at(0, 0, experiment.batch_size)
    params = abstract_state(experiment.model, batch, experiment.codec.load()).params
    found = {}
    for network in params.values() if "critic" in params else [params]:  # a GAN's have an optimizer each
        numbers = hidden_matrices(network)
        leaves = jax.tree_util.tree_leaves_with_path(numbers, is_leaf=lambda n: n is None or hasattr(n, "output_axis"))
        found |= {path_name(path): numbers and tuple(numbers.reduction_axis) for path, numbers in leaves}
    return found


@pytest.mark.parametrize(
    ("script", "path", "rows"),
    [
        ("gpt", "network/tokens", None),
        ("gpt", "network/positions", None),
        ("gpt", "network/body/blocks/self_attention/qkv/kernel", (-2,)),
        ("gpt", "network/body/blocks/self_attention/qkv/bias", None),
        ("gpt", "network/body/blocks/norm_mlp/scale", None),
        ("dit", "network/patches/kernel", None),
        ("dit", "network/label/kernel", None),
        ("dit", "network/time_in/kernel", None),
        ("dit", "network/time_out/kernel", (-2,)),
        ("dit", "network/blocks/self_attention/out/kernel", (-2,)),
        ("dit", "network/out/kernel", None),
        ("ddpm", "network/Conv_0/kernel", None),
        ("ddpm", "network/ResBlock_0/Conv_0/kernel", (-4, -3, -2)),
        ("ddpm", "network/out/kernel", None),
        ("gan", "Dense_0/kernel", None),
        ("gan", "Dense_1/kernel", (-2,)),
        ("gan", "Dense_2/kernel", None),
        ("gan", "Head_0/Dense_0/kernel", None),
        ("vae", "encoder/Dense_0/kernel", None),
        ("glow", "flow/steps0/steps/linear/w/lu", None),
        ("glow", "flow/steps1/steps/coupling/net/conv1/kernel", (-4, -3, -2)),
        ("hifigan", "conv_pre/conv/kernel", None),
        ("ngp", "field/grid/table", None),
    ],
)  # fmt: skip
def test_muon_moves_hidden_matrices_alone(script, path, rows):
    assert chosen_of(script)[path] == rows


# --- schedule-free ----------------------------------------------------------------------------------------------


def test_schedule_free_is_the_papers_algorithm_1():
    """y, z and x in float64; the weights of the mean are squared rates, those of warm-up included."""
    optimizer = ScheduleFree(lr=0.1, b1=0.8, b2=0.95, eps=1e-6, warmup=3, weight_decay=0.3)
    params, grads = drawn(SHAPES), [drawn(SHAPES, seed) for seed in (1, 2, 3, 4, 5)]
    got, state = walked(optimizer, params, grads)
    averaged = optimizer.evaluated(state, got)
    for name, decay in (("kernel", 0.3), ("bias", 0.0)):
        y = z = x = np.float64(params["layer"][name])
        v = total = 0.0
        for t, grad in enumerate(grads, start=1):
            g, rate = np.float64(grad["layer"][name]), 0.1 * min(1, t / 3)
            v = 0.95 * v + 0.05 * g**2
            z = z - rate * (g / (np.sqrt(v / (1 - 0.95**t)) + 1e-6) + decay * y)
            total += rate**2
            x = x + rate**2 / total * (z - x)
            y = 0.2 * z + 0.8 * x
        np.testing.assert_allclose(got["layer"][name], y, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(averaged["layer"][name], x, rtol=1e-4, atol=1e-5)


def smoke_of(script, kind, **fields):
    """A smoke preset with optimizers of another kind."""
    experiment = presets(EXPERIMENTS[script])["smoke"]
    model = with_optimizers(experiment.model, lambda optimizer: switched(optimizer, kind))
    return dataclasses.replace(experiment, model=dataclasses.replace(model, **fields))


def stepped(experiment, count=3, layout=None):
    """The states after each of `count` steps of training, the first one being step 0."""
    raw = [experiment.data.batch_at(0, i, experiment.batch_size) for i in range(count)]
    state = core.init(experiment.compute_model, jax.random.key(0), raw[0], experiment.codec, layout)
    states = [jax.device_get(state)]
    for batch in raw:
        batches = jax.tree.map(lambda a: np.asarray(a)[None], batch)
        state, _ = core.train_steps(
            experiment.compute_model, state, jax.random.key(1), batches, experiment.codec, None, False, layout
        )
        states.append(jax.device_get(state))
    return states


def test_what_is_sampled_is_the_average():
    """x itself, or with `ema_decay` the moving average of x; not what gradients are taken at."""
    states = stepped(smoke_of("vae", "schedule-free", ema_decay=0.5))
    expected = states[0].params
    for i, state in enumerate(states[1:]):
        (free,) = state.opt_state["all"]
        x = optax.contrib.schedule_free_eval_params(free, state.params)
        decay = min(0.5, (1 + i) / (10 + i))
        expected = jax.tree.map(lambda e, x, decay=decay: e + (1 - decay) * (x - e), expected, x)
        for a, b in zip(*map(jax.tree.leaves, (state.sampling_params, expected))):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert not same(x, state.params)
    plain = smoke_of("vae", "schedule-free").model
    assert plain.next_averages(state, x, itself=True) == (x, {})
    assert plain.next_averages(state, x) == (None, {})


def test_what_was_taken_over_is_where_training_starts(tmp_path):
    """Not only in the parameters: z of the schedule-free, and the first parameters of Prodigy."""
    other = first_stage("vae-smoke-0", tmp_path)
    for kind, kept in (("schedule-free", "z"), ("prodigy", "params0")):
        experiment = dataclasses.replace(smoke_of("vae", kind), init=str(other), seed=1)
        state = begin(experiment, experiment.codec)
        (own,) = state.opt_state["all"]
        assert same(getattr(own, kept), state.params)


# --- Prodigy ----------------------------------------------------------------------------------------------------


def test_prodigy_finds_the_distance():
    """Algorithm 4 with Adam's bias correction in float64, on a quadratic whose minimum is 5 away from the start: d ends
    between a quarter of the largest coordinate's distance and that."""
    target = np.array([5.0, -3.0, 1.0])
    optimizer = Prodigy(weight_decay=0.01)

    @jax.jit
    def run(params):
        def step(carry, _):
            params, state = carry
            grad = jax.tree.map(lambda p: p - jnp.asarray(target, jnp.float32), params)
            carry = optimizer.step(grad, state, params)
            return carry, carry[1][0].estim_lr

        return jax.lax.scan(step, (params, optimizer.start(params)), length=60)

    (params, _), estimates = run({"kernel": jnp.zeros(3)})
    p, d = np.zeros(3), 1e-6
    m = v = s = r = 0.0
    for t in range(1, 61):
        g = p - target
        rate = d * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        r = 0.999**0.5 * r + d / 1e-6 * rate * (g @ -p)
        s = 0.999**0.5 * s + rate * d * g / 1e-6
        m, v = 0.9 * m + 0.1 * d * g, 0.999 * v + 0.001 * (d * g) ** 2
        before, d = d, max(d, r / np.abs(s).sum())
        p = p - rate * (m / (np.sqrt(v) + d * 1e-8) + 0.01 * p)
        assert d >= before
        np.testing.assert_allclose(estimates[t - 1], d, rtol=5e-3)
    np.testing.assert_allclose(params["kernel"], p, rtol=1e-2, atol=1e-2)
    assert 5 / 4 < d < 5


def test_prodigy_waits_for_a_gradient():
    params = {"kernel": jnp.ones(3)}
    got, state = walked(Prodigy(), params, [{"kernel": jnp.zeros(3)}] * 2)
    assert same(got, params) and float(state[0].estim_lr) == pytest.approx(1e-6)


# --- in training ------------------------------------------------------------------------------------------------


def test_switched_keeps_what_means_the_same():
    adam = Adam(lr=2e-3, warmup=7, decay_steps=90, clip=1.0, weight_decay=0.1, b1=0.8, b2=0.99, eps=1e-6)
    shared = {"warmup": 7, "decay_steps": 90, "clip": 1.0, "weight_decay": 0.1}
    assert switched(adam, "adam") is adam
    assert switched(adam, "muon") == Muon(lr=2e-3, **shared, b1=0.8, b2=0.99, eps=1e-6)
    assert switched(adam, "prodigy") == Prodigy(**shared, b1=0.8, b2=0.99, eps=1e-6)
    assert switched(adam, "schedule-free") == ScheduleFree(lr=2e-3, **shared, b2=0.99, eps=1e-6)
    assert switched(adam, "lion") == Lion(lr=2e-4, **shared)
    assert switched(Muon(lr=1.0), "rmsprop") == RMSprop(lr=1.0)
    assert {type(switched(adam, kind)) for kind in KINDS} == set(KINDS.values())


def test_a_flag_takes_another_optimizer():
    preset = smoke_of("gan", "adam")
    words = ["--optimizer", "muon", "--model.optimizer.momentum", "0.9"]
    experiment, _ = flags_of(preset, words, "jaxgen train gan smoke", None, Options)
    adam = preset.model.optimizer
    assert experiment.model.optimizer == dataclasses.replace(switched(adam, "muon"), momentum=0.9)
    assert isinstance(experiment.model.critic_optimizer, Muon)
    assert {"", *KINDS} == set(get_args(field_types(Options)["optimizer"]))
    for wrong in (words[2:], ["--optimizer", "mion"], ["--optimizer", "lion", "--model.optimizer.momentum", "0.9"]):
        with pytest.raises(UserError) as error:
            flags_of(preset, wrong, "jaxgen train gan smoke", None, Options)
        assert "momentum" in one_line(error) or "mion" in one_line(error)


@pytest.mark.parametrize("kind", [k if k == "schedule-free" else pytest.param(k, marks=pytest.mark.slow) for k in NEW])
def test_a_stopped_run_is_the_straight_run(kind, tmp_path):
    """Bitwise, with clipping, warm-up, decay, parts of a batch, and an array that stays."""
    experiment = smoke_of("vae", kind, accumulate=2)
    settings = {"clip": 0.5, "warmup": 3, "decay_steps": 20, "weight_decay": 0.1}
    model = with_optimizers(experiment.model, lambda optimizer: dataclasses.replace(optimizer, **settings))
    experiment = dataclasses.replace(experiment, model=model, trainable="kernel|encoder")
    train(experiment, tmp_path / "straight")
    train(dataclasses.replace(experiment, steps=10), tmp_path / "stopped")
    train(experiment, tmp_path / "stopped")
    straight, stopped = (final_state(experiment, tmp_path / name) for name in ("straight", "stopped"))
    assert same(straight, stopped)
    frozen = straight.params["decoder"]["Dense_0"]["bias"]
    np.testing.assert_array_equal(frozen, np.zeros_like(frozen))
    moved = straight.params["decoder"]["Dense_0"]["kernel"]
    first = begin(experiment, experiment.codec).params["decoder"]["Dense_0"]["kernel"]
    assert np.isfinite(moved).all() and not np.array_equal(moved, first)


@pytest.mark.parametrize("kind", NEW)
def test_what_is_frozen_stays_and_has_no_state(kind):
    optimizer, params = switched(Adam(lr=0.1, weight_decay=0.1, clip=1.0), kind), drawn(SHAPES)

    @jax.jit
    def run(params):
        state = optimizer.start(params, "kernel")
        for seed in (1, 2):
            grads = {"layer": {"kernel": drawn(SHAPES, seed)["layer"]["kernel"], "bias": None}}
            params, state = optimizer.step(grads, state, params, "kernel")
        return params, state, optimizer.evaluated(state, params, "kernel")

    moved, state, used = run(params)
    for tree in (moved, used):
        np.testing.assert_array_equal(tree["layer"]["bias"], params["layer"]["bias"])
        assert not np.array_equal(tree["layer"]["kernel"], params["layer"]["kernel"])
    assert all(leaf.shape != SHAPES["layer"]["bias"] for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("kind", NEW)
def test_two_networks_each_have_their_own(kind):
    """Of a GAN, averaged, in bfloat16; nothing is computed."""
    experiment = dataclasses.replace(smoke_of("gan", kind, ema_decay=0.9), precision="bfloat16")
    raw = experiment.data.batch_at(0, 0, experiment.batch_size)
    state, key, batch = experiment.step_arguments(raw, experiment.codec)
    new, _ = jax.eval_shape(experiment.compute_model.train_step, state, key, batch)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(state)):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


@pytest.mark.parametrize("kind", NEW)
def test_a_mesh_changes_nothing(kind):
    """Parameters and the optimizer's state lie in shares on two devices; sums over them are as on one."""
    shapes = {"blocks": {"up": {"kernel": (3, 8, 6)}}, "tokens": (10, 6), "scale": (6,)}
    params, grads = drawn(shapes), [drawn(shapes, seed) for seed in (1, 2)]
    optimizer = switched(Adam(lr=0.01, clip=0.5, weight_decay=0.1), kind)
    layout = Layout.make("data=1,fsdp=2")
    state = jax.eval_shape(optimizer.start, params)
    placed = layout.state((params, state))
    assert any("fsdp" in where.spec for where in jax.tree.leaves(placed[1]))

    def one(params, state, grad):
        return optimizer.step(grad, state, params)

    sharded = jax.device_put(params, placed[0]), jax.jit(optimizer.start, out_shardings=placed[1])(params)
    step = jax.jit(one, out_shardings=placed)
    for grad in grads:
        sharded = step(*sharded, jax.device_put(grad, placed[0]))
    alone, _ = walked(optimizer, params, grads)
    for a, b in zip(*map(jax.tree.leaves, (alone, sharded[0]))):
        np.testing.assert_allclose(a, b, atol=1e-5)
