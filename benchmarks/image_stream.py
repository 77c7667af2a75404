"""Times training on a folder of images that does not fit in memory beside the same training on resident ones.

    python benchmarks/image_stream.py           # a folder ten times the budget, an MLP and a U-Net

The pictures are made of noise, decoded into the cache and streamed: the memory of the host and that of the device are
allowed a tenth of them. The same steps are timed in turns on resident pictures, on streamed ones, and on streamed ones
whose file the system's page cache forgets before each call, as it would one larger than the machine's memory.

`busy` is the share of the time in which the device has work: resident over streamed, medians over all turns. `waiting`
is the share of the streamed time in which the loop waits for the next batches, and `cpu` the processor time of a
resident step over that of a streamed one, which counts the threads that read and hardly depends on a machine's other
work. Peak memory is that of a process for each side (VmHWM).
"""

import dataclasses
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import jax
import numpy as np
from PIL import Image

from jaxgen import core
from jaxgen.cli import parse
from jaxgen.codecs import Pixels
from jaxgen.data import BatchPlan, dataset, feed, image_folder
from jaxgen.experiment import Experiment, on_images
from jaxgen.models.vae import VAE
from jaxgen.nets.mlp import MLP
from jaxgen.ops.likelihood import Gaussian

SIZE = 32
ENOUGH = 1 << 40
HELD = 100
"""Pictures that are held out."""


@dataclass(frozen=True)
class Options:
    images: int = 30_000
    """Pictures to train on."""
    share: float = 0.1
    """Of them, decoded: what memory is allowed to hold."""
    turns: int = 3
    """Of each side."""
    seconds: float = 6.0
    """Of one turn, at least; it has eight calls at least, more than are read ahead."""
    out: str = str(common.RESULTS / "image-stream.json")


def cases() -> dict[str, Experiment]:
    """Experiments by name; their steps_per_call are those that are timed."""
    mlp = VAE(shape=(SIZE, SIZE, 3), latent=32, encoder=MLP((512, 512)), decoder=MLP((512, 512)), likelihood=Gaussian())
    found = common.chosen(common.ROOT / "experiments", ("vae", "ddpm"), "emoji")
    return {
        "MLP": dataclasses.replace(found["vae"], model=mlp, codec=Pixels(), batch_size=128, steps_per_call=20),
        "U-Net": dataclasses.replace(found["ddpm"], steps_per_call=1),
    }


def make(folder: Path, count: int) -> None:
    """`count` pictures to train on in two classes, and `HELD` held-out ones."""
    rng = np.random.default_rng(0)
    for i in range(count + HELD):
        place = folder / ("train" if i < count else "test") / ("even", "odd")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((SIZE + 8, SIZE), Image.Resampling.BILINEAR).save(place / f"{i}.jpg", quality=90)


class Side:
    """Training on data within a budget of bytes, call by call."""

    def __init__(self, experiment: Experiment, budget: int, cold: bool = False):
        image_folder.IN_MEMORY = budget
        image_folder._pixels.cache_clear()
        dataset._load.cache_clear()
        self.model, self.codec = experiment.compute_model, experiment.codec.load()
        self.steps = experiment.steps_per_call
        plan = BatchPlan(
            seed=0, batch_size=experiment.batch_size, steps_per_call=self.steps, stop=self.steps * 100_000
        )  # fmt: skip
        began = time.perf_counter()
        self.data, self.calls = feed(experiment.data, plan, budget)
        self.ready_seconds = time.perf_counter() - began
        arrays: Any = experiment.data.arrays("train")
        self.cold = arrays.pictures._descriptor if cold else None
        raw = experiment.data.batch_at(0, 0, experiment.batch_size)
        self.key = core.run_key(0, core.TRAIN)
        self.state = core.init(self.model, core.run_key(0, core.INIT), raw, self.codec)
        self.seconds, self.waiting, self.cpu = [], [], []
        self.call()  # compiles
        self.forget()

    def call(self) -> None:
        if self.cold is not None:
            os.posix_fadvise(self.cold, 0, 0, os.POSIX_FADV_DONTNEED)
        began, cpu = time.perf_counter(), time.process_time()
        batches = next(self.calls)
        self.waiting.append(time.perf_counter() - began)
        self.state, metrics = core.train_steps(self.model, self.state, self.key, batches, self.codec, self.data)
        jax.block_until_ready((self.state, metrics))
        self.seconds.append(time.perf_counter() - began)
        self.cpu.append(time.process_time() - cpu)

    def forget(self) -> None:
        self.seconds, self.waiting, self.cpu = [], [], []


def resident_bytes() -> int:
    """Most memory that this process has had, and nothing of the one that started it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return common.process_peak_bytes()
    return next(int(line.split()[1]) << 10 for line in status.read_text().splitlines() if line.startswith("VmHWM"))


def peak(experiment: Experiment, budget: int, calls: int) -> int:
    """Peak memory of this process, which trains for some calls and does nothing else."""
    side = Side(experiment, budget)
    for _ in range(calls):
        side.call()
    return resident_bytes()


def apart(function: Callable[..., Any], *args: Any) -> Any:
    """The result of a call in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def measure(name: str, experiment: Experiment, folder: Path, options: Options) -> common.Row:
    """Times of all sides in turns, in ms a step."""
    experiment = on_images(experiment, str(folder), SIZE)
    total = options.images * SIZE * SIZE * 3
    budget = int(total * options.share)
    sides = {
        "resident": Side(experiment, ENOUGH),
        "streamed": Side(experiment, budget),
        "cold": Side(experiment, budget, True),
    }
    assert [side.data is None for side in sides.values()] == [False, True, True]
    for turn in range(options.turns):
        for which, side in sides.items():
            common.say(name, which, f"measure {turn + 1} of {options.turns}")
            seen = [list(kept) for kept in (side.seconds, side.waiting, side.cpu)]
            side.call()  # the other side's threads may still be spinning
            side.seconds, side.waiting, side.cpu = seen
            stop, least = time.perf_counter() + options.seconds, len(side.seconds) + 8
            while time.perf_counter() < stop or len(side.seconds) < least:
                side.call()
    steps, batch = experiment.steps_per_call, experiment.batch_size
    ms = {which: common.summary(side.seconds, steps) for which, side in sides.items()}
    cpu = {which: 1000 * statistics.median(side.cpu) / steps for which, side in sides.items()}
    calls = 2 * options.images // (steps * batch) if name == "MLP" else 4
    return {
        "name": name, "batch_size": batch, "steps_per_call": steps, "images": options.images, "bytes": total,
        "budget": budget, "ms_per_step": ms, "cpu_ms_per_step": cpu,
        "images_per_second": {which: 1000 * batch / value["median"] for which, value in ms.items()},
        "busy": {which: ms["resident"]["median"] / ms[which]["median"] for which in ("streamed", "cold")},
        "waiting": {which: sum(sides[which].waiting) / sum(sides[which].seconds) for which in ("streamed", "cold")},
        "cpu": {which: cpu["resident"] / cpu[which] for which in ("streamed", "cold")},
        "decode_seconds": sides["resident"].ready_seconds,
        "peak_bytes": {
            "resident": apart(peak, experiment, ENOUGH, calls), "streamed": apart(peak, experiment, budget, calls)
        },
    }  # fmt: skip


COLUMNS = {
    "experiment": lambda r: r["name"],
    "batch": lambda r: str(r["batch_size"]),
    "images": lambda r: f"{r['images']:,}",
    "resident ms/step": lambda r: common.ms(r["ms_per_step"]["resident"]["median"]),
    **{
        f"{which} {what}": lambda r, which=which, what=what, form=form: form(r[what][which])
        for which in ("streamed", "cold")
        for what, form in (("busy", "{:.1%}".format), ("waiting", "{:.2%}".format), ("cpu", "{:.1%}".format))
    },
    "resident MB": lambda r: common.megabytes(r["peak_bytes"]["resident"]),
    "streamed MB": lambda r: common.megabytes(r["peak_bytes"]["streamed"]),
}


def main(args: Sequence[str] | None = None) -> None:
    options = parse.parse(Options, Options(), sys.argv[1:] if args is None else args, "image_stream.py", __doc__)
    rows = common.rows(options.out, "image_stream", COLUMNS, options)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JAXGEN_CACHE"] = str(Path(folder) / "cache")
        make(pictures := Path(folder) / "pictures", options.images)
        for name, experiment in cases().items():
            rows.add(name, lambda name=name, one=experiment: measure(name, one, pictures, options))
    rows.finish("streaming a folder of images")


if __name__ == "__main__":
    parse.run(main)
