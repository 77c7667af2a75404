"""Times the compiled samplers of the experiments, and of their PyTorch peers beside them.

    python benchmarks/sample.py                       # every experiment's smoke preset
    python benchmarks/sample.py ddpm --preset digits --peer --sampler-steps 20

Of each: seconds to compile, ms a batch, samples a second, ms a network evaluation where the sampler takes steps, the
share of the machine's own matrix product, memory.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import common
import jax
import tyro

from jaxgen import core
from jaxgen.cli import parse
from jaxgen.core.flops import flops
from jaxgen.experiment import Experiment


@dataclass(frozen=True)
class Options:
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Experiment scripts by name; all when none is given."""
    preset: str = "smoke"
    num: int = 64
    """Samples in a batch."""
    sampler_steps: int = 0
    """Network evaluations of samplers that take steps; 0 keeps the preset's."""
    peer: bool = False
    """Time the PyTorch peer in turns with ours."""
    calls: int = 5
    """Turns of each side."""
    devices: int = 1
    """CPU devices to split each batch over; one a core is the fastest where convolutions are narrow."""
    folder: str = str(common.ROOT / "experiments")
    """Where the scripts are."""
    out: str = ""
    """JSON file; benchmarks/results/sample-PRESET.json when empty."""


def evaluations(model) -> int:
    """Network evaluations of one sample: the length of the sampler's loop, 1 where there is none."""
    if not hasattr(model, "sampler"):
        return 1
    return model.sampler.evaluations(model.schedule)


def measure(
    name: str, experiment: Experiment, num: int, calls: int, peer: bool, devices: int, matmul: float
) -> common.Row:
    """All numbers of one experiment's sampler, from its parameters at step 0."""
    model, codec = experiment.compute_model, experiment.codec.load()
    raw = experiment.data.batch_at(experiment.seed, 0, experiment.batch_size)
    state = core.init(model, core.run_key(experiment.seed, core.INIT), raw, codec)
    params = jax.device_get(state.params)
    cond, keys = model.sample_cond(num, raw), core.sample_keys(experiment.seed, num)
    (state, codec), cond, keys = common.spread(devices, (state, codec), (cond, 0), (keys, 0))
    ours, seconds = common.compiled(core.sample_program, model, state, keys, cond, codec)
    work = flops(lambda *args: core.sample(model, *args), state, keys, cond, codec)

    sides = {"ours": lambda: ours(state, keys, cond, codec)}
    if peer:
        sides |= common.peer_sides(experiment, params, lambda peer: lambda: peer.sample(num).sum().item())
    times = common.in_turns(sides, calls)
    ms = {side: common.summary(times[side]) for side in sides}
    return {
        "name": name,
        "model": type(model).__name__,
        "devices": devices,
        "num_samples": num,
        "params": core.count_params(params),
        "compile_seconds": seconds,
        "peak_bytes": common.peak_bytes(ours),
        "process_peak_bytes": common.process_peak_bytes(),
        **common.sampling_rates(ms, num, evaluations(model), work, matmul),
    }


COLUMNS = {
    "experiment": lambda r: r["name"],
    "batch": lambda r: str(r["num_samples"]),
    "params": lambda r: f"{r['params']:,}",
    "compile s": lambda r: f"{r['compile_seconds']:.1f}",
    "ms/batch": lambda r: common.ms(r["ms_per_batch"]["ours"]["median"]),
    "evaluations": lambda r: str(r["evaluations"]),
    "ms/evaluation": lambda r: common.ms(r["ms_per_evaluation"]),
    "samples/s": lambda r: f"{r['samples_per_second']:,.1f}",
    "GFLOP/s": lambda r: f"{r['flops_per_second'] / 1e9:.1f}",
    "of matmul": lambda r: f"{r['matmul_share']:.0%}",
    "MiB": lambda r: common.megabytes(r["peak_bytes"]),
    "torch/ours": lambda r: r["peer"] if r["peer_ratio"] is None else f"{r['peer_ratio']:.2f}",
}


def main(args: Sequence[str] | None = None) -> None:
    options = parse.parse(Options, Options(), sys.argv[1:] if args is None else args, "sample.py", __doc__)
    common.use_devices(options.devices)
    matmul = common.measure_matmul_flops()
    rows = []
    for name, experiment in common.chosen(Path(options.folder), options.names, options.preset).items():
        if options.sampler_steps and hasattr(experiment.model, "sampler"):
            sampler = replace(experiment.model.sampler, steps=options.sampler_steps)
            experiment = replace(experiment, model=replace(experiment.model, sampler=sampler))
        rows.append(measure(name, experiment, options.num, options.calls, options.peer, options.devices, matmul))
    common.show(f"sampling, {options.preset}", rows, COLUMNS)
    common.write(options.out or common.RESULTS / f"sample-{options.preset}.json", "sample", rows, matmul)


if __name__ == "__main__":
    parse.run(main)
