"""The best checkpoint by numbers that need the whole split: retrieval, and classes by their names."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import EXPERIMENTS
from messages import one_line

from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.metrics.retrieval import RECALLS, recalls
from jaxgen.report.curves import read_metrics
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.train.loop import train

SMOKE = presets(EXPERIMENTS["clip"])["smoke"]


@pytest.mark.slow
def test_a_run_keeps_its_best_by_retrieval(tmp_path):
    train(replace(SMOKE, best="-test/image_to_text_r10", keep=1, save_every=5), tmp_path)
    found = read_metrics(tmp_path / "held_out.jsonl")
    steps, values = found["test/image_to_text_r10"]
    assert len(steps) == 4 and {"test/zero_shot", *(f"test/{name}" for name in RECALLS)} <= set(found)
    with Checkpoints(tmp_path / "checkpoints", keep=1) as checkpoints:
        best = checkpoints.best()
    assert values[list(steps).index(best)] == np.max(values)


def test_names_are_those_of_the_evaluation():
    assert tuple(recalls(np.eye(3), np.eye(3), np.arange(3))) == RECALLS
    for name in (*RECALLS, "zero_shot", "similarity"):
        replace(SMOKE, best=f"-test/{name}").check()
    unlabelled = replace(SMOKE, data=replace(SMOKE.data, data=replace(SMOKE.data.data, label="none")))
    for experiment, name in ((SMOKE, "image_to_text_r2"), (unlabelled, "zero_shot"),
                             (presets(EXPERIMENTS["vae"])["smoke"], "image_to_text_r1")):  # fmt: skip
        with pytest.raises(UserError, match="choose one of test/") as error:
            replace(experiment, best=f"test/{name}").check()
        one_line(error)
