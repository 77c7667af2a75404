"""Test log-likelihood of flows trained on 2-D points, beside that of the density which the points are drawn from.

    python experiments/realnvp.py moons
    python experiments/maf.py moons
    python experiments/nsf.py moons
    python benchmarks/toy_likelihood.py runs/realnvp-moons-0 runs/maf-moons-0 runs/nsf-moons-0
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import common
import tyro

from jaxgen.cli import parse
from jaxgen.core import count_params
from jaxgen.data import Toy2D
from jaxgen.errors import UserError
from jaxgen.inference.held_out import held_out_numbers
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import restore
from jaxgen.runtime import devices


@dataclass(frozen=True)
class Options:
    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    batch: int = 2500
    out: str = str(common.RESULTS / "toy-likelihood.json")


def measure(path: Path, batch: int) -> common.Row:
    """Mean log-likelihoods in nats of all held-out points of a run."""
    run = RunFolder(path)
    if not isinstance(run.experiment().data, Toy2D):
        raise UserError(f"{path} is no run on 2-D points: name runs on Toy2D")
    trained = restore(run)
    experiment, state = trained.experiment, trained.state
    numbers, count = held_out_numbers(trained, seed=trained.experiment.seed, batch=batch)
    if "nll" not in numbers:
        raise UserError(f"{path} has no log-likelihood: name runs of flows")
    true = experiment.data.log_density(experiment.data.arrays("test")["x"])
    return {
        "name": path.name,
        "data": experiment.data.name,
        "step": int(state.step),
        "params": count_params(state.params),
        "training_seconds": json.loads((path / "timing.jsonl").read_text().splitlines()[-1])["time"],
        "test_points": count,
        "log_likelihood": -numbers["nll"]["mean"],
        "stderr": numbers["nll"]["stderr"],
        "true_log_likelihood": float(true.mean()),
        "gap": float(true.mean()) + numbers["nll"]["mean"],
    }


COLUMNS = {
    "experiment": lambda r: r["name"],
    "params": lambda r: f"{r['params']:,}",
    "seconds": lambda r: f"{r['training_seconds']:.0f}",
    "log-likelihood": lambda r: f"{r['log_likelihood']:.4f}",
    "stderr": lambda r: f"{r['stderr']:.4f}",
    "true": lambda r: f"{r['true_log_likelihood']:.4f}",
    "gap": lambda r: f"{r['gap']:.4f}",
}


def main() -> None:
    options = parse.parse(Options, None, sys.argv[1:], "toy_likelihood.py", __doc__)
    devices.start_jax()
    rows = common.rows(options.out, "toy_likelihood", COLUMNS, options)
    for run in options.runs:
        rows.add(run, lambda run=run: measure(Path(run), options.batch))
    rows.finish("log-likelihood in nats")


if __name__ == "__main__":
    parse.run(main)
