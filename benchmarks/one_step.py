"""Few-step models of points in the plane beside the probability-flow ODE that they stand for, from the same noise.

    for name in flow_matching meanflow; do python experiments/$name.py toy; done
    python experiments/consistency.py toy_distilled
    python benchmarks/one_step.py runs/flow_matching-toy-0 runs/consistency-toy_distilled-0 runs/meanflow-toy-0

The first run's ODE is solved by Heun's method. The error of a model's map is the root mean square distance of its
points to the ODE's, over the root mean square distance of the ODE's points to their mean. `w2` is Wasserstein's
distance of order two to training points. Two minutes of one core.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import common
import few_steps
import numpy as np
import tyro
from rows import Row

from jaxgen.cli import parse
from jaxgen.core.ranges import Samples, Seed, Steps
from jaxgen.errors import UserError
from jaxgen.inference.sampling import drawn
from jaxgen.metrics.wasserstein import wasserstein
from jaxgen.models.diffusion import Diffusion
from jaxgen.ops.few_steps import Renoised
from jaxgen.ops.samplers import Heun
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import Trained, restore
from jaxgen.runtime import devices


@dataclass(frozen=True)
class Options:
    ode: Annotated[str, tyro.conf.Positional]
    """Run of a diffusion model of points, as experiments/flow_matching.py toy."""
    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Runs of the same data that take few steps."""
    num: Samples = 4000
    evaluations: tuple[Steps, ...] = (1, 2, 4)
    solver_steps: Steps = 100
    """Of Heun's method, two evaluations each."""
    seed: Seed = 0
    out: str = str(common.RESULTS / "one-step.json")


COLUMNS = {
    "run": lambda r: r["case"].split(",")[0],
    "evaluations": lambda r: str(r["evaluations"]),
    "error of the map": lambda r: "" if r["error"] is None else f"{r['error']:.1%}",
    "w2": lambda r: f"{r['w2']:.3f}",
}


def points(trained: Trained, options: Options) -> np.ndarray:
    """f32[num, 2]: its points of the seed."""
    return np.asarray(next(drawn(trained, options.seed, range(0, options.num, options.num))))


def error(found: np.ndarray, truth: np.ndarray) -> float:
    """Root mean square distance of rows, over that of the rows of `truth` to their mean."""
    return float(np.sqrt(np.mean((found - truth) ** 2) / np.mean((truth - truth.mean(axis=0)) ** 2)))


def main(args: Sequence[str] | None = None) -> None:
    options = parse.parse(Options, None, sys.argv[1:] if args is None else args, "one_step.py", __doc__)
    devices.start_jax()
    folder = RunFolder(Path(options.ode))
    experiment = folder.experiment()
    model: Any = experiment.model
    if not isinstance(model, Diffusion) or len(model.shape) > 1:
        raise UserError(f"{options.ode} is no diffusion model of points: name one, as of flow_matching.py toy")
    for name in options.runs:
        if (of := RunFolder(Path(name)).experiment().data) != experiment.data:
            raise UserError(f"{name} is of {of}, {options.ode} of {experiment.data}: name runs of the same data")
    solver = replace(model, sampler=Heun(steps=options.solver_steps, clip=0.0))
    truth = points(restore(folder, replace(experiment, model=solver)), options)
    data: Any = experiment.data.arrays("train")
    train = np.asarray(data["x"])[: options.num]
    rows = common.rows(options.out, "one_step", COLUMNS, options)
    rows.add("ODE", lambda: {"evaluations": 2 * options.solver_steps, "error": 0.0, "w2": wasserstein(truth, train)})
    for name in options.runs:
        run = RunFolder(Path(name))
        for steps in options.evaluations:
            trained = few_steps.trained_for(run, steps)
            if trained is None:
                continue

            def row(trained: Trained = trained, steps: int = steps) -> Row:
                found, model = points(trained, options), trained.experiment.model
                # New noise at each step after the first: no map of the first noise.
                drawn_anew = steps > 1 and isinstance(getattr(model, "sampler", None), Renoised)
                off = None if drawn_anew else error(found, truth)
                return {"evaluations": steps, "error": off, "w2": wasserstein(found, train)}

            rows.add(f"{run.path.resolve().name}, {steps}", row)
    rows.finish("maps of few steps beside the ODE's")


if __name__ == "__main__":
    parse.run(main)
