"""Gaussian splats beside the hash grid: PSNR at equal CPU minutes, memory, and pictures a second.

    python benchmarks/splats.py --folder DIR             # Lego at 100 x 100 pixels, in Blender's layout
    python benchmarks/splats.py --preset analytic        # solids in closed form

Each is trained by its preset, one after the other, in this process. Training pauses at each mark of CPU time, and all
held-out views are rendered; their time does not count, nor does that of the compiler. `--minutes` is what both are
given; a preset that ends earlier is done then. About 16 minutes of one core with the default; start it alone on the
machine (`taskset -c 0`), as CPU time of a crowded core is longer.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import common
import jax
import numpy as np
from annotated_types import Gt
from rows import say

from jaxgen import core
from jaxgen.cli import parse
from jaxgen.core.ranges import PathName, Samples
from jaxgen.data import SceneFolder, WholeViews
from jaxgen.data.feed import BatchPlan, feed
from jaxgen.data.rays import PosedViews, composite
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment, presets
from jaxgen.inference.rendering import render_view, rendered, rendered_views, view_of
from jaxgen.metrics.image import psnr
from jaxgen.models.nerf import NeRF
from jaxgen.models.splats import Splats
from jaxgen.runs.restore import Trained


@dataclass(frozen=True)
class Options:
    folder: PathName = ""
    """Of the scene, for presets that read one."""
    preset: Literal["lego_small", "analytic", "smoke"] = "lego_small"
    """Of experiments/ngp.py and experiments/splats.py."""
    minutes: Annotated[float, Gt(0)] = 6.8
    """Of CPU time for each."""
    marks: Samples = 8
    """Times at which held-out views are rendered, evenly spaced over the minutes."""
    calls: Samples = 5
    """Turns of rendering one view by each."""
    out: str = str(common.RESULTS / "splats-lego.json")


def experiment_of(script: str, options: Options) -> Experiment:
    """The preset on the scene. Raises UserError where a folder is needed."""
    experiment = presets(common.ROOT / "experiments" / f"{script}.py")[options.preset]
    data = experiment.data
    if not isinstance(data.scene if isinstance(data, WholeViews) else data, SceneFolder):
        return experiment
    if not options.folder:
        raise UserError(f"{options.preset} reads a scene: pass --folder DIR, in Blender's layout")
    scene = SceneFolder(folder=options.folder)
    return replace(experiment, data=WholeViews(scene=scene) if isinstance(data, WholeViews) else scene)


def held_out(trained: Trained) -> float:
    """Mean PSNR of all held-out views, as `jaxgen render` has it."""
    data, model = trained.experiment.data, trained.experiment.model
    assert isinstance(data, PosedViews) and isinstance(model, NeRF | Splats)
    views = data.views("test")
    shown = np.stack([render_view(trained, view_of(views, i))[0] for i in range(len(views.pixels))])
    return float(np.mean(psnr(shown, composite(views.pixels, model.background))))


def train(experiment: Experiment, options: Options, name: str) -> tuple[Trained, common.Row]:
    """Trains for so long, and says what was reached when."""
    model, codec, k = experiment.compute_model, experiment.codec.load(), experiment.steps_per_call
    first = experiment.data.batch_at(experiment.seed, 0, experiment.batch_size)
    state = core.init(model, core.run_key(experiment.seed, core.INIT), first, codec)
    plan = BatchPlan(
        seed=experiment.seed, batch_size=experiment.batch_size, steps_per_call=k, stop=experiment.steps
    )  # fmt: skip
    data, calls = feed(experiment.data, plan, experiment.preload)
    data, key = jax.device_put(data), core.run_key(experiment.seed, core.TRAIN)
    calls = [next(calls), *calls]
    step, seconds = common.compiled(core.train_steps, model, state, key, calls[0], codec, data, case=name)
    every, spent, curve = 60 * options.minutes / options.marks, 0.0, []
    trained = Trained(experiment, codec, state)
    held_out(trained)  # compiles
    for i, batches in enumerate(calls):
        start = time.process_time()
        state, metrics = step(state, key, batches, codec, data)
        jax.block_until_ready(state)
        spent += time.process_time() - start
        done = i + 1 == len(calls) or spent >= 60 * options.minutes
        if done or spent >= every * (len(curve) + 1):
            trained = Trained(experiment, codec, state)
            curve.append({"cpu_seconds": spent, "step": (i + 1) * k, "psnr": held_out(trained)})
            say(name, "jaxgen", f"{spent / 60:.1f} min: {curve[-1]['psnr']:.2f} dB")
        if done:
            break
    row = {
        "name": f"{name} {options.preset}",
        "curve": curve,
        "cpu_seconds": spent,
        "psnr": curve[-1]["psnr"],
        "steps": curve[-1]["step"],
        "parameters": core.count_params(state.params),
        "splats": float(metrics["splats"][-1]) if isinstance(model, Splats) else None,
        "training_bytes": common.peak_bytes(step),
        "compile_seconds": seconds,
    }
    return trained, row


def drawing(trained: Trained) -> tuple[Callable[[], Any], int]:
    """A function that renders the first held-out view, and the bytes that this takes, by the compiler's account."""
    data, model = trained.experiment.data, trained.model
    assert isinstance(data, PosedViews)
    view = view_of(data.views("test"), 0)
    if isinstance(model, Splats):
        program, _ = common.compiled(rendered_views, model, trained.state, view.camera, view.size)
        return lambda: program(trained.state, view.camera), common.peak_bytes(program)
    rays = view.rays
    program, _ = common.compiled(rendered, model, trained.state, rays)
    return lambda: program(trained.state, rays), common.peak_bytes(program)


def both(options: Options) -> list[common.Row]:
    """The rows of the two."""
    found = {name: train(experiment_of(name, options), options, name) for name in ("ngp", "splats")}
    drawn = {name: drawing(trained) for name, (trained, _) in found.items()}
    times = common.in_turns({name: draw for name, (draw, _) in drawn.items()}, options.calls, "rendering")
    return [
        {
            **row,
            "rendering_bytes": drawn[name][1],
            "ms_per_view": (ms := common.summary(times[name])),
            "views_per_second": 1000 / ms["median"],
        }
        for name, (_, row) in found.items()
    ]


COLUMNS = {
    "experiment": lambda r: r["name"],
    "CPU min": lambda r: f"{r['cpu_seconds'] / 60:.1f}",
    "steps": lambda r: f"{r['steps']:,}",
    "PSNR": lambda r: f"{r['psnr']:.2f} dB",
    "views/s": lambda r: f"{r['views_per_second']:.1f}",
    "training MiB": lambda r: common.megabytes(r["training_bytes"]),
    "rendering MiB": lambda r: common.megabytes(r["rendering_bytes"]),
}


def main(args: list[str] | None = None) -> None:
    options = parse.parse(Options, None, sys.argv[1:] if args is None else args, "splats.py", __doc__)
    common.use_devices(1)
    for name in ("ngp", "splats"):
        experiment_of(name, options).check()
    rows = common.rows(options.out, "splats", COLUMNS, options)
    for row in both(options):
        rows.add(row["name"], lambda row=row: row)
    rows.finish("Gaussian splats beside the hash grid")


if __name__ == "__main__":
    parse.run(main)
