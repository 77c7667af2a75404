"""Numbers with intervals against a value, as an inline SVG like the training curves."""

import html
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from jaxgen.report.curves import INK, LINE, inline_svg


@dataclass(frozen=True)
class Line:
    """x, y and half-widths of intervals, all of one length, x increasing."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    half: tuple[float, ...]


STYLES = ("-", "--", ":", "-.")
MARKS = "osv^Dx"


def panel(name: str, against: str, lines: Sequence[Line]) -> str:
    """A <figure> with a caption and an inline <svg>: `name` against `against`, error bars at each point.

    The axes are logarithmic if all values are positive and span more than a decade across, two decades upwards. Equal
    input gives equal text.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    text = io.StringIO()
    xs = sorted({x for line in lines for x in line.x})
    ys = [y for line in lines for y in line.y]
    with matplotlib.rc_context({"svg.hashsalt": "jaxgen", "svg.fonttype": "none", "path.simplify": False}):
        figure = Figure(figsize=(4.2, 2.1))
        canvas = FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        ax = figure.add_axes((0.135, 0.13, 0.835, 0.8), facecolor="none")
        for i, line in enumerate(lines):
            style, mark = STYLES[i % len(STYLES)], MARKS[i % len(MARKS)]
            ax.errorbar(
                line.x, line.y, yerr=line.half, color=LINE, lw=1.2, ls=style, marker=mark, ms=3.5, capsize=2.5,
                elinewidth=0.8, label=line.label,
            )  # fmt: skip
        if xs[0] > 0 and xs[-1] >= 4 * xs[0]:
            ax.set_xscale("log")
        if min(ys) > 0 and max(ys) > 100 * min(ys):
            ax.set_yscale("log")
        ax.xaxis.set_major_locator(FixedLocator(xs[:: max(1, -(-len(xs) // 6))]))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        ax.grid(axis="y", color=INK, alpha=0.12, lw=0.6)
        ax.tick_params(labelsize=8, length=0, pad=4, labelcolor=INK)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.spines["bottom"].set(color=INK, alpha=0.3, linewidth=0.6)
        if len(lines) > 1:
            ax.legend(fontsize=7, frameon=False, labelcolor=INK)
        canvas.print_svg(text, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    name, against = html.escape(name), html.escape(against)
    return (
        f'<figure class="curve"><figcaption><b>{name}</b> <span>against {against}</span></figcaption>\n'
        f"{inline_svg(text.getvalue(), f'{name} against {against}')}</figure>"
    )
