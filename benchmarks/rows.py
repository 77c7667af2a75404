"""Rows of a benchmark: each is printed and written as soon as it is measured, and a stopped command goes on after the
last one.

Progress goes to stderr, a line for each case, side and phase: `[  12 s] vae: torch contiguous, measure 1 of 5`.
"""

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jaxgen.errors import UserError
from jaxgen.runtime.files import check_output, disk_errors, write_text
from jaxgen.runtime.reading import read_json

Row = dict[str, Any]
Columns = dict[str, Callable[[Row], str]]
NO_SETTINGS = ("out", "names", "runs", "batches", "samplers", "parts", "minutes", "quick", "studies", "families")
"""Options that choose rows, or that they hold themselves."""
ROOT = Path(__file__).resolve().parents[1]
BEGAN = time.perf_counter()


def say(case: str, side: str, phase: str) -> None:
    """What is being done, on stderr: the case, whose program (jaxgen or a peer), compile or measure."""
    print(f"[{time.perf_counter() - BEGAN:6.1f} s] {case}: {side}, {phase}", file=sys.stderr, flush=True)


def placeless(value: Any) -> Any:
    """JSON without this machine's folders: of absolute paths the last name, places in the checkout relative to it."""
    if isinstance(value, dict):
        return {name: placeless(item) for name, item in value.items()}
    if isinstance(value, list):
        return [placeless(item) for item in value]
    if not isinstance(value, str) or not value.startswith("/"):
        return value
    inside = value.removeprefix(f"{ROOT}/")
    return inside if inside != value else Path(value).name


def settings_of(options: Any) -> Row:
    """The options that rows of one file have in common, as JSON has them."""
    found = {f.name: getattr(options, f.name) for f in dataclasses.fields(options) if f.name not in NO_SETTINGS}
    plain = (int, float, str, bool, type(None))
    return placeless({
        name: value if isinstance(value, plain) else list(value) if isinstance(value, tuple) else repr(value)
        for name, value in found.items()
    })  # fmt: skip


class Rows:
    """The rows of one benchmark, and the JSON file that holds them.

    provenance: where and when this command measures, with its versions, devices and `matmul_flops`, f32 FLOP/s. Rows
    are known by their case. The file says `"unfinished": true` until `finish`; a command with the same settings,
    versions and devices (or any of them, where options have `any_machine`) then keeps the rows that are there, and
    measures the others. A finished file is measured anew. Each row has `taken`, when, at which commit and beside which
    matrix product it was measured, so that the rows of several files can be put into one.
    """

    def __init__(self, path: Path | str, kind: str, columns: Columns, options: Any, provenance: Row):
        """Raises UserError where `path` cannot be written."""
        self.path, self.kind, self.columns, self.provenance = Path(path), kind, columns, provenance
        check_output(self.path, folder=False)
        self.options = options
        self.settings, self.quick = settings_of(options), bool(getattr(options, "quick", False))
        self.rows: list[Row] = self._kept()
        self.more: Row = {}

    @property
    def matmul(self) -> float:
        """FLOP/s of this machine's f32 matrix product."""
        return self.provenance["matmul_flops"]

    def _kept(self) -> list[Row]:
        if not self.path.is_file():
            return []
        try:
            there = read_json(self.path)
        except UserError:
            return []  # it is replaced
        same = isinstance(there, dict) and there.get("unfinished") and there.get("benchmark") == self.kind
        if not same or there.get("settings") != self.settings:
            return []
        if not getattr(self.options, "any_machine", False) and any(
            there["provenance"].get(name) != self.provenance[name] for name in ("versions", "devices")
        ):
            return []
        return [row for row in there["results"] if row.get("quick", False) == self.quick]

    def has(self, case: str) -> bool:
        """Whether the row is there, which is said."""
        for row in self.rows:
            if row["case"] == case:
                print(f"{case}: kept as measured {row['taken']['at']}", flush=True)
                return True
        return False

    def add(self, case: str, measure: Callable[[], Row]) -> None:
        """Measures a row unless it is there; prints it, and writes all."""
        if self.has(case):
            return
        row = {"case": case, **({"quick": True} if self.quick else {}), **measure()}
        at, commit = datetime.now(UTC).isoformat(timespec="seconds"), (self.provenance["git"] or {}).get("commit")
        self.rows.append({**row, "taken": {"at": at, "commit": commit, "matmul_flops": self.matmul}})
        said = {heading: value(row).strip() for heading, value in self.columns.items()}
        print(f"{case}: " + ", ".join(f"{heading.strip()} {value}" for heading, value in said.items()), flush=True)
        self.write(unfinished=True)

    def write(self, unfinished: bool = False) -> None:
        """The file as it stands."""
        record = {"benchmark": self.kind, "provenance": self.provenance, "settings": self.settings}
        record |= {"unfinished": True} if unfinished else {}
        record |= {"results": self.rows, **self.more}
        with disk_errors():
            write_text(self.path, json.dumps(record, indent=2) + "\n")

    def finish(self, title: str, unfinished: bool = False, **more: Any) -> None:
        """Prints the table, and writes the file without its mark, unless rows are to come. more: fields beside them."""
        self.more |= more
        means = {name: mean for name in ("peer_ratio", "compiled_ratio") if (mean := geometric(self.rows, name))}
        self.more |= {"geometric_means": means} if means else {}
        self.write(unfinished)
        show(title, self.rows, self.columns)
        for name, mean in means.items():
            print(f"geometric mean of {name}: {mean:.2f}")
        print(f"written to {self.path}", flush=True)


def geometric(rows: list[Row], name: str) -> float | None:
    """The geometric mean of a field over the rows that have it; None where none has."""
    values = [row[name] for row in rows if row.get(name)]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def show(title: str, rows: list[Row], columns: Columns) -> None:
    """A table with one line for each row; a column is its heading and what it says of a row."""
    table = Table(title=title)
    for heading in columns:
        table.add_column(heading, justify="left" if heading == "experiment" else "right")
    for row in rows:
        table.add_row(*(value(row) for value in columns.values()))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
