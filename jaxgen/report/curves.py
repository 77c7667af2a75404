"""Training curves: metrics.jsonl to arrays, arrays to inline SVG.

A curve is a pair (steps, values): int64[n] increasing and float64[n]; NaN and infinities are kept and drawn.
"""

import html
import io
import itertools
import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np

BUCKETS = 300  # about one a pixel of a panel
CHUNK = 20_000  # lines parsed at once
# Colours for matplotlib to write and the page's style sheet to replace: one drawing suits light and dark.
INK, LINE, BAD = "#010203", "#010204", "#010205"
CSS = {INK: "currentColor", LINE: "var(--line, #3a6fd0)", BAD: "var(--bad, #d0433a)"}


def read_records(path):
    """The JSON objects of a .jsonl file, in chunks: iterator of list[dict].

    A line that is no JSON object, as the last one of a killed run, is passed over. No file: no chunks.
    """
    path = Path(path)
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        while chunk := list(itertools.islice(lines, CHUNK)):
            try:  # one call a chunk: three times as fast as one a line
                records = json.loads(f"[{','.join(chunk)}]")
            except ValueError:
                records = None
            if records is None or len(records) != len(chunk):
                records = [_loads(line) for line in chunk]
            yield [r for r in records if isinstance(r, dict)]


def _loads(line):
    try:
        return json.loads(line)
    except ValueError:
        return None


def read_metrics(path):
    """{name: (steps, values)} of a .jsonl file with "step" in each line; null is NaN.

    Names come in the order of the file. A step that was run twice, as after resuming from an earlier
    checkpoint, keeps its last value. What is not a number is passed over, and so is what a skipped step
    (`on_nonfinite`) has beside that: zeros that stand for no number.
    """
    columns = defaultdict(list)  # name -> [(steps, values) of one chunk]
    for records in read_records(path):
        records = [r for r in records if isinstance(r.get("step"), int | float) and r["step"] % 1 == 0]
        records = [{n: r[n] for n in ("step", "skipped")} if r.get("skipped") else r for r in records]
        for name in dict.fromkeys(itertools.chain.from_iterable(records)):
            rows = [r for r in records if name in r]
            try:
                values = np.array([r[name] for r in rows], np.float64)
            except (TypeError, ValueError):  # text, or lists
                continue
            if name != "step" and values.ndim == 1:
                columns[name].append((np.array([r["step"] for r in rows], np.int64), values))
    return {
        name: _last_of_each(*map(np.concatenate, zip(*chunks, strict=True)))
        for name, chunks in columns.items()
    }


def _last_of_each(steps, values):
    if (np.diff(steps) > 0).all():
        return steps, values
    steps, index = np.unique(steps[::-1], return_index=True)
    return steps, values[::-1][index]


def _bucket(steps, buckets):
    """int64[n] in [0, buckets): the strip of the panel in which each step falls."""
    span = max(1, steps[-1] - steps[0])
    return np.minimum((steps - steps[0]) * buckets // span, buckets - 1)


def thin(steps, values, buckets=BUCKETS):
    """The curve's least and greatest value in each of `buckets` strips, and its two ends: spikes survive.

    Args: steps: int[n] increasing; values: float[n], finite. Returns: the two, at most 2 * buckets + 2 long.
    """
    if len(steps) <= 2 * buckets:
        return steps, values
    strip = _bucket(steps, buckets)
    order = np.lexsort((values, strip))
    edge = np.flatnonzero(np.diff(strip)) + 1  # sorted by strip first, so the edges are those of `strip`
    least, greatest = order[np.r_[0, edge]], order[np.r_[edge - 1, len(order) - 1]]
    keep = np.unique(np.concatenate([least, greatest, [0, len(steps) - 1]]))
    return steps[keep], values[keep]


def smooth(steps, values, buckets=BUCKETS):
    """Debiased exponential average over the means of the strips, its memory 2 % of the panel's width.

    Args: steps: int[n] increasing; values: float[n], finite. Returns: the two, at most `buckets` long.
    """
    strip = _bucket(steps, buckets)
    start = np.flatnonzero(np.diff(strip, prepend=-1))
    count = np.diff(start, append=len(steps))
    means = np.add.reduceat(values, start) / count
    decay = 1 - 1 / max(1.0, 0.02 * len(means))
    total = weight = 0.0
    out = []
    for mean in means:
        total, weight = decay * total + mean, decay * weight + 1
        out.append(total / weight)
    return steps[start + count - 1], np.array(out)


def curves(metrics):
    """One small panel for each metric, `loss` first: the curve, its moving average, its faults.

    Args: metrics: {name: (steps int[n], values float[n])}, or with half the width of a band around the curve,
    float[n], as third; the steps increase.

    Returns: HTML, a <figure> with a caption and an inline <svg> for each metric; '' for none. Equal input
    gives equal text. Its colours are currentColor and the variables --line and --bad. The axis is
    logarithmic where values are positive and span over two decades; a value that is not finite is a red
    mark on the upper edge.
    """
    names = sorted((n for n in metrics if len(metrics[n][0])), key=lambda n: n != "loss")  # a stable sort
    return "\n".join(_panel(name, *map(np.asarray, metrics[name])) for name in names)


def _panel(name, steps, values, band=None):
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, ScalarFormatter

    values = values.astype(np.float64)
    finite = np.isfinite(values)
    bad, x, y = steps[~finite], steps[finite], values[finite]
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "jaxgen", "svg.fonttype": "none", "path.simplify": False}):
        figure = Figure(figsize=(4.2, 2.1))
        canvas = FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        ax = figure.add_axes((0.135, 0.13, 0.835, 0.8), facecolor="none")
        if len(x):
            if band is not None:
                ax.fill_between(x, y - band[finite], y + band[finite], color=LINE, alpha=0.25, lw=0)
            few = len(x) < 50
            ax.plot(
                *thin(x, y),
                color=LINE,
                lw=1.2 if few else 0.6,
                alpha=1 if few else 0.4,
                marker="o" if few else "",
                ms=2,
            )
            if not few and band is None:
                ax.plot(*smooth(x, y), color=LINE, lw=1.4)
            if y.min() > 0 and y.max() > 100 * y.min():
                ax.set_yscale("log")
                ax.yaxis.set_major_locator(LogLocator(numticks=5))
                ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
                ax.yaxis.set_minor_locator(NullLocator())
            else:
                ax.yaxis.set_major_locator(MaxNLocator(4))
                ax.yaxis.set_major_formatter(ScalarFormatter(useOffset=False, useMathText=False))
        else:
            ax.set_yticks([])
        if len(bad):
            marks = bad[np.flatnonzero(np.diff(_bucket(bad, BUCKETS), prepend=-1))]
            ax.plot(
                marks,
                np.ones(len(marks)),
                "v",
                color=BAD,
                ms=5,
                mew=0,
                clip_on=False,
                gid="nonfinite",
                transform=ax.get_xaxis_transform(),
            )
        if steps[0] < steps[-1]:
            ax.set_xlim(steps[0], steps[-1])
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.xaxis.set_major_formatter(FuncFormatter(_short))
        ax.grid(axis="y", color=INK, alpha=0.12, lw=0.6)
        ax.tick_params(labelsize=8, length=0, pad=4, labelcolor=INK)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.spines["bottom"].set(color=INK, alpha=0.3, linewidth=0.6)
        ax.yaxis.offsetText.set(color=INK, size=7)
        canvas.print_svg(text, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    faults = f', <span class="bad">{len(bad):,} not finite</span>' if len(bad) else ""
    last = f"{y[-1]:.4g} at step {x[-1]:,}" if len(x) else "no finite value"
    name = html.escape(name)
    return (
        f'<figure class="curve"><figcaption><b>{name}</b> <span>{last}{faults}</span></figcaption>\n'
        f"{_inline(text.getvalue(), f'{name} against training steps')}</figure>"
    )


def _inline(svg, label):
    """matplotlib's SVG file as an element of an HTML page: no namespaces, no fixed size, the page's font."""
    svg = svg[svg.index("<svg") :]
    box = re.findall(r'viewBox="[^"]*"', svg)[0]
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index(">") + 1 :], flags=re.S)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.S)
    body = body.replace("xlink:href", "href").replace('<g id="nonfinite">', '<g class="nonfinite">')
    body = re.sub(r'<g id="[^"]*">', "<g>", body)  # never referred to, and the same in every panel
    body = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", body)
    for colour, css in CSS.items():
        body = body.replace(colour, css)
    body = re.sub(r"\s*\n\s*", "\n", body)
    return f'<svg role="img" aria-label="{label}" {box}>{body}'.rstrip()


def _short(step, _=None):
    """1500 -> '1.5k', 2000000 -> '2M'."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(step) >= size:
            return f"{step / size:g}{unit}"
    return f"{step:g}"
