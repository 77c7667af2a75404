"""Training curves: from metrics.jsonl to arrays, and from arrays to inline SVG.

A curve is a pair (steps, values): int64[n], increasing, and float64[n]. NaN and infinities are kept and drawn.
"""

import html
import io
import itertools
import json
import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.runtime.reading import opened, record_of

Curve = tuple[np.ndarray, np.ndarray]

BUCKETS = 300  # about one per pixel of a panel's width
LAST = 1 << 62  # beyond it steps are no int64
CHUNK = 20_000  # lines parsed at a time
# Placeholder colours that matplotlib writes, replaced by CSS so that one drawing suits light and dark pages.
INK, LINE, BAD = "#010203", "#010204", "#010205"
CSS = {INK: "currentColor", LINE: "var(--line, #3a6fd0)", BAD: "var(--bad, #d0433a)"}


def read_records(path: Path | str) -> Iterator[list[dict[str, Any]]]:
    """The JSON objects of a .jsonl file in chunks; none if there is no file.

    A line that is not a JSON object, such as the last one of a killed run, is skipped.
    """
    path = Path(path)
    if not path.exists():
        return
    with opened(path) as lines:
        while chunk := list(itertools.islice(lines, CHUNK)):
            try:  # one call per chunk, three times as fast as one per line
                records = json.loads(b"[" + b",".join(chunk) + b"]")
            except (ValueError, RecursionError):
                records = None
            if records is None or len(records) != len(chunk):
                records = [record_of(line) for line in chunk]
            yield [r for r in records if isinstance(r, dict)]


def trained_seconds(clock: Sequence[float]) -> float:
    """The seconds that a timing log counts, of its times in order. They go on where a run is resumed; in logs of
    earlier versions they began anew."""
    return float(sum(end for end, after in zip(clock, [*clock[1:], -1.0]) if after < end))


def read_metrics(path: Path | str) -> dict[str, Curve]:
    """The curves in a .jsonl file with "step" in each line, by name in the order of the file; null is NaN.

    A step that was run twice, as after resuming from an earlier checkpoint, keeps its last value. Values that are not
    numbers are skipped, and so are the metrics of a step whose update was skipped (`on_nonfinite`), which are zeros
    without meaning.
    """
    columns: dict[str, list[Curve]] = defaultdict(list)  # the curves of each chunk
    for records in read_records(path):
        records = [r for r in records if _is_step(r.get("step"))]
        records = [{n: r[n] for n in ("step", "skipped")} if r.get("skipped") else r for r in records]
        for name in dict.fromkeys(itertools.chain.from_iterable(records)):
            rows = [r for r in records if name in r]
            try:
                values = np.array([r[name] for r in rows], np.float64)
            except (TypeError, ValueError, OverflowError):  # text, lists, or integers beyond floats
                continue
            if name != "step" and values.ndim == 1:
                columns[name].append((np.array([r["step"] for r in rows], np.int64), values))
    return {
        name: _last_of_each(np.concatenate([s for s, _ in chunks]), np.concatenate([v for _, v in chunks]))
        for name, chunks in columns.items()
    }


def _is_step(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < LAST and value % 1 == 0


def _last_of_each(steps: np.ndarray, values: np.ndarray) -> Curve:
    """The curve with increasing steps that keeps the last value of each step."""
    if (np.diff(steps) > 0).all():
        return steps, values
    steps, index = np.unique(steps[::-1], return_index=True)
    return steps, values[::-1][index]


def _bucket(steps: np.ndarray, buckets: int) -> np.ndarray:
    """int64[n] in [0, buckets): the bucket of each step, when the steps' range is divided into equal parts."""
    span = max(1, steps[-1] - steps[0])
    return np.minimum((steps - steps[0]) * buckets // span, buckets - 1)


def thin(steps: np.ndarray, values: np.ndarray, buckets: int = BUCKETS) -> Curve:
    """A curve's least and greatest value in each bucket, and its two ends, so that spikes survive.

    steps: int[n], increasing; values: float[n], finite. The result has at most 2 * buckets + 2 points.
    """
    if len(steps) <= 2 * buckets:
        return steps, values
    bucket = _bucket(steps, buckets)
    order = np.lexsort((values, bucket))
    edge = np.flatnonzero(np.diff(bucket)) + 1  # the order sorts by bucket first, so edges stay where they are
    least, greatest = order[np.r_[0, edge]], order[np.r_[edge - 1, len(order) - 1]]
    keep = np.unique(np.concatenate([least, greatest, [0, len(steps) - 1]]))
    return steps[keep], values[keep]


def smooth(steps: np.ndarray, values: np.ndarray, buckets: int = BUCKETS) -> Curve:
    """The debiased exponential moving average of the buckets' means; its time constant is 2 % of them.

    steps: int[n], increasing; values: float[n], finite. The result has at most `buckets` points.
    """
    bucket = _bucket(steps, buckets)
    start = np.flatnonzero(np.diff(bucket, prepend=-1))
    count = np.diff(start, append=len(steps))
    means = np.add.reduceat(values, start) / count
    decay = 1 - 1 / max(1.0, 0.02 * len(means))
    total = weight = 0.0
    out = []
    for mean in means:
        total, weight = decay * total + mean, decay * weight + 1
        out.append(total / weight)
    return steps[start + count - 1], np.array(out)


def curves(metrics: Mapping[str, tuple[np.ndarray, ...]]) -> str:
    """HTML with one small panel per metric, `loss` first: the curve and its moving average.

    metrics: by name (steps int[n], increasing, values float[n]), or a triple with the half-width of a band around the
    curve, float[n].

    Each panel is a <figure> with a caption and an inline <svg>; without metrics the result is ''. Equal input gives
    equal text. Colours are currentColor and the variables --line and --bad. The value axis is logarithmic if all values
    are positive and span more than two decades. Values that are not finite are red marks at the upper edge.
    """
    names = sorted((n for n in metrics if len(metrics[n][0])), key=lambda n: n != "loss")  # a stable sort
    return "\n".join(_panel(name, *map(np.asarray, metrics[name])) for name in names)


def _panel(name: str, steps: np.ndarray, values: np.ndarray, band: np.ndarray | None = None) -> str:
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # that it keeps its fonts elsewhere is no news
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
            width, alpha, marker = (1.2, 1, "o") if few else (0.6, 0.4, "")
            ax.plot(*thin(x, y), color=LINE, lw=width, alpha=alpha, marker=marker, ms=2)
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
            at_top = {"clip_on": False, "transform": ax.get_xaxis_transform()}
            ax.plot(marks, np.ones(len(marks)), "v", color=BAD, ms=5, mew=0, gid="nonfinite", **at_top)
        if steps[0] < steps[-1]:
            ax.set_xlim(steps[0], steps[-1])
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.xaxis.set_major_formatter(FuncFormatter(_abbreviated))
        ax.grid(axis="y", color=INK, alpha=0.12, lw=0.6)
        ax.tick_params(labelsize=8, length=0, pad=4, labelcolor=INK)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.spines["bottom"].set(color=INK, alpha=0.3, linewidth=0.6)
        ax.yaxis.offsetText.set(color=INK, size=7)
        canvas.print_svg(text, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    nonfinite = f', <span class="bad">{len(bad):,} not finite</span>' if len(bad) else ""
    last = f"{y[-1]:.4g} at step {x[-1]:,}" if len(x) else "no finite value"
    name = html.escape(name)
    return (
        f'<figure class="curve"><figcaption><b>{name}</b> <span>{last}{nonfinite}</span></figcaption>\n'
        f"{inline_svg(text.getvalue(), f'{name} against training steps')}</figure>"
    )


def inline_svg(svg: str, label: str) -> str:
    """matplotlib's SVG file as an element of an HTML page: without namespaces or fixed size, in the page's font."""
    svg = svg[svg.index("<svg") :]
    box = re.findall(r'viewBox="[^"]*"', svg)[0]
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index(">") + 1 :], flags=re.S)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.S)
    body = body.replace("xlink:href", "href").replace('<g id="nonfinite">', '<g class="nonfinite">')
    body = re.sub(r'<g id="[^"]*">', "<g>", body)  # nothing refers to them, and they repeat in every panel
    body = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", body)
    for colour, css in CSS.items():
        body = body.replace(colour, css)
    body = re.sub(r"\s*\n\s*", "\n", body)
    return f'<svg role="img" aria-label="{label}" {box}>{body}'.rstrip()


def _abbreviated(step: float, _: int | None = None) -> str:
    """1500 -> '1.5k', 2000000 -> '2M'."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(step) >= size:
            return f"{step / size:g}{unit}"
    return f"{step:g}"
