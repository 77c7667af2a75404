"""Times our samplers against diffusers' own pipelines with the same U-Net and the same weights, in turns.

    python benchmarks/diffusers_pipeline.py digits --num 16 --devices 2          # on two CPU cores
    python benchmarks/diffusers_pipeline.py cifar10 --precision bfloat16         # on a GPU

DDPM's ancestral sampler of all steps, and DDIM. Before anything is timed, one pass of both networks must agree to 1e-4
of the largest answer. Ours ends with uint8, theirs with f32, both on the host. Compile time stands apart; theirs has a
first call, which is given too. Needs no data: the weights are random.
"""

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Annotated, Any, Literal

import common
import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro
from peers import LAYOUTS, unet2d, use_all_cores

from jaxgen import core
from jaxgen.cli import parse
from jaxgen.core import TrainState
from jaxgen.core.configuration import to_json
from jaxgen.core.flops import flops
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.ops.samplers import DDIM, Ancestral

CLOSE = 1e-4


@dataclass(frozen=True)
class Options:
    preset: Annotated[str, tyro.conf.Positional] = "digits"
    """Of experiments/ddpm.py, one without classes."""
    num: int = 64
    """Samples in a batch."""
    ddim_steps: int = 50
    rounds: int = 3
    """Turns of each side, with one call that does not count before each. A turn of 1,000 steps may take minutes."""
    samplers: tuple[Literal["ancestral", "ddim"], ...] = ("ddim", "ancestral")
    quick: bool = False
    """Ratios within two minutes a row: fewer turns, and no compiled peer."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of both networks."""
    devices: int = 1
    """CPU devices to split each batch of ours over; PyTorch has every core in any case."""
    out: str = ""
    """JSON file; benchmarks/results/diffusers-PRESET.json when empty."""


def random_state(experiment: Experiment) -> TrainState:
    """A state whose every parameter is random: a new network's last layers are zero, and would agree whatever came
    before them."""
    batch = {"x": np.zeros((1, *experiment.model.shape), np.uint8)}
    state = core.init(experiment.model, core.run_key(0, core.INIT), batch, experiment.codec.load())
    rng = np.random.default_rng(0)

    def fill(leaf: jax.Array) -> jax.Array:
        z = rng.standard_normal(leaf.shape, np.float32)
        if leaf.ndim > 1:
            return jnp.asarray(z / np.prod(leaf.shape[:-1]) ** 0.5)
        return leaf + 0.1 * z

    params = jax.tree.map(fill, state.params)
    return state.replace(params=params, ema=None, opt_state={})


def difference(model: Any, params: Any, module: torch.nn.Module) -> float:
    """Largest difference between the two networks' answers, relative to the largest answer; both in f32.

    Raises UserError when it is above 1e-4.
    """
    rng = np.random.default_rng(1)
    x = rng.standard_normal((4, *model.shape), np.float32)
    t = np.linspace(0, model.schedule.num_steps - 1, len(x)).astype(int)
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(jax.jit(lambda p: model.answer(p, x, t, {}))(params))
    with torch.no_grad():
        theirs = module(torch.tensor(x).movedim(-1, 1), torch.tensor(t)).sample.movedim(1, -1).numpy()
    error = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    if not error <= CLOSE:
        raise UserError(f"the two networks differ by {error:.1e} of their largest answer: they are not the same one")
    return error


def measure(
    experiment: Experiment, sampler: Any, state: TrainState, modules: dict[str, Any], options: Options, matmul: float
) -> common.Row:
    """All numbers of one sampler; modules: their network by memory layout, where it is to compute."""
    model, codec = replace(experiment.compute_model, sampler=sampler), experiment.codec.load()
    params, name = core.count_params(state.params), type(sampler).__name__
    (state, codec), keys = common.spread(options.devices, (state, codec), (core.sample_keys(0, options.num), 0))
    ours, seconds = common.compiled(core.sample_program, model, state, keys, None, codec, case=name)
    work = flops(lambda *args: core.sample(model, *args), state, keys, None, codec)
    sides = {"ours": lambda: np.asarray(ours(state, keys, None, codec))}
    for layout, module in modules.items():
        pipeline = unet2d.Pipeline(model, module)
        sides[f"torch {layout}"] = lambda pipeline=pipeline: pipeline(options.num)
    reason = common.LEFT_OUT
    if not options.quick:
        # The module would be compiled for the eager sides too.
        fastest = copy.deepcopy(modules["channels_last"])

        def compiled_side() -> Callable[[], Any]:
            fastest.compile()
            pipeline = unet2d.Pipeline(model, fastest)
            return lambda: pipeline(options.num)

        reason = common.tried(name, "torch.compile channels_last", sides, compiled_side)
    first = {side: common.timed(call)[1] for side, call in sides.items()}
    measured = common.in_turns(sides, options.rounds, name, options.quick)
    ms = {side: common.summary(times) for side, times in measured.items()}
    return {
        "name": name,
        "preset": options.preset,
        "diffusers": version("diffusers"),
        "network": to_json(model.network),
        "precision": options.precision,
        "devices": options.devices,
        "num_samples": options.num,
        "params": params,
        "compile_seconds": seconds,
        "first_call_seconds": first,
        "peak_bytes": common.peak_bytes(ours),
        "process_peak_bytes": common.process_peak_bytes(),
        **common.sampling_rates(ms, options.num, sampler.evaluations(model.schedule), work, matmul, reason),
    }


COLUMNS = {"experiment": lambda r: f"{r['preset']}, {r['name']}", **common.BESIDE}


def main(args: Sequence[str] | None = None) -> None:
    options = parse.parse(Options, Options(), sys.argv[1:] if args is None else args, "diffusers_pipeline.py", __doc__)
    common.use_devices(options.devices)
    experiment = common.chosen(common.ROOT / "experiments", ("ddpm",), options.preset)["ddpm"]
    experiment = replace(experiment, precision=options.precision)
    unet2d.check(experiment.model)
    samplers = {"ancestral": Ancestral(), "ddim": DDIM(steps=options.ddim_steps)}
    out = options.out or common.RESULTS / f"diffusers-{options.preset}.json"
    rows = common.rows(out, "diffusers_pipeline", COLUMNS, options)
    state = random_state(experiment)
    params = jax.device_get(state.params)
    modules = {layout: unet2d.unet2d(experiment.model, params["network"]) for layout in LAYOUTS}
    error = difference(experiment.model, params, modules["contiguous"])
    where, dtype = unet2d.device(jax.default_backend()), getattr(torch, options.precision)
    for layout, module in modules.items():
        module.to(where, dtype, memory_format=LAYOUTS[layout])
    use_all_cores()

    def measured(name: str) -> common.Row:
        row = measure(experiment, samplers[name], state, modules, options, rows.matmul)
        return {**row, "largest_difference": error}

    for name in options.samplers:
        rows.add(name, lambda name=name: measured(name))
    rows.finish("sampling, beside diffusers' pipelines")


if __name__ == "__main__":
    parse.run(main)
