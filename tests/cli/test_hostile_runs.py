"""Run folders made to harm, given to every command that reads one: one line, nothing executed, nothing written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import EXPERIMENTS, ROOT
from hostile import PEAK
from safetensors.numpy import save_file

from jaxgen import __main__ as commands
from jaxgen.core.configuration import to_json
from jaxgen.errors import UserError
from jaxgen.experiment import presets

WRITTEN = to_json(presets(EXPERIMENTS["vae"])["smoke"])
BOMB = {"type": "jaxgen_bomb:Bomb"}
MARK = "print('executed')\n"


def experiment(run: Path, **changes) -> None:
    (run / "experiment.json").write_text(json.dumps({**WRITTEN, **changes}))


def raw(data: bytes, name: str = "experiment.json"):
    return lambda run: (run / name).write_bytes(data)


def pipe(name: str):
    def make(run: Path) -> None:
        experiment(run)
        (run / "checkpoints").mkdir()
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    return make


def loop(run: Path) -> None:
    (run / "experiment.json").symlink_to(run / "experiment.json")


def device(run: Path) -> None:
    (run / "experiment.json").symlink_to("/dev/zero")


def folder(run: Path) -> None:
    (run / "experiment.json").mkdir()


def with_file(name: str, data: bytes, **changes):
    def make(run: Path) -> None:
        experiment(run, **changes)
        (run / "checkpoints" / "20").mkdir(parents=True)
        (run / name).write_bytes(data)

    return make


def with_examples(**arrays):
    def make(run: Path) -> None:
        experiment(run)
        (run / "checkpoints").mkdir()
        save_file(arrays, run / "examples.safetensors")

    return make


def nested(depth: int) -> bytes:
    return b'{"type": "jaxgen.experiment:Experiment", "model": ' * depth + b"1" + b"}" * depth


MODEL = WRITTEN["model"]
HOSTILE = {
    "absent": lambda run: None,
    "empty": raw(b""),
    "cut": raw(json.dumps(WRITTEN).encode()[:300]),
    "not UTF-8": raw(json.dumps(WRITTEN).encode("utf-16")),
    "NUL": raw(b"\0" * 1000),
    "a list": raw(b"[]"),
    "a number": raw(b"1e999"),
    "nested": raw(nested(99)),
    "nested without end": raw(nested(100_000)),
    "lists without end": raw(b"[" * 1_000_000),
    "digits without end": raw(b'{"type": ' + b"9" * 100_000 + b"}"),
    "a pipe": pipe("experiment.json"),
    "a loop": loop,
    "a device": device,
    "a folder": folder,
    "another dataclass": lambda run: (run / "experiment.json").write_text(json.dumps(MODEL)),
    "a module beside": lambda run: experiment(run, model=BOMB),
    "the standard library": lambda run: experiment(run, model={"type": "venv.__main__:x"}),
    "a test suite": lambda run: experiment(run, data={"type": "test.__main__:x"}),
    "a function": lambda run: experiment(run, codec={"type": "os:system"}),
    "a model that is an optimizer": lambda run: experiment(run, model=MODEL["optimizer"]),
    "a layer that is a list": lambda run: experiment(run, model={**MODEL, "encoder": [1, 2]}),
    "a width of a billion": lambda run: experiment(run, model={**MODEL, "latent": 10**9}),
    "a shape without end": lambda run: experiment(run, model={**MODEL, "shape": [8] * 100_000 + [0]}),
    "no finite rate": lambda run: experiment(run, model={**MODEL, "beta": float("nan")}),
    "a precision": lambda run: experiment(run, precision="f64"),
    "an unknown field": lambda run: experiment(run, trust=["jaxgen_bomb"]),
    "no examples": lambda run: (experiment(run), (run / "checkpoints").mkdir()),
    "examples that are a pipe": pipe("examples.safetensors"),
    "examples of another head": with_file("examples.safetensors", b"\xff" * 64),
    "examples of a head without end": with_file("examples.safetensors", (1 << 60).to_bytes(8, "little") + b"{}"),
    "examples of another shape": with_examples(x=np.zeros((4, 3), np.uint8)),
    "examples without x": with_examples(y=np.zeros((4, 8, 8, 1), np.uint8)),
    "a checkpoint of nothing": with_file("checkpoints/20/state", b"no"),
}  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a module that would show that it ran."""
    (tmp_path / "jaxgen_bomb.py").write_text(MARK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "run").mkdir()
    return tmp_path


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("command", ["sample", "evaluate", "export"])
def test_a_hostile_run_is_one_line(command, name, place, capsys):
    HOSTILE[name](place / "run")
    before = listing(place)
    with pytest.raises(UserError) as error:
        commands.call([command, "run"])
    line = " ".join(str(error.value).split())
    assert line and "\n" not in str(error.value) and len(line) < 500, line
    assert "jaxgen_bomb" not in sys.modules and "executed" not in capsys.readouterr().out
    assert listing(place) == before


@pytest.mark.parametrize("name", ["nested without end", "a device", "a shape without end", "a test suite"])
def test_a_hostile_run_takes_little_memory(name, place):
    HOSTILE[name](place / "run")
    script = (
        f"{PEAK}import sys\n"
        "from jaxgen import __main__ as commands\n"
        "sys.argv = ['jaxgen', 'sample', 'run']\n"
        "try: commands.main()\n"
        "finally: print(peak())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=place)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")
    assert int(done.stdout) < 1 << 20, "KiB"


def test_a_name_of_a_run_is_only_a_name(place):
    """Quotes, shell words and format fields in a name are shown, not run."""
    for name in ('a"""+str(1)+"""', "$(touch x)", "{0.__class__}", "%s%n", "a\nb", "-" + "x" * 100):
        folder = place / name
        folder.mkdir()
        experiment(folder, precision="f64")
        with pytest.raises(UserError, match="precision is 'f64'"):
            commands.call(["sample", str(folder)])
        shutil.rmtree(folder)
    assert not (place / "x").exists()
