"""Runs that are stopped, and runs whose numbers go bad."""

import dataclasses
import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXPERIMENTS, ROOT
from small_runs import final_state, same

from jaxgen import core
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.models.vae import VAE
from jaxgen.report import read_metrics
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.log import means
from jaxgen.train.loop import train

SMOKE = presets(EXPERIMENTS["vae"])["smoke"]
LONG = dataclasses.replace(
    SMOKE, steps=100_000, save_every=50_000, sample_every=100_000, steps_per_call=50, log_every=50
)


def start(folder, *flags):
    """A run of its own process that will not end by itself soon."""
    command = [
        sys.executable, "experiments/vae.py", "smoke", "--out", str(folder), "--device", "cpu", "--steps", "100000",
        "--save-every", "50000", "--sample-every", "100000", "--steps-per-call", "50", "--log-every", "50", *flags,
    ]  # fmt: skip
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def until(process, words):
    for line in process.stdout:
        if words in line:
            return
    pytest.fail(f"the run ended without saying {words!r}")


def saved_steps(folder):
    return sorted(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit())


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT])
def test_a_signal_saves_and_says_how_to_go_on(number, tmp_path):
    process = start(tmp_path / "run")
    until(process, "step 50/")
    process.send_signal(number)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert "the same command goes on" in said
    (step,) = saved_steps(tmp_path / "run")
    assert step % 50 == 0
    assert step < 100_000
    # Every step up to the one saved was logged, and the run goes on from it to what a straight run reaches.
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")["loss"][0]) == step
    goal = dataclasses.replace(LONG, steps=step + 100, save_every=step + 100)
    train(dataclasses.replace(goal, sample_every=LONG.sample_every), tmp_path / "run")
    train(dataclasses.replace(goal, sample_every=LONG.sample_every), tmp_path / "straight")
    assert same(final_state(goal, tmp_path / "run"), final_state(goal, tmp_path / "straight"))


def test_a_second_interrupt_leaves_at_once(tmp_path):
    process = start(tmp_path / "run", "--steps-per-call", "50000", "--log-every", "50000")
    while not (tmp_path / "run" / "environment.json").exists():
        time.sleep(0.05)
    time.sleep(1.0)  # into the first call, which takes minutes
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.wait(timeout=20)
    assert time.monotonic() - began < 10
    assert process.returncode == 130
    process.stdout.close()


def test_a_time_limit_saves_and_stops(tmp_path, capsys):
    assert train(LONG, tmp_path / "run", max_hours=1e-6) == "--max-hours 1e-06"
    assert saved_steps(tmp_path / "run") == [50]


@dataclass(frozen=True, kw_only=True)
class Spoilt(VAE):
    """A VAE whose loss is NaN at one step, for the batches of one data order or of all."""

    at: int = 12
    always: bool = False

    def loss(self, params, state, keys, batch):
        loss, metrics = super().loss(params, state, keys, batch)
        # The first data order has this sum of labels at step 12; another order almost surely has not.
        first = jnp.sum(batch["cond"] * jnp.arange(len(batch["cond"]))) == UNLUCKY
        bad = (state.step == self.at) & (first | self.always)
        return jnp.where(bad, jnp.nan, loss), metrics


UNLUCKY = int(np.sum(SMOKE.data.batch_at(0, 12, 32)["cond"] * np.arange(32)))


def spoilt(on_nonfinite, **fields):
    model = Spoilt(**{f.name: getattr(SMOKE.model, f.name) for f in dataclasses.fields(VAE)}, **fields)
    return dataclasses.replace(SMOKE, model=model, on_nonfinite=on_nonfinite)


def events(folder):
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def test_a_nan_rolls_back_and_tries_another_order(tmp_path, capsys):
    experiment = spoilt("rollback")
    train(experiment, tmp_path / "run")
    (rollback, resumed) = events(tmp_path / "run")
    assert (rollback["event"], rollback["step"], resumed["event"]) == ("rollback", 10, "resumed")
    assert "step 13" in rollback["detail"]
    assert "rollback" in (tmp_path / "run" / "report.html").read_text()
    steps, loss = read_metrics(tmp_path / "run" / "metrics.jsonl")["loss"]
    assert list(steps) == list(range(1, 21))
    assert np.all(np.isfinite(loss))
    train(experiment, tmp_path / "again")
    assert same(final_state(experiment, tmp_path / "run"), final_state(experiment, tmp_path / "again"))


def test_a_nan_that_stays_stops_the_run_with_what_was_saved(tmp_path, capsys):
    experiment = spoilt("rollback", always=True)
    with pytest.raises(UserError, match=re.escape("after 3 rollbacks")):
        train(experiment, tmp_path / "run")
    assert saved_steps(tmp_path / "run") == [10]
    assert int(final_state(experiment, tmp_path / "run").step) == 10


def test_a_nan_stops_the_run_where_asked(tmp_path):
    with pytest.raises(UserError, match=r"loss is not finite at step 13.*checkpoint is of step 10"):
        train(spoilt("stop"), tmp_path / "run")


def test_a_nan_step_is_left_out_where_asked(tmp_path):
    experiment = spoilt("skip")
    train(experiment, tmp_path / "run")
    skipped = read_metrics(tmp_path / "run" / "metrics.jsonl")["skipped"][1]
    assert [i + 1 for i, s in enumerate(skipped) if s] == [13]
    # Its zeros are in no mean.
    steps, loss = read_metrics(tmp_path / "run" / "metrics.jsonl")["loss"]
    assert list(steps) == [*range(1, 13), *range(14, 21)]
    assert np.all(loss > 0)
    assert RunFolder(tmp_path / "run").mean("loss", 10) == pytest.approx(np.mean(loss[10:]))
    state = final_state(experiment, tmp_path / "run")
    assert int(state.step) == 20
    # The same as training without that step, noise and data of the others unchanged.
    model, codec = experiment.model, experiment.codec
    raw = [SMOKE.data.batch_at(0, step, 32) for step in range(20)]
    expected = core.init(model, core.run_key(0, core.INIT), raw[0], codec)
    for step, batch in enumerate(raw):
        if step == 12:
            expected = expected.replace(step=expected.step + 1)
            continue
        batches = jax.tree.map(lambda a: a[None], batch)
        expected, _ = core.train_steps(model, expected, core.run_key(0, core.TRAIN), batches, codec)
    for got, want in zip(jax.tree.leaves(state), jax.tree.leaves(expected)):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_a_mean_is_of_the_steps_that_were_not_skipped(tmp_path):
    """NaN where there are none, which is never best."""
    columns = {"loss": np.array([2.0, 0.0, 4.0, 0.0]), "skipped": np.array([0.0, 1.0, 0.0, 1.0])}
    assert means(columns) == {"loss": 3.0, "skipped": 0.5}
    last = means({name: column[3:] for name, column in columns.items()})
    assert np.isnan(last["loss"]) and last["skipped"] == 1.0
    run = RunFolder(tmp_path)
    run.append_metrics(1, columns)
    assert run.mean("loss", 0) == 3.0
    assert run.mean("loss", 1) == 4.0
    assert np.isnan(run.mean("loss", 3))


def test_handlers_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    train(dataclasses.replace(SMOKE, steps=5, save_every=5, sample_every=5, log_every=5), tmp_path / "run")
    assert signal.getsignal(signal.SIGTERM) is before
