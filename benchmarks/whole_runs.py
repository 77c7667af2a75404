"""Whole runs against each other, in turns, as processes: what saving costs, and what many seeds at once save.

    python benchmarks/whole_runs.py saving --name ddpm --preset digits --flags=--mesh --flags=data=2
    python benchmarks/whole_runs.py seeds --name vae --preset digits
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from common import ROOT, provenance

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
    script = [sys.executable, f"experiments/{options.name}.py", options.preset]
    began = time.perf_counter()
    subprocess.run([*script, "--out", folder, *options.flags, *flags], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    file = next(Path(folder).rglob("timing.jsonl"))
    times = [json.loads(line)["time"] for line in file.read_text().splitlines()]
    return seconds, times[-1] - times[0]


def saving(options: Options) -> dict[str, Any]:
    """Training time with a checkpoint every `save_every` steps over that with one at the end."""
    length = ("--steps", str(options.steps), "--steps-per-call", str(options.save_every))
    length += ("--log-every", str(options.save_every), "--sample-every", str(options.steps))
    sides: dict[str, list[float]] = {"saving": [], "not": []}
    for _ in range(options.repeats):
        for side, every in (("saving", options.save_every), ("not", options.steps)):
            with tempfile.TemporaryDirectory() as folder:
                sides[side].append(run(options, f"{folder}/run", *length, "--save-every", str(every))[1])
    with_saving, without = (statistics.median(sides[side]) for side in ("saving", "not"))
    overhead = with_saving / without - 1
    print(f"{options.steps} steps: saving {with_saving:.1f} s, without {without:.1f} s: {100 * overhead:+.1f} %")
    return {"seconds": sides, "overhead": overhead}


def seeds(options: Options) -> dict[str, Any]:
    """Wall time of runs one after the other over that of `--seeds`, all processes from start to end."""
    turns: list[float] = []
    together: list[float] = []
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            each = [run(options, f"{folder}/{seed}", "--seed", str(seed))[0] for seed in range(options.seeds)]
            turns.append(sum(each))
            together.append(run(options, f"{folder}/all", "--seeds", str(options.seeds))[0])
    one, other = statistics.median(together), statistics.median(turns)
    ratio = one / other
    print(f"{options.seeds} seeds: {one:.1f} s at once, {other:.1f} s in turn: {ratio:.2f}")
    return {"seconds": {"in_turn": turns, "at_once": together}, "ratio": ratio}


def main() -> None:
    options = parse.parse(Options, Options(), sys.argv[1:], "whole_runs.py", __doc__)
    result = {"saving": saving, "seeds": seeds}[options.what](options)
    name = f"{options.what}-{options.name}-{options.preset}.json"
    out = Path(options.out or ROOT / "benchmarks" / "results" / name)
    settings = {k: v for k, v in vars(options).items() if k != "out"}
    out.write_text(json.dumps({"provenance": provenance(), "settings": settings, "result": result}, indent=2) + "\n")


if __name__ == "__main__":
    parse.run(main)
