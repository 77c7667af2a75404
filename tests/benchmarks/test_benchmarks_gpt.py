"""The benchmarks of GPT run and write their rows; no test here looks at a time."""


import compile_depth
import gpt_generate
import jax
import pytest
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
