"""A run's data is found from any working directory, and known by its contents."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import EXPERIMENTS

import jaxgen
from jaxgen.core.configuration import located, paths
from jaxgen.data import Digits, PairFolder, Text, dataset
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.runs.marks import mark
from jaxgen.train.loop import train

SMOKE = presets(EXPERIMENTS["gpt"])["smoke"]
WORDS = "the quick brown fox jumps over the lazy dog; "


def on(file, steps=SMOKE.steps):
    """The experiment on a text."""
    return dataclasses.replace(SMOKE, data=dataclasses.replace(SMOKE.data, source=str(file)), steps=steps)


def test_paths_become_absolute_where_they_lead_to_something(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "text.txt").write_text(WORDS)
    experiment = dataclasses.replace(SMOKE, data=Text(source="text.txt", block=16))
    assert located(experiment).data.source == str(tmp_path / "text.txt")
    assert located(dataclasses.replace(SMOKE, data=Text(source="docs"))).data.source == "docs", "the name of a text"
    assert located(dataclasses.replace(SMOKE, data=Text(source="none.txt"))).data.source == "none.txt"
    assert set(paths(experiment)) == {"init", "data.source", "data.gpt2", "data.tokens_of", "data.data_dir"}
    pairs = PairFolder(folder="docs", targets="~")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert located(pairs) == PairFolder(folder=str(tmp_path / "docs"), targets=str(tmp_path))
    untouched = presets(EXPERIMENTS["vae"])["smoke"]
    assert located(untouched) is untouched


def test_marks_know_contents():
    digits = Digits()
    assert mark(digits, "train") == mark(digits, "train") != mark(digits, "test")
    assert mark(digits, "train")["num"] == 1437


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("marks")
    (folder / "text.txt").write_text(WORDS * 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(on("text.txt"), Path("run"))
    return folder / "run"


def test_a_run_is_evaluated_on_its_own_text_from_anywhere(run, tmp_path, monkeypatch):
    here = jaxgen.load(run).evaluate("test", limit=8)
    (tmp_path / "text.txt").write_text("#" * 5000)
    monkeypatch.chdir(tmp_path)
    assert jaxgen.load(run).evaluate("test", limit=8) == here


@pytest.mark.parametrize(
    ("text", "words"),
    [(WORDS * 80, "examples, "), ((WORDS * 60).upper(), "other contents in")],
    ids=["grown", "rewritten"],
)
def test_other_contents_are_one_line(run, text, words):
    file = run.parent / "text.txt"
    before, metrics = file.read_text(), (run / "metrics.jsonl").read_bytes()
    file.write_text(text)
    dataset._load.cache_clear()  # another process reads the file anew
    try:
        longer = on(file, SMOKE.steps * 2)
        for call in (lambda: jaxgen.load(run).evaluate("test"), lambda: train(longer, run)):
            with pytest.raises(UserError, match=f"data is not what this run began with.*{words}") as error:
                call()
            assert "\n" not in str(error.value)
        assert (run / "metrics.jsonl").read_bytes() == metrics
        other = dataclasses.replace(SMOKE.data, source=str(file), stride=2)
        assert jaxgen.load(run, changes={"data": other}).evaluate("test", limit=8), "other data may be anything"
    finally:
        file.write_text(before)
        dataset._load.cache_clear()


def test_a_moved_text_is_known_by_its_contents(run, tmp_path):
    moved = tmp_path / "moved.txt"
    moved.write_text(WORDS * 60)
    train(
        dataclasses.replace(SMOKE, data=dataclasses.replace(SMOKE.data, source=str(moved)), steps=SMOKE.steps * 2), run
    )
    written = json.loads((run / "experiment.json").read_text())
    assert written["data"]["source"] == str(moved) and jaxgen.load(run).step == SMOKE.steps * 2


def test_runs_of_before_get_their_marks(run):
    (run / "data.json").unlink()
    assert np.isfinite(jaxgen.load(run).evaluate("test", limit=8)["nats_per_token"]["mean"])
