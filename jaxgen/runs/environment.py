"""Where a number comes from: versions, devices, compiler flags, commit and command."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jaxgen", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def environment_line() -> str:
    """Library and devices in a few words."""
    return f"jax {jax.__version__}, {len(jax.devices())} x {jax.devices()[0].device_kind}"


def environment() -> dict[str, Any]:
    """Versions, devices, compiler flags, git commit and command line of this process."""
    device = jax.devices()[0]
    return {
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in PACKAGES}},
        "devices": [f"{d.device_kind} {d.id}" for d in jax.devices()],
        "processor": _processor() if device.platform == "cpu" else device.device_kind,
        "cores": os.cpu_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "git": _git(),
        "command": command_line(sys.argv),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def command_line(argv: list[str]) -> str:
    """How the process was called, as a shell reads it; the program by name, as where it lies on one machine helps
    nobody on another."""
    name = Path(argv[0]).name
    program = {"jaxgen": ["jaxgen"], "__main__.py": ["python", "-m", "jaxgen"]}.get(name, ["python", name])
    return shlex.join([*program, *argv[1:]])


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _git() -> dict[str, Any] | None:
    """The commit of the library's checkout, and whether it was changed; None outside of one."""

    def ask(*args: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(["git", "-C", folder, *args], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.CalledProcessError):
        return None
