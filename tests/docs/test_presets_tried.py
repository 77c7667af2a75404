"""What the scripts say of their presets, against the committed results."""

import ast
import json
import re
from typing import Any

import figures
import pytest
from conftest import EXPERIMENTS, ROOT

from jaxgen import data
from jaxgen.data import TFDS
from jaxgen.experiment import Experiment, presets

HERE = (
    data.AnalyticScene, data.Cameras, data.Digits, data.Emoji, data.EmojiEdges, data.Energy2D, data.Factors,
    data.MovingDigits, data.Notes, data.ShrunkPairs, data.SpokenWords, data.Tones, data.Toy2D,
)  # fmt: skip
LIST = r":\s((?:[^.()]|\([^()]*\))*)\."
"""The names after a colon, up to the full stop; what is in parentheses may hold some."""


def listed(text: str, start: str) -> set[str]:
    found: set[str] = set()
    for names in re.findall(f"{start}{LIST}", text):
        found |= set(re.split(r",\s+|\s+and\s+", re.sub(r"\s*\([^()]*\)", "", names).strip()))
    return found


def of_data_here(experiment: Experiment) -> bool:
    """Whether a preset's data are embedded or MNIST, within whatever changes them, and it needs no files beside."""
    found: Any = experiment.data
    while inner := getattr(found, "data", None) or getattr(found, "sources", None):
        if getattr(found, "vocabulary", ""):
            return False
        found = inner
    return isinstance(found, HERE) or (isinstance(found, TFDS) and found.name == "mnist")


def committed(script: str) -> set[str]:
    """Presets of a script with a result in benchmarks/results."""
    rows = json.loads((ROOT / "benchmarks" / "results" / "presets.json").read_text())["results"]
    return {row["preset"] for row in rows if row["script"] == script} | figures.best_numbers().get(script, {}).keys()


@pytest.mark.parametrize("script", EXPERIMENTS)
def test_each_preset_has_a_result_or_is_said_to_have_none(script):
    """Of embedded data and MNIST, each has one, or is for a GPU; of other data, none is both."""
    text = ast.get_docstring(ast.parse(EXPERIMENTS[script].read_text())) or ""
    known, results = presets(EXPERIMENTS[script]), committed(script)
    untried = listed(text, r"[Nn]ot\s+yet\s+run(?:\s+to\s+the\s+end)?") | listed(text, "[Rr]un, but not scored")
    for_gpus = listed(text, r"For\s+a\s+GPU,\s+not\s+run\s+here")
    without = untried | for_gpus
    assert without <= known.keys(), "the docstring names what is no preset"
    assert not without & results, "these have results: say what they are instead"
    mine = {name for name, experiment in known.items() if of_data_here(experiment)}
    assert mine - {"smoke"} <= for_gpus | results, "no result"


def test_lists_are_read():
    text = "mnist: fine. Not yet run to the end: a,\nb (4.2 M; FID 2.1 after 3 days) and c. The paper: d."
    assert listed(text, r"[Nn]ot\s+yet\s+run(?:\s+to\s+the\s+end)?") == {"a", "b", "c"}
