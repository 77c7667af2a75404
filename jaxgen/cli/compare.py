"""`jaxgen compare RUN RUN...` or `ANSWERS.json...`: scores side by side, and what people preferred."""

import sys
from collections.abc import Sequence

from jaxgen.errors import UserError
from jaxgen.runtime.reading import user_path

USAGE = "jaxgen compare RUN RUN..., or jaxgen compare ANSWERS.json..."


def command(args: list[str]) -> None:
    """The scores of several runs side by side; refused where two were not taken in the same way. A folder that --seeds
    made counts as one run, with the mean over its seeds and its 95 % interval. Of files that pages of
    jaxgen judge saved, how often each run was preferred, with intervals."""
    from jaxgen.scoring import preferences
    from jaxgen.scoring.records import line_up

    if not args or any(a.startswith("-") for a in args):
        print(f"{command.__doc__}\n\nusage: {USAGE}")
        if args in (["-h"], ["--help"]):
            return
        raise UserError(f"two run folders or more, or files of answers, are expected: {USAGE}")
    places = [user_path(a) for a in args]
    files = [place for place in places if place.is_file() or place.suffix == ".json"]
    runs = [place for place in places if place not in files]
    if len(runs) == 1:
        raise UserError(f"{runs[0]} is compared with nothing: name two run folders or more, or none; {USAGE}")
    sittings = [preferences.read_answers(file) for file in files]
    if runs:
        _print(*line_up(runs))
    if sittings:
        heads, rows, said = preferences.table(sittings)
        _print(heads, rows)
        print(said)


def _print(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*heads)
    for row in rows:
        table.add_row(*map(escape, row))
    Console(width=None if sys.stdout.isatty() else 200).print(table)
