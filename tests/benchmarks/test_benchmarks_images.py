"""The benchmarks of streamed pictures and of first stages, on a few pictures."""

import json

import image_stream
import pytest
from conftest import EXPERIMENTS

from jaxgen.experiment import presets


@pytest.mark.slow
def test_a_folder_is_streamed(tmp_path, monkeypatch):
    smoke = presets(EXPERIMENTS["vae"])["smoke"]
    monkeypatch.setattr(image_stream, "cases", lambda: {"VAE": smoke})
    monkeypatch.setattr(image_stream.image_folder, "IN_MEMORY", image_stream.image_folder.IN_MEMORY)
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out.json"
    image_stream.main(["--images", "300", "--seconds", "0.1", "--turns", "1", "--out", str(out)])
    (row,) = json.loads(out.read_text())["results"]
    assert row["budget"] * 10 == row["bytes"] and 0 < row["busy"]["streamed"] < 3
    assert 0 <= row["waiting"]["streamed"] < 1 and min(row["peak_bytes"].values()) > 0


@pytest.mark.slow
def test_a_published_autoencoder_is_compared(shared_data, tmp_path):
    if not (shared_data / "taef2").is_dir():
        pytest.skip("needs the weights of TAEF2")
    out = tmp_path / "out.json"
    first_stages = pytest.importorskip("first_stages")
    first_stages.main([str(shared_data / "taef2"), "--num", "8", "--out", str(out)])
    (row,) = json.loads(out.read_text())["results"]
    assert row["num"] == 8 and row["psnr"] == pytest.approx(row["psnr_torch"], abs=0.01) and row["psnr"] > 25
