"""Radiance fields: speed beside PyTorch, what skipping empty space gains, and the memory of a large picture.

    python benchmarks/nerf.py peer                                  # the same network and samples in PyTorch
    python benchmarks/nerf.py skipping --run runs/ngp-lego_small-0  # with its occupancy grid against without
    python benchmarks/nerf.py memory                                # of 800 x 800 pixels, by the compiler's account

`peer` and `memory` take a few minutes on two cores, `skipping` as many as twenty renderings of a view without its grid.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import common
import jax
import jax.numpy as jnp
import numpy as np
import tyro

from jaxgen import core
from jaxgen.cli import parse
from jaxgen.codecs import Pixels
from jaxgen.core import TrainState
from jaxgen.data import AnalyticScene
from jaxgen.data.rays import composite
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment, presets
from jaxgen.inference.rendering import render_view, rendered, view_of
from jaxgen.metrics.image import psnr
from jaxgen.models.nerf import NeRF
from jaxgen.nets.nerf import NeRFMLP
from jaxgen.ops.cameras import RAY
from jaxgen.ops.occupancy import Occupancy
from jaxgen.optim import Adam
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import restore


@dataclass(frozen=True)
class Options:
    what: Annotated[Literal["peer", "skipping", "memory"], tyro.conf.Positional]
    run: str = ""
    """Of `skipping`: a run with an occupancy grid."""
    depth: int = 8
    """Of `peer`: layers of the network."""
    width: int = 128
    coarse: int = 32
    fine: int = 64
    rays: int = 512
    """Of `peer`: rays of a step of training."""
    pixels: int = 2048
    """Of `peer`: rays of a rendering."""
    views: int = 2
    """Of `skipping`: held-out views whose PSNR is compared."""
    steps: int = 5
    """Steps fused into one call."""
    quick: bool = False
    """Ratios within two minutes a row: fewer turns, and no compiled peer."""
    calls: int = 3
    """Turns of each side."""
    devices: int = 1
    """Of `peer`: CPU devices to split rays over; PyTorch has every core in any case."""
    side: int = 800
    """Of `memory`: of the picture, in pixels."""
    out: str = ""
    """JSON file; benchmarks/results/nerf-WHAT.json when empty."""


def sides_of(times: dict[str, list[float]], per: int) -> tuple[dict, dict[str, float]]:
    """Summaries in ms of a step or a picture, and how many rays a second of `per`."""
    ms = {name: common.summary(t) for name, t in times.items()}
    return ms, {name: 1000 * per / side["median"] for name, side in ms.items()}


# --- beside PyTorch -----------------------------------------------------------------------------------------------


def peer(options: Options, rows: common.Rows) -> None:
    """Training and rendering of one network by both, from the same parameters."""
    skip = (options.depth + 2) // 2
    model = NeRF(
        network=NeRFMLP(depth=options.depth, width=options.width, skip=skip), coarse=options.coarse, fine=options.fine,
        bound=1.0, optimizer=Adam(lr=5e-4),
    )  # fmt: skip
    experiment = Experiment(
        model=model, codec=Pixels(low=0.0, high=1.0), data=AnalyticScene(), batch_size=options.rays,
        steps_per_call=options.steps, steps=options.steps, log_every=options.steps, save_every=options.steps,
        sample_every=options.steps,
    )  # fmt: skip
    key, k = core.run_key(0, core.TRAIN), options.steps
    raw = experiment.data.batch_at(0, 0, options.rays)
    state = core.init(model, core.run_key(0, core.INIT), raw, experiment.codec)
    params, (data, batches) = jax.device_get(state.params), common.fed(experiment, k)
    (state, key, data), batches = common.spread(options.devices, (state, key, data), (batches, 1))
    step, step_seconds = common.compiled(
        core.train_steps, model, state, key, batches, experiment.codec, data, case="training"
    )
    cond = jnp.resize(jnp.asarray(experiment.data.arrays("train")["cond"][: options.pixels]), (options.pixels, RAY))
    _, cond, keys = common.spread(options.devices, (), (cond, 0), (core.sample_keys(0, options.pixels), 0))
    draw, draw_seconds = common.compiled(
        core.sample_program, model, state, keys, cond, experiment.codec, case="rendering"
    )
    held, kept = {"state": state}, jax.tree.map(jnp.copy, state)

    def train():
        held["state"], metrics = step(held["state"], key, batches, experiment.codec, data)
        return metrics

    def training(other) -> Callable:
        return lambda: [other.step() for _ in range(k)][-1].item()

    def rendering(other) -> Callable:
        return lambda: other.sample(options.pixels).sum().item()

    def measure(name: str, ours: Callable, theirs: Callable, seconds: float, work: int) -> common.Row:
        others, reason = common.peer_sides(experiment, params, theirs, name, options.quick)
        times = common.in_turns({"ours": ours} | others, options.calls, name, options.quick)
        ms, rates = sides_of(times, work)
        return {
            "name": name,
            "params": core.count_params(params),
            "samples_per_ray": options.coarse * 2 + options.fine + 1,
            "rays": work,
            "devices": options.devices,
            "compile_seconds": seconds,
            "ms_per_call": ms,
            "rays_per_second": rates,
            **common.against_peer(ms, "ours", reason),
        }

    rows.add("training", lambda: measure("training", train, training, step_seconds, options.rays * k))
    render = partial(draw, kept, keys, cond, experiment.codec)
    rows.add("rendering", lambda: measure("rendering", render, rendering, draw_seconds, options.pixels))


# --- empty space --------------------------------------------------------------------------------------------------


def skipping(options: Options, rows: common.Rows) -> None:
    """Steps of training and views of a run, with its grid and without, from the same parameters."""
    rows.add(Path(options.run).name, lambda: skipped(options))


def skipped(options: Options) -> common.Row:
    """The row of one run."""
    trained = restore(RunFolder(Path(options.run)))
    experiment, codec, state = trained.experiment, trained.codec, trained.state
    model = experiment.compute_model
    if not isinstance(model, NeRF) or not model.occupancy.resolution:
        raise UserError(f"{options.run} has no occupancy grid: name a run of experiments/ngp.py")
    state = state.replace(opt_state={"all": model.optimizer.tx.init(state.params)})
    pairs = {
        "with_grid": (model, state),
        "without": (replace(model, occupancy=Occupancy()), state.replace(extra={})),
    }
    key, k = core.run_key(experiment.seed, core.TRAIN), options.steps
    data, batches = common.fed(experiment, k)
    sides, whole = {}, {}
    for name, (one, start) in pairs.items():
        held = {"state": jax.tree.map(jnp.copy, start)}
        step, _ = common.compiled(core.train_steps, one, held["state"], key, batches, codec, data, case=name)

        def train(held: dict[str, TrainState] = held, step: Callable = step) -> core.Metrics:
            held["state"], metrics = step(held["state"], key, batches, codec, data)
            return metrics

        # A ray that did not fit taught nothing, and does not count.
        whole[name] = float(np.mean(train().get("whole", 1.0)))
        sides[name] = train
    ms, rates = sides_of(common.in_turns(sides, options.calls, "training", options.quick), experiment.batch_size * k)
    rates = {name: rate * whole[name] for name, rate in rates.items()}
    views = experiment.data.views("test")
    count = min(options.views, len(views.pixels))
    shots = [view_of(views, i) for i in range(count)]
    scores = {}
    for name, pair in pairs.items():
        chosen = replace(trained, experiment=replace(experiment, model=pair[0]), state=pair[1])
        shown = np.stack([render_view(chosen, shot)[0] for shot in shots])
        scores[name] = float(np.mean(psnr(shown, composite(views.pixels[:count], experiment.model.background))))
    rays = shots[0].rays
    drawn = {name: lambda pair=pair: rendered(*pair, rays) for name, pair in pairs.items()}
    view_ms, pixel_rates = sides_of(common.in_turns(drawn, options.calls, "rendering", options.quick), len(rays))
    return {
        "name": Path(options.run).name,
        "step": int(state.step),
        "occupied": float(np.mean(np.asarray(model.occupancy.occupied(state.extra["occupancy"], state.step)))),
        "whole": whole["with_grid"],
        "ms_per_call": ms,
        "rays_per_second": rates,
        "ms_per_view": view_ms,
        "pixels_per_second": pixel_rates,
        "psnr": scores,
        "views": count,
        "training_gain": rates["with_grid"] / rates["without"],
        "rendering_gain": pixel_rates["with_grid"] / pixel_rates["without"],
    }


# --- memory -------------------------------------------------------------------------------------------------------


def memory(options: Options, rows: common.Rows) -> None:
    """Bytes that rendering a large picture takes at the default chunk, arguments and result included. The executable is
    built, not run."""

    def measure(script: str) -> common.Row:
        model = presets(common.ROOT / "experiments" / f"{script}.py")["blender"].compute_model
        example = {"x": jnp.zeros((8, 3)), "cond": jnp.zeros((8, RAY)), "alpha": jnp.zeros((8, 1), jnp.uint8)}
        state = core.abstract_state(model, example).replace(opt_state={})
        rays = jax.ShapeDtypeStruct((options.side**2, RAY), jnp.float32)
        executable, seconds = common.compiled(rendered, model, state, rays, case=script)
        return {
            "name": script,
            "chunk": model.chunk,
            "pixels": options.side**2,
            "params": core.count_params(state.params),
            "compile_seconds": seconds,
            "peak_bytes": common.peak_bytes(executable),
        }

    for script in ("nerf", "ngp", "mipnerf"):
        rows.add(script, lambda script=script: measure(script))


PEER = {
    "experiment": lambda r: r["name"],
    "params": lambda r: f"{r['params']:,}",
    "samples/ray": lambda r: str(r["samples_per_ray"]),
    "rays/s": lambda r: f"{r['rays_per_second']['ours']:,.0f}",
    "torch/ours": common.ratio,
    "compiled/ours": lambda r: common.ratio(r, "compiled"),
}
SKIPPING = {
    "experiment": lambda r: r["name"],
    "occupied": lambda r: f"{r['occupied']:.1%}",
    "rays/s": lambda r: f"{r['rays_per_second']['with_grid']:,.0f}",
    "without": lambda r: f"{r['rays_per_second']['without']:,.0f}",
    "gain": lambda r: f"{r['training_gain']:.2f}",
    "rendering": lambda r: f"{r['rendering_gain']:.2f}",
    "PSNR": lambda r: f"{r['psnr']['with_grid']:.3f}",
    "PSNR without": lambda r: f"{r['psnr']['without']:.3f}",
}
MEMORY = {
    "experiment": lambda r: r["name"],
    "pixels": lambda r: f"{r['pixels']:,}",
    "chunk": lambda r: str(r["chunk"]),
    "MiB": lambda r: common.megabytes(r["peak_bytes"]),
}


def main(args: list[str] | None = None) -> None:
    options = parse.parse(Options, None, sys.argv[1:] if args is None else args, "nerf.py", __doc__)
    common.use_devices(options.devices)
    known = {"peer": (peer, PEER), "skipping": (skipping, SKIPPING), "memory": (memory, MEMORY)}
    measure, columns = known[options.what]
    if options.what == "skipping" and not options.run:
        raise UserError("no run was named: pass --run RUN, one of experiments/ngp.py, say")
    out = options.out or common.RESULTS / f"nerf-{options.what}.json"
    rows = common.rows(out, f"nerf {options.what}", columns, options)
    measure(options, rows)
    rows.finish(f"radiance fields, {options.what}")


if __name__ == "__main__":
    parse.run(main)
