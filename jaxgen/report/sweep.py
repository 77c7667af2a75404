"""The page of a sweep: a table of its settings, and each number against each swept value."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from jaxgen.errors import UserError
from jaxgen.report.drawing import Line, panel
from jaxgen.report.parts import configuration, div, read_json, reproduce, section, write_page
from jaxgen.report.seeds import HIGHER, over_seeds, seed_folders, shown
from jaxgen.runtime import reading
from jaxgen.runtime.files import write_text

SWEEP = "sweep.json"
NO_MEASURE = "grad_norm"
"""The end of names of numbers that say nothing of how good a setting is."""

Rows = list[dict[str, Any]]


def write_sweep_report(out: Path | str) -> Path:
    """Writes report.html into the folder of a sweep, with the numbers of its settings in sweep.json, and returns the
    path of the page. Settings that were not trained yet have none.

    Raises:
      UserError: there is no sweep, none of it was trained, or it has no number of the name that ranks settings.
    """
    out = Path(out)
    if not (out / SWEEP).is_file():
        raise UserError(f"{out} holds no {SWEEP}: pass the folder that jaxgen sweep made")
    record = reading.read_json(out / SWEEP)
    rows = [_row(out, setting) for setting in _settings(record, out)]
    known = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    if not known:
        raise UserError(f"{out} holds no numbers yet: the same jaxgen sweep command goes on with it")
    wanted = str(record.get("metric") or _first(known))
    best = ranked(rows, wanted)
    record |= {"settings": rows, "ranked_by": wanted, "best": best["folder"]}
    write_text(out / SWEEP, json.dumps(record, indent=2) + "\n")
    name = " ".join(str(record.get(part) or "") for part in ("experiment", "preset")).strip() or "sweep"
    axes, seeds = record.get("axes", {}), record.get("seeds", [])
    ordered = sorted(known, key=lambda metric: (metric != wanted.removeprefix("-"), metric.startswith("train/")))
    first = next(iter(seed_folders(out / best["folder"]).values()))
    environment = record.get("environment", {})
    parts = [
        f"<header><h1>{escape(name)} <small>{escape(' and '.join(axes))}</small></h1>{_facts(record, best, wanted)}"
        "</header>",
        section("Against the swept values", div("curves", "\n".join(_panels(rows, axes, ordered)))),
        section("Settings", _table(out, rows, axes, ordered, best)),
        configuration(read_json(first / "experiment.json", []), environment),
        reproduce(environment),
    ]
    write_page(out / "report.html", f"{name}, sweep of {', '.join(axes)}, {len(seeds)} seeds", parts)
    return out / "report.html"


def _settings(record: Any, out: Path) -> Rows:
    settings = record.get("settings") if isinstance(record, dict) else None
    if not isinstance(settings, list) or not all(isinstance(s, dict) and "folder" in s for s in settings):
        raise UserError(f"{out / SWEEP} holds no settings: restore it, or move it away and sweep again")
    for setting in settings:
        if not isinstance(name := setting["folder"], str) or not re.fullmatch(r"\w[^/\\:]*", name):
            raise UserError(f"{out / SWEEP} names the folder {name!r}: a name alone is expected, of a folder beside it")
    return settings


def _row(out: Path, setting: Mapping[str, Any]) -> dict[str, Any]:
    """A setting with the estimates of its numbers."""
    folders = [f for f in seed_folders(out / setting["folder"]).values() if (f / "metrics.jsonl").exists()]
    numbers = over_seeds(folders)[1] if folders else {}
    finite = {n: v for n, v in numbers.items() if math.isfinite(v["mean"]) and not n.endswith(NO_MEASURE)}
    if finite.get("train/skipped", {}).get("mean") == 0:
        del finite["train/skipped"]
    return {"folder": setting["folder"], "values": setting.get("values", {}), "metrics": finite}


def _first(known: Sequence[str]) -> str:
    """The number that settings are ranked by where none was asked for: one of held-out data, else the loss."""
    held_out = [name for name in known if name.startswith("test/")]
    name = held_out[0] if held_out else "train/loss" if "train/loss" in known else known[0]
    return f"-{name}" if HIGHER.search(name) else name


def ranked(rows: Rows, wanted: str) -> dict[str, Any]:
    """The setting whose number `wanted` is lowest, or with a leading `-` highest. Raises UserError where no setting has
    that number."""
    name, sign = wanted.removeprefix("-"), -1 if wanted.startswith("-") else 1
    known = list(dict.fromkeys(n for row in rows for n in row["metrics"]))
    having = [row for row in rows if name in row["metrics"]]
    if not having:
        raise UserError(f"metric is {wanted!r}: choose one of {', '.join(known)}, a - in front if higher is better")
    return min(having, key=lambda row: sign * row["metrics"][name]["mean"])


def _facts(record: Mapping[str, Any], best: Mapping[str, Any], wanted: str) -> str:
    number = shown(best["metrics"][wanted.removeprefix("-")])
    of_best = ", ".join(f"{path} {value}" for path, value in best["values"].items())
    facts = [
        ("Settings", str(len(record["settings"])), ""),
        ("Seeds of each", str(len(record.get("seeds", []))), ""),
        ("Best by " + wanted.removeprefix("-"), number, of_best),
    ]
    escaped = (map(escape, fact) for fact in facts)
    rows = (f"<div><dt>{k}</dt><dd>{v} <small>{more}</small></dd></div>" for k, v, more in escaped)
    return f'<dl class="facts">{"".join(rows)}</dl>'


def _table(out: Path, rows: Rows, axes: Mapping[str, Any], names: Sequence[str], best: Mapping[str, Any]) -> str:
    """A row for each setting: its values, its numbers with intervals over seeds, and the way to its own page."""
    heads = "".join(f'<th scope="col" class="num">{escape(head)}</th>' for head in (*axes, *names))
    body = []
    for row in rows:
        values = "".join(f'<td class="num">{escape(str(row["values"].get(path, "")))}</td>' for path in axes)
        numbers = (shown(row["metrics"][name]) if name in row["metrics"] else "\u2014" for name in names)
        cells = "".join(f'<td class="num">{escape(number)}</td>' for number in numbers)
        link = f'<a href="{escape(_page(out, row["folder"]))}">page</a>{" (best)" if row is best else ""}'
        body.append(f"<tr>{values}{cells}<td>{link}</td></tr>")
    said = "mean over seeds \u00b1 95 % confidence interval; train: the last hundredth of the run"
    head = f'<thead><tr>{heads}<th scope="col"></th></tr></thead>'
    table = f"<table><caption>{said}</caption>{head}<tbody>{''.join(body)}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def _page(out: Path, folder: str) -> str:
    """The page of a setting: over its seeds, or of its one seed."""
    seeds = seed_folders(out / folder)
    return f"{folder}/{f'seed{min(seeds)}/' if len(seeds) == 1 else ''}report.html"


def _panels(rows: Rows, axes: Mapping[str, Sequence[str]], names: Sequence[str]) -> list[str]:
    """A panel for each number and each axis of numbers, with a line for each value of the other axes."""
    panels = []
    for path, values in axes.items():
        places = [_number(value) for value in values]
        if len(values) < 2 or None in places:
            continue
        for name in names:
            lines: dict[str, list[tuple[float, float, float]]] = {}
            for row in rows:
                if name not in row["metrics"]:
                    continue
                others = ", ".join(f"{k.rpartition('.')[2]} {v}" for k, v in row["values"].items() if k != path)
                number, place = row["metrics"][name], _number(row["values"][path])
                assert place is not None
                lines.setdefault(others, []).append((place, number["mean"], number.get("ci95", 0.0)))
            drawn = [Line(label, *map(tuple, zip(*sorted(points)))) for label, points in lines.items()]
            panels.append(panel(name, path, drawn))
    return panels


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
