"""The benchmark of enlarged pictures, by small runs."""

import json
from dataclasses import replace

import enlarging
import pytest
from conftest import EXPERIMENTS
from small_runs import smoke_run

from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.train.loop import train


def test_a_diffusion_model_and_a_gan_are_measured(tmp_path):
    for script in ("super_resolution", "classifier"):
        smoke_run(script, tmp_path / script)
    gan = presets(EXPERIMENTS["pix2pix"])["enlarging"]
    few = dict.fromkeys(("steps", "steps_per_call", "save_every", "sample_every", "log_every"), 2)
    train(replace(gan, **few, batch_size=8, num_samples=4), tmp_path / "gan")
    out = tmp_path / "found.json"
    runs = [str(tmp_path / "super_resolution"), str(tmp_path / "gan"), "--classifier", str(tmp_path / "classifier")]
    enlarging.main([*runs, "--num", "20", "--samples", "2", "--out", str(out)])
    rows = {row["case"]: row for row in json.loads(out.read_text())["results"]}
    assert [*rows] == [
        "cubic interpolation", "best linear estimate", "super_resolution, one sample", "super_resolution, mean of 2",
        "gan, one sample",
    ]  # fmt: skip
    # Untrained models know nothing, simple estimates do.
    assert rows["best linear estimate"]["psnr"]["mean"] > rows["cubic interpolation"]["psnr"]["mean"] > 12
    assert all(row["num"] == 20 and row["fd"] > 0 for row in rows.values())
    assert out.with_suffix(".png").is_file()


def test_a_run_that_enlarges_nothing_is_refused(tmp_path):
    smoke_run("gan", tmp_path / "gan")
    with pytest.raises(UserError, match="gan enlarges nothing"):
        enlarging.main([str(tmp_path / "gan")])
