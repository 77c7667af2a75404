"""Families under equal budgets: lengths, summaries and claims of hand-made rows, and a small comparison, whole."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import EXPERIMENTS, ROOT
from scipy.stats import spearmanr, t

from jaxgen.cli.families import compare, seconds
from jaxgen.comparison import families, measure, page
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.runs.folder import RunFolder

DIGITS = {name: presets(EXPERIMENTS[name])["digits"] for name in ("vae", "ddpm", "glow")}


@pytest.mark.parametrize(("text", "found"), [("90s", 90), ("20min", 1200), ("1.5h", 5400)])
def test_budgets_have_units(text, found):
    assert seconds(text) == found


@pytest.mark.parametrize("text", ["20", "0s", "-3s", "1 day", "min"])
def test_other_budgets_are_refused(text):
    with pytest.raises(UserError, match="a number with its unit"):
        seconds(text)


def test_schedules_go_with_the_length():
    ddpm = DIGITS["ddpm"]  # 2,000 steps with decay to the end after 200 of warm-up
    short = families.of_length(ddpm, 503.0)
    assert (short.steps, short.save_every, short.steps % short.steps_per_call) == (500, 500, 0)
    assert (short.model.optimizer.decay_steps, short.model.optimizer.warmup) == (500, 50)
    assert replace(short.model, optimizer=ddpm.model.optimizer) == ddpm.model  # nothing else changed
    short.check()
    assert families.of_length(ddpm, 0.2).steps == ddpm.steps_per_call


def test_what_is_chosen_has_the_preset():
    found = families.chosen(ROOT / "experiments", "digits")
    assert len({family.kind for family in found}) >= 7 and len(found) >= 20
    assert {f.script for f in families.chosen(ROOT / "experiments", "digits", ("vae", "glow"))} == {"vae", "glow"}
    with pytest.raises(UserError, match="no family to compare: choose from autoencoder"):
        families.chosen(ROOT / "experiments", "digits", ("vea", "glow"))
    with pytest.raises(UserError, match="no data set that two families have a preset for"):
        families.chosen(ROOT / "experiments", "digit")
    with pytest.raises(UserError, match="one family was named, vae: name two or more"):
        families.chosen(ROOT / "experiments", "digits", ("vae",))


def row(family, kind, seed, fd, other, **scores):
    mine = {"fd": fd, "kd": 0.1, "precision": 0.5, "recall": 0.5, "density": 1, "coverage": 0.5, "rarest_class": 0.1}
    return {
        "family": family, "kind": kind, "script": family, "seed": seed, "parameters": 10, "steps": 5,
        "told_classes": False, "training": {"compile_seconds": 1, "held_bytes": 1 << 20, "budget": 60},
        "scores": {"cnn": {**mine, **scores}, "mlp": {**mine, "fd": other}}, "held_out": {},
        "sampling": {"samples_per_second": 100.0, "compile_seconds": 1, "held_bytes": 1 << 20, "evaluations": 1},
    }  # fmt: skip


ROWS = [
    *(row("gan", "GAN", seed, fd, 30 + seed, recall=0.2) for seed, fd in enumerate((20.0, 30.0, 40.0))),
    *(row("vae", "VAE", seed, 50.0, 60.0, recall=0.4) for seed in range(3)),
    *(row("ddpm", "diffusion", seed, 10.0 + seed, 70.0, recall=0.6) for seed in range(3)),
]


def test_means_and_intervals_are_students():
    found = {row["family"]: row for row in page.summary(ROWS)}
    assert list(found) == ["ddpm", "gan", "vae"]  # the nearest first
    assert found["gan"]["fd"]["mean"] == pytest.approx(30)
    assert found["gan"]["fd"]["ci95"] == pytest.approx(t.ppf(0.975, 2) * 10 / np.sqrt(3))
    assert found["vae"]["fd"]["ci95"] == 0 and "bits_per_dim" not in found["vae"]


def test_judges_agree_by_ranks():
    found = page.summary(ROWS)
    assert page.agreement(found) == pytest.approx(spearmanr([11, 30, 50], [70, 31, 60]).statistic)
    assert page.agreement(found[:2]) is None


def test_claims_hold_or_do_not():
    found = {claim["by"].split(",")[0]: claim for claim in page.claims(page.summary(ROWS))}
    assert found["Frechet distance"]["holds"] and list(found["Frechet distance"]["measured"]) == [
        "diffusion",
        "GAN",
        "VAE",
    ]
    assert found["recall"]["holds"]
    assert not found["interval of the distance over seeds"]["holds"]  # the VAE's is 0
    worse = page.claims(
        page.summary([r for r in ROWS if r["family"] != "ddpm"] + [row("ddpm", "diffusion", 0, 99.0, 1.0)])
    )
    assert not worse[0]["holds"]


def test_failures_are_seen():
    seen = {r["family"]: r["failures"] for r in page.summary(ROWS)}
    assert seen == {"ddpm": [], "gan": ["little variety", "seeds differ by half"], "vae": ["little variety"]}
    collapsed = row("gan", "GAN", 0, 1.0, 1.0, rarest_class=0.001, precision=0.4, recall=0.9, nn_ratio=0.5)
    (found,) = page.summary([collapsed])
    assert found["failures"] == [
        "a class is nearly missing", "much is unlike the data", "nearer to training pictures than held-out ones are",
    ]  # fmt: skip


def test_claims_of_families_that_are_not_there():
    assert page.claims(page.summary([row("autoencoder", "autoencoder", 0, 1.0, 1.0)])) == []
    kinds = page.claims(page.summary([row("vae", "VAE", 0, 2.0, 1.0), row("ddpm", "diffusion", 0, 1.0, 1.0)]))
    assert not any(claim["claim"].startswith("Diversity") for claim in kinds)


def test_a_training_that_a_signal_stopped_is_not_scored(tmp_path, monkeypatch, capsys):
    """Regression: its checkpoint was scored as if it were the end, and the next family begun."""
    monkeypatch.setattr(measure, "train", lambda *_: "SIGTERM")
    with pytest.raises(SystemExit) as ended:
        measure.trained(presets(ROOT / "experiments" / "vae.py")["smoke"], tmp_path / "run")
    assert ended.value.code == 143 and "the same command goes on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "said"), [({"seed": 1}, "holds another experiment"), ({"steps": 10}, "for 20 steps, not 10")]
)
def test_a_folder_of_another_training_is_not_scored(tmp_path, monkeypatch, changes, said):
    """Regression: a finished run was scored as the preset's own, whatever its settings."""
    smoke = replace(presets(ROOT / "experiments" / "vae.py")["smoke"], steps=20)
    RunFolder(tmp_path / "run").create(smoke)
    (tmp_path / "run" / "checkpoints").mkdir()
    monkeypatch.setattr(measure.Checkpoints, "steps", lambda _: [10, 20])
    with pytest.raises(UserError, match=said):
        measure.trained(replace(smoke, **changes), tmp_path / "run")


def test_numbers_of_another_budget_are_not_lined_up(tmp_path):
    """Regression: what was kept in a folder was shown whatever was asked for."""
    (tmp_path / "vae.json").write_text(json.dumps({"budget": 20, "steps": 100}))
    assert measure.steps_within(DIGITS["vae"], 20.0, tmp_path / "vae.json")["steps"] == 100
    with pytest.raises(UserError, match=r"the steps of 20 s, 60 s are asked for"):
        measure.steps_within(DIGITS["vae"], 60.0, tmp_path / "vae.json")
    measure.check_num({"num": 40}, 40, tmp_path / "vae-0.json")
    with pytest.raises(UserError, match=r"of 40 samples, 50 are asked for"):
        measure.check_num({"num": 40}, 50, tmp_path / "vae-0.json")


def test_rows_of_two_budgets_make_no_page(tmp_path, monkeypatch):
    """Regression: their heading was the largest budget, and they were ranked."""
    rows = [row("gan", "GAN", 0, 1.0, 1.0), row("vae", "VAE", 0, 1.0, 1.0)]
    rows = [{**one, "num": 10, "training": {"budget": budget}} for one, budget in zip(rows, (60.0, 600.0))]
    monkeypatch.setattr(page, "rows_in", lambda _: rows)
    with pytest.raises(UserError, match=r"rows of budget \[60.0, 600.0\], which do not compare"):
        page.write_page_of(tmp_path, "digits")


def test_a_small_comparison_from_end_to_end(tmp_path, capsys):
    args = ["smoke", "--families", "vae", "vqvae_prior", "--budget", "0.2s", "--seeds", "2", "--num", "40"]
    args += ["--out", str(tmp_path / "out"), "--device", "cpu"]
    compare(args, None, ROOT / "experiments")
    record = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert {row["script"] for row in record["families"]} == {"vae", "vqvae_prior"}
    for found in record["families"]:
        assert found["seeds"] == [0, 1] and found["fd"]["mean"] > 0 and found["steps"]["mean"] >= 5
    text = (tmp_path / "out" / "report.html").read_text()
    assert text.count("<figure>") == 2 and "dot plots" in text and "Held-out pictures" in text
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("checkpoints/*")}
    compare(args, None, ROOT / "experiments")  # nothing is trained again
    assert times == {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("checkpoints/*")}
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == record
