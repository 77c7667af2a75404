"""The benchmarks of radiance fields run and write every field; no test here looks at a time."""

import dataclasses
import json

import nerf
import psnr_curve
import pytest
import splats
from conftest import EXPERIMENTS

from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.train import loop

QUICK = ["--calls", "1", "--steps", "2"]


@pytest.mark.slow
def test_beside_pytorch(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    import peers

    monkeypatch.setattr(peers, "cannot_compile", lambda: "takes minutes")
    out = tmp_path / "peer.json"
    small = ["--depth", "2", "--width", "8", "--coarse", "4", "--fine", "4", "--rays", "16", "--pixels", "32"]
    nerf.main(["peer", *QUICK, *small, "--out", str(out)])
    training, rendering = json.loads(out.read_text())["results"]
    for row in (training, rendering):
        assert row["peer_ratio"] > 0 and set(row["rays_per_second"]) == {"ours", "torch contiguous"}
    assert (training["rays"], rendering["rays"]) == (32, 32)


@pytest.mark.slow
def test_skipping_and_curves_of_a_run(tmp_path):
    run = tmp_path / "run"
    loop.train(dataclasses.replace(presets(EXPERIMENTS["ngp"])["smoke"], best="test/mse"), run)
    nerf.main(["skipping", "--run", str(run), *QUICK, "--views", "1", "--out", str(tmp_path / "skipping.json")])
    (row,) = json.loads((tmp_path / "skipping.json").read_text())["results"]
    assert row["training_gain"] > 0 and row["rendering_gain"] > 0 and 0 < row["whole"] <= 1
    assert abs(row["psnr"]["with_grid"] - row["psnr"]["without"]) < 1
    psnr_curve.main([str(run), "--out", str(tmp_path / "curve.json")])
    (row,) = json.loads((tmp_path / "curve.json").read_text())["results"]
    assert row["step"] == [10, 20] and row["seconds"][0] < row["seconds"][1] and len(row["psnr"]) == 2
    assert (tmp_path / "curve.png").stat().st_size > 1000
    with pytest.raises(UserError, match="no run was named"):
        nerf.main(["skipping", "--out", str(tmp_path / "none.json")])


@pytest.mark.slow
def test_memory_of_a_large_picture(tmp_path):
    """800 x 800 at the default chunk, of the published settings: under 2 GB."""
    nerf.main(["memory", "--out", str(tmp_path / "memory.json")])
    rows = json.loads((tmp_path / "memory.json").read_text())["results"]
    assert [row["name"] for row in rows] == ["nerf", "ngp", "mipnerf"]
    assert all(0 < row["peak_bytes"] < 2e9 for row in rows)


@pytest.mark.slow
def test_splats_beside_the_hash_grid(tmp_path):
    out = tmp_path / "splats.json"
    splats.main(["--preset", "smoke", "--minutes", "1", "--marks", "2", "--calls", "1", "--out", str(out)])
    rows = json.loads(out.read_text())["results"]
    assert [row["name"] for row in rows] == ["ngp smoke", "splats smoke"]
    for row in rows:
        assert row["steps"] == 20 and row["curve"][-1]["psnr"] == row["psnr"] > 5
        assert row["views_per_second"] > 0 and row["training_bytes"] > row["rendering_bytes"] / 10 > 0
    with pytest.raises(UserError, match="pass --folder DIR"):
        splats.main(["--out", str(out)])
