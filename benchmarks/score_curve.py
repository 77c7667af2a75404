"""The score of one trained diffusion run against the number of network evaluations, for every sampler.

    python experiments/classifier.py mnist
    python experiments/ddpm.py mnist --mesh data=2
    python benchmarks/score_curve.py runs/ddpm-mnist-0 --classifier runs/classifier-mnist-0 --mesh data=2 --num 2000
    python experiments/meanflow.py mnist
    python benchmarks/score_curve.py runs/meanflow-mnist-0 --classifier runs/classifier-mnist-0 --num 2000 \
        --evaluations 1 2 4 8 50 --samplers leaps Euler

The score is what `jaxgen evaluate --metrics fid --classifier ...` computes. All points are of the same seeds; samplers
whose coefficients are the same on the run's schedule, as Euler's and DDIM's, are one line. Leaps are of flow maps, as
MeanFlow and shortcut models. Each point is written when it is done, and the same command goes on from there; more --num
goes on from the samples that were scored before.
"""

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import common
import numpy as np
import tyro

from jaxgen.cli import parse
from jaxgen.core.configuration import differences, to_json
from jaxgen.core.mesh import Layout, divisible, size
from jaxgen.errors import UserError, nearest
from jaxgen.experiment import Experiment
from jaxgen.inference.sampling import drawn
from jaxgen.models.diffusion import Diffusion
from jaxgen.models.flow_map import FlowMap
from jaxgen.ops.samplers import DDIM, Ancestral, AnnealedLangevin, DPMSolverPP, Euler, Heun, Leaps, Sampler, Table
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import Trained, restore
from jaxgen.runtime import devices
from jaxgen.runtime.files import write_bytes, write_text
from jaxgen.runtime.progress import track
from jaxgen.scoring import features, scores
from jaxgen.weights.store import tree_hash

SAMPLERS: dict[str, Callable[[int], Sampler]] = {
    "leaps": lambda n: Leaps(steps=n),
    "ancestral": lambda n: Ancestral(steps=n),
    "DDIM, eta 1": lambda n: DDIM(steps=n, eta=1.0),
    "DDIM": lambda n: DDIM(steps=n),
    "Euler": lambda n: Euler(steps=n),
    "Heun": lambda n: Heun(steps=(n + 1) // 2),
    # Table 5 of arXiv:2206.00364, for CIFAR-10.
    "Heun, churn 30": lambda n: Heun(steps=(n + 1) // 2, churn=30, churn_min=0.01, churn_max=1, churn_noise=1.007),
    "DPM-Solver++(2M)": lambda n: DPMSolverPP(steps=n),
    "annealed Langevin": lambda n: AnnealedLangevin(steps=(n - 1) // AnnealedLangevin.each),
}
"""By name, with at most n evaluations. Those of no churn and no noise solve the probability-flow ODE."""


@dataclass(frozen=True)
class Options:
    run: Annotated[str, tyro.conf.Positional]
    """Of a diffusion model."""
    classifier: str
    """Run of experiments/classifier.py to score by."""
    num: int = 10_000
    """Samples of each point."""
    evaluations: tuple[int, ...] = (5, 10, 20, 50, 100)
    ancestral: tuple[int, ...] = (250,)
    """More of them, for the ancestral sampler alone, which needs them."""
    samplers: tuple[str, ...] = ()
    """By name; all that go with the run's schedule when empty."""
    seed: int = 0
    batch: int = 200
    """Samples computed at once."""
    mesh: str = ""
    """Devices to sample on, as data=2; one when empty."""
    out: str = ""
    """JSON file, the plot beside it; benchmarks/results/score-curve-RUN.json when empty."""


# --- the points ---------------------------------------------------------------------------------------------------


def points(model: Diffusion, options: Options) -> dict[tuple[str, int], Sampler]:
    """Samplers by line and number of evaluations, the fewest evaluations first. A line bears the names of all samplers
    that are the same on the model's schedule; those that do not go with it are left out."""
    for name in options.samplers:
        if name not in SAMPLERS:
            raise UserError(f"sampler {name!r} is unknown{nearest(name, SAMPLERS)}: choose from {'; '.join(SAMPLERS)}")
    lines: dict[str, dict[int, Sampler]] = {}
    for name in options.samplers or SAMPLERS:
        numbers = options.evaluations + (options.ancestral if name == "ancestral" else ())
        found = {n: replace(SAMPLERS[name](n), clip=model.sampler.clip) for n in numbers}
        line = {s.evaluations(model.schedule): s for n, s in sorted(found.items()) if fits(s, model, n)}
        same = next((label for label, other in lines.items() if alike(line, other, model)), None)
        if same is not None:
            lines[f"{same} = {name}"] = lines.pop(same)
        elif line:
            lines[name] = line
    everything = {(label, n): sampler for label, line in lines.items() for n, sampler in line.items()}
    return dict(sorted(everything.items(), key=lambda item: item[0][1]))


def fits(sampler: Sampler, model: Diffusion, most: int) -> bool:
    """Whether a sampler goes with the model's schedule in at most so many evaluations."""
    if isinstance(sampler, Leaps) and not isinstance(model, FlowMap):
        return False
    try:
        table = sampler.table(model.schedule)
    except UserError:
        return False
    return len(table.t) <= most and all(np.isfinite(table.column(name)).all() for name in ("a", "b", "c", "d", "e"))


def alike(line: dict[int, Sampler], other: dict[int, Sampler], model: Diffusion) -> bool:
    """Whether two lines are the same where they both have a point."""
    both = line.keys() & other.keys()
    learned = getattr(model, "learns_variance", False)

    def same(a: Table, b: Table) -> bool:
        names = ["t", "a", "b", "c", "d", "e", *(["low", "high"] if learned else [])]
        columns = ((a.column(name), b.column(name)) for name in names)
        return len(a.t) == len(b.t) and a.start == b.start and all(np.allclose(*c, atol=1e-9) for c in columns)

    # The table of leaps is Euler's: it is the network that is told of them.
    if len({isinstance(sampler, Leaps) for sampler in (*line.values(), *other.values())}) == 2:
        return False
    return bool(both) and all(same(line[n].table(model.schedule), other[n].table(model.schedule)) for n in both)


def described(experiment: Experiment) -> dict[str, Any]:
    """All settings of an experiment but where its data lies."""
    settings = to_json(experiment)
    settings["data"].pop("data_dir", None)
    return settings


# --- the scores ---------------------------------------------------------------------------------------------------


def score_of(network: features.Network, rows: features.Rows, real: features.Rows) -> float:
    """The Frechet distance between two sets of features."""
    (record,) = scores.scores(["fid"], network, rows, real, None)
    (value,) = record["values"].values()
    return value


def kept(out: Path, facts: dict[str, Any]) -> list[common.Row]:
    """The points that are in `out`. Raises UserError when they are of something else than `facts`."""
    if not out.exists():
        return []
    old = json.loads(out.read_text())
    if other := differences(old["facts"], facts):
        raise UserError(f"{out} holds other scores ({'; '.join(other[:3])}): name another file with --out")
    return old["points"]


def main(args: Sequence[str] | None = None) -> None:
    options = parse.parse(Options, None, sys.argv[1:] if args is None else args, "score_curve.py", __doc__)
    if options.num < 2 or options.batch < 1:
        raise UserError(f"num is {options.num}, batch {options.batch}: num starts at 2, batch at 1")
    devices.start_jax(cpu_devices=size(options.mesh))
    layout = Layout.make(options.mesh)
    run = RunFolder(Path(options.run))
    out = Path(options.out or common.RESULTS / f"score-curve-{run.path.resolve().name}.json")
    trained = restore(run, layout=layout)
    experiment, state = trained.experiment, trained.state
    model = experiment.compute_model
    if not isinstance(model, Diffusion):
        raise UserError(f"{run.path} is a run of {type(model).__name__}, which has no samplers to compare")
    todo = points(model, options)
    judge = restore(RunFolder(Path(options.classifier)))
    network = features.of_run(judge)
    batch = divisible(options.batch, layout)
    cond = model.sample_cond(options.num, run.examples())

    real, real_hash = features.real_rows(network, experiment.data, "train", batch, track)
    held_out, _ = features.real_rows(network, experiment.data, "test", batch, track)
    held_out = scores.some_of(held_out, options.num)
    weights = tree_hash(state.sampling_params)[:16]
    facts = {
        "run": run.path.resolve().name,
        "step": int(state.step),
        "parameters": state.sampling_field,
        "weights": weights,
        "experiment": described(experiment),
        "metric": network.metric("fid"),
        "features": network.provenance,
        "classifier": described(judge.experiment),
        "reference": {"split": "train", "num": len(real["features"]), "hash": real_hash},
        "num": options.num,
        "seed": options.seed,
    }
    results = kept(out, facts)
    provenance = common.provenance()
    # What a point was made by, as a later command may go on elsewhere.
    maker = {name: provenance[name] for name in ("git", "versions", "processor", "started")}
    between_real = {"value": score_of(network, held_out, real), "num": len(held_out["features"]), "split": "test"}

    def save() -> None:
        written = {"benchmark": "score_curve", "provenance": provenance, "facts": facts}
        written |= {"real_against_real": between_real, "points": results}
        write_text(out, json.dumps(written, indent=2) + "\n")
        plot(written, out.with_suffix(".png"))

    out.parent.mkdir(parents=True, exist_ok=True)
    save()
    print(f"{facts['metric']} of {options.num} samples; {between_real['num']} of test: {between_real['value']:.4g}")
    for (line, evaluations), sampler in todo.items():
        done = [p for p in results if (p["evaluations"], p["sampler"]) == (evaluations, to_json(sampler))]
        if not done:
            chosen = trained.to(replace(experiment, model=replace(experiment.model, sampler=sampler)))
            # Conditions are dealt out over all samples, so that another number of them changes each.
            asked = {"sampler": to_json(sampler), "weights": weights, "num": None if cond is None else options.num}
            asked |= {"seed": options.seed, "batch": batch, "network": network.key, "experiment": facts["experiment"]}

            def batches(firsts: range, chosen: Trained = chosen):
                return drawn(chosen, options.seed, firsts, cond)

            folder = run.path / "scores" / features.digest(asked)
            rows = features.sampled_rows(network, batches, options.num, batch, folder, track)
            value = score_of(network, rows, real)
            done = [{"evaluations": evaluations, "sampler": to_json(sampler), "value": value, "made_by": maker}]
            results += done
        # What it is called depends on which samplers were asked for.
        done[0]["line"] = line
        save()
        print(f"{evaluations:4} evaluations  {line:32} {done[0]['value']:.4g}", flush=True)
    print(f"{out}, {out.with_suffix('.png')}")


# --- the plot -----------------------------------------------------------------------------------------------------

# Eight colours that can be told apart without seeing red or green, and a mark for each.
LOOKS = list(zip(("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8a6d3b"), "osD^vP*X"))


def plot(result: dict[str, Any], file: Path) -> None:
    """A line for each sampler over the number of evaluations, both axes logarithmic, and what real data scores."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    facts, real = result["facts"], result["real_against_real"]
    figure = Figure(figsize=(7.2, 4.4), dpi=150, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    ax = figure.add_axes((0.09, 0.12, 0.88, 0.76))
    lines: dict[str, list[tuple[int, float]]] = {}
    for point in result["points"]:
        lines.setdefault(point["line"], []).append((point["evaluations"], point["value"]))
    for i, (label, line) in enumerate(lines.items()):
        colour, mark = LOOKS[i % len(LOOKS)]
        ax.plot(*zip(*sorted(line)), color=colour, marker=mark, lw=1.4, ms=4.5, mew=0, label=label)
    ax.axhline(real["value"], color="0.45", lw=1, ls=(0, (4, 3)), label=f"real against real, {real['num']:,} of test")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ticks = sorted({n for line in lines.values() for n, _ in line})
    if ticks:
        # Of Heun's 9 and the others' 10 one is enough.
        ticks = [n for n, after in zip(ticks, [*ticks[1:], math.inf]) if after > 1.15 * n]
        ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_minor_locator(NullLocator())
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.set_xlabel("network evaluations a sample", size=9, color="0.25")
    title = f"{facts['metric']} of {facts['num']:,} samples, {facts['run']} at step {facts['step']:,}"
    ax.set_title(title, loc="left", size=10, color="0.15")
    ax.grid(color="0.9", lw=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=8, length=0, pad=4, labelcolor="0.35")
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color("0.8")
    ax.legend(fontsize=8, frameon=False, labelcolor="0.2")
    data = io.BytesIO()
    canvas.print_png(data, metadata={"Software": None})
    write_bytes(file, data.getvalue())


if __name__ == "__main__":
    parse.run(main)
