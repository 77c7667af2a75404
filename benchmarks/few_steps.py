"""Scores of models of one and few steps against the number of network evaluations, beside the same network's ODE.

    python experiments/classifier.py digits
    python benchmarks/few_steps.py runs/flow_matching-digits-0 runs/consistency-digits-0 runs/distill-digits-0 \
        --classifier runs/classifier-digits-0 --name digits

Any run whose sampler takes a number of steps can be put on it. A plain diffusion model is sampled by Euler's method in
as many steps; a student of progressive distillation from the checkpoint that was trained for the number. For each
point: the Frechet distance and the recall of --num samples in the classifier's features. Samples of a point are drawn
once, and kept in the run's folder. 5,000 samples of 8 x 8 digits take about a second a network evaluation on one core,
of MNIST fifteen.
"""

import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import common
import score_curve
import tyro

from jaxgen.cli import parse
from jaxgen.core.configuration import to_json
from jaxgen.core.ranges import Samples, Seed, Steps
from jaxgen.errors import UserError
from jaxgen.inference.sampling import drawn
from jaxgen.models.diffusion import Diffusion
from jaxgen.ops import samplers
from jaxgen.runs.checkpoint import saved_steps
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import Trained, restore
from jaxgen.runtime import devices
from jaxgen.runtime.files import write_bytes, write_text
from jaxgen.runtime.progress import track
from jaxgen.scoring import features, scores

ODE = (
    samplers.DDIM, samplers.Euler, samplers.Heun, samplers.DPMSolverPP, samplers.Ancestral, samplers.AnnealedLangevin
)  # fmt: skip
"""Samplers of a model that has learnt E[x_0 | x_t], in whose place Euler's method is taken."""
FEWEST = 2
"""Samples that a distance is defined of."""


@dataclass(frozen=True)
class Options:
    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Of models that take steps: flow matching, consistency, distillation."""
    classifier: str
    """Run of experiments/classifier.py to score by."""
    name: str
    """Of the result: benchmarks/results/few-steps-NAME.json, the plot beside it."""
    num: Samples = 5000
    """Samples of each point."""
    evaluations: tuple[Steps, ...] = (1, 2, 4, 8, 16, 50)
    seed: Seed = 0
    batch: Samples = 250
    """Samples computed at once."""
    out: str = ""
    """The JSON file instead."""

    def problem(self) -> str | None:
        if not self.runs or self.num < FEWEST:
            return f"{len(self.runs)} runs and {self.num} samples were given: a run and {FEWEST} samples are expected"


def in_steps(model: Any, steps: int) -> Any:
    """A copy that samples in so many evaluations of its network; None where it cannot. Raises UserError for a model
    that takes no steps."""
    sampler: Any = getattr(model, "sampler", None)
    if not hasattr(sampler, "steps"):
        raise UserError(f"{type(model).__name__} has no sampler of steps: leave its run out")
    try:
        if hasattr(model, "in_steps"):
            return model.in_steps(steps)
        plain = isinstance(model, Diffusion) and type(sampler) in ODE
        changed = samplers.Euler(steps=steps, clip=sampler.clip) if plain else replace(sampler, steps=steps)
        if isinstance(model, Diffusion):
            changed.table(model.schedule)
    except UserError:
        return None
    return replace(model, sampler=changed)


def trained_for(run: RunFolder, steps: int) -> Trained | None:
    """The run as it samples in so many steps; None where it has not learnt to."""
    experiment = run.experiment()
    model = in_steps(experiment.model, steps)
    if model is None:
        return None
    try:
        changed = replace(experiment, model=model)
    except UserError:  # of a number that its sampler does not take, as shortcuts take powers of two
        return None
    step = None
    if hasattr(model, "trained_for"):
        step = experiment.model.trained_for(steps)  # pyright: ignore[reportAttributeAccessIssue]
        if step not in saved_steps(run.checkpoints):
            return None
    return restore(run, changed, step=step)


def main(args: Sequence[str] | None = None) -> None:
    options = parse.parse(Options, None, sys.argv[1:] if args is None else args, "few_steps.py", __doc__)
    if words := options.problem():
        raise UserError(words)
    devices.start_jax()
    out = Path(options.out or common.RESULTS / f"few-steps-{options.name}.json")
    judge = restore(RunFolder(Path(options.classifier)))
    network = features.of_run(judge)
    first = RunFolder(Path(options.runs[0])).experiment().data
    real, real_hash = features.real_rows(network, first, "train", options.batch, track)
    held_out = scores.some_of(features.real_rows(network, first, "test", options.batch, track)[0], options.num)
    result: dict[str, Any] = {
        "benchmark": "few_steps",
        "provenance": common.provenance(),
        "facts": {
            "metric": network.metric("fid"),
            "features": network.provenance,
            "classifier": score_curve.described(judge.experiment),
            "reference": {"split": "train", "num": len(real["features"]), "hash": real_hash},
            "num": options.num,
            "seed": options.seed,
        },
        "real_against_real": {**scored(network, held_out, real), "num": len(held_out["features"])},
        "points": [],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    for name in options.runs:
        run = RunFolder(Path(name))
        for steps in sorted(options.evaluations):
            trained = trained_for(run, steps)
            if trained is None:
                continue
            point = {
                "run": run.path.resolve().name,
                "model": type(trained.experiment.model).__name__,
                "evaluations": steps,
                "step": trained.step,
                "weights": trained.weights,
                "sampler": to_json(trained.experiment.model.sampler),  # pyright: ignore[reportAttributeAccessIssue]
                **scored(network, sampled(trained, network, options), real),
            }
            result["points"].append(point)
            write_text(out, json.dumps(result, indent=2) + "\n")
            print(
                f"{point['run']:32} {steps:3} evaluations: {point['distance']:.4g}, recall {point['recall']:.3f}",
                flush=True,
            )
    if not result["points"]:
        raise UserError(f"none of the runs samples in {options.evaluations} evaluations: choose others")
    plot(result, out.with_suffix(".png"))
    print(f"{out}, {out.with_suffix('.png')}")


def scored(network: features.Network, rows: features.Rows, real: features.Rows) -> dict[str, float]:
    """The Frechet distance between two sets of features, and precision and recall of the first."""
    found = {name: value for record in scores.scores(["fid", "prdc"], network, rows, real, None)
             for name, value in record["values"].items()}  # fmt: skip
    values = {"distance": found[network.metric("fid")]}
    return values | {name: found[network.metric(name)] for name in ("precision", "recall")}


def sampled(trained: Trained, network: features.Network, options: Options) -> features.Rows:
    """Features of the run's samples, kept in its folder."""
    model = trained.model
    cond = model.sample_cond(options.num, trained.examples)
    asked = {
        "weights": trained.weights, "experiment": score_curve.described(trained.experiment), "seed": options.seed,
        "batch": options.batch, "network": network.key, "num": None if cond is None else options.num,
    }  # fmt: skip
    folder = trained.run.path / "scores" / features.digest(asked)

    def batches(firsts: range):
        return drawn(trained, options.seed, firsts, cond)

    return features.sampled_rows(network, batches, options.num, options.batch, folder, track)


def plot(result: dict[str, Any], file: Path) -> None:
    """Distance and recall over the number of evaluations, a line for each run, and what real data score."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    figure = Figure(figsize=(9.6, 4.0), dpi=150, facecolor="white", layout="constrained")
    canvas = FigureCanvasAgg(figure)
    facts, real = result["facts"], result["real_against_real"]
    names = list(dict.fromkeys(point["run"] for point in result["points"]))
    ticks = sorted({point["evaluations"] for point in result["points"]})
    for ax, value, label in zip(figure.subplots(1, 2), ("distance", "recall"), (facts["metric"], "recall")):
        for i, name in enumerate(names):
            line = sorted((p["evaluations"], p[value]) for p in result["points"] if p["run"] == name)
            colour, mark = score_curve.LOOKS[i % len(score_curve.LOOKS)]
            ax.plot(*zip(*line), color=colour, marker=mark, lw=1.4, ms=4.5, mew=0, label=name)
        ax.axhline(real[value], color="0.45", lw=1, ls=(0, (4, 3)), label=f"real against real, {real['num']:,} of test")
        ax.set_xscale("log")
        if value == "distance":
            ax.set_yscale("log")
            ax.legend(fontsize=7.5, frameon=False, labelcolor="0.2")
        ax.xaxis.set_major_locator(FixedLocator(ticks))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        ax.set_xlabel("network evaluations a sample", size=9, color="0.25")
        ax.set_title(f"{label}, {facts['num']:,} samples", loc="left", size=10, color="0.15")
        ax.grid(color="0.9", lw=0.6)
        ax.tick_params(labelsize=8, length=0, labelcolor="0.35")
        ax.spines[["top", "right", "left"]].set_visible(False)
    data = io.BytesIO()
    canvas.print_png(data, metadata={"Software": None})
    write_bytes(file, data.getvalue())


if __name__ == "__main__":
    parse.run(main)
