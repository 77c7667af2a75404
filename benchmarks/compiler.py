"""Runs the programs of faults.py, each in a process of its own, as the compiler is by default and by jaxgen's flag.

    python benchmarks/compiler.py                                  # this Python's jax
    python benchmarks/compiler.py PYTHON PYTHON ...                # interpreters with other versions of it

Writes what came out by version, flag and program to JSON. Takes a minute a version.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import common
import tyro
from faults import FAULTS

from jaxgen.cli import parse
from jaxgen.runtime.compiler import SAFE

FLAGS = {"default": "", "jaxgen": SAFE}


@dataclass(frozen=True)
class Options:
    pythons: Annotated[tuple[str, ...], tyro.conf.Positional] = (sys.executable,)
    """Interpreters, each with a jax of its own."""
    out: str = str(common.RESULTS / "compiler.json")


def outcome(python: str, flags: str, fault: str) -> str:
    """`right`, `N wrong`, or how the process ended, of a program under flags."""
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")}
    command = [python, str(Path(__file__).with_name("faults.py")), fault]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    if done.returncode:
        return f"ended by signal {-done.returncode}" if done.returncode < 0 else "raised"
    wrong = done.stdout.split(": ")[1].strip()
    return "right" if wrong == "0 wrong" else wrong


def main() -> None:
    options = parse.parse(Options, None, sys.argv[1:], "compiler.py", __doc__)
    results = {}
    for python in options.pythons:
        ask = [python, "-c", "import jaxlib; print(jaxlib.version.__version__)"]
        version = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
        results[version] = {
            name: {fault: outcome(python, flags, fault) for fault in FAULTS} for name, flags in FLAGS.items()
        }
        print(version, results[version])
    about = {fault: function.__doc__.strip() for fault, function in FAULTS.items()}
    record = {"benchmark": "compiler", "flags": FLAGS, "programs": about, "jaxlib": results}
    Path(options.out).write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    parse.run(main)
