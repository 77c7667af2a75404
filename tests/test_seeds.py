"""Many seeds in one program: each lane is the run of its seed."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from conftest import EXPERIMENTS
from scipy import stats
from test_interrupt import spoilt
from test_loop import final_state

from jaxgen import core
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.loop import initial_state, train
from jaxgen.report import read_metrics
from jaxgen.seeds import train_seeds

VAE = presets(EXPERIMENTS["vae"])["smoke"]


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds") / "run"
    train_seeds(VAE, 4, folder)
    return folder


def alike(a, b):
    """To rounding: one program's sums are ordered otherwise than another's."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_lane_3_is_the_run_of_seed_3(four, tmp_path):
    alone = dataclasses.replace(VAE, seed=3)
    train(alone, tmp_path / "alone")
    curves = [read_metrics(folder / "metrics.jsonl")["loss"][1] for folder in (four / "seed3", tmp_path / "alone")]
    np.testing.assert_allclose(*curves, rtol=1e-5)
    alike(final_state(alone, four / "seed3").params, final_state(alone, tmp_path / "alone").params)
    # And it is an ordinary run, which goes on alone.
    train(dataclasses.replace(alone, steps=30), four / "seed3")
    train(dataclasses.replace(alone, steps=30), tmp_path / "alone")
    alike(final_state(alone, four / "seed3").params, final_state(alone, tmp_path / "alone").params)


def test_the_interval_is_students(four):
    found = json.loads((four / "seeds.json").read_text())
    assert found["seeds"] == [0, 1, 2, 3]
    evaluations = [json.loads((four / f"seed{i}" / "evaluation.json").read_text()) for i in range(4)]
    values = [e["metrics"]["nelbo"]["mean"] for e in evaluations]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    number = found["metrics"]["test/nelbo"]
    assert number["mean"] == pytest.approx(np.mean(values))
    assert number["ci95"] == pytest.approx((expected.high - expected.low) / 2)
    page = (four / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert "seed3/report.html" in page


def test_stopped_seeds_go_on_as_if_they_had_not(tmp_path):
    train_seeds(VAE, 2, tmp_path / "straight")
    train_seeds(dataclasses.replace(VAE, steps=10), 2, tmp_path / "run")
    # One lane got further than the other before a crash.
    train(dataclasses.replace(VAE, seed=1), tmp_path / "run" / "seed1")
    train_seeds(VAE, 2, tmp_path / "run")
    for seed in (0, 1):
        lane = dataclasses.replace(VAE, seed=seed)
        states = [final_state(lane, tmp_path / name / f"seed{seed}") for name in ("straight", "run")]
        for a, b in zip(*map(jax.tree.leaves, states)):
            np.testing.assert_array_equal(a, b)
        files = [(tmp_path / name / f"seed{seed}" / "metrics.jsonl").read_text() for name in ("straight", "run")]
        assert files[0] == files[1]


def test_a_nan_in_one_lane_rolls_back_that_lane(tmp_path, capsys):
    """Only it changes its order of data."""
    experiment = spoilt("rollback")
    train_seeds(experiment, 2, tmp_path / "run")
    train(experiment, tmp_path / "alone")
    alike(final_state(experiment, tmp_path / "run" / "seed0"), final_state(experiment, tmp_path / "alone"))
    assert "rollback" in (tmp_path / "run" / "seed0" / "events.jsonl").read_text()
    assert "rollback" not in (tmp_path / "run" / "seed1" / "events.jsonl").read_text()
    train(dataclasses.replace(experiment, seed=1), tmp_path / "other")
    alike(
        final_state(dataclasses.replace(experiment, seed=1), tmp_path / "run" / "seed1"),
        final_state(dataclasses.replace(experiment, seed=1), tmp_path / "other"),
    )


def test_lanes_lie_on_all_devices(tmp_path):
    """Four lanes on the four devices of the tests, and no communication between them."""
    from jaxgen.seeds import _mesh

    where = _mesh(4)
    assert len(where.device_set) == 4
    assert len(_mesh(6).device_set) == 3
    states = [initial_state(dataclasses.replace(VAE, seed=s), VAE.codec) for s in range(4)]
    stacked = jax.device_put(jax.tree.map(lambda *a: np.stack(a), *states), where)
    keys = jax.device_put(jax.numpy.stack([core.run_key(s, core.TRAIN) for s in range(4)]), where)
    raw = [[VAE.data.batch_at(s, t, 32) for t in range(5)] for s in range(4)]
    batches = [jax.tree.map(lambda *a: np.stack(a), *lane) for lane in raw]
    batches = jax.device_put(jax.tree.map(lambda *a: np.stack(a), *batches), where)
    lowered = core.train_seeds.lower(VAE.model, stacked, keys, batches, VAE.codec, None, False, where.mesh)
    program = lowered.compile().as_text()
    for word in ("all-reduce", "all-gather", "all-to-all", "collective-permute"):
        assert word not in program


@pytest.mark.parametrize(("count", "mesh", "words"), [(1, "", "2 or more"), (2, "data=2", "leave --mesh out")])
def test_what_cannot_be_is_refused(count, mesh, words, tmp_path):
    with pytest.raises(UserError, match=words):
        train_seeds(dataclasses.replace(VAE, mesh=mesh), count, tmp_path / "run")
    assert not (tmp_path / "run").exists()
