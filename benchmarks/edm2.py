"""EDM2 on one preset: averages made afterwards beside trained ones, the best length, magnitudes, autoguidance.

    python benchmarks/edm2.py digits --classifier runs/classifier-digits-0

Two trainings of the preset with the same seed: one keeps the averages of 0.05 and 0.1 and all its checkpoints, the
other those of `lengths`, the truth for averages made of the first one's snapshots. Then held-out error and Fréchet
distance by length, the largest deviation of a kernel's magnitude from one over all checkpoints, and Fréchet distances
under guidance by an earlier snapshot. Of digits a quarter of an hour of a core for each training, and ten minutes of
sampling.
"""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import common
import jax
import numpy as np
import tyro

from jaxgen.cli import parse
from jaxgen.experiment import Experiment
from jaxgen.inference.averages import Measured, sweep, whole_run
from jaxgen.inference.held_out import held_out_numbers
from jaxgen.inference.sampling import guided
from jaxgen.nets.magnitude import UNIT
from jaxgen.optim import path_name
from jaxgen.runs.checkpoint import saved_steps
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import Trained, restore
from jaxgen.runs.snapshots import Snapshots, rebuild, restore_earlier
from jaxgen.runtime import devices
from jaxgen.runtime.interrupt import leave_after
from jaxgen.scoring import features
from jaxgen.scoring.records import Scoring, score_run
from jaxgen.train.loop import train


@dataclass(frozen=True)
class Options:
    preset: Annotated[str, tyro.conf.Positional]
    classifier: str = "runs/classifier-digits-0"
    """Run whose features the Fréchet distances are taken in."""
    steps: int = 0
    """Of both trainings; the preset's when 0."""
    lengths: tuple[float, ...] = (0.03, 0.07, 0.15, 0.2)
    scales: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0)
    """Of guidance by the snapshot nearest to an eighth of the training."""
    num: int = 2000
    """Samples of each score."""
    data_dir: str = ""
    folder: str = "runs/edm2-benchmark"
    """Of the runs."""
    out: str = ""
    """benchmarks/results/edm2-PRESET.json when empty."""


def deviation(params: Any) -> float:
    """The largest difference of a kernel's magnitude from one, over outputs of all kernels that are to keep it."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    kernels = [np.asarray(leaf, np.float64) for path, leaf in leaves if path_name(path).endswith(UNIT)]
    return max(float(np.abs(np.sqrt(np.mean(k**2, axis=tuple(range(k.ndim - 1)))) - 1).max()) for k in kernels)


def apart(a: Any, b: Any) -> float:
    """Relative distance of two trees of parameters."""
    x, y = (np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(t)]) for t in (a, b))
    return float(np.linalg.norm(x - y) / np.linalg.norm(y))


def trained(experiment: Experiment, folder: Path) -> Trained:
    """A run with all of its state, trained unless it is there."""
    leave_after(train(experiment, folder), folder)
    return whole_run(RunFolder(folder), None)


def measure(options: Options) -> dict[str, Any]:
    preset = common.preset_of("edm2", options.preset, options.data_dir)
    preset = replace(preset, steps=options.steps or preset.steps, keep=1_000_000)
    truth = replace(preset, model=replace(preset.model, ema_lengths=options.lengths), keep=2)  # pyright: ignore[reportCallIssue]
    folder = Path(options.folder)
    run, other = trained(preset, folder / "run"), trained(truth, folder / "truth")
    kept = truth.model.running_averages(other.state)  # pyright: ignore[reportAttributeAccessIssue]
    made = rebuild(run.run, run.state, options.lengths)
    network = features.of_run(restore(RunFolder(Path(options.classifier))))

    def distance(one: Trained) -> float:
        scoring = Scoring(num=options.num, batch=min(options.num, 250))
        return next(iter(score_run(one, network, ["fid"], scoring)[0]["values"].values()))

    def error(one: Trained) -> Measured:
        name, number = next(iter(held_out_numbers(one)[0].items()))
        return Measured(name, number["mean"], number["stderr"])

    lengths = sorted({*options.lengths, 0.05, 0.1})
    errors = [row for _, row in sweep(run, lengths, error)]
    distances = [row for _, row in sweep(run, lengths, lambda one: Measured("fd", distance(one), 0.0))]
    early = min(Snapshots(run.run).steps(), key=lambda step: abs(step - preset.steps / 8))
    plain, worse, by_scale = restore(run.run), restore_earlier(run.run, early), {}
    for scale in options.scales:
        model = replace(plain.experiment.model, guidance=replace(plain.experiment.model.guidance, scale=scale))  # pyright: ignore
        scaled = plain.to(replace(plain.experiment, model=model))
        by_scale[f"{scale:g}"] = distance(plain if scale == 1 else guided(scaled, worse))
    steps = saved_steps(run.run.checkpoints)
    afterwards = {f"{m.length:g}": {"apart": apart(m.params, kept[m.length]), "missed": m.missed} for m in made}
    return {
        "preset": options.preset, "steps": preset.steps, "snapshots": len(Snapshots(run.run).steps()),
        "same_training": apart(run.state.params, other.state.params),
        "made_afterwards": afterwards,
        "error_by_length": [row._asdict() for row in errors],
        "distance_by_length": [row._asdict() for row in distances],
        "magnitude_deviation": max(deviation(restore(run.run, step=step).state.params) for step in steps),
        "checkpoints": len(steps), "guide_step": early, "distance_by_guidance": by_scale, "num": options.num,
    }  # fmt: skip


def main(args: list[str]) -> None:
    options = parse.parse(Options, None, args, "edm2.py", __doc__)
    devices.start_jax()
    result = measure(options)
    written = {"benchmark": "edm2", "provenance": common.provenance(), "results": [result]}
    out = Path(options.out) if options.out else common.RESULTS / f"edm2-{options.preset}.json"
    out.write_text(json.dumps(written, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    parse.run(lambda: main(sys.argv[1:]))
