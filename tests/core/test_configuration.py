"""What an experiment.json may say: values of their fields' types, classes that are known, and no code that runs."""

import json
import subprocess
import sys
import types
from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest
from conftest import EXPERIMENTS, ROOT

from jaxgen.core.configuration import expected, fits, from_json, to_json, trust
from jaxgen.core.ranges import Decay, Positive, Seed, Shape, Size
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment, presets
from jaxgen.models.vae import VAE
from jaxgen.nets.mlp import MLP
from jaxgen.optim import Adam

SMOKE = presets(EXPERIMENTS["vae"])["smoke"]
WRITTEN = to_json(SMOKE)


def changed(path: str, value: Any) -> dict[str, Any]:
    """WRITTEN with another value at `path`, as model.beta."""
    written = json.loads(json.dumps(WRITTEN))
    *way, last = path.split(".")
    place = written
    for name in way:
        place = place[name]
    place[last] = value
    return written


def module(name: str) -> dict[str, str]:
    return {"type": name}


# What is written where, and a word of the error.
HOSTILE = [
    ("model", module("venv.__main__:x"), "no configuration"),
    ("model", module("test.__main__:x"), "not loaded"),
    ("model", module("os:system"), "no configuration"),
    ("model", module("subprocess:Popen"), "no configuration"),
    ("model", module("dataclasses:dataclass"), "no configuration"),
    ("model", module("beside:Model"), "--trust beside"),
    ("model", module("beside.deeper:Model"), "--trust beside.deeper"),
    ("model", module("jaxgen.no.such:Model"), "no configuration"),
    ("model", module("jaxgen.experiment:scripts"), "no configuration"),
    ("model", module("jaxgen.experiment:sys"), "no configuration"),
    ("model", module("jaxgen.models.vae:Adam"), "no configuration"),  # imported there, not defined
    ("model", module("numpy:ndarray"), "no configuration"),
    ("model", module("flax.linen:Dense.x"), "no configuration"),
    ("model", module(""), "no configuration"),
    ("model", {"type": 3}, "no configuration"),
    ("model", {}, "no configuration"),
    ("model", None, "model is None: a configuration of type GenerativeModel"),
    ("model", "VAE", "a configuration of type GenerativeModel"),
    ("model", to_json(Adam()), "a configuration of type GenerativeModel"),
    ("model", [1, 2], "a configuration of type GenerativeModel"),
    ("model.optimizer", to_json(MLP(hidden=(4,))), "a configuration of type Optimizer"),
    ("data", to_json(VAE()), "a configuration of type Dataset"),
    ("model.encoder.dtype", "float64", "none is expected"),
    ("model.encoder.dtype", to_json(Adam()), "none is expected"),
    ("precision", "f64", "one of float32, bfloat16"),
    ("seed", "0", "an integer"),
    ("seed", -1, "from 0"),
    ("seed", True, "an integer"),
    ("seed", 1 << 32, "to 4,294,967,295"),
    ("steps", 10.5, "an integer"),
    ("steps", None, "an integer"),
    ("model.beta", float("nan"), "a finite number from 0"),
    ("model.beta", 10**400, "a finite number"),
    ("model.beta", [1.0], "a finite number"),
    ("model.shape", [], "a list"),
    ("model.shape", 3, "a list"),
    ("model.shape", [8, 8, -1], "a list"),
    ("model.shape", [8, [8], 1], "a list"),
    ("mesh", 4, "text"),
    ("remat", 1, "true or false"),
    ("sede", 1, "did you mean seed?"),
]


@pytest.mark.parametrize("path, value, words", HOSTILE, ids=[f"{p}={str(v)[:40]}" for p, v, _ in HOSTILE])
def test_a_hostile_experiment_is_one_line_and_imports_nothing(path, value, words):
    loaded = set(sys.modules)
    with pytest.raises(UserError) as error:
        from_json(changed(path, value), "run/experiment.json", Experiment)
    line = str(error.value)
    assert line.startswith("run/experiment.json") and words in line and "\n" not in line and len(line) < 300
    assert all(name.startswith(("jaxgen", "flax")) for name in set(sys.modules) - loaded)


@pytest.mark.slow
def test_a_module_beside_the_folder_is_not_run_unless_it_is_trusted(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "beside.py").write_text("open('ran', 'w').close()\n")
    (run / "experiment.json").write_text(json.dumps(changed("model", module("beside:Model"))))
    for command in ("sample", "evaluate", "export", "compress", "render"):
        files = ["a.png", "b.jxg"] if command == "compress" else []
        asked = [sys.executable, "-m", "jaxgen", command, "run", *files]
        done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--trust beside" in done.stderr, done.stderr
        assert not (tmp_path / "ran").exists()
    done = subprocess.run([*asked, "--trust", "beside"], cwd=tmp_path, capture_output=True, text=True)
    assert (tmp_path / "ran").exists() and done.returncode == 2 and "no configuration" in done.stderr, done.stderr
    done = subprocess.run([*asked, "--trust=nowhere"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "--trust nowhere cannot be imported" in done.stderr, done.stderr


def test_what_a_script_has_defined_is_read_again(monkeypatch):
    @dataclass(frozen=True, kw_only=True)
    class Mine(VAE):
        more: Size = 3

    mine = types.ModuleType("jaxgen_experiment_mine")
    Mine.__module__, Mine.__qualname__ = mine.__name__, "Mine"
    mine.Mine = Mine
    monkeypatch.setitem(sys.modules, mine.__name__, mine)
    experiment = replace(SMOKE, model=Mine())
    assert from_json(to_json(experiment)) == experiment


def test_a_script_that_defines_a_model_is_trusted_by_its_path(tmp_path, monkeypatch):
    """Of `jaxgen train mine.py`, when another process reads the run."""
    script = tmp_path / "mine.py"
    script.write_text(
        "from dataclasses import dataclass, replace\n"
        "from jaxgen.experiment import Experiment\n"
        "from jaxgen.models.vae import VAE\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Mine(VAE):\n"
        "    more: int = 3\n"
        "PRESETS = {}\n"
    )
    monkeypatch.setitem(sys.modules, "jaxgen_experiment_mine", None)
    monkeypatch.delitem(sys.modules, "jaxgen_experiment_mine")
    value = changed("model", {**to_json(SMOKE)["model"], "type": "jaxgen_experiment_mine:Mine", "more": 4})
    with pytest.raises(UserError, match=r"pass --trust FOLDER/mine\.py, the script that defines it"):
        from_json(value)
    trust([str(script)])
    assert from_json(value).model.more == 4
    with pytest.raises(UserError, match=r"none.py is no file"):
        trust([str(tmp_path / "none.py")])


def test_what_a_notebook_defined_is_told():
    with pytest.raises(UserError, match="which the notebook or program defined that trained the run: define it here"):
        from_json(changed("model", module("__main__:Mine")))


def test_trust_names_what_cannot_be_imported():
    for name in ("no.such.module", ""):
        with pytest.raises(UserError, match="PYTHONPATH"):
            trust([name])


@pytest.mark.parametrize(
    "hint, good, bad",
    [
        (Size, [1, 65_536], [0, 65_537, 1.0, True, "1", None]),
        (Seed, [0, (1 << 32) - 1], [-1, 1 << 32]),
        (Positive, [1e-30, 1, 1e30], [0, 0.0, -1.0, float("nan"), float("inf"), 10**400, "1", None, False]),
        (Decay, [0, 0.5], [1, 1.0, -0.1]),
        (float, [-1e9, 3], [float("-inf"), (1.0,)]),
        (float | None, [None, 1.0], ["", float("nan")]),
        (Shape, [(1,), (8, 8, 3)], [(), (0,), [8], 8, (8.0,)]),
        (tuple[Size, Size], [(1, 2)], [(1,), (1, 2, 3), (1, 0)]),
        (Literal["a", 3], ["a", 3], ["b", 3.0, None, True]),
        (bool, [True], [1, "True", None]),
        (str, [""], [1, None]),
        (VAE, [VAE()], [Adam(), VAE, None]),
    ],
)
def test_types_and_ranges(hint, good, bad):
    assert all(fits(value, hint) for value in good)
    assert not any(fits(value, hint) for value in bad)
    assert expected(hint)
