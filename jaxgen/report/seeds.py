"""The page of a run of many seeds: mean and confidence interval of every metric, and each seed's pictures."""

import json
import re
from functools import reduce
from html import escape
from pathlib import Path

import numpy as np

from jaxgen.errors import UserError
from jaxgen.report.curves import curves, read_metrics
from jaxgen.report.parts import configuration, div, img, pictures_in, read_json, reproduce, section, write_page
from jaxgen.runtime.files import write_text

POINTS = 100  # windows that a curve over seeds is averaged in


def interval(values):
    """Mean, and half of its 95 % confidence interval by Student's t, over axis 0 of float[S, ...], S >= 2."""
    from scipy.stats import t

    count = len(values)
    half = t.ppf(0.975, count - 1) * np.std(values, axis=0, ddof=1) / np.sqrt(count)
    return np.mean(values, axis=0), half


def write_seeds_report(out):
    """Writes OUT/seeds.json and OUT/report.html from the folders OUT/seedN of a run of many seeds.

    Returns: the page's path. Raises: UserError when there are fewer than two.
    """
    out = Path(out)
    folders = sorted((p for p in out.glob("seed*") if re.fullmatch(r"seed\d+", p.name)), key=lambda p: int(p.name[4:]))
    if len(folders) < 2:
        raise UserError(f"{out} holds {len(folders)} seeds, 2 or more are needed: give the folder that --seeds made")
    lanes = [read_metrics(folder / "metrics.jsonl") for folder in folders]
    shared = [name for name in lanes[0] if all(name in lane for lane in lanes)]
    over = {name: _over_seeds([lane[name] for lane in lanes]) for name in shared}
    seeds = [int(folder.name[4:]) for folder in folders]
    numbers = {f"train/{n}": _estimate(mean[-1], half[-1], seeds) for n, (_, mean, half) in over.items() if len(mean)}
    held_out = [read_json(folder / "evaluation.json", []).get("metrics", {}) for folder in folders]
    counted = [read_metrics(folder / "held_out.jsonl") for folder in folders]
    ends = {f"test/{n}": [lane[n]["mean"] for lane in held_out] for n in (held_out[0] if all(held_out) else ())}
    ends |= {
        n: [lane[n][1][-1] for lane in counted]
        for n in counted[0]
        if n.startswith("samples/") and all(n in lane for lane in counted)
    }
    numbers |= {name: _estimate(*interval(np.array(values)), seeds) for name, values in ends.items()}
    write_text(out / "seeds.json", json.dumps({"seeds": seeds, "metrics": numbers}, indent=2) + "\n")
    environment = read_json(folders[0] / "environment.json", [])
    name = " ".join(str(environment.get(k) or "") for k in ("experiment", "preset")).strip() or "run"
    title = f"{name}, seeds {seeds[0]} to {seeds[-1]}"
    parts = [
        f"<header><h1>{escape(name)} <small>seeds {seeds[0]} to {seeds[-1]}</small></h1></header>",
        section("Over seeds", _table(numbers, len(seeds))),
        section("Samples", div("pictures", "\n".join(_samples(folder) for folder in folders))),
        section("Curves: mean and 95 % confidence interval", div("curves", curves(over))),
        configuration(read_json(folders[0] / "experiment.json", []), environment),
        reproduce(environment),
    ]
    write_page(out / "report.html", title, parts)
    return out / "report.html"


def _over_seeds(lanes):
    """(steps, mean, half-width) of one metric in windows of equal length: noise between steps is not that of seeds."""
    shared = reduce(np.intersect1d, (steps for steps, _ in lanes))  # one may have skipped some, or got further
    width = max(1, len(shared) // POINTS)
    count = len(shared) // width
    # From the end, so that the last window is whole.
    last = shared[len(shared) - count * width :]
    values = np.stack([v[np.isin(steps, last)].reshape(count, width).mean(axis=1) for steps, v in lanes])
    return (last.reshape(count, width)[:, -1], *interval(values))


def _estimate(mean, half, seeds):
    return {"mean": float(mean), "ci95": float(half), "num_seeds": len(seeds)}


def _table(numbers, count):
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="num">{v["mean"]:.5g} ± {v["ci95"]:.2g}</td></tr>'
        for name, v in numbers.items()
    )
    return (
        f'<div class="scroll"><table><caption>{count} seeds; train: the last hundredth of the run</caption>'
        '<thead><tr><th scope="col">Metric</th><th scope="col" class="num">Mean ± 95 % confidence interval</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def _samples(folder):
    """A seed's last samples, with a link to its own page."""
    steps = pictures_in(folder / "pictures").get("samples", {})
    link = f'<a href="{folder.name}/report.html">{folder.name}</a>'
    picture = img(steps[max(steps)], f"Samples of {folder.name}", up_to=240) if steps else ""
    return f"<figure>{picture}<figcaption>{link}</figcaption></figure>"
