"""Flags to dataclasses by tyro, and one line with exit code 2 for whatever the user got wrong."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
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
