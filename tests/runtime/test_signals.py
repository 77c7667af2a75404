"""Ctrl-C and SIGTERM end a command at once, with one line: while it imports, compiles and computes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from small_runs import smoke_run

from jaxgen.runtime.interrupt import Answered, leaving_at_once

COMPILES = """
import jax, jax.numpy as jnp
from jaxgen.cli import parse
from jaxgen.runtime.interrupt import Interrupt, leaving_at_once

def compiles():
    def f(x):
        for i in range(300):
            x = jnp.sort(jnp.sin(x) @ x + i, axis=0)
        return x
    lowered = jax.jit(f).lower(jnp.ones((64, 64)))
    print("compiling", flush=True)
    lowered.compile()
    print("compiled", flush=True)
"""


def stopped(process, number: int) -> str:
    """What a process says that ends at once by a signal."""
    began = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - began < 4
    assert process.returncode == 128 + number, said
    return said


def started(*command) -> subprocess.Popen:
    # Without optimisation nothing takes long to compile.
    environment = {name: value for name, value in os.environ.items() if name != "JAX_DISABLE_MOST_OPTIMIZATIONS"}
    return subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def until(process, words: str) -> None:
    assert any(words in line for line in process.stdout), process.stderr.read()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_compiles_ends_at_once(number):
    process = started("-c", f"{COMPILES}\nparse.run(compiles)")
    until(process, "compiling")
    time.sleep(0.3)
    assert stopped(process, number) == f"stopped by {number.name}\n"


def test_the_second_interrupt_ends_training_that_compiles():
    process = started("-c", f"{COMPILES}\nwith leaving_at_once(), Interrupt():\n    compiles()")
    until(process, "compiling")
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    said = stopped(process, signal.SIGINT).strip().splitlines()
    assert said == ["SIGINT: saving at the end of this call; Ctrl-C again leaves at once", "stopped by SIGINT"]


STRUCK = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal: what runs in the background ignores it
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["STRUCK"]:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(30)
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize(
    ("command", "module"),
    [
        ("-m jaxgen --help", "numpy"), ("experiments/nerf.py", "numpy"), ("experiments/nerf.py", "flax.linen"),
        ("-m jaxgen evaluate RUN", "tyro"), ("-m jaxgen sample RUN", "orbax.checkpoint"),
    ],
)  # fmt: skip
def test_a_command_that_imports_ends_at_once(command, module, run, tmp_path):
    """By a signal that it gets when it looks for `module`, which would take half a minute longer."""
    (tmp_path / "sitecustomize.py").write_text(STRUCK)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "STRUCK": module}
    full = [sys.executable, *command.replace("RUN", str(run)).split()]
    began = time.monotonic()
    done = subprocess.run(full, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert time.monotonic() - began < 25
    assert (done.returncode, done.stderr) == (128 + signal.SIGINT, "stopped by SIGINT\n")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return smoke_run("vae", tmp_path_factory.mktemp("signals") / "run")


def test_handlers_and_those_before_are_put_back():
    told = []
    before = signal.getsignal(signal.SIGTERM)
    with Answered(told.append):
        with Answered(lambda number: told.append(-number)):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert told == [-signal.SIGTERM, signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before
    with leaving_at_once():
        pass
    assert signal.set_wakeup_fd(-1) == -1


def test_letters_that_the_terminal_lacks_are_shown_by_number():
    code = "from jaxgen.cli import parse; parse.run(lambda: print('gr\\xfcn', '\\u2126'))"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "gr\\xfcn \\u2126\n"), done.stderr
