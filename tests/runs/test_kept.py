"""A run folder that an earlier version wrote, before the package had rooms: it loads, is used, and goes on.

tests/kept holds a run of the VAE's smoke preset at step 10, and its state at step 20 as that version trained it.
"""

import json
import shutil

import jax
import numpy as np
import pytest
from conftest import ROOT
from production_process import run_python
from safetensors.numpy import load_file
from small_runs import final_state

import jaxgen
from jaxgen.core.configuration import from_json, modernised
from jaxgen.runs.environment import environment
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.pretrained import Pretrained

KEPT = ROOT / "tests" / "kept" / "vae-smoke-0"
SAME_MACHINE = ("versions", "processor", "cores")


@pytest.fixture
def kept(tmp_path):
    """A copy, as use writes into a run's folder."""
    return shutil.copytree(KEPT, tmp_path / "vae-smoke-0")


def test_it_loads_and_is_used(kept):
    run = jaxgen.load(kept)
    assert run.step == 10
    assert run.sample(4, seed=1).shape == (4, 8, 8, 1)
    assert run.evaluate(limit=20)["nelbo"]["mean"] == pytest.approx(48, abs=6)  # nats; 47.2 in its log at step 10


def test_it_goes_on_to_the_same_state(kept):
    """Bitwise where it was made: on the same kind of machine with the same versions. Elsewhere to rounding."""
    done = run_python(str(ROOT / "experiments" / "vae.py"), "smoke", "--out", str(kept), "--no-compilation-cache")
    assert done.returncode == 0, done.stderr[-2000:]
    run = RunFolder(kept)
    state = final_state(run.experiment(), kept)
    assert int(state.step) == 20
    paths, _ = jax.tree_util.tree_flatten_with_path(state)
    found = {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in paths}
    expected = load_file(KEPT.with_name("vae-smoke-0-step20.safetensors"))
    assert found.keys() == expected.keys()
    then, now = json.loads((KEPT / "environment.json").read_text()), environment()
    exact = all(then[name] == now[name] for name in SAME_MACHINE)
    for name, array in expected.items():
        if exact:
            np.testing.assert_array_equal(found[name], array, err_msg=name)
        else:
            np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=1e-5, err_msg=name)


def test_names_of_modules_that_moved_are_mapped():
    value = {"type": "jaxgen.pretrained:Pretrained", "run": "runs/x", "form": "tokens", "step": -1, "best": False}
    assert from_json(modernised(value)) == Pretrained(run="runs/x")
