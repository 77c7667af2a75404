"""Processes as users start them: without the flags and settings of the tests."""

import os
import subprocess
import sys

from conftest import ROOT

OF_TESTS = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")


def run_python(*args: str, flags: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs Python with these arguments in the checkout. flags: XLA_FLAGS of the user's own; with none of these, a
    warning of the compiler's faults is an error."""
    env = {name: value for name, value in os.environ.items() if name not in OF_TESTS}
    if flags is not None:
        env["XLA_FLAGS"] = flags
    strict = ["-W", "error::RuntimeWarning"] if flags is None else []  # flags of one's own are warned of
    return subprocess.run([sys.executable, *strict, *args], env=env, capture_output=True, text=True, cwd=ROOT)
