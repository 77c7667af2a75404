"""The benchmark of EDM2 runs and writes every field."""

import json

import edm2
import pytest
from small_runs import smoke_run


@pytest.mark.slow
def test_edm2(tmp_path):
    classifier = smoke_run("classifier", tmp_path / "classifier")
    edm2.main([
        "smoke", "--classifier", str(classifier), "--num", "80", "--lengths", "0.07", "0.2", "--scales", "1", "2",
        "--folder", str(tmp_path / "runs"), "--out", str(tmp_path / "out.json"),
    ])  # fmt: skip
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["benchmark"] == "edm2" and written["provenance"]["versions"]["jax"]
    (row,) = written["results"]
    assert row["steps"] == 20 and row["snapshots"] == 4 and row["checkpoints"] == 2 and row["guide_step"] == 5
    assert row["same_training"] < 1e-3 and row["magnitude_deviation"] < 1e-2
    assert set(row["made_afterwards"]) == {"0.07", "0.2"} and row["made_afterwards"]["0.07"]["apart"] < 0.02
    for curve in (row["error_by_length"], row["distance_by_length"]):
        assert [one["length"] for one in curve] == [0.05, 0.07, 0.1, 0.2, 0.0]
        assert all(one["value"] > 0 for one in curve)
    assert row["distance_by_guidance"]["1"] != row["distance_by_guidance"]["2"]
