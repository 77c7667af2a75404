"""Flags to dataclasses by tyro, and one line with exit code 2 for whatever the user got wrong."""

import argparse
import contextlib
import dataclasses
import io
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

from jaxgen.errors import UserError
from jaxgen.runtime.files import disk_errors
from jaxgen.runtime.interrupt import leaving_at_once

if TYPE_CHECKING:
    from tyro.constructors import ConstructorRegistry

T = TypeVar("T")


def parse(kind: type[T], default: T | None, args: Sequence[str], prog: str, description: str | None = None) -> T:
    """Reads flags over a default. Raises UserError in one line, with the nearest flag, instead of tyro's panel."""
    import tyro

    kwargs: dict[str, Any] = {} if default is None else {"default": default}
    panel = io.StringIO()
    try:
        with contextlib.redirect_stderr(panel), _wide(not {"-h", "--help"} & set(args)):
            return tyro.cli(
                kind, args=list(args), prog=prog, description=description, registry=_with_ranges(),
                config=(tyro.conf.SuppressFixed,),  # fields no flag can set, such as a network's dtype
                **kwargs,
            )  # fmt: skip
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_first_line(panel.getvalue(), prog)) from None


def ahead(args: Sequence[str], **flags: dict[str, Any]) -> argparse.Namespace:
    """The flags that say which other flags there are, read before these; their defaults where they cannot be read, as
    `parse` then says what is wrong. flags: arguments of `add_argument` by name."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name, settings in flags.items():
        parser.add_argument(f"--{name}", **settings)
    try:
        return parser.parse_known_args(args)[0]
    except argparse.ArgumentError:
        return parser.parse_known_args([])[0]


def _with_ranges() -> "ConstructorRegistry":
    """A rule of tyro's by which --help shows the range of each number."""
    import tyro
    from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

    from jaxgen.core.configuration import range_of

    registry, asking = ConstructorRegistry(), []

    @registry.struct_rule
    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        if asking or not dataclasses.is_dataclass(info.type):
            return None
        asking.append(True)  # tyro's own rule is asked, not this one again
        try:
            spec = registry.get_struct_spec(info)
        finally:
            asking.clear()
        if not isinstance(spec, StructConstructorSpec):
            return None
        fields = []
        for field in spec.fields:
            if (words := range_of(field.type)) and get_args(field.type)[0] in (int, float):
                metavar = f"{get_args(field.type)[0].__name__.upper()}{words}"
                field = dataclasses.replace(field, type=Annotated[field.type, tyro.conf.arg(metavar=metavar)])
            fields.append(field)
        return dataclasses.replace(spec, fields=tuple(fields))

    return registry


@contextlib.contextmanager
def _wide(wanted: bool) -> Iterator[None]:
    """Has tyro write its errors as for a wide terminal, so that it cuts no word in two."""
    before = os.environ.get("COLUMNS")
    if wanted:
        os.environ["COLUMNS"] = "1000"
    try:
        yield
    finally:
        if wanted:
            del os.environ["COLUMNS"]
            if before is not None:
                os.environ["COLUMNS"] = before


def _first_line(panel: str, prog: str) -> str:
    """The first message of tyro's panel, as one line."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip("│╭╮╰╯ ") for line in panel.splitlines()]
    # Past the title; rules, drawn in dashes where the terminal knows no box characters, stand between messages.
    words = [line.strip("─- ") if not any(c.isalnum() for c in line) else line for line in lines][1:]
    message = " ".join(itertools.takewhile(bool, itertools.dropwhile(lambda line: not line, words)))
    hint = ""
    for line, following in pairwise(words):
        if line.startswith("Perhaps you meant"):
            hint = f" (did you mean {following.split()[0].rstrip(',')}?)"
    return f"{message.removesuffix('.') or 'the flags cannot be read'}{hint}; see {prog} --help"


def run(main: Callable[[], None]) -> None:
    """Runs a command: a UserError, or a place that cannot be written, becomes `error: ...` on one line of stderr and
    exit code 2. SIGINT and SIGTERM end it at once, with exit codes 130 and 143."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # letters that the terminal lacks
    try:
        with leaving_at_once(), disk_errors():
            main()
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        _flush()
        sys.exit(2)
    except BrokenPipeError:  # the reader (a pager, `head`) went away
        _flush()
        sys.exit(1)


def _flush() -> None:
    """Writes what stdout holds; where that cannot be, points it elsewhere, so that its flush at exit stays quiet."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
