"""Whole trainings against the numbers the README gives. Minutes each; `make test-all` runs them."""

import json

import numpy as np
import pytest
from conftest import EXPERIMENTS
from test_loop import final_state

import jaxgen.loop
from jaxgen import __main__ as commands
from jaxgen.data import Digits
from jaxgen.experiment import presets
from jaxgen.metrics.two_sample import knn_two_sample
from jaxgen.runfolder import RunFolder
from jaxgen.use import draw

pytestmark = pytest.mark.slow


def test_mnist_vae_reaches_its_bounds(shared_data, tmp_path):
    """Dynamically binarized, 784-400-20, 20 epochs: at most 103 nats, and the 500-sample bound 5 below."""
    out = tmp_path / "run"
    jaxgen.loop.main(
        presets(EXPERIMENTS["vae"]), argv=["mnist", "--data.data-dir", str(shared_data / "tfds"), "--out", str(out)]
    )
    commands.evaluate([str(out)])
    numbers = json.loads((out / "evaluation.json").read_text())["metrics"]
    assert numbers["nelbo"]["mean"] <= 103
    assert numbers["nelbo"]["mean"] - numbers["iwae"]["mean"] >= 5


def test_digits_ddpm_is_hard_to_tell_from_digits(tmp_path):
    """5-NN two-sample accuracy on all 1,797 digits within ten points of what halves of the real ones get."""
    experiment = presets(EXPERIMENTS["ddpm"])["digits"]
    jaxgen.loop.train(experiment, tmp_path / "run")
    real = Digits().arrays("all")["x"]
    state = final_state(experiment, RunFolder(tmp_path / "run").path)
    sampled = draw(experiment.model, state, 1, len(real), None, experiment.codec, 599)
    order, half = np.random.default_rng(0).permutation(len(real)), len(real) // 2
    alike = knn_two_sample(real[order[:half]], real[order[half : 2 * half]])
    assert abs(knn_two_sample(real, sampled) - alike) <= 0.10
