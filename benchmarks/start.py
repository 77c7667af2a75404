"""From starting the process to the first finished step, with an empty compilation cache and with a warm one.

    python benchmarks/start.py ddpm --preset emoji
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from common import ROOT, provenance

from jaxgen.cli import parse

ONE = ("--steps", "1", "--steps-per-call", "1", "--log-every", "1", "--save-every", "1", "--sample-every", "1")


@dataclass(frozen=True)
class Options:
    name: Annotated[str, tyro.conf.Positional] = "ddpm"
    preset: str = "emoji"
    repeats: int = 3
    """Warm starts, whose median is given; the cold one is one."""
    out: str = ""


def seconds_to_first_step(name: str, preset: str, cache: Path) -> float:
    """Wall seconds until the script has printed the line of its first step; it is stopped there."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "experiments/" + name + ".py", preset, *ONE, "--out", folder + "/run"]
        environment = {**os.environ, "JAXGEN_CACHE": str(cache), "PYTHONUNBUFFERED": "1"}
        began = time.perf_counter()
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                if line.startswith("step 1/1"):
                    seconds = time.perf_counter() - began
                    process.kill()
                    return seconds
    raise RuntimeError(f"{' '.join(command)} printed no step: run it by hand")


def main() -> None:
    options = parse.parse(Options, Options(), sys.argv[1:], "start.py", __doc__)
    with tempfile.TemporaryDirectory() as folder:
        cold = seconds_to_first_step(options.name, options.preset, Path(folder))
        warm = sorted(
            seconds_to_first_step(options.name, options.preset, Path(folder)) for _ in range(options.repeats)
        )
    result = {"experiment": options.name, "preset": options.preset, "cold_s": cold, "warm_s": warm[len(warm) // 2]}
    out = Path(options.out or ROOT / "benchmarks" / "results" / f"start-{options.name}-{options.preset}.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"provenance": provenance(), "result": {**result, "warm_all_s": warm}}, indent=2) + "\n")
    print(f"{options.name} {options.preset}: first step after {cold:.1f} s cold, {result['warm_s']:.1f} s warm; {out}")


if __name__ == "__main__":
    parse.run(main)
