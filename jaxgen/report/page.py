"""The page of a run: one self-contained HTML file.

It is made from the files in the run's folder: experiment.json, environment.json, metrics.jsonl, held_out.jsonl,
timing.jsonl, events.jsonl, pictures/STEP/NAME and evaluation.json. Only the first is required.
"""

import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.errors import UserError
from jaxgen.report.curves import Curve, curves, read_metrics, read_records, trained_seconds
from jaxgen.report.parts import (
    Picture,
    configuration,
    details,
    div,
    img,
    pictures_in,
    read_json,
    reproduce,
    section,
    sounds,
    write_page,
)
from jaxgen.runtime.reading import read_bytes

FILM = 32  # steps shown over training; their pictures are all embedded in the page
EVENTS = 200  # shown at most
LETTERS = 20_000  # of sampled text shown at most


def write_report(run: Path | str) -> Path:
    """Writes report.html into the folder of a run, and returns its path. Parts whose files are missing are left out.

    Raises:
      UserError: the folder has no readable experiment.json.
    """
    run = Path(run)
    if not (run / "experiment.json").is_file():
        what = "holds no experiment.json" if run.is_dir() else "is not a folder"
        raise UserError(f"{str(run)!r} {what}: pass the folder of a run, which its script prints at the start")
    notes: list[str] = []
    experiment = read_json(run / "experiment.json", notes)
    if notes:
        raise UserError(f"{run.name}/experiment.json is not a JSON object: restore the file, or pass another run")
    environment = read_json(run / "environment.json", notes)
    evaluation = read_json(run / "evaluation.json", notes)
    metrics, timing, held_out = (read_metrics(run / f"{n}.jsonl") for n in ("metrics", "timing", "held_out"))
    pictures = pictures_in(run / "pictures")
    name, preset, seed = _identity(experiment, environment)
    rates = {n: curve for n, curve in timing.items() if n != "time"}
    parts = [
        f"<header><h1>{escape(name)} <small>{escape(', '.join(filter(None, (preset, seed))))}</small></h1>",
        _facts(experiment, environment, metrics, timing) + "</header>",
        _texts(run / "pictures"),
        _final(pictures),
        sounds(run / "pictures"),
        _film(pictures),
        section("Curves", div("curves", curves({**metrics, **held_out, **rates}))),
        _evaluation(evaluation),
        _events(run / "events.jsonl"),
        configuration(experiment, environment),
        reproduce(environment),
        "".join(f'<p class="bad">{escape(note)}</p>' for note in notes),
    ]
    write_page(run / "report.html", " ".join(filter(None, (name, preset, seed))), parts)
    return run / "report.html"


def _identity(experiment: dict[str, Any], environment: dict[str, Any]) -> tuple[str, str, str]:
    """Script, preset and seed, such as ('vae', 'emoji8', 'seed 3'); '' if unknown. The script defaults to the model."""
    script = environment.get("experiment") or environment.get("script") or environment.get("name")
    model = experiment.get("model")
    kind = str(model.get("type", "")) if isinstance(model, dict) else ""
    name = Path(str(script)).stem if script else kind.rpartition(":")[2] or "run"
    seed = experiment.get("seed", environment.get("seed"))
    return name, str(environment.get("preset") or ""), "" if seed is None else f"seed {seed}"


def _facts(
    experiment: dict[str, Any], environment: dict[str, Any], metrics: dict[str, Curve], timing: dict[str, Curve]
) -> str:
    """The summary at the top: steps, parameters, device, time and final loss."""
    facts: list[tuple[str, str, str]] = []
    wanted = experiment.get("steps")
    if metrics or timing:
        done = max(int(steps[-1]) for steps, _ in (*metrics.values(), *timing.values()))
        # Steps may be counted from zero or from one: the last of N is N - 1 or N.
        unfinished = isinstance(wanted, int) and done + 1 < wanted
        facts.append(("Steps", f"{done:,}", f"of {wanted:,}" if unfinished else ""))
    batch, model = experiment.get("batch_size"), experiment.get("model")
    model = model if isinstance(model, dict) else {}
    parts, repeats = model.get("accumulate", 1), model.get("n_critic", 1)
    counts = (batch, parts, repeats)
    if all(isinstance(n, int) and n > 0 for n in counts) and parts > 1:
        # A step is one update; each network's gradient is accumulated over several passes.
        size = batch // (repeats * parts)
        facts.append(("Batch", f"{batch:,}", f"{parts} passes of {size:,} examples per gradient"))
    params = environment.get("params")
    if isinstance(params, dict) and params and all(isinstance(n, int) for n in params.values()):
        each = ", ".join(f"{name} {_count(n)}" for name, n in params.items()) if len(params) > 1 else ""
        facts.append(("Parameters", _count(sum(params.values())), each))
    devices = environment.get("devices")
    if isinstance(devices, list) and devices:
        kinds = {str(d): devices.count(d) for d in devices}
        facts.append(("Device", ", ".join(f"{n} \u00d7 {d}" if n > 1 else d for d, n in kinds.items()), ""))
    if "time" in timing and np.isfinite(timing["time"][1]).all():
        facts.append(("Time", _duration(trained_seconds(timing["time"][1].tolist())), ""))
    if "loss" in metrics:
        values = metrics["loss"][1]
        tail = values[-max(1, min(100, len(values) // 100)) :]
        over = f"mean of the last {len(tail)} steps" if len(tail) > 1 else ""
        facts.append(("Final loss", f"{tail.mean():.4g}" if np.isfinite(tail).all() else "not finite", over))
    rows = (
        f"<div><dt>{k}</dt><dd>{escape(v)}{f' <small>{escape(more)}</small>' if more else ''}</dd></div>"
        for k, v, more in facts
    )
    return f'<dl class="facts">{"".join(rows)}</dl>' if facts else ""


def _count(n: float) -> str:
    """1500000 -> '1.5 M'."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if n >= size:
            return f"{n / size:.3g}{unit}"
    return f"{n:,}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _final(pictures: Mapping[str, Mapping[int, Picture]]) -> str:
    """The latest picture of each name; samples and wide pictures take the whole width."""
    figures = []
    for name, steps in pictures.items():
        step = max(steps)
        picture = steps[step]
        title = name.replace("_", " ").capitalize()
        wide = ' class="wide"' if name == "samples" or picture.width > 2 * picture.height else ""
        figures.append(
            f"<figure{wide}>{img(picture, f'{title} at step {step:,}', up_to=800)}"
            f"<figcaption>{escape(title)}, step {step:,}</figcaption></figure>"
        )
    return section("Final pictures", div("pictures", "\n".join(figures)))


def _texts(folder: Path) -> str:
    """The latest samples of a model of text, with unprintable characters replaced."""
    found = [f for f in folder.glob("*/samples.txt") if f.parent.name.isdecimal()]
    if not found:
        return ""
    latest = max(found, key=lambda f: int(f.parent.name))
    text = read_bytes(latest).decode(errors="replace")
    cut = "\n\u2026" if len(text) > LETTERS else ""
    shown = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text[:LETTERS])
    step = f'<p class="quiet">step {int(latest.parent.name):,}</p>'
    return section("Samples", f'<pre class="text">{escape(shown)}{cut}</pre>{step}')


def _film(pictures: Mapping[str, Mapping[int, Picture]]) -> str:
    """The samples over training, at up to 32 steps: a large picture, a slider and a filmstrip."""
    steps = pictures.get("samples", {})
    if len(steps) < 2:
        return ""
    evenly = np.linspace(0, len(steps) - 1, min(len(steps), FILM)).round().astype(int)
    chosen = [sorted(steps)[i] for i in evenly]
    last, end = chosen[-1], len(chosen) - 1
    buttons = "\n".join(
        f'<button type="button" aria-current="{str(step == chosen[-1]).lower()}">'
        f"{img(steps[step], f'Samples at step {step:,}')}step {step:,}</button>"
        for step in chosen
    )
    cut = f'<p class="quiet">{len(chosen)} of {len(steps)} steps are shown.</p>' if end + 1 < len(steps) else ""
    return section(
        "Over training",
        f'<div class="film"><figure>{img(steps[last], f"Samples at step {last:,}", up_to=560)}'
        f"<figcaption>step {last:,}</figcaption></figure>\n"
        f'<input type="range" min="0" max="{end}" value="{end}" aria-label="Training step" hidden>\n'
        f'<div class="strip">{buttons}</div>{cut}</div>',
    )


def _evaluation(evaluation: dict[str, Any]) -> str:
    """A table of means and standard errors, with the number of samples and the provenance."""
    metrics = evaluation.get("metrics")
    if not isinstance(metrics, dict) or not metrics:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(str(name))}</th><td class="num">{escape(_estimate(value))}</td></tr>'
        for name, value in metrics.items()
    )
    split, num, step = (evaluation.get(k) for k in ("split", "num", "step"))
    facts = [
        f"{split} split" if split is not None else "",
        f"{_grouped(num)} samples" if num is not None else "",
        f"step {_grouped(step)}" if step is not None else "",
    ]
    rest = {k: v for k, v in evaluation.items() if k not in ("metrics", "split", "num", "step")}
    caption = f"<caption>{escape(', '.join(filter(None, facts)))}</caption>" if any(facts) else ""
    return section(
        "Evaluation",
        f'<div class="scroll"><table>{caption}<thead><tr><th scope="col">Metric</th>'
        '<th scope="col" class="num">Mean ± standard error</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>" + details("Where these numbers come from", rest),
    )


def _grouped(n: Any) -> str:
    """12000 -> '12,000'; anything but an integer as it is."""
    return f"{n:,}" if isinstance(n, int) else str(n)


def _estimate(value: Any) -> str:
    """{'mean': 3.14159, 'stderr': 0.0213} -> '3.142 ± 0.021', to two significant digits of the error."""
    mean, error = (value.get("mean"), value.get("stderr")) if isinstance(value, dict) else (value, None)
    if not isinstance(mean, int | float):
        return "—" if mean is None else str(mean)
    if not isinstance(error, int | float) or not math.isfinite(mean):
        return f"{mean:.6g}"
    if not 0 < error < math.inf:
        return f"{mean:.6g} ± {error:g}"
    digits = 1 - math.floor(math.log10(error))
    if -4 <= digits <= 6:
        digits = max(0, digits)
        return f"{mean:.{digits}f} ± {error:.{digits}f}"
    places = max(0, math.floor(math.log10(abs(mean) or error)) + digits)
    return f"{mean:.{places}e} ± {error:.1e}"


def _events(path: Path) -> str:
    """A table of the latest events, such as resumptions."""
    events = [event for records in read_records(path) for event in records]
    rows = "".join(
        f'<tr><td class="num">{escape(_grouped(e.get("step", "")))}</td>'
        f"<td>{escape(str(e.get('event', '')))}</td><td>{escape(str(e.get('detail', '')))}</td></tr>"
        for e in events[-EVENTS:]
    )
    cut = f"<caption>The last {EVENTS} of {len(events):,}</caption>" if len(events) > EVENTS else ""
    head = '<th scope="col" class="num">Step</th><th scope="col">Event</th><th scope="col">Detail</th>'
    table = f'<div class="scroll"><table>{cut}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    return section("Events", table if events else "")
