"""PSNR of a held-out view against time of training, of runs of radiance fields that keep their best by test/mse.

    python benchmarks/psnr_curve.py runs/nerf-lego_small-0 runs/ngp-lego_small-0
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import common
import numpy as np
import tyro

from jaxgen.cli import parse
from jaxgen.errors import UserError
from jaxgen.report.curves import read_metrics
from jaxgen.runtime import devices


@dataclass(frozen=True)
class Options:
    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    out: str = str(common.RESULTS / "psnr-curve.json")
    """JSON file; the picture beside it has the same name."""


def curve(path: Path) -> common.Row:
    """Steps, seconds and dB. The clock of a run that was stopped and resumed starts again: its times are added up."""
    held_out, timing = read_metrics(path / "held_out.jsonl"), read_metrics(path / "timing.jsonl")
    if "test/mse" not in held_out or "time" not in timing:
        raise UserError(f"{path} has no curve of test/mse: train with --best test/mse")
    steps, mse = held_out["test/mse"]
    at, clock = timing["time"]
    restarts = np.concatenate([[0.0], np.where(np.diff(clock) < 0, clock[:-1], 0.0)])
    seconds = np.interp(steps, at, clock + np.cumsum(restarts))
    return {
        "name": path.name,
        "step": steps.tolist(),
        "seconds": seconds.tolist(),
        "psnr": (-10 * np.log10(mse)).tolist(),
    }


def draw(rows: list[common.Row], file: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=110, facecolor="white")
    axes = figure.add_subplot()
    for row in rows:
        axes.plot(np.array(row["seconds"]) / 60, row["psnr"], label=row["name"])
    axes.set(xlabel="minutes of training", ylabel="PSNR of a held-out view in dB")
    axes.legend(frameon=False)
    axes.grid(color="0.9")
    file.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(file)


COLUMNS = {
    "experiment": lambda r: r["name"],
    "steps": lambda r: str(r["step"][-1]),
    "minutes": lambda r: f"{r['seconds'][-1] / 60:.1f}",
    "dB": lambda r: f"{r['psnr'][-1]:.2f}",
}


def main(args: list[str] | None = None) -> None:
    options = parse.parse(Options, None, sys.argv[1:] if args is None else args, "psnr_curve.py", __doc__)
    devices.start_jax()
    rows = common.rows(options.out, "psnr curve", COLUMNS, options)
    for run in options.runs:
        rows.add(run, lambda run=run: curve(Path(run)))
    draw(rows.rows, Path(options.out).with_suffix(".png"))
    rows.finish("PSNR against time")


if __name__ == "__main__":
    parse.run(main)
