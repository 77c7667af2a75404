"""A number against the length of the average that it was measured with, as a picture."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxgen.report.seeds import best_of
from jaxgen.runtime.files import replacing


class Row(NamedTuple):
    """length: 0 for the latest parameters. missed: relative distance of the profile from that of its length."""

    length: float
    value: float
    stderr: float
    missed: float


def save_lengths(file: Path, rows: Sequence[Row], name: str, title: str) -> None:
    """Writes a PNG: the number `name` with its standard error against length, the best marked, and a line at its value
    without an average. rows: one at least is of a length."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    averaged = sorted(row for row in rows if row.length)
    figure = Figure(figsize=(5.2, 3.4), dpi=150, layout="constrained")
    canvas, ax = FigureCanvasAgg(figure), figure.add_subplot()
    lengths, values, errors = ([row[i] for row in averaged] for i in range(3))
    ax.errorbar(lengths, values, errors, marker="o", ms=4, capsize=2, lw=1.2, color="#3a6fd0")
    best = best_of(name)(averaged, key=lambda row: row.value)
    said = f"{best.value:.4g} at {best.length:g}"
    ax.plot(best.length, best.value, "o", ms=9, mfc="none", color="#d0433a", label=said)
    for row in rows:
        if not row.length:
            ax.axhline(row.value, lw=1, ls="--", color="#888888", label=f"{row.value:.4g} without an average")
    ax.set(xlabel="length of the average (relative standard deviation)", ylabel=name, title=title)
    ax.legend(frameon=False, fontsize=8)
    ax.grid(alpha=0.2)
    with replacing(file) as partial:
        canvas.print_png(partial, metadata={"Software": None})
