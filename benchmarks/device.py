"""Measures on a GPU or TPU, in nine minutes at most, what jaxgen does there.

    python benchmarks/device.py                            # device.json and device.md, in this folder
    python benchmarks/device.py --parts matrix gpt --minutes 4 --out results/h100.json

Parts: the peak of matrix products, steps of GPT-2 124M, DDPM, EDM, DiT and NeRF, a sampler beside diffusers and
generation beside transformers, each beside PyTorch as it is and compiled where that is installed. Of each: the rate,
the share of the matrix product, and whether the compiler's account of memory is within 15 % of the device's peak. Needs
jax, flax, optax, orbax and chex, and no data; a CPU is given the smallest sizes. Each part runs in a process of its own
and is written when it is measured; one that no longer fits, or failed, is named, and the same command measures it.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bare  # noqa: F401 (before the library)
import common
from rows import Columns, Row, Rows, say

from jaxgen.cli import parse
from jaxgen.errors import UserError
from jaxgen.runtime.files import write_text

PARTS = ("matrix", "gpt", "generation", "ddpm", "sampler", "nerf", "dit", "edm")
LEAST = 45.0
"""Seconds below which no part begins: it would not have compiled."""


@dataclass(frozen=True)
class Options:
    parts: tuple[str, ...]
    minutes: float
    size: str
    out: str


def options_of(args: Sequence[str]) -> tuple[Options, argparse.Namespace]:
    """By argparse, as tyro may not be here. The second holds what the command gives to its own processes."""
    parser = argparse.ArgumentParser("device.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--minutes", type=float, default=9.0, help="of all parts together")
    parser.add_argument("--size", choices=("auto", "full", "small"), default="auto", help="small on a CPU")
    parser.add_argument("--out", default="device.json", help="JSON file; the page beside it ends in .md")
    for name in ("--part", "--row", "--until"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    given = parser.parse_args(args)
    if not 0 < given.minutes <= 24 * 60:
        raise UserError(f"minutes is {given.minutes:g}: give more than 0, and at most a day")
    return Options(tuple(given.parts), given.minutes, given.size, given.out), given


# --- one part, in its own process ---------------------------------------------------------------------------------


def one_part(name: str, row_file: Path, until: float, size: str) -> None:
    """Measures a part and leaves its row in a file, first without its peers."""
    import jax
    from device_parts import measure

    full = size == "full" or (size == "auto" and jax.default_backend() != "cpu")

    def keep(row: Row) -> None:
        write_text(row_file, json.dumps({"row": row, "provenance": common.provenance(1.0)}))

    try:
        keep(measure(name, full, until, keep))
    except Exception as error:  # of a device that is too small, say; the other parts are measured
        keep({"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})


def measured(name: str, options: Options, until: float) -> tuple[Row, Row]:
    """The row of a part that runs in a process of its own, and what that says of where it ran.

    Raises UserError if it ended without one.
    """
    with tempfile.TemporaryDirectory() as folder:
        row = Path(folder) / "row.json"
        # PyTorch is to have memory too, and what is taken is to be seen.
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ}
        command = [sys.executable, __file__, "--part", name, "--row", str(row), "--until", str(until)]
        process = subprocess.Popen([*command, "--size", options.size], env=environment, start_new_session=True)
        try:
            process.wait(max(1.0, until - time.time()))
            ended = f"it ended with code {process.returncode}"
        except subprocess.TimeoutExpired:
            ended = "its time ran out"
        finally:  # with what it started, as compilers; also where this command is stopped
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if not row.exists():
            raise UserError(f"{name} left no number: {ended}")
        found = json.loads(row.read_text())
    if "failed" in found["row"]:
        raise UserError(found["row"]["failed"])
    return found["row"], found["provenance"]


# --- all parts ----------------------------------------------------------------------------------------------------


def rate(row: Row, side: str) -> str:
    value = row.get("rates", {}).get(side)
    return "" if value is None else f"{value:,.0f}"


def peak(row: Row) -> str:
    """The share of the matrix product, or the product itself."""
    if "peak_share" in row:
        return f"{row['peak_share']:.1%}"
    return ", ".join(f"{kind} {value / 1e12:.4g} TFLOP/s" for kind, value in row["flops_per_second"].items())


def accounted(row: Row) -> str:
    """What the compiler says of memory, and whether the device agrees."""
    if "memory" not in row:
        return ""
    found = row["memory"]
    text = f"{found['compiled_bytes'] / 2**20:,.0f} MiB"
    if found["agrees"] is None:
        return f"{text}, peak not known"
    return f"{text}, {found['ratio']:.2f} of the peak" + ("" if found["agrees"] else ": more than 15 % off")


def against(row: Row, field: str) -> str:
    value = row.get(f"{field}_ratio")
    return f"{value:.2f}" if value else str(row.get(field, ""))


COLUMNS: Columns = {
    "experiment": lambda r: r["case"],
    "a second": lambda r: f"{rate(r, 'ours')} {r.get('unit', '')}",
    "of matmul": peak,
    "compile s": lambda r: f"{r['compile_seconds']:.1f}" if "compile_seconds" in r else "",
    "memory": accounted,
    "PyTorch/ours": lambda r: against(r, "peer"),
    "compiled/ours": lambda r: against(r, "compiled"),
}


def page(rows: Rows) -> str:
    """The table and where it was measured, as Markdown."""
    facts = rows.provenance
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    commit = (facts["git"] or {}).get("commit") or "an unknown commit"
    cells = [list(COLUMNS), ["---"] * len(COLUMNS)]
    cells += [[value(row).replace("|", "/") for value in COLUMNS.values()] for row in rows.rows]
    left_out = [f"- {name}: {reason}" for name, reason in rows.more.get("left_out", {}).items()]
    return "\n".join([
        f"# jaxgen on {facts['devices'][0]}", "",
        f"{facts['started']}, {versions}, {facts['processor']}, {len(facts['devices'])} device(s), commit {commit}.",
        "PyTorch/ours: the time of PyTorch's side over jaxgen's, above 1 where jaxgen is faster.", "",
        *(f"| {' | '.join(line)} |" for line in cells), "",
        *(["Left out, to be measured by the same command:", "", *left_out, ""] if left_out else []),
    ])  # fmt: skip


def main(args: Sequence[str] | None = None) -> None:
    options, given = options_of(sys.argv[1:] if args is None else args)
    if given.part:
        one_part(given.part, Path(given.row), float(given.until), options.size)
        return
    until = time.time() + 60 * options.minutes
    say("matrix", "jaxgen", "measure")
    matrix, facts = measured("matrix", options, until)
    rates = matrix["flops_per_second"]
    facts["command"] = " ".join(["python", Path(__file__).name, *(sys.argv[1:] if args is None else args)])
    rows = Rows(options.out, "device", COLUMNS, options, {**facts, "matmul_flops": rates["float32"]})
    rows.add("matrix", lambda: matrix)
    left_out: dict[str, str] = {}
    rows.more["left_out"] = left_out

    def part(name: str) -> Row:
        row, _ = measured(name, options, until)
        return row | {"peak_share": row["flops_per_second"] / rates[row["precision"]]}

    for name in options.parts:
        left = until - time.time()
        if name == "matrix" or rows.has(name):
            continue
        if left < min(LEAST, 30 * options.minutes):
            left_out[name] = f"{max(0.0, left):.0f} s were left of {options.minutes:g} minutes"
            continue
        try:
            rows.add(name, lambda name=name: part(name))
        except UserError as error:
            left_out[name] = str(error)
        write_text(rows.path.with_suffix(".md"), page(rows))
    for name, reason in left_out.items():
        print(f"left out: {name} ({reason})", flush=True)
    rows.finish(f"jaxgen on {facts['devices'][0]}", unfinished=bool(left_out))
    write_text(rows.path.with_suffix(".md"), page(rows))


if __name__ == "__main__":
    parse.run(main)
