"""The rates that progress lines and timing.jsonl tell."""

import time

import numpy as np
import pytest
from conftest import EXPERIMENTS

from jaxgen.experiment import presets
from jaxgen.report.curves import read_metrics, trained_seconds
from jaxgen.runs import environment, log
from jaxgen.runs.folder import RunFolder
from jaxgen.runtime.progress import Silent
from jaxgen.runtime.reading import read_json


class Device(log.Delayed):
    """A log that laps with each call it writes; a call takes `seconds`, in which the host waits as it queues it, or as
    it reads the numbers."""

    def __init__(self, seconds: float, at_once: bool):
        super().__init__()
        self.seconds, self.at_once, self.clock, self.laps = seconds, at_once, log.Clock(), []

    def call(self) -> None:
        if self.at_once:
            time.sleep(self.seconds)
        self.add({})

    def _write(self, metrics) -> None:
        if not self.at_once:
            time.sleep(self.seconds)
        self.laps.append(self.clock.lap(self.asked))


@pytest.mark.parametrize("at_once", [False, True])
def test_each_lap_is_a_calls_time(at_once):
    """Also the last one's, which is read with nothing queued after it."""
    device = Device(0.05, at_once)
    for _ in range(4):
        device.call()
    device.flush()
    # A first lap may have the next call's time in it as well.
    assert len(device.laps) == 4 and all(0.045 < lap < 0.3 for lap in device.laps), device.laps


def test_time_goes_on_where_a_run_does(tmp_path):
    """Regression: a resumed run's clock began anew, and what it had trained before was not counted."""
    assert trained_seconds([20.0, 25.0, 60.0, 160.0]) == 160
    assert trained_seconds([20.0, 25.0, 10.0, 60.0]) == 85 and trained_seconds([]) == 0  # logs of earlier versions
    run = RunFolder(tmp_path)
    tmp_path.joinpath("timing.jsonl").write_text('{"step": 5, "time": 100.0}\n')
    smoke = presets(EXPERIMENTS["vae"])["smoke"]
    clock = log.Clock()
    with log.Log(run, smoke, 10, clock, Silent()) as written:
        # Interrupted between two progress lines: that time is told too.
        written.add({"loss": np.zeros(smoke.steps_per_call, np.float32)})
    steps, times = read_metrics(run.timing)["time"]
    assert steps.tolist() == [5, 10 + smoke.steps_per_call] and 100 < times[-1] < 160


def test_a_resume_by_another_commit_keeps_the_first(tmp_path, monkeypatch):
    """Regression: environment.json had the last session alone, and a run was told to be of its commit."""
    run, smoke = RunFolder(tmp_path), presets(EXPERIMENTS["vae"])["smoke"]
    for commit in ("a", "a", "b"):
        monkeypatch.setattr(environment, "_git", lambda commit=commit: {"commit": commit, "dirty": False})
        run.record(smoke, {"preset": "smoke"})
    kept = read_json(tmp_path / "environment.json")
    assert kept["git"]["commit"] == "b" and [one["git"]["commit"] for one in kept["earlier"]] == ["a"]
    (tmp_path / "environment.json").write_text("{")
    run.record(smoke, {})
    assert "earlier" not in read_json(tmp_path / "environment.json")
