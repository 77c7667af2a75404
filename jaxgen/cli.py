"""Flags to dataclasses by tyro, and one line with exit code 2 for whatever the user got wrong."""

import contextlib
import io
import math
import os
import re
import stat
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from jaxgen.errors import UserError

T = TypeVar("T")


def parse(kind: type[T], default: T | None, args: Sequence[str], prog: str, description: str | None = None) -> T:
    """Reads flags over a default. Raises UserError in one line, with the nearest flag, instead of tyro's panel."""
    import tyro

    kwargs: dict[str, Any] = {} if default is None else {"default": default}
    panel = io.StringIO()
    try:
        with contextlib.redirect_stderr(panel):
            config = (tyro.conf.SuppressFixed,)  # fields no flag can set, such as a network's dtype
            return tyro.cli(kind, args=list(args), prog=prog, description=description, config=config, **kwargs)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_first_line(panel.getvalue(), prog)) from None


def _first_line(panel: str, prog: str) -> str:
    """What tyro's panel says, as one line."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip("│╭╮╰╯─ ") for line in panel.splitlines()]
    # Past the title; rules are drawn in dashes where the terminal knows no box characters.
    words = [line for line in lines if any(c.isalnum() for c in line)][1:] or ["the flags cannot be read"]
    hint = ""
    for line, following in pairwise(words):
        if line.startswith("Perhaps you meant"):
            hint = f" (did you mean {following.split()[0]}?)"
    return f"{words[0]}{hint}; see {prog} --help"


def run(main: Callable[[], None]) -> None:
    """Runs a command: a UserError becomes `error: ...` on one line of stderr and exit code 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        # The reader (a pager, `head`) went away; point stdout elsewhere so that its flush at exit stays quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def cache_folder() -> Path:
    """The user's cache folder of jaxgen: $JAXGEN_CACHE, or ~/.cache/jaxgen."""
    return Path(os.environ.get("JAXGEN_CACHE") or Path.home() / ".cache" / "jaxgen")


def start_jax(
    device: str = "auto",
    compilation_cache: bool = True,
    mesh: str = "",
    processes: tuple[str, int, int] = ("", 1, 0),
    seeds: int = 1,
) -> None:
    """Chooses the device and turns the compilation cache on. Raises UserError when the device is absent.

    mesh: on a CPU, as many devices as it asks for are made of the cores: XLA runs most of these networks' layers on
    one core, so that data=2 is nearly twice as fast on two. processes: coordinator, number of processes and which of
    them this is, where a run has several. seeds: trained at once; on a CPU each core becomes a device for some of them.
    """
    import jax

    from jaxgen import parallel

    coordinator, num_processes, process_id = processes
    if not 0 <= process_id < num_processes:
        raise UserError(f"process_id is {process_id} of num_processes {num_processes}: count from 0")
    if num_processes > 1 and not coordinator:
        raise UserError("--num-processes needs --coordinator HOST:PORT, the same in every process")
    # Of each process: every one makes its share of the mesh.
    count = max(1, math.prod(parallel.parse(mesh).values()) // num_processes)
    if seeds > 1:
        count = max(n for n in range(1, (os.cpu_count() or 1) + 1) if seeds % n == 0)
    if count > 1 and jax.config.jax_num_cpu_devices == -1 and "xla_force_host" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", count)
    if device != "auto":
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(device, device))
    if coordinator:
        parallel.start_processes(coordinator, num_processes, process_id)
    try:
        found = jax.default_backend()
    except RuntimeError:
        found = "none"
    if device not in ("auto", found):
        jax.config.update("jax_platforms", "cpu")
        raise UserError(f"no {device} is here, or jax was installed without support for it: use --device cpu")
    if compilation_cache:
        use_compilation_cache()


def use_compilation_cache(min_seconds: float = 0.3) -> None:
    """Keeps programs that took at least `min_seconds` to compile in the user's cache folder."""
    import jax

    folder = cache_folder() / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Executables are code: only a folder nobody else can write to is one to load them from.
        folder.chmod(stat.S_IRWXU)
    except OSError:
        return  # a cache that cannot be written is a slower start, not an error
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", min_seconds)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
