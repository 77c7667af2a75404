"""Presets run to their ends by one command: which, in what order, and two small ones whole."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import presets as runner
import pytest
from conftest import EXPERIMENTS

from jaxgen.data import Mirrored, Toy2D
from jaxgen.errors import UserError
from jaxgen.experiment import presets


def options(*names, **settings):
    return runner.Options(presets=names, **settings)


def test_first_stages_come_before_what_needs_them():
    found = [script for script, _, _ in runner.chosen(options("mnist", scripts=("vqvae_prior", "vae", "vqvae")))]
    assert found.index("vqvae") < found.index("vqvae_prior")
    everything = {script for script, _, _ in runner.chosen(options("digits"))}
    assert everything == {script for script, path in EXPERIMENTS.items() if "digits" in presets(path)}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (options("digits", scripts=("vaee",)), r"no vaee\.py \(did you mean vae\?\)"),
        (options("digit"), "no script has a preset digit"),
        (options("digits", "moons", scripts=("vae",)), "no script has a preset moons"),
    ],
)
def test_what_is_not_there(asked, said):
    with pytest.raises(UserError, match=said):
        runner.chosen(asked)


def test_a_judge_sees_the_same_images_of_any_size(monkeypatch):
    asked = []
    monkeypatch.setattr(runner.measure, "trained", lambda experiment, folder: asked.append(folder.name))
    vae = presets(EXPERIMENTS["vae"])
    assert runner.judge("moons", vae["digits"], options("moons")) is None
    points = presets(EXPERIMENTS["maf"])["moons"]
    assert runner.judge("digits", points, options("digits")) is None
    assert asked == []
    larger = replace(vae["emoji"], data=Mirrored(data=replace(vae["emoji"].data, size=64)))
    runner.judge("emoji", larger, options("emoji"))
    assert asked == ["classifier-emoji-0"]


def test_a_preset_of_two_words_is_judged_by_the_classifier_of_the_first(monkeypatch):
    asked = []
    monkeypatch.setattr(runner.measure, "trained", lambda experiment, folder: asked.append(folder.name))
    runner.judge("digits_repa", presets(EXPERIMENTS["dit"])["digits_repa"], options("digits_repa"))
    assert asked == ["classifier-digits-0"]


def test_points_have_a_distance_beside_that_of_real_ones():
    """Real points instead of samples are as far as held-out ones are; shifted ones farther by the shift."""
    data = Toy2D(num=200)

    def of(x):
        experiment, folder = SimpleNamespace(data=data), SimpleNamespace(held_out=Path("none"))
        run = SimpleNamespace(experiment=experiment, sample=lambda num, seed: x[:num], run=folder)
        return runner.of_points(run, options("toy", num=100))

    test = data.load("test")["x"]
    found, moved = of(test), of(data.load("train")["x"] + np.float32([30.0, 40.0]))
    assert found["w2"] == found["w2_real"] > 0
    np.testing.assert_allclose(moved["w2"], 50.0, rtol=1e-4)


def test_a_classifier_is_shown_by_what_it_confuses(monkeypatch):
    """Pictures of a class, down, lie where they are taken for, across; the first of a kind is shown."""
    x = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    data = SimpleNamespace(arrays=lambda split: {"x": x, "cond": np.array([0, 0, 1, 1, 0])})
    run = SimpleNamespace(experiment=SimpleNamespace(data=data), model=SimpleNamespace(num_classes=2))
    monkeypatch.setattr(runner.common, "class_logits", lambda judge, seen: np.eye(2)[[0, 1, 1, 1, 1]][: len(seen)])
    np.testing.assert_array_equal(runner.confusions(run, 5)[:, :, 0, 0, 0], [[0, 1], [255, 2]])
    np.testing.assert_array_equal(runner.confusions(run, 1)[:, :, 0, 0, 0], [[0, 255], [255, 255]])


@pytest.mark.slow
def test_two_presets_from_end_to_end(tmp_path, capsys):
    """One fails, as its first stage is not there: it is said, and the other is measured."""
    out = tmp_path / "found.json"
    args = ["smoke", "--scripts", "latent_diffusion", "maf", "--num", "40"]
    args += ["--folder", str(tmp_path), "--out", str(out)]
    runner.main(args)
    (row,) = json.loads(out.read_text())["results"]
    assert row["case"] == "maf smoke" and row["held_out"]["bits_per_dim"]["mean"] > 0 and row["scores"]["fd"] > 0
    assert (tmp_path / "presets" / "maf-smoke.png").is_file()
    assert "latent_diffusion smoke: codec.run is" in capsys.readouterr().out
