"""Energy-based models: the buffer, the loss, the partition function, and the guard that stops a run."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXPERIMENTS

from jaxgen import core
from jaxgen.codecs import Identity
from jaxgen.core import sample_keys
from jaxgen.core.configuration import check_fields
from jaxgen.data import Toy2D
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment, presets
from jaxgen.models.ebm import EBM
from jaxgen.nets.energy import CNNEnergy, MLPEnergy, WideResNetEnergy
from jaxgen.ops.langevin import Langevin
from jaxgen.optim import Adam
from jaxgen.report.pictures import picture
from jaxgen.train import loop

SHAPE, SIZE, PLACES = (4, 4, 1), 6, 16
SMALL = EBM(
    network=MLPEnergy((8,), spectral=True), shape=SHAPE, chain=Langevin(steps=3), sampler=Langevin(steps=4),
    buffer=PLACES, restart=0.0, optimizer=Adam(lr=1e-2),
)  # fmt: skip


def batch(key=0):
    return {"x": jax.random.uniform(jax.random.key(key), (SIZE, *SHAPE), minval=-1, maxval=1)}


@pytest.fixture(scope="module")
def stepped():
    """The model's state before and after one step, and the step's metrics."""
    state = jax.jit(SMALL.init)(jax.random.key(0), batch())
    return state, *jax.jit(SMALL.train_step)(state, jax.random.key(1), batch())


def test_a_step_goes_on_with_chains_of_the_buffer(stepped):
    """One place for each example of the batch changes, by a chain from its old value."""
    old, new, metrics = stepped
    before, after = old.extra["buffer"], new.extra["buffer"]
    changed = np.flatnonzero(np.any(np.asarray(before != after), axis=(1, 2, 3)))
    assert len(changed) == SIZE
    # Three steps of at most 10 * 0.03 and a little noise: an end is near its own start.
    assert np.max(np.abs(after[changed] - before[changed])) < 3 * 10 * 0.03 + 0.1
    assert np.max(np.abs(after)) <= 1
    key_start, _, _ = jax.random.split(jax.random.key(1), 3)
    start, slots = SMALL._starts(before, key_start, batch()["x"])
    np.testing.assert_array_equal(np.sort(slots), changed)
    np.testing.assert_array_equal(start, before[slots])
    # The chains' energies are those of the metrics, under the parameters and spectral vectors of before.
    assert float(metrics["gap"]) == pytest.approx(float(metrics["chain_energy"] - metrics["data_energy"]), abs=1e-6)


def test_restarts_come_from_noise(stepped):
    start, slots = dataclasses.replace(SMALL, restart=1.0)._starts(
        stepped[0].extra["buffer"], jax.random.key(3), batch()["x"]
    )
    assert len(set(np.asarray(slots))) == SIZE
    assert not np.any(np.asarray(start) == np.asarray(stepped[0].extra["buffer"])[slots])


def test_loss_is_contrastive_divergence(stepped):
    """Its value and gradient are those of a plain formula."""
    model = dataclasses.replace(SMALL, network=MLPEnergy((8,)), data_noise=0.0, energy_penalty=0.3)
    state = model.init(jax.random.key(0), batch())
    negative = batch(1)["x"]

    def plain(params):
        plus, minus = (model.network.apply({"params": params["energy"]}, x) for x in (batch()["x"], negative))
        return jnp.mean(plus) - jnp.mean(minus) + 0.3 * (jnp.mean(plus**2) + jnp.mean(minus**2))

    def ours(params):
        return model.seen(params, state, core.sample_keys(2, len(negative)), {**batch(), "negative": negative})[0]

    for a, b in zip(jax.tree.leaves(jax.grad(ours)(state.params)), jax.tree.leaves(jax.grad(plain)(state.params))):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_spectral_vectors_move_with_training_alone(stepped):
    old, new, _ = stepped
    u_old, u_new = (jax.tree.leaves(state.extra["network"]["spectral"]) for state in (old, new))
    assert len(u_old) == 2
    # Of the last layer, which has one output, the vector is 1 or -1.
    assert any(not np.allclose(a, b) for a, b in zip(u_old, u_new))


def test_samples_from_the_buffer_start_there(stepped):
    state = stepped[1]
    still = Langevin(steps=1, step=1e-9, noise=0.0)
    model = dataclasses.replace(SMALL, sample_from_buffer=True, sampler=still)
    samples = np.asarray(model.sample(state, sample_keys(0, 5)))
    kept = np.asarray(state.extra["buffer"])
    assert all(np.min(np.max(np.abs(kept - x), axis=(1, 2, 3))) < 1e-6 for x in samples)
    with pytest.raises(UserError, match="sample_from_buffer"):
        check_fields(dataclasses.replace(model, buffer=0))


TOY = EBM(
    network=MLPEnergy((16, 16)), shape=(2,), bound=3.0, buffer=64, sampler=Langevin(2, 0.01, None, 0.0),
    chain=Langevin(10, 0.01, None, 0.0), energy_penalty=0.0, optimizer=Adam(lr=3e-3),
)  # fmt: skip


@pytest.fixture(scope="module")
def moons():
    """A model of two moons after a few hundred steps."""
    data = Toy2D(name="moons", num=2000)
    calls = {"x": np.stack([data.batch_at(0, i, 64)["x"] for i in range(300)])}
    state = core.init(TOY, jax.random.key(0), data.batch_at(0, 0, 64), Identity())
    state, metrics = core.train_steps(TOY, state, jax.random.key(1), calls)
    return data, jax.device_get(state), metrics


def test_two_moons(moons):
    """Its density sums to one and beats the uniform one; annealing finds the same partition function."""
    data, state, metrics = moons
    numbers = core.evaluate(TOY, state, sample_keys(0, 500), {"x": data.arrays("test")["x"][:500]})
    assert np.mean(numbers["nll"]) < np.log(36) - 0.8
    log_z = TOY.lattice_log_z(state)
    np.testing.assert_allclose(numbers["nll"] - numbers["energy"], log_z, rtol=1e-5)
    found = jax.jit(lambda state, keys: TOY.log_z(state, keys, 100, 5))(state, sample_keys(1, 300))
    assert abs(found.log_z - log_z) < 0.05
    assert TOY.diverged(jax.device_get(metrics)) is None


def test_the_picture_in_the_plane_shows_data_where_the_density_is(moons):
    data, state, _ = moons
    points = data.arrays("test")["x"]
    shown = TOY.pictures(state, sample_keys(0, 4), {"x": points})["energy.png"]
    assert picture(shown).dtype == np.uint8
    low, dense, seen = (1 - np.asarray(shown[0, i, ..., 0], np.float32) / 255 for i in range(3))
    assert seen.sum() == len({tuple(p) for p in np.argwhere(seen > 0)})
    # Darker under the points than elsewhere, in both.
    assert low[seen > 0].mean() > 2 * low.mean()
    assert dense[seen > 0].mean() > 2 * dense.mean()


def test_a_run_that_diverges_stops_with_advice(tmp_path):
    """While its metrics are still finite."""
    model = dataclasses.replace(TOY, optimizer=Adam(lr=0.5), max_gap=20.0)
    experiment = Experiment(
        model=model, codec=Identity(), data=Toy2D(num=500), batch_size=32, steps=400, steps_per_call=10, log_every=10,
        save_every=10, sample_every=400, num_samples=4,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"diverged by step \d+: .*--model.optimizer.lr"):
        loop.train(experiment, tmp_path / "run")
    (event,) = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert event["event"] == "diverged"
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(abs(row["gap"]) for row in rows) > 20
    # What was saved is of before.
    saved = max(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdigit())
    assert saved < event["step"]


def test_bad_settings_are_told():
    with pytest.raises(UserError, match="buffer 5 places: give it 6"):
        dataclasses.replace(SMALL, buffer=5).check(batch())


def test_paper_sizes():
    """WRN-28-10 has 36.5 M parameters (arXiv:1605.07146, table 4); rows of a batch are independent."""
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    params = jax.eval_shape(WideResNetEnergy().init, jax.random.key(0), x)["params"]
    assert core.count_params(params) == pytest.approx(36.5e6, rel=0.01)
    assert presets(EXPERIMENTS["ebm"])["cifar10"].model.network == WideResNetEnergy()
    with pytest.raises(UserError, match="6 n"):
        WideResNetEnergy(depth=20).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    for net in (CNNEnergy((4, 4), 8), WideResNetEnergy(10, 1)):
        x = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
        both, variables = jax.jit(net.init_with_output)(jax.random.key(0), x)
        np.testing.assert_allclose(net.apply(variables, x[1:]), both[1:], rtol=1e-4)
        assert abs(both[0] - both[1]) > 1e-4
