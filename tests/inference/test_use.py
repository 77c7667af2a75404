"""How samples are laid out for a picture, and counted by mode."""

import json
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXPERIMENTS

from jaxgen.experiment import presets
from jaxgen.inference.sampling import in_rows
from jaxgen.metrics.modes import mode_coverage
from jaxgen.models.shared import class_grid
from jaxgen.report import read_metrics
from jaxgen.train.seeds import train_seeds


def images(num: int) -> np.ndarray:
    return np.arange(num * 12, dtype=np.uint8).reshape(num, 2, 2, 3)


def test_a_row_for_each_class():
    raw = images(12)
    rows = in_rows(raw, class_grid(12, 4))
    assert rows.shape == (4, 3, 2, 2, 3)
    np.testing.assert_array_equal(rows[1, 2], raw[5])


@pytest.mark.parametrize(
    "labels", [[0, 0, 0, 1, 1, 2], [0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 1, 1], [3, 3, 3, 3, 3, 3], [0, 0, 0, 0, 1]], ids=str
)
def test_other_labels_stay_a_list(labels):
    raw = images(6)
    assert in_rows(raw, jnp.asarray(labels)) is raw


def test_what_has_no_classes_stays_a_list():
    raw, points = images(6), np.zeros((6, 2), np.float32)
    assert in_rows(raw, None) is raw
    many = np.zeros((86, 2, 2, 3), np.uint8)
    assert in_rows(many, class_grid(86, 43)) is many
    assert in_rows(raw, raw) is raw
    assert in_rows(points, jnp.arange(6) // 3) is points


@pytest.mark.slow
def test_modes_are_counted_at_each_picture(tmp_path):
    """As the plain GAN's samples leave most of them out."""
    toy = presets(EXPERIMENTS["gan"])["toy"]
    short = {"steps": 20, "steps_per_call": 10, "log_every": 10, "save_every": 10, "sample_every": 10}
    train_seeds(replace(toy, **short, batch_size=32, num_samples=64), 2, tmp_path / "run")
    lanes = [read_metrics(tmp_path / "run" / f"seed{i}" / "held_out.jsonl") for i in range(2)]
    counts = [lane["samples/modes"] for lane in lanes]
    for steps, modes in counts:
        assert list(steps) == [20]
        assert 0 <= modes[0] < 25
    found = json.loads((tmp_path / "run" / "seeds.json").read_text())["metrics"]["samples/modes"]
    assert found["mean"] == np.mean([modes[0] for _, modes in counts])


def test_the_data_itself_has_all_modes():
    data = presets(EXPERIMENTS["gan"])["toy"].data
    counted = mode_coverage(data.arrays("test")["x"][:2500], *data.modes)
    assert counted["modes"] == 25
    assert counted["good"] == pytest.approx(1 - np.exp(-4.5), abs=0.01)  # Rayleigh, within three deviations
