"""The benchmark of fine-tuning runs and writes every field; what it says of the base is tested elsewhere too."""

import json

import fine_tuning
import pytest


@pytest.mark.slow
def test_fine_tuning(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("To be, or not to be, that is the question.\n" * 200)
    fine_tuning.main([
        str(text), "--steps", "50", "--tuning-steps", "50", "--folder", str(tmp_path / "runs"), "--out",
        str(tmp_path / "out.json"),
    ])  # fmt: skip
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["benchmark"] == "fine_tuning" and written["provenance"]["versions"]["jax"]
    (row,) = written["results"]
    assert row["base_untouched"] is True
    assert row["share"] == row["trained_params"] / row["params"] < 0.01
    for run in ("base", "lora", "all"):
        assert row["seconds"][run] > 0
        for text in ("shakespeare", "docs"):
            assert 0 < row["bits_per_byte"][run][text]["mean"] < 20
    docs = {run: row["bits_per_byte"][run]["docs"]["mean"] for run in row["bits_per_byte"]}
    assert docs["lora"] < docs["base"] and docs["all"] < docs["base"]
