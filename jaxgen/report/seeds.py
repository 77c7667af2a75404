"""The page of a run with several seeds: mean and confidence interval of each metric, and the samples of each seed."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.errors import UserError
from jaxgen.report.curves import Curve, curves, read_metrics
from jaxgen.report.parts import (
    configuration,
    div,
    img,
    pictures_in,
    read_json,
    read_scores,
    reproduce,
    section,
    write_page,
)
from jaxgen.runtime.files import write_text

POINTS = 100  # windows over which a curve is averaged
HIGHER = re.compile(
    r"accuracy|psnr|ssim|clip_score|similarity|_r\d+(_|$)|modes|(^|/)good$|zero_shot|precision|recall|density|coverage"
    r"|asked_class|rarest_class|(^|/)is(_|$)"
)
"""Names of numbers of which the highest is the best; of all others the lowest is."""


ALIKE = ("split", "step", "num", "seed", "parameters")
"""What evaluations have in common that are averaged over seeds."""


def best_of(name: str) -> Callable[..., Any]:
    """`max` or `min`: which of a number's values is the best."""
    return max if HIGHER.search(name) else min


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over axis 0 of float[S, ...], S >= 2, and the half-width of its 95 % confidence interval (Student's t)."""
    from scipy.stats import t

    count = len(values)
    half = t.ppf(0.975, count - 1) * np.std(values, axis=0, ddof=1) / np.sqrt(count)
    return np.mean(values, axis=0), half


def estimate(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """`mean` of one number over seeds and, with two or more, `ci95`, the half-width of its interval."""
    if len(values) < 2:
        return {"mean": float(values[0])}
    mean, half = interval(np.array(values, float))
    return {"mean": float(mean), "ci95": float(half)}


def seed_folders(out: Path) -> dict[int, Path]:
    """The folders seedN of a folder of several seeds, by seed, in rising order; none of another folder."""
    found = {int(p.name[4:]): p for p in out.glob("seed*") if re.fullmatch(r"seed\d+", p.name)}
    return dict(sorted(found.items()))


def over_seeds(folders: Sequence[Path]) -> tuple[dict[str, tuple[np.ndarray, ...]], dict[str, dict[str, float]]]:
    """Of one run or of several seeds of one: training curves with a band, as `curves.curves` takes them, and estimates
    of each number that all have: `train/NAME` of the last hundredth of training, `test/NAME` of held-out data,
    `samples/NAME` of samples. Of one run there is neither band nor interval."""
    trained = [read_metrics(folder / "metrics.jsonl") for folder in folders]
    shared = [name for name in trained[0] if all(name in metrics for metrics in trained)]
    over = {name: _over_seeds([metrics[name] for metrics in trained]) for name in shared}
    ends = {f"train/{n}": per_seed[:, -1] for n, (_, per_seed) in over.items() if per_seed.size}
    evaluated = [read_json(folder / "evaluation.json", []) for folder in folders]
    # Of other checkpoints or other examples, numbers are of other things than the seed.
    alike = len({json.dumps([taken.get(name) for name in ALIKE]) for taken in evaluated}) == 1
    held_out = [_means(taken if alike and taken.get("split") == "test" else {}) for taken in evaluated]
    counted = [read_metrics(folder / "held_out.jsonl") for folder in folders]
    ends |= {f"test/{n}": np.array([m[n] for m in held_out]) for n in held_out[0] if all(n in m for m in held_out)}
    ends |= {
        n: np.array([metrics[n][1][-1] for metrics in counted])
        for n in counted[0]
        # What was infinite at the end is not in its line: an earlier value is not the end's.
        if n.startswith("samples/") and all(n in m and m[n][0][-1] == _last(m) for m in counted)
    }
    ends |= _scores([read_scores(folder / "scores.json") for folder in folders])
    numbers = {name: {**estimate(values), "num_seeds": len(folders)} for name, values in ends.items()}
    several = len(folders) > 1
    curves = {n: (steps, *(interval(values) if several else values[:1])) for n, (steps, values) in over.items()}
    return curves, numbers


def _last(metrics: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> int:
    """The last step of which there is any number."""
    return max(int(steps[-1]) for steps, _ in metrics.values())


def shown(number: Mapping[str, float], digits: int = 5) -> str:
    """An estimate as text, with the half-width of its interval where it has one."""
    half = f" ± {number['ci95']:.2g}" if "ci95" in number else ""
    return f"{number['mean']:.{digits}g}{half}"


def write_seeds_report(out: Path | str) -> Path:
    """Writes seeds.json and report.html into `out`, from its folders seedN, and returns the path of the page.

    Raises:
      UserError: there are fewer than two seeds.
    """
    out = Path(out)
    found = seed_folders(out)
    folders, seeds = [*found.values()], [*found]
    if len(folders) < 2:
        raise UserError(f"{out} holds {len(folders)} seeds, 2 or more are needed: pass the folder that --seeds made")
    over, numbers = over_seeds(folders)
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


OF_ONE = ("run", "experiment")
"""What of a score's subject tells one seed from another."""


def scores_alike(records: Sequence[Sequence[Any]]) -> list[tuple[Any, dict[str, list[float]]]]:
    """Each score that was taken of every seed alike, of the seeds' records: the first seed's record, and the numbers
    that all have, by seed, from the newest records."""

    def taken(record: Any) -> tuple[Any, Any, Any]:
        return record["metric"], record["protocol"], {k: v for k, v in record["subject"].items() if k not in OF_ONE}

    found = []
    for record in records[0]:
        same = [[r["values"] for r in of_one if taken(r) == taken(record)] for of_one in records]
        if all(same):
            newest = [values[-1] for values in same]
            shared = [name for name in record["values"] if all(name in values for values in newest)]
            found.append((record, {name: [values[name] for values in newest] for name in shared}))
    return found


def _scores(records: Sequence[Sequence[Any]]) -> dict[str, np.ndarray]:
    """`score/NAME` of each number that `jaxgen evaluate --metrics` took of samples of all seeds."""
    alike = [values for record, values in scores_alike(records) if record["subject"].get("of") == "samples"]
    return {f"score/{name}": np.array(of_seeds, float) for values in alike for name, of_seeds in values.items()}


def _means(evaluation: dict[str, Any]) -> dict[str, float]:
    """The means of an evaluation by name; none where it holds something else."""
    metrics = evaluation.get("metrics")
    named = metrics.items() if isinstance(metrics, dict) else ()
    found = {name: value.get("mean") for name, value in named if isinstance(value, dict)}
    return {name: mean for name, mean in found.items() if isinstance(mean, int | float)}


def _over_seeds(per_seed: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """The steps [n] of one metric, and its values f64[S, n] by seed.

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
    return last.reshape(count, width)[:, -1], values


def _table(numbers: dict[str, dict[str, float]], count: int) -> str:
    """A table of means and confidence intervals over `count` seeds."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="num">{shown(v)}</td></tr>' for name, v in numbers.items()
    )
    return (
        f'<div class="scroll"><table><caption>{count} seeds; train: the last hundredth of the run</caption>'
        '<thead><tr><th scope="col">Metric</th><th scope="col" class="num">Mean ± 95 % confidence interval</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def _samples(folder: Path) -> str:
    """The latest samples of a seed, with a link to its own page where it has one."""
    steps = pictures_in(folder / "pictures").get("samples", {})
    paged = (folder / "report.html").exists()
    link = f'<a href="{folder.name}/report.html">{folder.name}</a>' if paged else folder.name
    picture = img(steps[max(steps)], f"Samples of {folder.name}", up_to=240) if steps else ""
    return f"<figure>{picture}<figcaption>{link}</figcaption></figure>"
