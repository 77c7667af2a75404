"""Runs that are killed or signalled at random times end bitwise where a straight run does."""

import dataclasses
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import EXPERIMENTS, ROOT
from small_runs import final_state, same

from jaxgen.experiment import presets
from jaxgen.train.loop import train

KINDS = ("vae", "gan", "vqvae", "nerf")  # a loss model, a GAN, codes, a scene
TIMES = 10
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STEPS = 200


@pytest.mark.slow
@pytest.mark.parametrize("script", KINDS)
def test_a_run_that_is_stopped_at_any_time_ends_as_a_straight_one(script, tmp_path, capfd):
    smoke = presets(EXPERIMENTS[script])["smoke"]
    call = smoke.steps_per_call
    fields = {"steps": STEPS, "save_every": 2 * call, "sample_every": STEPS, "log_every": 2 * call}
    goal = dataclasses.replace(smoke, **fields)
    flags = [part for name, value in fields.items() for part in (f"--{name.replace('_', '-')}", str(value))]

    def start(folder):
        command = [sys.executable, f"experiments/{script}.py", "smoke", "--out", folder, "--device", "cpu", *flags]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    length = 0.0
    for folder in ("first", "straight"):  # the second finds its programs in the cache, as those that follow do
        began, process = time.monotonic(), start(tmp_path / folder)
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        length = time.monotonic() - began
    straight = final_state(goal, tmp_path / "straight")
    assert int(straight.step) == STEPS
    rng = np.random.default_rng(KINDS.index(script))
    for i, delay in enumerate(rng.uniform(0, length, TIMES)):
        folder, number = tmp_path / str(i), SIGNALS[i % len(SIGNALS)]
        process = start(folder)
        time.sleep(delay)
        process.send_signal(number)
        _, said = process.communicate(timeout=300)
        # SIGTERM before Python has started is not ours to answer; and a run may have ended before the signal.
        assert process.returncode in (0, 128 + number, -number), said
        assert "Traceback" not in said
        capfd.readouterr()
        train(goal, folder)
        assert "Traceback" not in capfd.readouterr().err
        assert same(final_state(goal, folder), straight), (i, number, delay)
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, STEPS + 1)), (i, number, delay)
