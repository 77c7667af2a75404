"""The benchmark of restored pictures: its estimates, and a whole run of it by smoke presets."""

import json

import numpy as np
import pytest
import restoration
from small_runs import smoke_run

from jaxgen.errors import UserError
from jaxgen.inference.restoring import Degraded


def test_the_linear_estimate_is_the_posterior_mean_of_a_gaussian():
    """Of independent pixels of variance s^2 with noise std, (y - m) s^2 / (s^2 + std^2) + m."""
    train = 0.5 + 0.1 * np.random.default_rng(0).normal(size=(200_000, 1, 2, 1))
    y = np.array([0.9, 0.2]).reshape(1, 1, 2, 1)
    got = restoration.linear(y, lambda x: x, 0.2, train)
    variance = 0.01 + restoration.SHRINKAGE
    np.testing.assert_allclose(got, 0.5 + (y - 0.5) * variance / (variance + 0.04), atol=2e-3)


def test_a_decibel_is_of_the_unknown_pixels():
    truth = np.zeros((1, 2, 2, 1), np.uint8)
    x = truth.copy()
    x[0, 0, 0] = 255
    where = np.array([True, True, False, False]).reshape(2, 2, 1)
    np.testing.assert_allclose(restoration.decibels(x, truth, where), 10 * np.log10(2))


def test_noise_in_a_file_has_its_deviation():
    x = np.full((4, 64, 64, 1), 128, np.uint8)
    y = restoration.degraded_to(x, Degraded(std=0.1), 0)
    assert abs(np.std(y / 255) - 0.1) < 0.002


def test_tasks_are_measured_by_smoke_runs(tmp_path):
    for script in ("ddpm", "classifier"):
        smoke_run(script, tmp_path / f"{script}-smoke-0")
    out = tmp_path / "found.json"
    restoration.main(
        ["smoke", "--num", "6", "--samples", "2", "--sampler-steps", "3", "--folder", str(tmp_path), "--out", str(out),
         "--tasks", "resolution"]
    )
    rows = {row["task"]: row for row in json.loads(out.read_text())["results"]}
    assert rows.keys() == {"resolution"}
    for row in rows.values():
        assert row["num"] == 6
        assert row["psnr"].keys() == {"simple", "linear", "sample", "mean"}
        # A barely trained model shows nothing; a linear estimate is fair at once.
        assert row["psnr"]["linear"]["mean"] > 8
        assert row["named"]["whole"] <= 1
    assert len(list(tmp_path.glob("found-*.png"))) == 1


def test_an_unknown_task_is_refused(tmp_path):
    with pytest.raises(UserError, match="tasks are noise"):
        restoration.main(["smoke", "--tasks", "scratches", "--out", str(tmp_path / "x.json")])
