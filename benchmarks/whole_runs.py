"""Whole runs against each other, in turns, as processes: what saving costs, and what many seeds at once save.

    python benchmarks/whole_runs.py saving --name ddpm --preset digits --flags=--mesh --flags=data=2
    python benchmarks/whole_runs.py seeds --name vae --preset digits

Each run's time is written when it is over; the same command goes on where it was stopped.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import common
import tyro

from jaxgen.cli import parse


@dataclass(frozen=True)
class Options:
    what: Annotated[Literal["saving", "seeds"], tyro.conf.Positional] = "saving"
    name: str = "ddpm"
    preset: str = "digits"
    steps: int = 2000
    """Of each run of `saving`; `seeds` takes the preset's own."""
    save_every: int = 50
    seeds: int = 8
    repeats: int = 3
    flags: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """More flags of the script, each given as --flags=..."""
    out: str = ""


def run(options: Options, folder: str, *flags: str) -> tuple[float, float]:
    """Wall seconds of a whole run, and of its training alone, from the first log line on, as its timing log has it."""
    common.say(f"{options.name} {options.preset}", "jaxgen", f"measure {' '.join(flags)}")
    script = [sys.executable, f"experiments/{options.name}.py", options.preset]
    began = time.perf_counter()
    subprocess.run(
        [*script, "--out", folder, *options.flags, *flags], cwd=common.ROOT, check=True, stdout=subprocess.DEVNULL
    )
    seconds = time.perf_counter() - began
    file = next(Path(folder).rglob("timing.jsonl"))
    times = [json.loads(line)["time"] for line in file.read_text().splitlines()]
    return seconds, times[-1] - times[0]


COLUMNS = {
    "experiment": lambda r: r["side"],
    "seconds": lambda r: f"{r['seconds']:.1f}",
}


def saving(options: Options, rows: common.Rows) -> dict[str, Any]:
    """Training time with a checkpoint every `save_every` steps over that with one at the end."""
    length = ("--steps", str(options.steps), "--steps-per-call", str(options.save_every))
    length += ("--log-every", str(options.save_every), "--sample-every", str(options.steps))

    def measure(side: str, every: int) -> common.Row:
        with tempfile.TemporaryDirectory() as folder:
            seconds = run(options, f"{folder}/run", *length, "--save-every", str(every))[1]
        return {"side": side, "seconds": seconds}

    for turn in range(options.repeats):
        for side, every in (("saving", options.save_every), ("not", options.steps)):
            rows.add(f"{side}, run {turn}", lambda side=side, every=every: measure(side, every))
    sides = {side: [row["seconds"] for row in rows.rows if row["side"] == side] for side in ("saving", "not")}
    with_saving, without = (statistics.median(sides[side]) for side in ("saving", "not"))
    overhead = with_saving / without - 1
    print(f"{options.steps} steps: saving {with_saving:.1f} s, without {without:.1f} s: {100 * overhead:+.1f} %")
    return {"seconds": sides, "overhead": overhead}


def seeds(options: Options, rows: common.Rows) -> dict[str, Any]:
    """Wall time of runs one after the other over that of `--seeds`, all processes from start to end."""

    def measure(turn: int, side: str, *flags: str) -> common.Row:
        with tempfile.TemporaryDirectory() as folder:
            seconds = run(options, f"{folder}/run", *flags)[0]
        return {"side": side, "turn": turn, "seconds": seconds}

    for turn in range(options.repeats):
        for seed in range(options.seeds):
            flags = ("--seed", str(seed))
            rows.add(f"seed {seed}, turn {turn}", lambda turn=turn, flags=flags: measure(turn, "alone", *flags))
        flags = ("--seeds", str(options.seeds))
        rows.add(f"at once, turn {turn}", lambda turn=turn, flags=flags: measure(turn, "at_once", *flags))

    def total(side: str, turn: int) -> float:
        return sum(row["seconds"] for row in rows.rows if (row["side"], row["turn"]) == (side, turn))

    turns, together = ([total(side, turn) for turn in range(options.repeats)] for side in ("alone", "at_once"))
    one, other = statistics.median(together), statistics.median(turns)
    ratio = one / other
    print(f"{options.seeds} seeds: {one:.1f} s at once, {other:.1f} s in turn: {ratio:.2f}")
    return {"seconds": {"in_turn": turns, "at_once": together}, "ratio": ratio}


def main(args: Sequence[str] | None = None) -> None:
    options = parse.parse(Options, Options(), sys.argv[1:] if args is None else args, "whole_runs.py", __doc__)
    out = options.out or common.RESULTS / f"{options.what}-{options.name}-{options.preset}.json"
    rows = common.rows(out, f"whole runs, {options.what}", COLUMNS, options)
    result = {"saving": saving, "seeds": seeds}[options.what](options, rows)
    rows.finish(f"whole runs, {options.what}", result=result)


if __name__ == "__main__":
    parse.run(main)
