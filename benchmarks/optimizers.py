"""Muon beside Adam, and other optimizers, at equal steps: GPT on Shakespeare's characters and DiT on digits.

    python benchmarks/optimizers.py --source tinyshakespeare.txt      # about 3 hours of one core
    python benchmarks/optimizers.py dit --steps 1000

Each optimizer has the schedule, clipping and weight decay of the preset, and a rate of its own: the best of a third,
one and three times the rate that `--optimizer` would give it, and of rates beyond while the best is an end of the grid,
found on a seed that is not used again. The number is of held-out data, a mean over `--seeds` further seeds with its
95 % interval; seeds of one rate are trained in one program. `edge` says that the best of so many rates is still an end.
The curve is the training loss.
"""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import common
import numpy as np
import tyro
from annotated_types import Ge
from rows import Row, Rows

from jaxgen.cli import parse
from jaxgen.comparison.families import of_length
from jaxgen.core.configuration import check_fields, with_fields_at
from jaxgen.core.ranges import OptionalCount
from jaxgen.experiment import Experiment
from jaxgen.optim import switched, with_optimizers
from jaxgen.report.curves import read_metrics, trained_seconds
from jaxgen.report.seeds import over_seeds, seed_folders
from jaxgen.runs.folder import RunFolder
from jaxgen.runtime import devices
from jaxgen.train.sweep import Setting, Sweep, train_sweep

CASES = {
    "gpt": ("gpt", "shakespeare_char_cpu", "test/nats_per_token"),
    "dit": ("dit", "digits", "test/loss"),
}
"""Script, preset, and the number that optimizers are compared by."""
GRID = (1 / 3, 1.0, 3.0)
BEYOND = 3
"""Rates at most that are tried beyond the grid, each a third or three times its end."""
TUNING = 1000
"""The seed that rates are tuned on."""
RATE = "model.optimizer.lr"


@dataclass(frozen=True)
class Options:
    names: Annotated[tuple[Literal["gpt", "dit"], ...], tyro.conf.Positional] = ("gpt", "dit")
    optimizers: tuple[Literal["adam", "rmsprop", "lion", "muon", "schedule-free", "prodigy"], ...] = ("adam", "muon")
    steps: OptionalCount = 0
    """Of each run; the preset's own when 0."""
    seeds: Annotated[int, Ge(2)] = 4
    source: str = "tiny_shakespeare"
    """The text of gpt: a file, or the data set of tensorflow-datasets."""
    folder: str = "runs/optimizers"
    out: str = str(common.RESULTS / "optimizers.json")


def experiment_of(name: str, kind: str, options: Options) -> Experiment:
    """The preset with another optimizer, of the length that was asked for, saved at the end."""
    script, preset, _ = CASES[name]
    known = common.preset_of(script, preset)
    if name == "gpt":
        known = replace(known, data=replace(known.data, source=options.source))
    model = with_optimizers(known.model, lambda optimizer: switched(optimizer, kind))
    return replace(of_length(replace(known, model=model), options.steps or known.steps), keep=2)


def swept(experiment: Experiment, rates: list[float], seeds: int, out: Path, facts: Row) -> list[Row]:
    """The numbers of each rate over seeds, from `experiment.seed` on."""
    settings = tuple(
        Setting({RATE: f"{rate:.4g}"}, with_fields_at(experiment, {RATE: rate}), out / f"lr={rate:.4g}")
        for rate in rates
    )
    train_sweep(Sweep(settings=settings, seeds=seeds, out=out), facts)
    return json.loads((out / "sweep.json").read_text())["settings"]


def tuned(experiment: Experiment, metric: str, place: Path, facts: Row) -> dict[float, float]:
    """The metric by rate: of the grid, and of rates beyond it while the best is an end."""
    model: Any = experiment.model
    rates, found = [model.optimizer.lr * factor for factor in GRID], {}
    for sweep in range(1 + BEYOND):
        rows = swept(replace(experiment, seed=TUNING), rates, 1, place / f"tuning-{sweep}", facts)
        found |= zip(rates, (row["metrics"].get(metric, {}).get("mean", np.inf) for row in rows))
        best = min(found, key=lambda rate: found[rate])
        if not is_end(best, found):
            break
        rates = [best / 3 if best == min(found) else best * 3]
    return dict(sorted(found.items()))


def is_end(rate: float, found: dict[float, float]) -> bool:
    return rate in (min(found), max(found))


def measured(name: str, kind: str, options: Options) -> Row:
    """One optimizer on one preset: its grid, its rate, and its numbers and loss over seeds."""
    script, preset, metric = CASES[name]
    experiment, facts = experiment_of(name, kind, options), {"experiment": script, "preset": preset}
    place = Path(options.folder) / f"{name}-{kind}-{experiment.steps}"
    found = tuned(experiment, metric, place, facts)
    best = min(found, key=lambda rate: found[rate])
    (final,) = swept(replace(experiment, seed=0), [best], options.seeds, place / "seeds", facts)
    folders = [*seed_folders(place / "seeds" / final["folder"]).values()]
    steps, mean, half = over_seeds(folders)[0]["loss"]
    # Of all seeds together, and of all sessions where it was resumed.
    seconds = trained_seconds(read_metrics(RunFolder(folders[0]).timing)["time"][1].tolist())
    return {
        "name": name, "optimizer": kind, "steps": experiment.steps, "rate": best, "edge": is_end(best, found),
        "grid": {f"{rate:.4g}": value for rate, value in found.items()}, "metric": metric, "numbers": final["metrics"],
        "seconds": seconds,
        "curve": {"steps": steps.tolist(), "loss": mean.tolist(), "ci95": half.tolist()},
    }  # fmt: skip


def draw(rows: list[Row], file: Path) -> None:
    """Training loss against steps, a panel for each preset and a band for each optimizer."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["name"] for row in rows))
    figure = Figure(figsize=(6 * len(names), 4), dpi=110, facecolor="white", layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names):
        for row in rows:
            if row["name"] == name:
                steps, mean, half = (np.array(row["curve"][part]) for part in ("steps", "loss", "ci95"))
                (line,) = axes.plot(steps, mean, label=f"{row['optimizer']}, rate {row['rate']:.2g}")
                axes.fill_between(steps, mean - half, mean + half, color=line.get_color(), alpha=0.2, lw=0)
        axes.set(xlabel="steps", ylabel="training loss", title=" ".join(CASES[name][:2]))
        start = min(row["curve"]["loss"][len(row["curve"]["loss"]) // 20] for row in rows if row["name"] == name)
        least = min(min(row["curve"]["loss"]) for row in rows if row["name"] == name)
        axes.set_ylim(least - 0.05 * (start - least), start + 0.1 * (start - least))
        axes.legend(frameon=False)
        axes.grid(color="0.9")
    file.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(file)


def number(row: Row) -> str:
    value = row["numbers"][row["metric"]]
    return f"{value['mean']:.4f} ± {value['ci95']:.4f}"


COLUMNS = {
    "experiment": lambda r: r["name"],
    "optimizer": lambda r: r["optimizer"],
    "rate": lambda r: f"{r['rate']:.3g}",
    "held out": number,
    "minutes": lambda r: f"{r['seconds'] / 60:.1f}",
}


def main(args: list[str] | None = None) -> None:
    options = parse.parse(Options, Options(), sys.argv[1:] if args is None else args, "optimizers.py", __doc__)
    check_fields(options)
    devices.start_jax(seeds=options.seeds)
    table = Rows(options.out, "optimizers", COLUMNS, options, common.provenance())
    for name in options.names:
        for kind in options.optimizers:
            table.add(f"{name}, {kind}", lambda name=name, kind=kind: measured(name, kind, options))
    draw(table.rows, Path(options.out).with_suffix(".png"))
    table.finish("optimizers at equal steps")


if __name__ == "__main__":
    parse.run(main)
