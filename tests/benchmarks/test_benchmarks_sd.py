"""The benchmark of Stable Diffusion: both sides draw the same pictures, and every number is there."""

import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.slow
def test_both_sides_draw_the_same_pictures(monkeypatch, tmp_path, capsys):
    import stable_diffusion

    torch.set_num_threads(1)  # of other tests' cores it would wait for each
    monkeypatch.setattr(stable_diffusion, "use_all_cores", lambda: None)
    monkeypatch.setattr(stable_diffusion.common, "tried", lambda *_: "takes minutes")
    monkeypatch.setattr(stable_diffusion.common, "measure_matmul_flops", lambda: 1e9)
    flags = ["--steps", "3", "--rounds", "1", "--num", "1", "--samplers", "ddim", "--out"]
    stable_diffusion.main([*flags, str(tmp_path / "out.json")])
    (row,) = json.loads((tmp_path / "out.json").read_text())["results"]
    assert row["largest_difference"] < 1e-3
    assert (row["evaluations"], row["precision"], row["shape"]) == (3, "float32", [8, 8, 4])
    assert row["peer"] in ("torch contiguous", "torch channels_last")
    times = row["ms_per_batch"]
    assert row["peer_ratio"] == times[row["peer"]]["median"] / times["ours"]["median"]
    assert row["compile_seconds"] > 0 and set(row["first_call_seconds"]) == set(times)
    assert "theirs/ours" in capsys.readouterr().out
