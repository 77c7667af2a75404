"""Run folders of older versions: their settings mean what they meant."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXPERIMENTS

from jaxgen.core.configuration import from_json, modernised, to_json
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.ops.bijectors import Spline
from jaxgen.runs.environment import command_line
from jaxgen.runs.folder import RunFolder


def older(value, accumulate=1):
    """What version 0.1 of November 2026 wrote: accumulation of the optimizer, splines with the paper's slopes."""
    if isinstance(value, list):
        return [older(v, accumulate) for v in value]
    if not isinstance(value, dict):
        return value
    value = {k: older(v, accumulate) for k, v in value.items()}
    for new in ("steepest", "narrowest"):
        value.pop(new, None)
    if value["type"].startswith("jaxgen.optim:"):
        value["accumulate"] = accumulate
    elif value["type"].startswith("jaxgen.models"):
        value.pop("accumulate", None)
    return value


@pytest.mark.parametrize("script", ["vae", "nsf", "wgan", "stylegan2"])
def test_older_settings_are_read_as_they_were_meant(script, tmp_path):
    """And training goes on in such a folder."""
    smoke = presets(EXPERIMENTS[script])["smoke"]
    (tmp_path / "experiment.json").write_text(json.dumps(older(to_json(smoke))))
    read = RunFolder(tmp_path).experiment()
    if script == "nsf":
        assert read.model.flow != smoke.model.flow
        assert '"least": 0.03, "narrowest": 0.03, "steepest": 0.0' in json.dumps(to_json(read))
    else:
        assert read == smoke
        RunFolder(tmp_path).create(smoke)
    assert from_json(to_json(read)) == read


def test_steps_that_had_a_part_each_are_refused():
    smoke = presets(EXPERIMENTS["vae"])["smoke"]
    with pytest.raises(UserError, match=r"Adam\.accumulate is 4, of steps that had a part each"):
        modernised(older(to_json(smoke), accumulate=4))


def test_a_spline_of_the_paper_keeps_its_formula():
    """Slopes at knots are least + softplus, whatever the bins beside them: section 3.1 of arXiv:1906.04032."""
    raw = np.linspace(-4, 4, 23).astype(np.float32)
    _, _, slopes = Spline(least=1e-3, narrowest=1e-3, steepest=0.0).knots(jnp.asarray(raw))
    expected = 1e-3 + np.log1p(np.exp(raw[16:].astype(np.float64)) * np.expm1(1 - 1e-3))
    np.testing.assert_allclose(slopes[1:-1], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (
            ["/x/bin/jaxgen", "sample", "runs/a", "--prompt", "a red dragon"],
            "jaxgen sample runs/a --prompt 'a red dragon'",
        ),
        (["/x/jaxgen/__main__.py", "report", "r"], "python -m jaxgen report r"),
        (["experiments/vae.py", "digits"], "python vae.py digits"),
    ],
)
def test_a_command_is_told_as_a_shell_reads_it(argv, line):
    """Regression: a page told to call python with a file `jaxgen`, and texts without quotes."""
    assert command_line(argv) == line
