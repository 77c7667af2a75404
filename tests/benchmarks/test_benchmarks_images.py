"""The benchmark of streamed images runs and writes every field; no test here looks at a time."""

import json

import image_stream
import pytest


@pytest.mark.slow
def test_a_streamed_folder_beside_a_resident_one(tmp_path, monkeypatch):
    monkeypatch.setattr(image_stream, "CASES", (("vae", "smoke"),))
    monkeypatch.setattr(image_stream.image_folder, "IN_MEMORY", image_stream.image_folder.IN_MEMORY)
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "before"))
    out = tmp_path / "stream.json"
    image_stream.main(["--images", "100", "--steps", "5", "--calls", "1", "--out", str(out)])
    (row,) = json.loads(out.read_text())["results"]
    assert row["budget"] < row["bytes"] == 100 * 32 * 32 * 3
    assert row["busy"] > 0 and set(row["ms_per_step"]) == {"resident", "streamed"}
