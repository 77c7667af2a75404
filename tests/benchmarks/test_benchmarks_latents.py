"""The benchmark of arithmetic on latents: its questions, by an exact code and by trained small runs."""

import json
from dataclasses import replace

import latents
import numpy as np
import pytest
from conftest import EXPERIMENTS
from small_runs import smoke_run

from jaxgen.data import Factors
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.train.loop import train


class Linear:
    """A code of the factors themselves, one number each, which is drawn by looking the picture up."""

    def __init__(self):
        data = Factors()
        self.x, self.factors = data.arrays("all")["x"], data.values("all")
        self.codes = self.factors.astype(np.float64)
        self.train = np.arange(len(self.x)) % 10 != 0

    at = latents.Coded.at

    def drawn(self, codes):
        return self.x[self.at(np.rint(codes).astype(int))]


@pytest.fixture(scope="module")
def linear():
    return Linear()


@pytest.mark.parametrize("task", ["half-way", *latents.SET])
def test_an_exact_code_gives_the_true_answer(linear, task):
    found = latents.answers(linear, task, np.random.default_rng(0), 200)
    np.testing.assert_array_equal(found["codes"], found["truth"])
    np.testing.assert_array_equal(found["rebuilt"], found["truth"])
    assert latents.decibels(found["codes"], found["truth"]).min() > 50
    assert latents.decibels(found["pixels"], found["truth"]).mean() < 25


def test_half_way_is_between_in_place(linear):
    found = latents.answers(linear, "half-way", np.random.default_rng(1), 50)

    def middle(x):
        rows, columns = np.mgrid[:32, :32]
        return np.stack([(x[..., 0] * w).sum(axis=(1, 2)) / x.sum(axis=(1, 2, 3)) for w in (rows, columns)])

    np.testing.assert_allclose(middle(found["truth"]), (middle(found["given"]) + middle(found["other"])) / 2, atol=1e-6)


def test_a_trained_vae_is_asked(tmp_path):
    experiment = presets(EXPERIMENTS["beta_vae"])["smoke"]
    model = experiment.model.fitted((32, 32, 1), 0)
    train(replace(experiment, model=model, data=Factors(), batch_size=64), tmp_path / "run")
    out = tmp_path / "found.json"
    latents.main([str(tmp_path / "run"), "--num", "30", "--out", str(out)])
    rows = json.loads(out.read_text())["results"]
    assert [row["case"] for row in rows] == ["half-way", *latents.SET]
    assert all(row["psnr"]["given"]["mean"] > 5 for row in rows)
    assert len(list(tmp_path.glob("found-*.png"))) == 5


def test_styles_are_mixed(tmp_path, monkeypatch):
    for script in ("stylegan2", "classifier"):
        smoke_run(script, tmp_path / script)
    out = tmp_path / "found.json"
    monkeypatch.setattr(latents, "SURE", 0.0)
    runs = [str(tmp_path / "stylegan2"), "--classifier", str(tmp_path / "classifier")]
    latents.main([*runs, "--num", "40", "--out", str(out)])
    rows = json.loads(out.read_text())["results"]
    assert rows[-1]["case"] == "mean of pixels"
    assert len(rows) > 2
    assert all(0 <= row["first"]["mean"] + row["second"]["mean"] <= 1 for row in rows)


def test_other_runs_are_refused(tmp_path):
    smoke_run("gan", tmp_path / "gan")
    with pytest.raises(UserError, match="neither a VAE of known factors nor a StyleGAN"):
        latents.main([str(tmp_path / "gan")])
