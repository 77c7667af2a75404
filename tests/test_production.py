"""The programs that users run, optimised as they are, beside the suite's own, which are hardly optimised.

JAXGEN_PRODUCTION_FLAGS stands for XLA_FLAGS in the processes that these tests start: a wrong flag makes them fail.
"""

import json
import os
import re
import subprocess
from dataclasses import replace

import jax
import numpy as np
import production
import pytest
from conftest import ROOT
from faults import FAULTS
from production_process import run_python

from jaxgen import core
from jaxgen.core.configuration import to_json
from jaxgen.core.model import with_field
from jaxgen.models.splats import Splats
from jaxgen.runtime import compiler

FLAGS = os.environ.get("JAXGEN_PRODUCTION_FLAGS")


def run(*args: str, program: str = "production.py", flags: str | None = FLAGS) -> subprocess.CompletedProcess:
    return run_python(*([str(ROOT / "tests" / program)] if program else []), *args, flags=flags)


@pytest.mark.parametrize("how", ["import", "script"])
def test_the_compilers_public_faults_are_right(how):
    """After a bare `import jaxgen`, and as an experiment script starts. Some of them would end the process."""
    done = run("faults", how)
    assert (done.returncode, done.stdout.splitlines()) == (0, [f"{name}: 0 wrong" for name in FAULTS]), done.stderr


def test_production_equals_the_unoptimised_program(smoke, tmp_path):
    """Three steps of training from one state, and samples of one trained state, to rounding: the root mean square of
    what differs in each array beside that of the array. Of a state 5e-3, as Adam makes whole steps of gradients near
    0."""
    if isinstance(smoke.model, Splats):  # balls at first, whose turns have gradients of rounding alone
        smoke = replace(smoke, model=with_field(smoke.model, "eps", 1e-3))
    one = jax.tree.map(lambda a: a[0], production.batches(smoke))
    start = core.init(smoke.compute_model, core.run_key(smoke.seed, core.INIT), one, smoke.codec.load())
    state, metrics = production.trained(smoke, jax.device_get(start))
    samples = production.drawn(smoke, state)
    (tmp_path / "experiment.json").write_text(json.dumps(to_json(smoke)))
    given = {"a": start, "b": state}
    np.savez(
        tmp_path / "given.npz",
        **{f"{which}_{i}": leaf for which, tree in given.items() for i, leaf in production.leaves(tree).items()},
    )
    done = run(str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(tmp_path / "found.npz") as file:
        found = dict(file)

    # Of two codes as near as each other either may be found.
    exact = 1e-3 if "codes" in state.extra else 1e-5
    expected = jax.tree_util.tree_leaves_with_path((state, metrics))
    assert len(expected) + 1 == len(found)
    for i, (path, leaf) in enumerate(expected):
        name = jax.tree_util.keystr(path)
        # These add the same to all scores of a query, or what normalization takes away: their gradient is rounding.
        if re.search(r"\['(to_k|key)'\]\['bias'\]|_convs_\d+'\]\['(bias|norm'\]\['mean)'\]", name):
            continue
        assert relative(found[f"a_{i}"], leaf) < (exact if name.startswith("[1]") else 5e-3), name
    assert relative(found["b_0"], samples) < 1e-3


def relative(found: np.ndarray, expected: jax.Array) -> float:
    """Root mean square of the difference beside that of what is expected; NaN stands for a place not yet written."""
    expected = np.asarray(expected)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    size, off = (float(np.nansum(np.square(a, dtype=np.float64))) for a in (expected, found - expected.astype(float)))
    return np.sqrt(off / (size + 1e-12 * max(1, expected.size)))


# --- the choice of flags ---


def test_the_flag_is_chosen_before_devices_start():
    done = run("-c", "import jaxgen, os; print(os.environ['XLA_FLAGS'])", program="", flags="--xla_dump_to=")
    assert done.stdout.split() == ["--xla_dump_to=", compiler.SAFE], done.stderr


@pytest.mark.skipif(compiler.jaxlib_version() not in compiler.FAULTY, reason="this jaxlib sums rightly by itself")
@pytest.mark.parametrize(
    ("code", "flags", "match"),
    [
        ("import jax; jax.numpy.ones(1); import jaxgen", "", "import jaxgen first, or set XLA_FLAGS=--xla_cpu"),
        ("import jaxgen", f"{compiler.SAFE},LIBRARY_FUSION_TYPE_REDUCE", "XLA_FLAGS asks for fused reductions: set"),
        ("import jaxgen", "a_file_of_flags", "XLA_FLAGS names a file: add to what it holds, or set, XLA_FLAGS=--xla"),
    ],
)
def test_one_warning_says_what_to_set_when_it_is_too_late(code, flags, match):
    done = run("-W", "always", "-c", code, program="", flags=flags)
    assert done.stderr.count("RuntimeWarning") == 1
    assert match in done.stderr


@pytest.mark.parametrize(
    ("value", "fused"),
    [
        ("", False), ("REDUCE", True), ("-reduce", False), ("-LIBRARY_FUSION_TYPE_REDUCE", False),
        ("LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE", True),
        ("LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT", False), ("-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION", True),
        ("+LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION", True),
    ],
)  # fmt: skip
def test_what_a_value_of_the_flag_means(value, fused):
    """Measured on jaxlib 0.10.2 by whether `wrong_rows` is wrong."""
    assert compiler.fuses_reductions(value) == fused


def test_a_flag_of_the_users_own_stands():
    flag = f"--{compiler.FUSIONS}=-reduce"
    done = run("-c", "import jaxgen, os; print(os.environ['XLA_FLAGS'])", program="", flags=flag)
    assert done.stdout.split() == [flag], done.stderr


def test_devices_are_not_started_by_asking():
    code = "import jax, jaxgen.runtime.compiler as c; d = c.devices_started; print(d(), d(), jax.numpy.ones(()), d())"
    done = run("-c", code, program="")
    assert done.stdout.split() == ["False", "False", "1.0", "True"], done.stderr
