"""The benchmarks of GPT run and write their rows; no test here looks at a time."""

from dataclasses import replace

import compile_depth
import gpt_generate
import jax
import pytest
import text_priors
from test_benchmarks import results


def test_generation(tmp_path):
    args = ["--batches", "2", "--tokens", "4", "--prompt", "3", "--width", "16", "--depth", "2", "--heads", "2"]
    gpt_generate.main([*args, "--calls", "1", "--no-peer", "--out", str(tmp_path / "out.json")])
    (row,) = results(tmp_path / "out.json", "gpt generation")
    assert row["batch"] == 2 and row["new_tokens"] == 4 and row["ms_per_batch"]["ours"]["median"] > 0
    assert row["ratio"] is None and row["compile_seconds"] > 0


@pytest.mark.slow
def test_compile_time_by_depth(tmp_path):
    cached = jax.config.jax_enable_compilation_cache
    try:
        args = ["--depths", "1", "3", "--preset", "smoke", "--calls", "1", "--no-sampler"]
        compile_depth.main([*args, "--out", str(tmp_path / "o.json")])
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)
    rows = results(tmp_path / "o.json", "compile time by depth")
    assert [row["depth"] for row in rows] == [1, 3] and rows[0]["ratio"] == 1


@pytest.mark.slow
def test_priors_of_text(tmp_path, monkeypatch):
    """Of small networks: real text is likelier to the GPT than what diffusion draws in one step."""
    preset_of = text_priors.common.preset_of

    def small(script, preset):
        found = preset_of(script, preset)
        network = found.model.network.clone(body=found.model.network.body.clone(width=16, depth=1, heads=1))
        return replace(found, model=replace(found.model, network=network), num_samples=1)

    monkeypatch.setattr(text_priors.common, "preset_of", small)
    (tmp_path / "text.txt").write_text("To be, or not to be, that is the question:\n" * 2000)
    args = [str(tmp_path / "text.txt"), "--steps", "1", "16", "--num", "16", "--shorter", "100"]
    text_priors.main([*args, "--folder", str(tmp_path / "runs"), "--out", str(tmp_path / "out.json")])
    rows = {row["case"]: row for row in results(tmp_path / "out.json", "text_priors")}
    assert set(text_priors.PRIORS) < set(rows) and rows["mdlm"]["bound"] and not rows["gpt"]["bound"]
    assert rows["gpt_longer"]["windows"] == rows["mdlm"]["windows"]
    assert rows["real text"]["nats_by_gpt"] < rows["texts of mdlm, 1 steps"]["nats_by_gpt"]
    assert len(rows["texts of mdlm, 16 steps"]["texts"]) == text_priors.SHOWN
