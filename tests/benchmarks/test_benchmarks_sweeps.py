"""The benchmarks of optimizers and of sweeps: what they run, and what they make of it."""

import json

import numpy as np
import optimizers
import pytest
import sweep
from PIL import Image

from jaxgen.optim import Muon


def test_an_optimizer_has_the_presets_schedule_in_proportion():
    options = optimizers.Options(steps=500, source="docs")
    experiment = optimizers.experiment_of("gpt", "muon", options)
    assert experiment.steps == 500 and experiment.keep == 2 and experiment.data.source == "docs"
    assert experiment.model.optimizer == Muon(
        lr=3e-3, b2=0.99, weight_decay=0.1, clip=1.0, warmup=25, decay_steps=500, final=0.1
    )
    assert optimizers.experiment_of("dit", "adam", optimizers.Options()).steps == 4000


def test_losses_are_drawn_with_their_bands(tmp_path):
    curve = {"steps": list(range(1, 101)), "loss": np.linspace(5, 1, 100).tolist(), "ci95": [0.1] * 100}
    rows = [
        {"name": name, "optimizer": kind, "rate": 1e-3, "curve": curve}
        for name in ("gpt", "dit") for kind in ("adam", "muon")
    ]  # fmt: skip
    optimizers.draw(rows, tmp_path / "curve.png")
    assert len(np.unique(np.asarray(Image.open(tmp_path / "curve.png").convert("L")))) > 10


@pytest.mark.slow
def test_a_rate_is_tuned_on_a_seed_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setitem(optimizers.CASES, "gpt", ("vae", "smoke", "test/nelbo"))
    monkeypatch.setattr(optimizers, "replace", lambda value, **changes: _without_source(value, changes))
    out = tmp_path / "optimizers.json"
    words = ["gpt", "--optimizers", "muon", "--seeds", "2", "--folder", str(tmp_path / "runs"), "--out", str(out)]
    optimizers.main(words)
    (row,) = json.loads(out.read_text())["results"]
    assert len(row["grid"]) >= 3 and row["numbers"]["test/nelbo"]["num_seeds"] == 2
    least = min(row["grid"], key=row["grid"].get)
    assert float(least) == pytest.approx(row["rate"], rel=1e-3)
    place = tmp_path / "runs" / "gpt-muon-20"
    assert len(list(place.glob("tuning-*/*/seed1000"))) == len(row["grid"])
    assert len(list(place.glob("seeds/*/seed[01]"))) == 2


@pytest.mark.parametrize(("best", "tried", "edge"), [
    (1e-3, 3, False), (3e-3, 4, False), (9e-3, 5, False), (1e-4, 5, False), (1.0, 6, True),
])  # fmt: skip
def test_the_grid_grows_while_its_end_is_the_best(best, tried, edge, tmp_path, monkeypatch):
    def swept(experiment, rates, seeds, out, facts):
        assert seeds == 1 and experiment.seed == optimizers.TUNING
        return [{"metrics": {"test/nats_per_token": {"mean": abs(np.log(rate / best))}}} for rate in rates]

    monkeypatch.setattr(optimizers, "swept", swept)
    options = optimizers.Options(source="docs", folder=str(tmp_path))
    lr = 1e-3 / optimizers.experiment_of("gpt", "adam", options).model.optimizer.lr
    monkeypatch.setattr(optimizers, "GRID", tuple(lr * factor for factor in optimizers.GRID))
    found = optimizers.tuned(optimizers.experiment_of("gpt", "adam", options), "test/nats_per_token", tmp_path, {})
    assert len(found) == tried and optimizers.is_end(min(found, key=found.get), found) == edge


def _without_source(value, changes):
    import dataclasses

    changes.pop("source", None)
    return dataclasses.replace(value, **changes)


def test_a_sweep_is_timed_against_each_of_its_runs(tmp_path, monkeypatch):
    typed = []
    monkeypatch.setattr(sweep, "seconds", lambda words, cache: typed.append((words, cache.name)) or float(len(typed)))
    monkeypatch.setattr(sweep.common, "measure_matmul_flops", lambda *_: 1.0)
    out = tmp_path / "sweep.json"
    sweep.main(["--values", "1", "2", "--seeds", "2", "--flags=--steps", "--flags=50", "--out", str(out)])
    assert [cache for _, cache in typed] == ["alone"] * 4 + ["at-once"]
    runs = [words[words.index("--model.optimizer.lr") + 1 :][:3] for words, _ in typed[:4]]
    assert runs == [["1", "--seed", "0"], ["1", "--seed", "1"], ["2", "--seed", "0"], ["2", "--seed", "1"]]
    assert typed[4][0][:5] == ["sweep", "vae", "digits", "--model.optimizer.lr", "1,2"]
    assert all(words[-2:] == ["--steps", "50"] for words, _ in typed)
    result = json.loads(out.read_text())["result"]
    assert result == {"runs": 4, "seconds": {"alone": 10.0, "sweep": 5.0}, "ratio": 0.5}
