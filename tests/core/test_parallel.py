"""The same program on one device and on a mesh of four (or of eight): same numbers, and each device holds its share."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import DEVICES, EXPERIMENTS

from jaxgen import core
from jaxgen.core import INIT, TRAIN, TrainState
from jaxgen.core.mesh import Layout, parse
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.models.vae import VAE
from jaxgen.nets.mlp import MLP
from jaxgen.report import read_metrics
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.packing import pack, unpack
from jaxgen.runtime.processes import Poll
from jaxgen.train.loop import train

HALF = DEVICES // 2
MESH = f"data={HALF},tensor=2"
OTHERS = [f"data={DEVICES}", f"fsdp={DEVICES}", f"data={HALF},fsdp=2"]


def run(experiment, layout, steps=20):
    """Metrics of a few steps, the state, and samples from it."""
    model, codec, seed = experiment.model, experiment.codec, experiment.seed
    raw = [experiment.data.batch_at(seed, step, experiment.batch_size) for step in range(steps)]
    batches = jax.tree.map(lambda *a: np.stack(a), *raw)
    state = core.init(model, core.run_key(seed, INIT), raw[0], codec, layout)
    key, keys = core.run_key(seed, TRAIN), core.sample_keys(7, 8)
    cond = model.sample_cond(8, raw[0])
    if layout is not None:
        batches = layout.put(batches, layout.batch(1))
        key = layout.put(key, layout.everywhere)
        keys, cond = layout.put((keys, cond), layout.batch())
    state, metrics = core.train_steps(model, state, key, batches, codec, None, False, layout)
    return jax.device_get(metrics), state, np.asarray(core.sample(model, state, keys, cond))


@pytest.fixture(scope="module", params=["vae", "ddpm"])
def alone(request):
    experiment = presets(EXPERIMENTS[request.param])["smoke"]
    return experiment, run(experiment, None)


@pytest.mark.parametrize("mesh", [MESH, *(pytest.param(m, marks=pytest.mark.slow) for m in OTHERS)])
def test_a_mesh_computes_what_one_device_does(alone, mesh):
    experiment, (metrics, _, samples) = alone
    layout = Layout.make(mesh, experiment.batch_size)
    split_metrics, state, split_samples = run(experiment, layout)
    np.testing.assert_allclose(split_metrics["loss"], metrics["loss"], rtol=1e-5)
    np.testing.assert_allclose(split_samples, samples, atol=1e-5)
    batch = experiment.data.batch_at(experiment.seed, 0, experiment.batch_size)
    placed = layout.like(core.abstract_state(experiment.model, batch, experiment.codec))
    for leaf, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(placed), strict=True):
        assert len(leaf.sharding.device_set) == DEVICES
        assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim)  # where it lay before training


def test_a_second_call_compiles_nothing(alone):
    experiment, _ = alone
    layout = Layout.make(MESH, experiment.batch_size)
    _, state, _ = run(experiment, layout)
    before = core.train_steps._cache_size()
    raw = [experiment.data.batch_at(0, step, experiment.batch_size) for step in range(20)]
    batches = layout.put(jax.tree.map(lambda *a: np.stack(a), *raw), layout.batch(1))
    key = layout.put(core.run_key(0, TRAIN), layout.everywhere)
    core.train_steps(experiment.model, state, key, batches, experiment.codec, None, False, layout)
    assert core.train_steps._cache_size() == before


def test_fsdp_splits_parameters_and_optimizer():
    model = VAE(shape=(8, 8, 1), latent=16, encoder=MLP(hidden=(256,)), decoder=MLP(hidden=(256,)))
    batch = {"x": jnp.zeros((8, 8, 8, 1))}
    layout = Layout.make(f"fsdp={DEVICES}", 8)
    state = core.init(model, core.run_key(0, INIT), batch, None, layout)
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
    assert held <= whole * (1 / DEVICES + 0.02)


def test_tensor_parallel_splits_attention():
    experiment = presets(EXPERIMENTS["ddpm"])["smoke"]
    batch = experiment.data.batch_at(0, 0, experiment.batch_size)
    layout = Layout.make("tensor=2", experiment.batch_size)
    state = core.init(experiment.model, core.run_key(0, INIT), batch, experiment.codec, layout)
    attention = state.params["network"]["middle_attention"]
    assert attention["qkv"]["kernel"].sharding.spec[-1] == "tensor"
    assert attention["out"]["kernel"].sharding.spec[0] == "tensor"


def test_a_checkpoint_moves_between_meshes(tmp_path):
    """Saved from four devices, restored on one and on another mesh, to the bit."""
    experiment = presets(EXPERIMENTS["vae"])["smoke"]
    _, state, _ = run(experiment, Layout.make("fsdp=4", experiment.batch_size))
    batch = experiment.data.batch_at(0, 0, experiment.batch_size)
    like = core.abstract_state(experiment.model, batch, experiment.codec)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(state)
        checkpoints.wait()
        other = Layout.make("data=2,fsdp=2", experiment.batch_size)
        for target in (like, other.like(like)):
            restored = checkpoints.restore(target)
            for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state)):
                np.testing.assert_array_equal(a, b)
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(restored)} == {4}


def test_unpacking_compiles_nothing(caplog):
    """A program for each small array would be a thousand."""
    layout = Layout.make("data=2,fsdp=2")
    params = {str(n): layout.put(np.arange(n, dtype=np.float32), layout.everywhere) for n in (3, 101, 37)}
    state = TrainState(step=layout.put(np.int32(1), layout.everywhere), params=params, opt_state={})
    arrays, packs = pack(state)
    like = layout.like(jax.eval_shape(lambda: state))
    with jax.log_compiles(), caplog.at_level("WARNING"):
        again = unpack(arrays, like, packs)
    assert "Compiling" not in caplog.text
    for a, b, wanted in zip(*map(jax.tree.leaves, (again, state, like))):
        np.testing.assert_array_equal(a, b)
        assert a.sharding == wanted.sharding


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dat=4", "did you mean data"),
        ("data=x", "data has size 'x'"),
        (f"data={2 * DEVICES}", f"{DEVICES} are here"),
        ("data=3", "multiple"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(text, words):
    with pytest.raises(UserError, match=words):
        Layout.make(text, 32)


def test_a_poll_answers_a_question_late(monkeypatch):
    """So that it is of a call that has ended."""
    assert [Poll().ask(code) for code in (0, 15)] == [0, 15]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    poll = Poll()
    assert [poll.ask(code) for code in (0, 15, 2, 0)] == [0, 0, 15, 2]


def test_no_mesh_is_one_device():
    assert parse("") == {"data": 1, "fsdp": 1, "tensor": 1}
    assert Layout.make("", 7) is None


def test_a_run_changes_its_mesh_on_the_way(tmp_path):
    """Half on four devices, half on one: the losses of a run that never moved."""
    experiment = presets(EXPERIMENTS["vae"])["smoke"]
    train(dataclasses.replace(experiment, steps=10, mesh="data=2,fsdp=2"), tmp_path / "moved")
    train(experiment, tmp_path / "moved")
    train(experiment, tmp_path / "stayed")
    losses = [read_metrics(tmp_path / name / "metrics.jsonl")["loss"][1] for name in ("moved", "stayed")]
    np.testing.assert_allclose(*losses, rtol=1e-5)
