"""Whole trainings against the numbers the README gives. Minutes each; `make test-all` runs them."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import EXPERIMENTS, ROOT
from small_runs import final_state, same

from jaxgen import __main__ as commands
from jaxgen.cli.train import train_preset
from jaxgen.data import Digits
from jaxgen.experiment import presets
from jaxgen.inference.sampling import draw
from jaxgen.metrics.two_sample import knn_two_sample
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import Trained
from jaxgen.train import loop

pytestmark = pytest.mark.slow


def test_mnist_vae_reaches_its_bounds(shared_data, tmp_path):
    """Dynamically binarized, 784-400-20, 20 epochs: at most 103 nats, and the 500-sample bound 5 below."""
    out = tmp_path / "run"
    flags = ["mnist", "--data.data-dir", str(shared_data / "tfds"), "--out", str(out)]
    train_preset("vae", presets(EXPERIMENTS["vae"]), None, flags, "vae")
    commands.call(["evaluate", str(out)])
    numbers = json.loads((out / "evaluation.json").read_text())["metrics"]
    assert numbers["nelbo"]["mean"] <= 103
    assert numbers["nelbo"]["mean"] - numbers["iwae"]["mean"] >= 5


def test_digits_ddpm_is_hard_to_tell_from_digits(tmp_path):
    """5-NN two-sample accuracy on all 1,797 digits within ten points of what halves of the real ones get."""
    experiment = presets(EXPERIMENTS["ddpm"])["digits"]
    loop.train(experiment, tmp_path / "run")
    real = Digits().arrays("all")["x"]
    state = final_state(experiment, RunFolder(tmp_path / "run").path)
    sampled = draw(Trained(experiment, experiment.codec, state), 1, len(real), batch=599)
    order, half = np.random.default_rng(0).permutation(len(real)), len(real) // 2
    alike = knn_two_sample(real[order[:half]], real[order[half : 2 * half]])
    assert abs(knn_two_sample(real, sampled) - alike) <= 0.10


LONG = dataclasses.replace(
    presets(EXPERIMENTS["vae"])["smoke"], steps=1000, save_every=10, log_every=10, sample_every=1000
)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight") / "run"
    loop.train(LONG, folder)
    return folder


@pytest.mark.parametrize("number", range(20))
def test_a_run_killed_at_a_random_moment_goes_on_to_the_same_bits(number, straight, tmp_path):
    """By SIGKILL; every other one while a checkpoint is being written."""
    flags = ["--steps", "1000", "--save-every", "10", "--log-every", "10", "--sample-every", "1000"]
    command = [sys.executable, "experiments/vae.py", "smoke", "--out", str(tmp_path / "run"), "--device", "cpu", *flags]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rng, checkpoints = random.Random(number), tmp_path / "run" / "checkpoints"
    while not checkpoints.is_dir() or not any(p.name.isdigit() for p in checkpoints.iterdir()):
        assert process.poll() is None
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 2))
    while number % 2 and process.poll() is None and not list(checkpoints.glob("*-tmp")):
        pass
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    loop.train(LONG, tmp_path / "run")
    assert same(final_state(LONG, tmp_path / "run"), final_state(LONG, straight))
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == (straight / "metrics.jsonl").read_text()


def test_eight_devices_compute_what_one_does():
    """The whole of tests/core/test_parallel.py on a mesh of eight, and losses over a whole batch."""
    clip = "tests/models/test_clip.py::test_negatives_are_those_of_all_devices"
    command = [sys.executable, "-m", "pytest", "-q", "tests/core/test_parallel.py", clip, "-p", "no:xdist"]
    environment = {**os.environ, "JAXGEN_TEST_DEVICES": "8", "XLA_FLAGS": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
