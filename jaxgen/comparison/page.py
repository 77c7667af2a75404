"""The page of a comparison and its JSON, from the rows in a folder."""

import json
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.comparison.families import FAMILIES
from jaxgen.comparison.measure import REFERENCE, Row
from jaxgen.errors import UserError
from jaxgen.report.parts import Picture, div, img, section, write_page
from jaxgen.report.seeds import estimate
from jaxgen.runtime.files import write_text
from jaxgen.runtime.picture import undecoded
from jaxgen.runtime.reading import read_json

Number = dict[str, float]
COLUMNS: dict[str, tuple[str, Callable[[Row], float | None]]] = {
    # By the field in the JSON: what the table calls it, and its value of one row.
    "fd": ("Frechet distance", lambda r: r["scores"]["cnn"]["fd"]),
    "fd_other": ("the same by the other judge", lambda r: r["scores"]["mlp"]["fd"]),
    "kd": ("kernel distance", lambda r: r["scores"]["cnn"]["kd"]),
    "precision": ("precision", lambda r: r["scores"]["cnn"]["precision"]),
    "recall": ("recall", lambda r: r["scores"]["cnn"]["recall"]),
    "density": ("density", lambda r: r["scores"]["cnn"]["density"]),
    "coverage": ("coverage", lambda r: r["scores"]["cnn"]["coverage"]),
    "rarest_class": ("rarest class", lambda r: r["scores"]["cnn"]["rarest_class"]),
    "nn_ratio": ("nearest training image, over held-out", lambda r: r["scores"]["cnn"].get("nn_ratio")),
    "ppl": ("path length", lambda r: next((v for k, v in r["scores"]["cnn"].items() if k.startswith("ppl")), None)),
    "bits_per_dim": ("bits/dim", lambda r: _mean(r, "bits_per_dim")),
    "parameters": ("parameters", lambda r: r["parameters"]),
    "steps": ("steps", lambda r: r["steps"]),
    "compile_seconds": ("s to compile training", lambda r: r["training"]["compile_seconds"]),
    "held_mib": ("MiB in training", lambda r: r["training"]["held_bytes"] / 2**20),
    "samples_per_second": ("samples/s", lambda r: r["sampling"]["samples_per_second"]),
    "sampler_compile_seconds": ("s to compile sampling", lambda r: r["sampling"]["compile_seconds"]),
    "sampler_mib": ("MiB in sampling", lambda r: r["sampling"]["held_bytes"] / 2**20),
    "evaluations": ("evaluations a sample", lambda r: r["sampling"]["evaluations"]),
}
FAILURES: dict[str, Callable[[Callable[[str], float]], bool]] = {
    # What is seen of a family: the test, given its means by field.
    "a class is nearly missing": lambda mean: mean("rarest_class") < 0.03,
    "little variety": lambda mean: mean("recall") < 0.5,
    "much is unlike the data": lambda mean: mean("precision") < 0.5,
    "nearer to training pictures than held-out ones are": lambda mean: mean("nn_ratio") < 0.9,
    "seeds differ by half": lambda mean: mean("fd_spread") > 0.5,
}
ACROSS = 4
"""Families side by side in the picture of samples."""


def _mean(row: Row, name: str) -> float | None:
    return row["held_out"].get(name, {}).get("mean")


def rows_in(out: Path) -> list[Row]:
    """The rows that are there, family by family and seed by seed."""
    found = [read_json(file) for file in sorted(out.glob("*-*.json"))]
    order = [family.script for family in FAMILIES]
    return sorted(found, key=lambda row: (order.index(row["script"]), row["seed"]))


def summary(rows: Iterable[Row]) -> list[Row]:
    """A row for each family: of each column the mean over seeds, and with two seeds or more the half-width of its 95 %
    confidence interval."""
    by_family: dict[str, list[Row]] = {}
    for row in rows:
        by_family.setdefault(row["family"], []).append(row)
    found = []
    for name, mine in by_family.items():
        numbers: dict[str, Number] = {}
        for field, (_, value) in COLUMNS.items():
            values = [v for row in mine if (v := value(row)) is not None]
            if len(values) == len(mine):
                numbers[field] = estimate(values)
        first = mine[0]
        found.append({
            "family": name, "kind": first["kind"], "script": first["script"], "seeds": [r["seed"] for r in mine],
            "told_classes": first["told_classes"], **numbers, "failures": failures(numbers),
        })  # fmt: skip
    return sorted(found, key=lambda row: row["fd"]["mean"])


def failures(numbers: dict[str, Number]) -> list[str]:
    """What is seen to be wrong with a family, by the means of its scores and the interval of its distance."""

    def mean(field: str) -> float:
        if field == "fd_spread":
            return numbers["fd"].get("ci95", 0.0) / numbers["fd"]["mean"]
        return numbers[field]["mean"] if field in numbers else float("nan")

    return [what for what, seen in FAILURES.items() if seen(mean)]


def agreement(found: list[Row]) -> float | None:
    """Spearman's rank correlation of the families' distances by the two judges; None of fewer than three."""
    from scipy.stats import rankdata

    if len(found) < 3:
        return None
    ranks = [rankdata([row[of]["mean"] for row in found]) for of in ("fd", "fd_other")]
    return float(np.corrcoef(*ranks)[0, 1])


def claims(found: list[Row]) -> list[dict[str, Any]]:
    """What documents assert of families beside the medians of those measured here, of each kind."""

    def median(field: str, kind: str) -> float:
        values = [row[field]["mean"] for row in found if row["kind"] == kind and field in row]
        return float(np.median(values)) if values else float("nan")

    def spread(kind: str) -> float:
        """Of the distance over seeds: its interval as a share of it."""
        values = [r["fd"]["ci95"] / r["fd"]["mean"] for r in found if r["kind"] == kind and "ci95" in r["fd"]]
        return float(np.median(values)) if values else float("nan")

    kinds = ("VAE", "GAN", "flow", "autoregressive", "diffusion")
    asserted = (
        ("Quality: diffusion the highest, then GANs, flows, VAEs", "Frechet distance, lower is better",
         lambda kind: median("fd", kind), ("diffusion", "GAN", "flow", "VAE"), False),
        ("Diversity: high but for GANs", "recall", lambda kind: median("recall", kind),
         ("diffusion", "VAE", "flow", "autoregressive", "GAN"), True),
        ("Training: diffusion steadier than VAEs, and these than GANs", "interval of the distance over seeds, over it",
         spread, ("diffusion", "VAE", "GAN"), False),
        ("Sampling: GANs faster than VAEs, diffusion, autoregressive models", "samples/s",
         lambda kind: median("samples_per_second", kind), ("GAN", "VAE", "diffusion", "autoregressive"), True),
    )  # fmt: skip
    result = []
    for claim, by, measure, order, higher in asserted:
        values = {kind: measure(kind) for kind in kinds}
        there = [kind for kind in order if not np.isnan(values[kind])]
        ranked = sorted(there, key=lambda kind: values[kind], reverse=higher)
        diversity = claim.startswith("Diversity")
        if len(there) > 1 and (not diversity or "GAN" in there):
            holds = ranked[-1] == "GAN" if diversity else ranked == there
            shown = {kind: round(values[kind], 4) for kind in ranked}
            result.append({"claim": claim, "by": by, "measured": shown, "holds": holds})
    return result


def _budget(row: Row) -> float:
    """Seconds of the whole training: a first stage takes half of them."""
    first = any(family.script == row["script"] and family.first for family in FAMILIES)
    return row["training"]["budget"] * (2 if first else 1)


def write_page_of(out: Path, data: str) -> Path:
    """Writes comparison.json, dots.png, samples.png and report.html from the rows in `out`; returns the page."""
    rows = rows_in(out)
    for name, values in {"num": {row["num"] for row in rows}, "budget": {_budget(row) for row in rows}}.items():
        if len(values) > 1:
            raise UserError(f"{out} has rows of {name} {sorted(values)}, which do not compare: pass another --out")
    found = summary(rows)
    record = {
        "data": data, "budget_seconds": max(map(_budget, rows), default=0.0),
        "families": found, "rank_correlation_of_judges": agreement(found), "claims": claims(found),
        "held_out_pictures": read_json(out / REFERENCE) if (out / REFERENCE).is_file() else {},
        # Without the command: it says where files lie on this machine.
        "environment": {k: v for k, v in rows[0]["environment"].items() if k != "command"} if rows else {},
    }  # fmt: skip
    write_text(out / "comparison.json", json.dumps(record, indent=1) + "\n")
    draw(found, out / "dots.png")
    draw_samples(out, found, out / "samples.png")
    parts = [
        f"<header><h1>Families on {escape(data)} <small>{record['budget_seconds']:.0f} s each</small></h1></header>",
        section("Distances", div("scroll", img(_picture(out / "dots.png"), "dot plots"))),
        section("Numbers", _table(found, record["rank_correlation_of_judges"], record["held_out_pictures"])),
        section("What is said, and what was measured", _claims(record["claims"])),
        section("Samples", div("pictures", "\n".join(_samples(out, row) for row in found))),
    ]
    write_page(out / "report.html", f"families on {data}", parts)
    return out / "report.html"


def _picture(file: Path) -> Picture:
    with undecoded(file) as image:
        return Picture(file, *image.size)


def _samples(out: Path, row: Row) -> str:
    file = out / f"{row['script']}-{row['seeds'][0]}.png"
    if not file.is_file():
        return ""
    caption = f"{row['family']}: {row['fd']['mean']:.1f}"
    return f"<figure>{img(_picture(file), caption, 300)}<figcaption>{escape(caption)}</figcaption></figure>"


def _said(number: Number | None) -> str:
    if number is None:
        return ""
    half = f" ± {number['ci95']:.2g}" if number.get("ci95") else ""
    return f"{number['mean']:,.4g}{half}"


def _table(found: list[Row], correlation: float | None, held_out: dict[str, dict[str, float]]) -> str:
    heads = "".join(f'<th scope="col" class="num">{escape(name)}</th>' for name, _ in COLUMNS.values())
    lines = "".join(
        f'<tr><th scope="row">{escape(row["family"])}{" (told classes)" if row["told_classes"] else ""}</th>'
        + "".join(f'<td class="num">{_said(row.get(field))}</td>' for field in COLUMNS)
        + f'<td class="num">{escape(", ".join(row["failures"]))}</td></tr>'
        for row in found
    )
    if held_out:
        real = {**held_out["cnn"], "fd_other": held_out["mlp"]["fd"]}
        cells = (f'<td class="num">{_said({"mean": real[f]} if f in real else None)}</td>' for f in COLUMNS)
        lines = f'<tr><th scope="row">Held-out pictures</th>{"".join(cells)}<td></td></tr>' + lines
    agree = "" if correlation is None else f"; the two judges' ranks correlate by {correlation:.2f}"
    return (
        f'<div class="scroll"><table><caption>means over seeds ± 95 % confidence intervals{agree}</caption><thead><tr>'
        f'<th scope="col">Family</th>{heads}<th scope="col">Seen</th></tr></thead><tbody>{lines}</tbody></table></div>'
    )


def _claims(found: list[dict[str, Any]]) -> str:
    lines = "".join(
        f"<tr><td>{escape(c['claim'])}</td><td>{'holds' if c['holds'] else 'does not hold'} here</td><td>"
        f"{escape(', '.join(f'{k} {v:g}' for k, v in c['measured'].items()))} ({escape(c['by'])})</td></tr>"
        for c in found
    )
    return f'<div class="scroll"><table><tbody>{lines}</tbody></table></div>' if lines else ""


def draw(found: list[Row], file: Path) -> None:
    """Dots with intervals over seeds: distance, recall, rarest class and speed of each family."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = {"fd": "Frechet distance", "recall": "recall", "coverage": "coverage", "samples_per_second": "samples/s"}
    figure = Figure(figsize=(12, 1.2 + 0.26 * len(found)), dpi=100, facecolor="white", layout="constrained")
    places = np.arange(len(found))[::-1]
    for axes, (field, title) in zip(np.atleast_1d(figure.subplots(1, len(panels), sharey=True)), panels.items()):
        means = [row[field]["mean"] for row in found]
        halves = [row[field].get("ci95", 0.0) for row in found]
        axes.errorbar(means, places, xerr=halves, fmt="o", color="#3a6fd0", ecolor="0.6")
        axes.set(xlabel=title, xscale="log" if field in ("fd", "samples_per_second") else "linear")
        axes.set_yticks(places, [row["family"] for row in found])
        axes.grid(color="0.9")
    FigureCanvasAgg(figure).print_png(file)


def draw_samples(out: Path, found: list[Row], file: Path) -> None:
    """The samples of each family's first seed side by side, the nearest to the data first."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    there = [(row, out / f"{row['script']}-{row['seeds'][0]}.png") for row in found]
    there = [(row, picture) for row, picture in there if picture.is_file()]
    if not there:
        return
    columns = min(ACROSS, len(there))
    lines = -(-len(there) // columns)
    figure = Figure(figsize=(3 * columns, 2.2 * lines), dpi=100, facecolor="white", layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for place, (row, picture) in zip(axes, there):
        with undecoded(picture) as image:
            place.imshow(np.asarray(image.convert("RGB")), interpolation="nearest")
        place.set_title(f"{row['family']}: {row['fd']['mean']:.2f}", fontsize=9)
    for place in axes:
        place.set_axis_off()
    FigureCanvasAgg(figure).print_png(file)
