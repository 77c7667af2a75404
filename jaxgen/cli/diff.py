"""`jaxgen diff RUN RUN`: what two runs differ in, and the first step at which their metrics part."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from jaxgen.cli.parse import parse
from jaxgen.core.configuration import check_fields
from jaxgen.core.ranges import NonNegative
from jaxgen.errors import UserError
from jaxgen.runtime.reading import user_path


@dataclass(frozen=True)
class DiffOptions:
    runs: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Two run folders."""
    tolerance: NonNegative = 1e-3
    """How far metrics may be apart, as a share of the larger value, before they count as parted beyond rounding."""
    json: bool = False
    """Print JSON instead of tables."""


def command(args: list[str]) -> None:
    """What two runs differ in: settings by the paths of their flags, metrics side by side, versions and devices, if
    their data was the same, and the first step at which their logged metrics part, exactly and beyond a tolerance."""
    options = parse(DiffOptions, DiffOptions(), args, "jaxgen diff", command.__doc__)
    check_fields(options)
    if len(options.runs) != 2:
        raise UserError(f"{len(options.runs)} runs were named, two are expected: jaxgen diff RUN RUN")

    from jaxgen.runs.differing import differing

    first, second = map(user_path, options.runs)
    found = differing((first, second), options.tolerance)
    print(json.dumps(found, indent=2)) if options.json else show(found)


def show(found: dict[str, Any]) -> None:
    """Prints what `differing` found as tables."""
    first, second = found["runs"]
    for title, rows in (("setting", found["settings"]), ("environment", found["environment"])):
        if rows:
            _table((title, first, second), [[path, _text(a), _text(b)] for path, a, b in rows])
        else:
            print(f"{title}: the same")
    metrics = [[n, *map(_text, (*v["last"], *v["best"]))] for n, v in found["metrics"].items()]
    if metrics:
        _table(("metric", f"last of {first}", f"of {second}", "best of the first", "of the second"), metrics)
    for split, same in found["data"].items():
        words = "not known of both" if same is None else "the same" if same else "another one"
        print(f"data, {split}: {words}")
    parted = found["parted"]
    if not parted["common_steps"]:
        print("no step has a metric that both runs logged")
        return
    beyond = f"differ by more than {parted['tolerance']:g} of their size"
    for where, words in (("exactly", "differ"), ("beyond", beyond)):
        at = parted[where]
        if at:
            print(f"metrics first {words} at step {at['step']:,}: {', '.join(at['metrics'])}")
        else:
            print(f"metrics never {words} in {parted['common_steps']:,} common steps")


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*map(escape, heads))
    for row in rows:
        table.add_row(*map(escape, row))
    Console(width=None if sys.stdout.isatty() else 200).print(table)
