"""Times the compiled samplers of the experiments, and of their PyTorch peers beside them.

    python benchmarks/sample.py                       # every experiment's smoke preset
    python benchmarks/sample.py ddpm --preset digits --peer --sampler-steps 20

Of each: seconds to compile, ms a batch, samples a second, ms a network evaluation where the sampler takes steps, the
share of the machine's own matrix product, memory. Each row is printed and written when it is measured; the same command
goes on where it was stopped.
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
    """Time the PyTorch peer in turns with ours, as it is and by torch.compile."""
    quick: bool = False
    """Ratios within two minutes a row: fewer and shorter calls, and no compiled peer."""
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


def measure(name: str, experiment: Experiment, options: Options, matmul: float) -> common.Row:
    """All numbers of one experiment's sampler, from its parameters at step 0."""
    num, devices = options.num, options.devices
    common.say(name, "jaxgen", "compile init")
    model, codec = experiment.compute_model, experiment.codec.load()
    raw = experiment.data.batch_at(experiment.seed, 0, experiment.batch_size)
    state = core.init(model, core.run_key(experiment.seed, core.INIT), raw, codec)
    params = jax.device_get(state.params)
    cond, keys = model.sample_cond(num, raw), core.sample_keys(experiment.seed, num)
    (state, codec), cond, keys = common.spread(devices, (state, codec), (cond, 0), (keys, 0))
    ours, seconds = common.compiled(core.sample_program, model, state, keys, cond, codec, case=name)
    work = flops(lambda *args: core.sample(model, *args), state, keys, cond, codec)

    sides, reason = {"ours": lambda: ours(state, keys, cond, codec)}, "no peer was asked for"
    if options.peer:
        theirs, reason = common.peer_sides(
            experiment, params, lambda peer: lambda: peer.sample(num).sum().item(), name, options.quick
        )
        sides |= theirs
    times = common.in_turns(sides, options.calls, name, options.quick)
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
        **common.sampling_rates(ms, num, evaluations(model), work, matmul, reason),
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
    "torch/ours": common.ratio,
    "compiled/ours": lambda r: common.ratio(r, "compiled"),
}


def main(args: Sequence[str] | None = None) -> None:
    options = parse.parse(Options, Options(), sys.argv[1:] if args is None else args, "sample.py", __doc__)
    common.use_devices(options.devices)
    rows = common.rows(options.out or common.RESULTS / f"sample-{options.preset}.json", "sample", COLUMNS, options)
    for name, experiment in common.chosen(Path(options.folder), options.names, options.preset).items():
        if options.sampler_steps and hasattr(experiment.model, "sampler"):
            sampler = replace(experiment.model.sampler, steps=options.sampler_steps)
            experiment = replace(experiment, model=replace(experiment.model, sampler=sampler))
        rows.add(name, lambda name=name, experiment=experiment: measure(name, experiment, options, rows.matmul))
    rows.finish(f"sampling, {options.preset}")


if __name__ == "__main__":
    parse.run(main)
