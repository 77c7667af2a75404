"""`jaxgen compare RUN RUN...`: scores side by side."""

import sys

from jaxgen.errors import UserError
from jaxgen.runtime.reading import user_path


def command(args: list[str]) -> None:
    """The scores of several runs side by side; refused where two were not taken in the same way."""
    from rich.console import Console
    from rich.table import Table

    from jaxgen.scoring.records import line_up

    if len(args) < 2 or any(a.startswith("-") for a in args):
        print(f"{command.__doc__}\n\nusage: jaxgen compare RUN RUN...")
        if args in (["-h"], ["--help"]):
            return
        raise UserError("two run folders or more are expected: jaxgen compare RUN RUN...")
    heads, rows = line_up([user_path(a) for a in args])
    table = Table(*heads)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 200).print(table)
