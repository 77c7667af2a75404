"""Times training on a folder of images that does not fit in memory beside the same training on resident ones.

    python benchmarks/image_stream.py           # a folder ten times the budget, an MLP and a U-Net

The folder is made of noise, decoded into the cache and streamed: both the memory of the host and that of the device are
allowed a tenth of it. `busy` is the share of the time in which the device has work: resident over streamed, medians of
turns.
"""

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import common
import jax
import numpy as np
from PIL import Image

from jaxgen import core
from jaxgen.cli import parse
from jaxgen.data import BatchPlan, dataset, feed, image_folder
from jaxgen.experiment import Experiment, on_images

CASES = (("vae", "emoji"), ("ddpm", "emoji"))
SIZE = 32
ENOUGH = 1 << 40


@dataclass(frozen=True)
class Options:
    images: int = 20_000
    """Pictures in the folder."""
    share: float = 0.1
    """Of the folder, decoded: what memory is allowed to hold."""
    steps: int = 10
    """Steps fused into one call."""
    calls: int = 5
    """Turns of each side."""
    out: str = str(common.RESULTS / "image-stream.json")


def make(folder: Path, count: int) -> None:
    """`count` pictures in two classes."""
    rng = np.random.default_rng(0)
    for i in range(count):
        place = folder / ("even", "odd")[i % 2]
        place.mkdir(exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((SIZE + 8, SIZE), Image.Resampling.BILINEAR).save(place / f"{i}.jpg", quality=90)


def side(experiment: Experiment, budget: int, steps: int):
    """A function that trains for one call, on data within a budget of bytes, and the seconds to have that data."""
    image_folder.IN_MEMORY = budget
    image_folder._pixels.cache_clear()
    dataset._load.cache_clear()
    began = time.perf_counter()
    model, codec = experiment.compute_model, experiment.codec.load()
    plan = BatchPlan(seed=0, batch_size=experiment.batch_size, steps_per_call=steps, stop=steps * 100_000)
    data, calls = feed(experiment.data, plan, budget)
    seconds = time.perf_counter() - began
    raw = experiment.data.batch_at(0, 0, experiment.batch_size)
    key = core.run_key(0, core.TRAIN)
    state = {"state": core.init(model, core.run_key(0, core.INIT), raw, codec)}

    def call():
        state["state"], metrics = core.train_steps(model, state["state"], key, next(calls), codec, data)
        return metrics

    jax.block_until_ready(call())  # compiles
    return call, seconds, data is None


def measure(name: str, preset: str, folder: Path, options: Options) -> common.Row:
    """Times of both sides in turns, in ms a step."""
    experiment = on_images(common.chosen(common.ROOT / "experiments", (name,), preset)[name], str(folder), SIZE)
    total = options.images * SIZE * SIZE * 3
    budget = int(total * options.share)
    resident, decode_seconds, streamed = side(experiment, ENOUGH, options.steps)
    assert not streamed
    stream, map_seconds, streamed = side(experiment, budget, options.steps)
    assert streamed
    times = common.in_turns({"resident": resident, "streamed": stream}, options.calls, seconds=3.0)
    ms = {which: common.summary(taken, options.steps) for which, taken in times.items()}
    return {
        "name": f"{name} {preset}", "batch_size": experiment.batch_size, "steps_per_call": options.steps,
        "images": options.images, "bytes": total, "budget": budget, "ms_per_step": ms,
        "busy": ms["resident"]["median"] / ms["streamed"]["median"],
        "decode_seconds": decode_seconds, "cache_seconds": map_seconds,
    }  # fmt: skip


COLUMNS = {
    "experiment": lambda r: r["name"],
    "batch": lambda r: str(r["batch_size"]),
    "images": lambda r: f"{r['images']:,}",
    "resident ms/step": lambda r: common.ms(r["ms_per_step"]["resident"]["median"]),
    "streamed": lambda r: common.ms(r["ms_per_step"]["streamed"]["median"]),
    "busy": lambda r: f"{r['busy']:.1%}",
    "decoding s": lambda r: f"{r['decode_seconds']:.1f}",
}


def main(args: Sequence[str] | None = None) -> None:
    options = parse.parse(Options, Options(), sys.argv[1:] if args is None else args, "image_stream.py", __doc__)
    matmul = common.measure_matmul_flops()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JAXGEN_CACHE"] = str(Path(folder) / "cache")
        (pictures := Path(folder) / "pictures").mkdir()
        make(pictures, options.images)
        rows = [measure(name, preset, pictures, options) for name, preset in CASES]
    common.show("streaming a folder of images", rows, COLUMNS)
    common.write(options.out, "image_stream", rows, matmul)


if __name__ == "__main__":
    parse.run(main)
