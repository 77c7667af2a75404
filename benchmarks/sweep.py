"""A sweep against the same runs typed one by one, as processes from start to end.

    python benchmarks/sweep.py                                        # 3 rates by 4 seeds of vae digits, 10 minutes
    python benchmarks/sweep.py --name dit --flags=--steps --flags=1000

Either side starts with no compiled programs kept, and keeps its own from process to process. The runs draw their own
pages; the sweep draws one for each setting and one of all, and takes held-out numbers. Each time is written when it was
taken; the same command goes on where it was stopped.
"""

import itertools
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import common
import tyro
from annotated_types import Ge

from jaxgen.cli import parse
from jaxgen.core.configuration import check_fields


@dataclass(frozen=True)
class Options:
    name: str = "vae"
    preset: str = "digits"
    flag: str = "model.optimizer.lr"
    values: tuple[str, ...] = ("3e-4", "1e-3", "3e-3")
    seeds: Annotated[int, Ge(1)] = 4
    flags: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """More flags of both sides, each given as --flags=..."""
    out: str = str(common.RESULTS / "sweep.json")


def seconds(words: list[str], cache: Path) -> float:
    """Wall seconds of a command of jaxgen."""
    common.say(" ".join(words[1:3]), "jaxgen", " ".join(words[:1] + words[3:]))
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "jaxgen", *words], cwd=common.ROOT, check=True, stdout=subprocess.DEVNULL,
        env={**os.environ, "JAXGEN_CACHE": str(cache)},
    )  # fmt: skip
    return time.perf_counter() - began


COLUMNS = {
    "experiment": lambda r: r["case"],
    "seconds": lambda r: f"{r['seconds']:.1f}",
}


def main(args: list[str] | None = None) -> None:
    options = parse.parse(Options, Options(), sys.argv[1:] if args is None else args, "sweep.py", __doc__)
    check_fields(options)
    rows = common.rows(options.out, "sweep", COLUMNS, options)
    run, flag = [options.name, options.preset], f"--{options.flag}"
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for value, seed in itertools.product(options.values, range(options.seeds)):
            own = ["train", *run, flag, value, "--seed", str(seed), "--out", str(place / f"{value}-{seed}")]
            rows.add(
                f"{value}, seed {seed}",
                lambda own=own: {"side": "alone", "seconds": seconds([*own, *options.flags], place / "alone")},
            )
        grid = ["sweep", *run, flag, ",".join(options.values), "--seeds", str(options.seeds)]
        whole = [*grid, "--out", str(place / "sweep"), *options.flags]
        rows.add("sweep", lambda: {"side": "sweep", "seconds": seconds(whole, place / "at-once")})
    sides = {side: sum(r["seconds"] for r in rows.rows if r["side"] == side) for side in ("alone", "sweep")}
    count = len(options.values) * options.seeds
    result = {"runs": count, "seconds": sides, "ratio": sides["sweep"] / sides["alone"]}
    print(f"{count} runs: {sides['alone']:.0f} s one by one, {sides['sweep']:.0f} s swept: {result['ratio']:.2f}")
    rows.finish("a sweep against its runs", result=result)


if __name__ == "__main__":
    parse.run(main)
