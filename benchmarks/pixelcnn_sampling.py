"""Times PixelCNN's cached sampler beside the naive one, which computes the whole network anew for each pixel.

    python benchmarks/pixelcnn_sampling.py                         # the 28 x 28 network of `pixelcnn mnist`
    python benchmarks/pixelcnn_sampling.py pixelcnn --preset digits --num 1

Parameters are those of step 0, and no data is read. The two draw the same samples; `different` counts the values in
which rounding made them not.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import common
import jax.numpy as jnp
import numpy as np
import tyro

from jaxgen import core
from jaxgen.cli import parse
from jaxgen.core.flops import flops
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.models.pixelcnn import PixelCNN


@dataclass(frozen=True)
class Options:
    name: Annotated[str, tyro.conf.Positional] = "pixelcnn"
    """Experiment script, of a PixelCNN."""
    preset: str = "mnist"
    num: int = 4
    """Samples in a batch."""
    calls: int = 1
    """Turns of each side."""
    folder: str = str(common.ROOT / "experiments")
    """Where the scripts are."""
    out: str = ""
    """JSON file; benchmarks/results/pixelcnn-sampling-NAME-PRESET.json when empty."""


def measure(name: str, experiment: Experiment, num: int, calls: int, matmul: float) -> common.Row:
    """Both samplers of one experiment."""
    model = experiment.compute_model
    if not isinstance(model, PixelCNN):
        raise UserError(f"{name} is of {type(model).__name__}, a PixelCNN is expected: choose pixelcnn or pixelcnn_pp")
    blank = {"x": jnp.zeros((1, *model.shape)), "cond": jnp.zeros(1, jnp.int32)}
    state = core.init(model, core.run_key(experiment.seed, core.INIT), blank)
    cond, keys = model.sample_cond(num, blank), core.sample_keys(experiment.seed, num)
    models = {"cached": model, "naive": replace(model, cached=False)}
    built = {
        side: common.compiled(core.sample_program, m, state, keys, cond, None, case=side) for side, m in models.items()
    }
    work = {side: flops(lambda *a, m=m: core.sample(m, *a), state, keys, cond) for side, m in models.items()}
    drawn: dict[str, np.ndarray] = {}

    def draw(side: str) -> None:
        drawn[side] = np.asarray(built[side][0](state, keys, cond, None))

    times = common.in_turns({side: lambda side=side: draw(side) for side in models}, calls, name)
    ms = {side: common.summary(times[side]) for side in models}
    return {
        "name": name,
        "shape": model.shape,
        "num_samples": num,
        "params": core.count_params(state.params),
        "compile_seconds": {side: seconds for side, (_, seconds) in built.items()},
        "flops_per_batch": work,
        "ms_per_batch": ms,
        "samples_per_second": {side: 1000 * num / ms[side]["median"] for side in models},
        "matmul_share": {side: 1000 * work[side] / ms[side]["median"] / matmul for side in models},
        "different": int(np.sum(drawn["cached"] != drawn["naive"])),
        "flops_ratio": work["naive"] / work["cached"],
        "ratio": ms["naive"]["median"] / ms["cached"]["median"],
    }


COLUMNS = {
    "experiment": lambda r: r["name"],
    "batch": lambda r: str(r["num_samples"]),
    "params": lambda r: f"{r['params']:,}",
    "cached ms": lambda r: common.ms(r["ms_per_batch"]["cached"]["median"]),
    "naive ms": lambda r: common.ms(r["ms_per_batch"]["naive"]["median"]),
    "cached GFLOP": lambda r: f"{r['flops_per_batch']['cached'] / 1e9:.2f}",
    "fewer operations": lambda r: f"{r['flops_ratio']:.0f}",
    "different": lambda r: str(r["different"]),
    "naive/cached": lambda r: f"{r['ratio']:.1f}",
}


def main(args: Sequence[str] | None = None) -> None:
    options = parse.parse(Options, Options(), sys.argv[1:] if args is None else args, "pixelcnn_sampling.py", __doc__)
    (experiment,) = common.chosen(Path(options.folder), (options.name,), options.preset).values()
    out = options.out or common.RESULTS / f"pixelcnn-sampling-{options.name}-{options.preset}.json"
    rows = common.rows(out, "pixelcnn sampling", COLUMNS, options)
    rows.add(options.name, lambda: measure(options.name, experiment, options.num, options.calls, rows.matmul))
    rows.finish(f"sampling pixel by pixel, {options.preset}")


if __name__ == "__main__":
    parse.run(main)
