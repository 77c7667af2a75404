"""The page of a run with several seeds: mean and confidence interval of each metric, and the samples of each seed."""

import json
import re
from collections.abc import Sequence
from functools import reduce
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.errors import UserError
from jaxgen.report.curves import Curve, curves, read_metrics
from jaxgen.report.parts import configuration, div, img, pictures_in, read_json, reproduce, section, write_page
from jaxgen.runtime.files import write_text

POINTS = 100  # windows over which a curve is averaged


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over axis 0 of float[S, ...], S >= 2, and the half-width of its 95 % confidence interval (Student's t)."""
    from scipy.stats import t

    count = len(values)
    half = t.ppf(0.975, count - 1) * np.std(values, axis=0, ddof=1) / np.sqrt(count)
    return np.mean(values, axis=0), half


def estimate(values: Sequence[float]) -> dict[str, float]:
    """`mean` of one number over seeds and, with two or more, `ci95`, the half-width of its interval."""
    if len(values) < 2:
        return {"mean": float(values[0])}
    mean, half = interval(np.array(values, float))
    return {"mean": float(mean), "ci95": float(half)}


def write_seeds_report(out: Path | str) -> Path:
    """Writes seeds.json and report.html into `out`, from its folders seedN, and returns the path of the page.

    Raises:
      UserError: there are fewer than two seeds.
    """
    out = Path(out)
    folders = sorted((p for p in out.glob("seed*") if re.fullmatch(r"seed\d+", p.name)), key=lambda p: int(p.name[4:]))
    if len(folders) < 2:
        raise UserError(f"{out} holds {len(folders)} seeds, 2 or more are needed: pass the folder that --seeds made")
    trained = [read_metrics(folder / "metrics.jsonl") for folder in folders]
    shared = [name for name in trained[0] if all(name in metrics for metrics in trained)]
    over = {name: _over_seeds([metrics[name] for metrics in trained]) for name in shared}
    seeds = [int(folder.name[4:]) for folder in folders]
    numbers = {f"train/{n}": _estimate(mean[-1], half[-1], seeds) for n, (_, mean, half) in over.items() if len(mean)}
    held_out = [_means(read_json(folder / "evaluation.json", [])) for folder in folders]
    counted = [read_metrics(folder / "held_out.jsonl") for folder in folders]
    ends = {f"test/{n}": [m[n] for m in held_out] for n in held_out[0] if all(n in m for m in held_out)}
    ends |= {
        n: [metrics[n][1][-1] for metrics in counted]
        for n in counted[0]
        if n.startswith("samples/") and all(n in metrics for metrics in counted)
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


def _means(evaluation: dict[str, Any]) -> dict[str, float]:
    """The means of an evaluation by name; none where it holds something else."""
    metrics = evaluation.get("metrics")
    named = metrics.items() if isinstance(metrics, dict) else ()
    found = {name: value.get("mean") for name, value in named if isinstance(value, dict)}
    return {name: mean for name, mean in found.items() if isinstance(mean, int | float)}


def _over_seeds(per_seed: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(steps, mean, half-width) of one metric over seeds.

    Each seed's curve is first averaged over windows of equal length, so that noise between steps does not count as
    variation between seeds.
    """
    # A seed may have skipped steps, or trained further than others.
    shared = reduce(np.intersect1d, (steps for steps, _ in per_seed))
    width = max(1, len(shared) // POINTS)
    count = len(shared) // width
    # Counted from the end, so that the last window is complete.
    last = shared[len(shared) - count * width :]
    values = np.stack([v[np.isin(steps, last)].reshape(count, width).mean(axis=1) for steps, v in per_seed])
    return (last.reshape(count, width)[:, -1], *interval(values))


def _estimate(mean: Any, half: Any, seeds: list[int]) -> dict[str, float]:
    return {"mean": float(mean), "ci95": float(half), "num_seeds": len(seeds)}


def _table(numbers: dict[str, dict[str, float]], count: int) -> str:
    """A table of means and confidence intervals over `count` seeds."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="num">{v["mean"]:.5g} ± {v["ci95"]:.2g}</td></tr>'
        for name, v in numbers.items()
    )
    return (
        f'<div class="scroll"><table><caption>{count} seeds; train: the last hundredth of the run</caption>'
        '<thead><tr><th scope="col">Metric</th><th scope="col" class="num">Mean ± 95 % confidence interval</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def _samples(folder: Path) -> str:
    """The latest samples of a seed, with a link to its own page."""
    steps = pictures_in(folder / "pictures").get("samples", {})
    link = f'<a href="{folder.name}/report.html">{folder.name}</a>'
    picture = img(steps[max(steps)], f"Samples of {folder.name}", up_to=240) if steps else ""
    return f"<figure>{picture}<figcaption>{link}</figcaption></figure>"
