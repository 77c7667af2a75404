"""Times the compiled training steps of the experiments, and of their PyTorch peers beside them.

    python benchmarks/train.py                        # every experiment's smoke preset
    python benchmarks/train.py vae ddpm mlp3 --preset digits --peer

Each row is printed and written when it is measured; the same command goes on where it was stopped. Of each: seconds to
compile, ms a step with steps_per_call steps fused into one call and with one, the rate, the share of the machine's
own matrix product, memory. `mlp3` and `gpt-cpu` are cases of their own, see cases.py. Takes a minute for the smoke
presets on two cores, several for larger ones; `--quick` gives ratios within two minutes a row.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import common
import jax
import tyro
from cases import CASES

from jaxgen import core
from jaxgen.cli import parse
from jaxgen.core.flops import flops
from jaxgen.experiment import Experiment


@dataclass(frozen=True)
class Options:
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Experiment scripts by name, and cases such as mlp3; all when none is given."""
    preset: str = "smoke"
    peer: bool = False
    """Time the PyTorch peer in turns with ours, as it is and by torch.compile."""
    quick: bool = False
    """Ratios within two minutes a row: fewer and shorter calls, and no compiled peer."""
    calls: int = 5
    """Turns of each side."""
    steps: int = 0
    """Steps fused into one call; the preset's when 0."""
    devices: int = 1
    """CPU devices to split each batch over; one a core is the fastest where convolutions are narrow."""
    folder: str = str(common.ROOT / "experiments")
    """Where the scripts are."""
    out: str = ""
    """JSON file; benchmarks/results/train-PRESET.json when empty."""


def measure(name: str, experiment: Experiment, options: Options, matmul: float) -> common.Row:
    """All numbers of one experiment's training, times in ms a step."""
    model, k, devices = experiment.compute_model, options.steps or experiment.steps_per_call, options.devices
    common.say(name, "jaxgen", "compile init")
    codec = experiment.codec.load()
    key = core.run_key(experiment.seed, core.TRAIN)
    raw = experiment.data.batch_at(experiment.seed, 0, experiment.batch_size)
    state, init_seconds = common.timed(lambda: core.init(model, core.run_key(experiment.seed, core.INIT), raw, codec))
    params = jax.device_get(state.params)
    work = step_flops(experiment, state, key, codec)
    if options.quick:  # of a step at a third of the machine's rate
        k = max(1, min(k, round(common.QUICK_CALL * matmul / (3 * work + 1))))
    data, batches = common.fed(experiment, k)
    (state, key, codec, data), batches = common.spread(devices, (state, key, codec, data), (batches, 1))
    fused, step_seconds = common.compiled(core.train_steps, model, state, key, batches, codec, data, case=name)
    one = jax.tree.map(lambda a: a[:1], batches)

    # The state is donated, so each side carries its own from call to call.
    states = {"fused": state, "unfused": jax.tree.map(lambda a: a.copy(), state)}

    def run_fused():
        states["fused"], metrics = fused(states["fused"], key, batches, codec, data)
        return metrics

    def run_unfused():
        for _ in range(min(k, 20)):
            states["unfused"], metrics = core.train_steps(model, states["unfused"], key, one, codec, data)
        return metrics

    row = {
        "name": name,
        "model": type(model).__name__,
        "devices": devices,
        "batch_size": experiment.batch_size,
        "steps_per_call": k,
        "params": core.count_params(params),
        "flops_per_step": work,
        "init_seconds": init_seconds,
        "compile_seconds": step_seconds,
        "peak_bytes": common.peak_bytes(fused),
    }
    sides, per, reason = {"jaxgen fused": run_fused}, {"fused": k, "unfused": min(k, 20)}, "no peer was asked for"
    if not options.quick:  # a program of its own, to be compiled
        sides["jaxgen unfused"] = run_unfused
    if options.peer:
        torch_sides, reason = common.peer_sides(
            experiment, params, lambda peer: lambda: [peer.step() for _ in range(k)][-1].item(), name, options.quick
        )
        sides, per = sides | torch_sides, per | dict.fromkeys(torch_sides, k)
    times = common.in_turns(sides, options.calls, name, options.quick)
    times = {side.removeprefix("jaxgen "): seconds for side, seconds in times.items()}
    ms = {side: common.summary(times[side], per[side]) for side in times}
    fused_ms = ms["fused"]["median"]
    return row | {
        "ms_per_step": ms,
        "fused_speedup": ms["unfused"]["median"] / fused_ms if "unfused" in ms else None,
        "samples_per_second": 1000 * experiment.batch_size / fused_ms,
        "flops_per_second": 1000 * work / fused_ms,
        "matmul_share": 1000 * work / fused_ms / matmul,
        "process_peak_bytes": common.process_peak_bytes(),
        **common.against_peer(ms, "fused", reason),
    }


def step_flops(experiment: Experiment, state: core.TrainState, key: jax.Array, codec: Any) -> int:
    """Operations of one step."""
    data, one = common.fed(experiment, 1)
    return flops(lambda *args: core.train_steps(experiment.compute_model, *args), state, key, one, codec, data)


COLUMNS = {
    "experiment": lambda r: r["name"],
    "batch": lambda r: str(r["batch_size"]),
    "params": lambda r: f"{r['params']:,}",
    "init s": lambda r: f"{r['init_seconds']:.1f}",
    "compile s": lambda r: f"{r['compile_seconds']:.1f}",
    "ms/step": lambda r: common.ms(r["ms_per_step"]["fused"]["median"]),
    "unfused": lambda r: common.ms(r["ms_per_step"]["unfused"]["median"]) if r["fused_speedup"] else "",
    "fused gain": lambda r: f"{r['fused_speedup']:.2f}" if r["fused_speedup"] else "",
    "samples/s": lambda r: f"{r['samples_per_second']:,.0f}",
    "GFLOP/s": lambda r: f"{r['flops_per_second'] / 1e9:.1f}",
    "of matmul": lambda r: f"{r['matmul_share']:.0%}",
    "MiB": lambda r: common.megabytes(r["peak_bytes"]),
    "torch/ours": common.ratio,
    "compiled/ours": lambda r: common.ratio(r, "compiled"),
}


def main(args: Sequence[str] | None = None) -> None:
    options = parse.parse(Options, Options(), sys.argv[1:] if args is None else args, "train.py", __doc__)
    common.use_devices(options.devices)
    scripts = tuple(name for name in options.names if name not in CASES)
    every = not options.names
    experiments = common.chosen(Path(options.folder), scripts, options.preset) if scripts or every else {}
    experiments |= {name: case for name, case in CASES.items() if name in options.names or every}
    rows = common.rows(options.out or common.RESULTS / f"train-{options.preset}.json", "train", COLUMNS, options)
    for name, experiment in experiments.items():
        rows.add(name, lambda name=name, experiment=experiment: measure(name, experiment, options, rows.matmul))
    rows.finish(f"training, {options.preset}")


if __name__ == "__main__":
    parse.run(main)
