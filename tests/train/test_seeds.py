"""Many seeds in one program: each lane is the run of its seed."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from conftest import EXPERIMENTS
from scipy import stats
from small_runs import damage, final_state
from test_interrupt import spoilt

from jaxgen import core
from jaxgen.cli.report import command as report
from jaxgen.data import Tones
from jaxgen.data.feed import BatchPlan, feed
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.report import read_metrics
from jaxgen.report.seeds import _over_seeds, best_of, over_seeds
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import initial_state
from jaxgen.train import lanes, seeds
from jaxgen.train.loop import train
from jaxgen.train.seeds import train_seeds

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


def test_stopped_seeds_go_on_as_if_they_had_not(tmp_path, monkeypatch):
    copied = []
    unstack = lanes._unstack
    monkeypatch.setattr(lanes, "_unstack", lambda stacked: copied.append(stacked) or unstack(stacked))
    train_seeds(VAE, 2, tmp_path / "straight")
    assert len(copied) == 2  # once for each save
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


def test_clips_of_all_lanes_are_padded_alike():
    """Regression: each lane's batch was as long as its own longest clip, and could not be stacked with the others'."""
    data = Tones(num=150, frames=16)
    plans = [BatchPlan(seed=seed, batch_size=8, steps_per_call=1, start=0, stop=6) for seed in (0, 1)]
    alone = [[call["x"].shape[2] for call in feed(data, plan, 0)[1]] for plan in plans]
    assert alone[0] != alone[1]
    beside = [[call["x"].shape[2] for call in feed(data, plan, 0, np.arange(8), plans)[1]] for plan in plans]
    assert beside[0] == beside[1] == [max(pair) for pair in zip(*alone)]


def test_a_lane_that_diverges_ends_no_other(tmp_path, capsys):
    """Regression: it ended all of them, and the same command would end so again."""
    model = presets(EXPERIMENTS["ebm"])["smoke"]
    short = dataclasses.replace(model, model=dataclasses.replace(model.model, max_gap=1e-9), steps=10, log_every=5)
    train_seeds(short, 2, tmp_path / "run")
    said = capsys.readouterr()
    assert (said.out + said.err).count("the others go on") == 2
    for seed in range(2):
        folder = tmp_path / "run" / f"seed{seed}"
        assert (folder / "evaluation.json").is_file() and (folder / "events.jsonl").read_text().count("diverged") == 1


def test_lanes_lie_on_all_devices(tmp_path):
    """Four lanes on the four devices of the tests, and no communication between them."""
    from jaxgen.train.lanes import _mesh

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


@pytest.mark.parametrize(
    ("count", "fields", "words"),
    [(1, {}, "2 or more"), (2, {"mesh": "data=2"}, "leave --mesh out"), (2, {"keep": 1}, "keep is 1, 2 is expected")],
)
def test_what_cannot_be_is_refused(count, fields, words, tmp_path):
    with pytest.raises(UserError, match=words):
        train_seeds(dataclasses.replace(VAE, **fields), count, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("saved", "advice"),
    [
        ({0: [10, 20], 1: [10, 20], 2: None, 3: None}, r"seed 1: 10, 20; seed 2: none; .* --seed 2 --seeds 2 --out"),
        ({0: [20], 1: None}, r"--seed 1 --out \S+/seed1,"),
        ({0: [10, 20], 1: [30, 40], 2: [10, 20]}, r"--seed 0 --out \S+/seed0,"),
        ({0: [10], 1: []}, None),  # stopped within the first save
        ({0: [10, 20], 1: [10]}, None),  # and within the second
        ({0: [], 1: None}, None),
    ],
)
def test_what_was_trained_is_not_set_aside_unasked(saved, advice, tmp_path):
    """saved: the steps that each seed has, None for no folder."""
    for seed, steps in saved.items():
        if steps is not None:
            (tmp_path / f"seed{seed}").mkdir()
            (tmp_path / f"seed{seed}" / "experiment.json").touch()
        for step in steps or ():
            (tmp_path / f"seed{seed}" / "checkpoints" / str(step)).mkdir(parents=True)
    if advice is None:
        return seeds._check_saved(range(len(saved)), tmp_path)
    with pytest.raises(UserError, match=advice):
        train_seeds(VAE, len(saved), tmp_path)
    for seed, steps in saved.items():
        assert (tmp_path / f"seed{seed}").exists() == (steps is not None)


def test_seeds_are_added_to_those_that_are_there(four, tmp_path):
    """As the refusal says."""
    shutil.copytree(four, tmp_path / "run")
    with pytest.raises(UserError, match=r"--seed 4 --seeds 2 --out"):
        train_seeds(VAE, 6, tmp_path / "run")
    train_seeds(dataclasses.replace(VAE, seed=4), 2, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "seeds.json").read_text())["seeds"] == [0, 1, 2, 3, 4, 5]


def test_damaged_seeds_are_no_reason_to_start_anew(four, tmp_path):
    shutil.copytree(four, tmp_path / "run")
    for old in (tmp_path / "run").glob("seed*/checkpoints/10"):
        shutil.rmtree(old)
    damage(tmp_path / "run" / "seed2" / "checkpoints" / "20", "truncated")
    with pytest.raises(UserError, match="seed2/checkpoints/20 is damaged"):
        train_seeds(VAE, 4, tmp_path / "run")
    assert not list((tmp_path / "run").glob("seed*/set_aside"))


def test_data_is_put_on_the_devices_once(tmp_path):
    """Not by each lane: these are indices into what the caller puts there."""
    each = [lanes.Lane(dataclasses.replace(VAE, seed=i), RunFolder(tmp_path), None) for i in range(2)]
    data, calls = lanes._calls(each, 0, VAE.steps)
    assert all(isinstance(array, np.ndarray) for array in data.values())
    first = next(calls)
    for i, lane in enumerate(first):
        expected = VAE.data.batch_at(i, 0, VAE.batch_size)["x"]
        np.testing.assert_array_equal(data["x"][lane[0]], expected)


def test_killed_seeds_have_a_report_too(four, tmp_path, capsys):
    """seeds.json is written at the end alone."""
    shutil.copytree(four, tmp_path / "run")
    for file in ("seeds.json", "report.html", "seed1/evaluation.json"):
        (tmp_path / "run" / file).unlink()
    report([str(tmp_path / "run")])
    assert "seed3/report.html" in (tmp_path / "run" / "report.html").read_text()
    report([str(tmp_path / "run" / "seed3")])
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {tmp_path / 'run' / 'seed3' / 'report.html'}"


def test_skipped_steps_have_no_numbers(tmp_path):
    """Nor in the mean over seeds of windows in which another seed skipped a step."""
    for seed, gone in enumerate((2, None)):
        lines = [{"step": i, "loss": seed + 1.0, "skipped": 0.0} for i in range(1, 6)]
        if gone:
            lines[gone - 1] |= {"loss": 0.0, "skipped": 1.0}
        (tmp_path / f"seed{seed}").mkdir()
        (tmp_path / f"seed{seed}" / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    each = [read_metrics(tmp_path / f"seed{seed}" / "metrics.jsonl") for seed in range(2)]
    np.testing.assert_array_equal(each[0]["loss"], [[1, 3, 4, 5], [1, 1, 1, 1]])
    np.testing.assert_array_equal(each[0]["skipped"][1], [0, 1, 0, 0, 0])
    steps, values = _over_seeds([lane["loss"] for lane in each])
    np.testing.assert_array_equal(steps, [1, 3, 4, 5])
    np.testing.assert_array_equal(values, [[1] * 4, [2] * 4])


def test_the_best_of_a_number_is_its_highest_or_its_lowest():
    """Regression: `jaxgen ema` named the average of the lowest PSNR the best."""
    assert best_of("continuation_psnr")([1, 3, 2]) == best_of("prior_similarity")([1, 3, 2]) == 3
    assert best_of("fd")([1, 3, 2]) == best_of("weighted_mse")([1, 3, 2]) == 1


def test_numbers_over_seeds_are_of_one_step_and_of_the_end(tmp_path):
    """Regression: evaluations of other checkpoints were averaged, and a number that was infinite at the end was shown
    as it had been before."""
    folders = [tmp_path / f"seed{i}" for i in range(2)]
    for i, folder in enumerate(folders):
        folder.mkdir()
        (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
        said = {"split": "test", "step": 10, "num": 100, "metrics": {"nll": {"mean": 1.0 + i}}}
        (folder / "evaluation.json").write_text(json.dumps(said))
        lines = [{"step": 5, "samples/modes": 3, "samples/mode_kl": 0.1}, {"step": 10, "samples/modes": 0}]
        (folder / "held_out.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    numbers = over_seeds(folders)[1]
    assert numbers["test/nll"]["mean"] == 1.5
    assert numbers["samples/modes"]["mean"] == 0 and "samples/mode_kl" not in numbers
    (folders[1] / "evaluation.json").write_text(json.dumps({**said, "step": 5}))
    assert "test/nll" not in over_seeds(folders)[1]
