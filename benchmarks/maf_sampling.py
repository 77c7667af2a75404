"""A trained MAF's sampler by repetition beside the one by definition, D passes for D elements.

    python experiments/maf.py digits
    python benchmarks/maf_sampling.py runs/maf-digits-0

Passes of the network, of the slowest sample in each step of flow (which the batch waits for) and on average; seconds of
both; and the largest difference between their samples.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import common
import jax
import numpy as np
import tyro

from jaxgen import core
from jaxgen.cli import parse
from jaxgen.errors import UserError
from jaxgen.models.flow import Flow
from jaxgen.models.shared import one_hot
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import restore
from jaxgen.runtime import devices


@dataclass(frozen=True)
class Options:
    run: Annotated[str, tyro.conf.Positional]
    num: int = 64
    """Samples in a batch."""
    seed: int = 1
    rounds: int = 3
    """Turns of each side."""
    out: str = ""
    """JSON file; benchmarks/results/maf-sampling-RUN.json when empty."""


def measure(name: str, model: Flow, state: core.TrainState, cond: jax.Array | None, options: Options) -> common.Row:
    """Passes and times of one trained model."""
    sequential = core.with_field(model, "sequential", True)
    if sequential == model:
        raise UserError(f"{name} has no autoregressive step: name a run of experiments/maf.py")
    params, y = state.sampling_params, one_hot(cond, model.num_classes)
    z = core.normal_each(core.sample_keys(options.seed, options.num), model.shape)

    @jax.jit
    def passes(params, z, y):
        variables = {"params": params["flow"]}
        return model.flow.apply(variables, z, y, inverse=True, mutable=["passes"])[1]["passes"]

    (taken,) = (np.asarray(leaf) for leaf in jax.tree.leaves(passes(params, z, y)))  # [depth, num]
    depth, size = len(taken), math.prod(model.shape)
    fixed_point, fixed_seconds = common.compiled(jax.jit(model.decode), params, z, y, case="fixed_point")
    d_pass, d_seconds = common.compiled(jax.jit(sequential.decode), params, z, y, case="d_pass")
    x, exact = np.asarray(fixed_point(params, z, y)), np.asarray(d_pass(params, z, y))
    sides = {"fixed_point": lambda: fixed_point(params, z, y), "d_pass": lambda: d_pass(params, z, y)}
    times = common.in_turns(sides, options.rounds, name)
    ms = {side: common.summary(seconds) for side, seconds in times.items()}
    return {
        "name": name,
        "step": int(state.step),
        "num_samples": options.num,
        "params": core.count_params(params),
        "elements": size,
        "depth": depth,
        "slowest_passes": taken.max(axis=1).tolist(),
        "mean_passes": float(taken.mean()),
        "share_of_passes": float(taken.max(axis=1).sum() / (depth * size)),
        "largest_difference": float(np.abs(x - exact).max()),
        "compile_seconds": {"fixed_point": fixed_seconds, "d_pass": d_seconds},
        "ms_per_batch": ms,
        "speed_ratio": ms["d_pass"]["median"] / ms["fixed_point"]["median"],
    }


COLUMNS = {
    "experiment": lambda r: r["name"],
    "D": lambda r: str(r["elements"]),
    "slowest passes": lambda r: " ".join(map(str, r["slowest_passes"])),
    "of D": lambda r: f"{r['share_of_passes']:.0%}",
    "ms": lambda r: common.ms(r["ms_per_batch"]["fixed_point"]["median"]),
    "D-pass ms": lambda r: common.ms(r["ms_per_batch"]["d_pass"]["median"]),
    "ratio": lambda r: f"{r['speed_ratio']:.1f}",
    "difference": lambda r: f"{r['largest_difference']:.1e}",
}


def main() -> None:
    options = parse.parse(Options, None, sys.argv[1:], "maf_sampling.py", __doc__)
    devices.start_jax()
    run = RunFolder(Path(options.run))
    trained = restore(run)
    experiment, state = trained.experiment, trained.state
    cond = experiment.model.sample_cond(options.num, run.examples())
    out, name = options.out or common.RESULTS / f"maf-sampling-{run.path.name}.json", run.path.name
    rows = common.rows(out, "maf_sampling", COLUMNS, options)
    rows.add(name, lambda: measure(name, experiment.compute_model, state, cond, options))
    rows.finish("sampling a masked autoregressive flow")


if __name__ == "__main__":
    parse.run(main)
