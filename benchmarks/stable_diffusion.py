"""Times our pictures of prompts against diffusers' StableDiffusionPipeline with the same weights, in turns.

    python benchmarks/stable_diffusion.py --devices 2                  # on two CPU cores
    python benchmarks/stable_diffusion.py --precision bfloat16         # on a GPU

A Stable Diffusion 1.x of tiny or small sizes and random weights: texts, guidance, all steps, the first stage. Before
anything is timed, both sides' pictures of the same noise must agree to 1e-3 of white. Ours begin with tokens and end
with uint8, theirs with words and f32. Compile time stands apart; theirs has a first call, which is given too.
"""

import copy
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import common
import jax
import numpy as np
import torch
from peers import LAYOUTS, use_all_cores
from peers import stable_diffusion as peer

from jaxgen import core
from jaxgen.cli import parse
from jaxgen.core.flops import flops
from jaxgen.core.ranges import Size
from jaxgen.errors import UserError
from jaxgen.inference import prompting
from jaxgen.ops.named_samplers import Name
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import Trained, restore
from jaxgen.runs.stable_diffusion import import_run

CLOSE = 1e-3
PROMPT, NEGATIVE = "a red dragon in the snow", "blurred, ugly"
SMALL = {
    "sample_size": 32, "block_out_channels": (64, 128, 256), "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
"""Of the U-Net: three resolutions from 32 x 32 latents on."""


@dataclass(frozen=True)
class Options:
    num: Size = 2
    """Pictures in a batch; the networks see twice as many."""
    steps: Size = 50
    scale: float = 7.5
    """Of guidance."""
    rounds: Size = 3
    """Turns of each side, with one call that does not count before each."""
    quick: bool = False
    """Ratios within two minutes a row: fewer turns, and no compiled peer."""
    samplers: tuple[Name, ...] = ("ddim", "pndm", "dpm++")
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of all networks."""
    devices: Size = 1
    """CPU devices to split each batch of ours over; PyTorch has every core in any case."""
    size: Literal["tiny", "small"] = "tiny"
    """Of the networks: 8 x 8 latents and two resolutions, or 32 x 32 and three."""
    out: str = ""
    """JSON file; benchmarks/results/stable-diffusion.json when empty."""


def drawn(trained: Trained, options: Options, name: str) -> Trained:
    """The run with a sampler's settings."""
    wanted = prompting.Drawing(guidance=options.scale, steps=options.steps, sampler=name)  # pyright: ignore[reportArgumentType]
    experiment = prompting.drawing(trained.experiment, wanted)
    return trained.to(replace(experiment, precision=options.precision))


def their_noise(trained: Trained, options: Options, where: str, dtype: torch.dtype) -> torch.Tensor:
    """What our samples of seed 0 start from."""
    keys = core.fold_each(core.sample_keys(0, options.num), 0)
    noise = np.array(core.normal_each(keys, trained.experiment.model.shape))  # pyright: ignore[reportAttributeAccessIssue]
    return torch.tensor(noise).movedim(-1, 1).to(where, dtype)


def measure(
    trained: Trained, pipelines: dict[str, Any], name: str, options: Options, where: str, matmul: float
) -> common.Row:
    """All numbers of one sampler. pipelines: theirs by memory layout, where they are to compute."""
    trained = drawn(trained, options, name)
    model, dtype = trained.model, getattr(torch, options.precision)
    cond = prompting.conditions(trained, [PROMPT], options.num, NEGATIVE)
    (state, codec), (keys, cond) = common.spread(
        options.devices, (trained.state, trained.codec), ((core.sample_keys(0, options.num), cond), 0)
    )
    ours, seconds = common.compiled(core.sample_program, model, state, keys, cond, codec, case=name)
    noise = their_noise(trained, options, where, dtype)

    def theirs(pipeline: Any) -> np.ndarray:
        return pipeline(
            [PROMPT] * options.num, negative_prompt=[NEGATIVE] * options.num, latents=noise, output_type="np",
            num_inference_steps=options.steps, guidance_scale=options.scale,
        ).images  # fmt: skip

    for pipeline in pipelines.values():
        pipeline.scheduler = peer.scheduler(name)
    sides = {"ours": lambda: np.asarray(ours(state, keys, cond, codec))}
    sides |= {f"torch {layout}": lambda pipeline=pipeline: theirs(pipeline) for layout, pipeline in pipelines.items()}
    reason = common.LEFT_OUT
    if not options.quick:
        pipeline = pipelines["channels_last"]

        def compiled_side() -> Callable[[], Any]:
            fastest = copy.deepcopy(pipeline.unet)
            fastest.compile()

            def call() -> np.ndarray:
                eager, pipeline.unet = pipeline.unet, fastest
                try:
                    return theirs(pipeline)
                finally:
                    pipeline.unet = eager

            return call

        reason = common.tried(name, "torch.compile channels_last", sides, compiled_side)
    first = {side: common.timed(call) for side, call in sides.items()}
    error = float(np.abs(first["ours"][0] / 255 - first["torch contiguous"][0]).max()) - 0.5 / 255  # of rounding
    if options.precision == "float32" and not error <= CLOSE:
        raise UserError(f"pictures by {name} differ by {error:.1e} of white: both sides must draw the same ones")
    measured = common.in_turns(sides, options.rounds, name, options.quick)
    ms = {side: common.summary(times) for side, times in measured.items()}
    evaluations = model.sampler.evaluations(model.schedule)  # pyright: ignore[reportAttributeAccessIssue]
    work = flops(lambda *args: core.sample(model, *args), state, keys, cond, codec)
    return {
        "name": name,
        "diffusers": version("diffusers"),
        "size": options.size,
        "shape": list(model.shape),  # pyright: ignore[reportAttributeAccessIssue]
        "precision": options.precision,
        "devices": options.devices,
        "num_samples": options.num,
        "params": {part: core.count_params(tree) for part, tree in trained.state.params.items()},
        "compile_seconds": seconds,
        "first_call_seconds": {side: time for side, (_, time) in first.items()},
        "largest_difference": max(0.0, error),
        "peak_bytes": common.peak_bytes(ours),
        **common.sampling_rates(ms, options.num, evaluations, work, matmul, reason),
    }


COLUMNS = {"experiment": lambda r: f"{'x'.join(map(str, r['shape']))} latents, {r['name']}", **common.BESIDE}


def main(args: Sequence[str] | None = None) -> None:
    options = parse.parse(Options, Options(), sys.argv[1:] if args is None else args, "stable_diffusion.py", __doc__)
    common.use_devices(options.devices)
    where = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
    out = options.out or common.RESULTS / "stable-diffusion.json"
    rows = common.rows(out, "stable_diffusion", COLUMNS, options)
    with tempfile.TemporaryDirectory() as folder:
        peer.pipeline(Path(folder), **(SMALL if options.size == "small" else {}))
        import_run(Path(folder) / "sd", Path(folder) / "run")
        trained = restore(RunFolder(Path(folder) / "run"))
        pipelines = {name: peer.loaded(Path(folder) / "sd") for name in LAYOUTS}
        for name, pipeline in pipelines.items():
            for module in (pipeline.unet, pipeline.vae):
                module.to(memory_format=LAYOUTS[name])
            pipeline.to(where, getattr(torch, options.precision))
        use_all_cores()
        for name in options.samplers:
            rows.add(name, lambda name=name: measure(trained, pipelines, name, options, where, rows.matmul))
    rows.finish("pictures of prompts, beside diffusers' pipeline")


if __name__ == "__main__":
    parse.run(main)
