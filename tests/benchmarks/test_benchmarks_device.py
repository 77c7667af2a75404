"""The benchmark of a device: what it measures, within its time, and with no package that such a machine may lack."""

import json
import os
import subprocess
import sys
import types

import annotated_types
import bare
import device
import device_parts
import jax
import numpy as np
import pytest
from conftest import ROOT

from jaxgen.errors import UserError
from jaxgen.experiment import presets

SCRIPT = ROOT / "benchmarks" / "device.py"
# What pip installs with jax, flax, optax, orbax-checkpoint and chex.
THERE = (
    "absl", "aiofiles", "chex", "etils", "flax", "fsspec", "humanize", "jax", "jaxlib", "markdown_it", "mdurl",
    "ml_dtypes", "msgpack", "numpy", "opt_einsum", "optax", "orbax", "google", "psutil", "pygments", "yaml", "rich",
    "scipy", "simplejson", "tensorstore", "toolz", "treescope", "typing_extensions", "uvloop", "zipp",
)  # fmt: skip
ALONE = f"""
import sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
from importlib.machinery import PathFinder
class Some(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        first = name.partition(".")[0]
        here = first in {(*THERE, "jaxgen", "bare", "common", "rows", "device", "device_parts")!r}
        here = here or first in sys.stdlib_module_names or first.startswith("_")
        return super().find_spec(name, path, target) if here else None
sys.meta_path = [Some if finder is PathFinder else finder for finder in sys.meta_path]
import device, device_parts
from jaxgen.experiment import presets
for part in device_parts.FULL.values():
    presets(device_parts.common.ROOT / "experiments" / f"{{part.script}}.py")[part.preset].compute_model
print(device_parts.matrix(8, 1)["size"], sys.modules["annotated_types"].__spec__)
"""


def test_it_needs_no_package_but_those_of_jax(tmp_path):
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "8 None"  # the stand-in has no spec


def test_limits_without_annotated_types():
    for name, field in bare.LIMITS.items():
        ours, theirs = getattr(bare.limits(), name)(3), getattr(annotated_types, name)(3)
        assert getattr(ours, field) == getattr(theirs, field) == 3 and hash(ours)


@pytest.mark.parametrize("part", device_parts.FULL)
def test_examples_are_what_the_models_take(part):
    """Of the sizes for accelerators; nothing is computed."""
    of = device_parts.FULL[part]
    experiment = presets(ROOT / "experiments" / f"{of.script}.py")[of.preset]
    raw = device_parts.examples(experiment, 2)
    codec = experiment.codec.load()
    experiment.model.check(jax.eval_shape(lambda: codec.encode(raw, jax.random.key(0))) | {"cond": raw.get("cond")})
    name, each = device_parts.unit(experiment.model)
    assert (name, each) == {"gpt": ("tokens", 1024), "nerf": ("rays", 1)}.get(of.script, ("images", 1))
    assert all(len(array) == 2 for array in raw.values()) and "x" in raw


@pytest.mark.parametrize(
    ("said", "before", "peak", "agrees"),
    [(100, 50, 110, True), (100, 50, 120, False), (100, 50, 80, False), (100, 90, 90, None), (100, None, None, None)],
)
def test_memory_agrees_within_15_percent(monkeypatch, said, before, peak, agrees):
    """A peak that was there before the program is not the program's."""
    monkeypatch.setattr(device_parts, "device_peak", lambda: peak)
    monkeypatch.setattr(device_parts.common, "peak_bytes", lambda executable: said)
    assert device_parts.memory(None, before)["agrees"] is agrees


FACTS = {
    "versions": {"jax": "1"}, "devices": ["TPU v9 0"], "git": None, "matmul_flops": 1.0, "started": "now",
    "processor": "TPU v9",
}  # fmt: skip
MATRIX = {"size": 8, "flops_per_second": {"bfloat16": 4e12, "float32": 2e12, "float32 highest": 1e12}}
ROW = {
    "unit": "images", "precision": "bfloat16", "flops_per_second": 1e12, "rates": {"ours": 1234.5}, "peer": "no peer",
    "peer_ratio": None, "compiled": "no peer", "compiled_ratio": None, "compile_seconds": 1.5,
    "memory": {"compiled_bytes": 1 << 20, "peak_bytes": 1 << 20, "ratio": 1.0, "agrees": True},
}  # fmt: skip


def test_parts_that_no_longer_fit_are_named_and_measured_next_time(monkeypatch, tmp_path, capsys):
    clock, asked = types.SimpleNamespace(now=1000.0), []

    def measured(name, options, until):
        asked.append(name)
        clock.now += {"matrix": 10, "gpt": 100, "ddpm": 60}.get(name, 30)
        if name == "sampler" and len(asked) < 5:
            raise UserError("out of memory")
        return (MATRIX if name == "matrix" else ROW), dict(FACTS)

    monkeypatch.setattr(device, "measured", measured)
    monkeypatch.setattr(device.time, "time", lambda: clock.now)
    out = tmp_path / "device.json"
    flags = ["--minutes", "3", "--out", str(out), "--parts", "gpt", "sampler", "nerf", "ddpm"]
    device.main(flags)
    assert asked == ["matrix", "gpt", "sampler"]
    written, page = json.loads(out.read_text()), out.with_suffix(".md").read_text()
    assert written["unfinished"] and [row["case"] for row in written["results"]] == ["matrix", "gpt"]
    assert written["results"][1]["peak_share"] == 0.25  # of the product in its own precision
    assert set(written["left_out"]) == {"sampler", "nerf", "ddpm"}
    assert "- sampler: out of memory" in page and "- nerf: 40 s were left of 3 minutes" in page
    assert "| gpt | 1,234 images | 25.0% |" in page and "TPU v9" in page
    device.main(flags)
    assert asked[3:] == ["matrix", "sampler", "nerf", "ddpm"]
    written = json.loads(out.read_text())
    assert "unfinished" not in written and not written["left_out"] and len(written["results"]) == 5
    assert "Left out" not in out.with_suffix(".md").read_text()


def test_a_part_that_ends_without_a_row_is_told(monkeypatch):
    options, _ = device.options_of(["--size", "small"])
    monkeypatch.setattr(device, "__file__", os.devnull)  # a script that does nothing
    with pytest.raises(UserError, match="gpt left no number: it ended with code 0"):
        device.measured("gpt", options, device.time.time() + 60)
    with pytest.raises(UserError, match="minutes is 0"):
        device.options_of(["--minutes", "0"])


@pytest.mark.slow
def test_all_parts_of_a_cpu(tmp_path):
    """By small sizes, and with PyTorch where it is here, which is not compiled, as that takes minutes."""
    environment = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": "", "CXX": "no-compiler"}
    command = [sys.executable, str(SCRIPT), "--minutes", "30", "--out", str(tmp_path / "device.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    written = json.loads((tmp_path / "device.json").read_text())
    assert written["left_out"] == {} and [row["case"] for row in written["results"]] == list(device.PARTS)
    for row in written["results"][1:]:
        assert row["rates"]["ours"] > 0 and row["peak_share"] > 0 and row.get("finite", True)
        assert row["memory"]["compiled_bytes"] > 0 and row["memory"]["agrees"] is None
        assert row["peer"] and (row["peer_ratio"] is None or np.isfinite(row["peer_ratio"]))
    assert all(name in (tmp_path / "device.md").read_text() for name in device.PARTS)
