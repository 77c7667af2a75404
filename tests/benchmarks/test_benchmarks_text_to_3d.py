"""The benchmark of objects made of prompts: its numbers, and a whole run of it by smoke presets."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import text_to_3d
from conftest import EXPERIMENTS, first_stage

from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.restore import initial_state, open_run


def test_a_view_votes_for_the_nearest_text():
    texts = np.eye(3)
    views = np.array([[1.0, 0, 0], [0.6, 0.8, 0], [0, 0.8, 0.6], [np.sqrt(0.5), np.sqrt(0.5), 0]])
    # The last is between two texts, which share it.
    np.testing.assert_allclose(text_to_3d.votes(views, texts), [1.5 / 4, 2.5 / 4, 0])


@pytest.mark.parametrize("count", [2, 4])
def test_p_counts_all_deals(count):
    """Against a plain loop; of objects that are all retrieved, one deal in P!; where nothing is told apart, all."""
    shares = np.random.default_rng(0).dirichlet(np.ones(count), count)
    true = sum(shares[i, i] for i in range(count))
    deals = list(itertools.permutations(range(count)))
    as_good = sum(sum(shares[i, deal[i]] for i in range(count)) >= true - 1e-12 for deal in deals)
    assert text_to_3d.chance_of(shares) == pytest.approx(as_good / len(deals))
    assert text_to_3d.chance_of(np.eye(count)) == pytest.approx(1 / len(deals))
    assert text_to_3d.chance_of(np.full((count, count), 1 / count)) == 1


def test_many_prompts_are_dealt_at_random():
    """Of nine, all retrieved, about one deal in 362,880."""
    assert text_to_3d.chance_of(np.eye(9)) < 1e-4


@pytest.mark.slow
def test_objects_are_measured_by_smoke_runs(tmp_path):
    clip = first_stage("clip-smoke-0", tmp_path)
    other = replace(presets(EXPERIMENTS["clip"])["smoke"], seed=1)
    run = open_run(other, tmp_path / "clip-smoke-1", None, other.codec)
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save(initial_state(other, other.codec))
    out = tmp_path / "found.json"
    asked = ["smoke", "--teacher", str(clip), "--prompts", "tomato", "blue heart", "--turntable", "2", "--folder",
             str(tmp_path), "--out", str(out), "--train-steps", "10"]  # fmt: skip
    with pytest.raises(UserError, match="name a CLIP of another seed"):
        text_to_3d.main([*asked, "--judge", str(clip)])
    text_to_3d.main([*asked, "--judge", str(tmp_path / "clip-smoke-1")])
    found = json.loads(out.read_text())
    assert [row["case"] for row in found["results"]] == ["tomato", "blue heart"]
    for row in found["results"]:
        assert row["steps"] == 10 and row["views"] == 8 and 0 < row["transmittance"] < 1
        assert sum(row["judge"]["votes"]) == pytest.approx(1)
        assert 0 <= row["judge"]["median_rank"] < row["judge"]["names"]
    summary = found["summary"]
    assert summary["chance"] == 0.5 and 0 <= summary["judge"]["mean"] <= 1 and 0 < summary["judge"]["p"] <= 1
    assert (tmp_path / "found.png").exists() and (tmp_path / "found.gif").exists()


def test_one_prompt_cannot_be_told_from_others(tmp_path):
    with pytest.raises(UserError, match="two or more, all different"):
        text_to_3d.main(["smoke", "--prompts", "tomato", "tomato", "--out", str(tmp_path / "x.json")])
