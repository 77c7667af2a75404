"""Two runs side by side: settings, numbers, environment and data, and the step at which their metrics part."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.core.configuration import modernised
from jaxgen.errors import UserError
from jaxgen.report.curves import Curve, read_metrics
from jaxgen.report.seeds import best_of
from jaxgen.runs.marks import FILE as MARKS
from jaxgen.runtime.reading import read_json

BY_CHANCE = ("command", "started", "seed", "params", "trained_params")
"""Of an environment: what differs from run to run, or what settings say already."""


def differing(runs: tuple[Path, Path], tolerance: float = 1e-3) -> dict[str, Any]:
    """What two runs differ in, as JSON; what is in pairs is of the first and of the second run.

    `settings`: [path of the flag, value, value] of each that differs, None where a run has no such setting. `metrics`:
    by name, `last`, the mean over the last hundredth of the steps, and `best` of such means. `environment`: as
    settings, of versions, devices and compiler flags; `commands`. `data`: by split, whether its hashes are the same,
    None where a run kept none. `parted`: the first logged step, and the metrics, in which the runs differ: `exactly`,
    in any of a log's seven digits, and `beyond` the tolerance, a share of the larger value; None where they do not.

    Raises UserError where a folder is no run, or both are one.
    """
    for run in runs:
        if not (run / "experiment.json").is_file():
            raise UserError(f"{run} is no run folder: it has no experiment.json; name one that training made")
    if runs[0].resolve() == runs[1].resolve():
        raise UserError(f"{runs[0]} was named twice: name two runs")
    first, second = (modernised(read_json(run / "experiment.json")) for run in runs)
    environments = [_optional(run / "environment.json") for run in runs]
    here, there = ({k: v for k, v in one.items() if k not in BY_CHANCE} for one in environments)
    marks, other_marks = (_optional(run / MARKS) for run in runs)
    logged = [read_metrics(run / "metrics.jsonl") for run in runs]
    numbers = [{**metrics, **read_metrics(run / "held_out.jsonl")} for metrics, run in zip(logged, runs)]
    summaries = [{**_evaluated(run), **_summaries(curves)} for curves, run in zip(numbers, runs)]
    names = list(dict.fromkeys(name for one in summaries for name in one))
    return {
        "runs": [str(run) for run in runs],
        "settings": [*_pairs(first, second)],
        "metrics": {
            name: {which: [one.get(name, {}).get(which) for one in summaries] for which in ("last", "best")}
            for name in names
        },
        "environment": [*_pairs(here, there)],
        "commands": [one.get("command") for one in environments],
        "data": _data(marks, other_marks),
        "parted": {
            "exactly": _parting(logged[0], logged[1], 0.0),
            "beyond": _parting(logged[0], logged[1], tolerance),
            "tolerance": tolerance,
            "common_steps": len(_common(logged[0], logged[1])),
        },
    }


def _optional(file: Path) -> dict[str, Any]:
    value = read_json(file) if file.is_file() else {}
    return value if isinstance(value, dict) else {}


def _pairs(a: Any, b: Any, path: str = "") -> Iterator[list[Any]]:
    """[path, value, value] of each leaf of two JSON values that differs. A configuration's own path has its class."""
    objects = [value if isinstance(value, dict) else {} for value in (a, b)]
    if isinstance(a, dict) or isinstance(b, dict):
        kinds = [_kind(value) for value in (a, b)]
        if path and kinds[0] != kinds[1]:
            yield [path, *kinds]
        for key in dict.fromkeys([*objects[0], *objects[1]]):
            if key != "type":
                yield from _pairs(objects[0].get(key), objects[1].get(key), f"{path}.{key}" if path else key)
    elif a != b:
        yield [path, a, b]


def _kind(value: Any) -> Any:
    """The name of a configuration's class; another value as it is."""
    return str(value.get("type", "")).rpartition(":")[2] if isinstance(value, dict) else value


def _summaries(curves: Mapping[str, Curve]) -> dict[str, dict[str, float]]:
    found = {}
    for name, (_, values) in curves.items():
        width = max(1, len(values) // 100)
        count = len(values) // width
        means = values[len(values) - count * width :].reshape(count, width).mean(axis=1)
        finite = means[np.isfinite(means)]
        if len(finite):
            last = float(means[-1]) if np.isfinite(means[-1]) else None
            found[name] = {"last": last, "best": float(best_of(name)(finite))}
    return found


def _evaluated(run: Path) -> dict[str, dict[str, float]]:
    """The numbers of the newest evaluation, of held-out data; a single one is the last and the best."""
    taken = _optional(run / "evaluation.json")
    metrics = taken.get("metrics") if taken.get("split") == "test" else None
    named = metrics.items() if isinstance(metrics, dict) else ()
    means = {f"test/{name}": value.get("mean") for name, value in named if isinstance(value, dict)}
    return {name: {"last": mean, "best": mean} for name, mean in means.items() if isinstance(mean, int | float)}


def _data(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, bool | None]:
    """By split, whether the data was the same; None where one run says nothing."""
    return {split: a[split] == b[split] if split in a and split in b else None for split in dict.fromkeys([*a, *b])}


def _common(a: Mapping[str, Curve], b: Mapping[str, Curve]) -> np.ndarray:
    """Steps that both runs logged some metric of."""
    shared = [np.intersect1d(a[name][0], b[name][0]) for name in a if name in b]
    return np.unique(np.concatenate(shared)) if shared else np.zeros(0, np.int64)


def _parting(a: Mapping[str, Curve], b: Mapping[str, Curve], tolerance: float) -> dict[str, Any] | None:
    """The first step at which metrics that both runs log differ, and which do."""
    first: dict[str, int] = {}
    for name in a:
        if name not in b:
            continue
        steps, here, there = np.intersect1d(a[name][0], b[name][0], return_indices=True)
        x, y = a[name][1][here], b[name][1][there]
        with np.errstate(invalid="ignore"):  # of infinities, which are near to nothing
            near = np.isfinite(x + y) & (np.abs(x - y) <= tolerance * np.maximum(np.abs(x), np.abs(y)))
        apart = steps[~(near | (x == y) | (np.isnan(x) & np.isnan(y)))]
        if len(apart):
            first[name] = int(apart[0])
    if not first:
        return None
    step = min(first.values())
    return {"step": step, "metrics": [name for name, at in first.items() if at == step]}
