"""Bytes of test images compressed by trained models, beside what these say they take, and beside PNG and WebP.

    python experiments/pixelcnn.py mnist --data.data-dir DIR
    python benchmarks/lossless.py runs/pixelcnn-mnist-0
    python benchmarks/lossless.py runs/integer_flow-digits-0 --num 360 --best

Images are rounded to the levels that the model knows first. PNG is Pillow's, optimized, of one bit a pixel where there
are two levels; WebP is Pillow's without loss, by its slowest method. Each is of each image alone, and of all in one
sheet, as the header alone of a PNG is as long as a digit's code.
"""

import io
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import common
import numpy as np
import tyro
from PIL import Image

from jaxgen import core
from jaxgen.cli import parse
from jaxgen.data.dataset import take
from jaxgen.errors import UserError
from jaxgen.inference.compression import check_model, compress, decompress, fingerprint
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import restore
from jaxgen.runtime import devices


@dataclass(frozen=True)
class Options:
    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    num: int = 100
    """Test images, the first ones."""
    best: bool = False
    """The best checkpoint on held-out data instead of the newest."""
    out: str = ""
    """JSON file; benchmarks/results/lossless-RUN.json when empty, or lossless.json of several runs."""


def png_bytes(image: np.ndarray, levels: int) -> int:
    """Size of uint8[H, W, 1 or 3] as a PNG."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    file = io.BytesIO()
    (picture.convert("1", dither=Image.Dither.NONE) if levels == 2 else picture).save(file, "PNG", optimize=True)
    return file.tell()


def webp_bytes(image: np.ndarray) -> int:
    """Size of uint8[H, W, 1 or 3] as a WebP without loss."""
    file = io.BytesIO()
    picture = Image.fromarray(np.broadcast_to(image, (*image.shape[:2], 3)))
    picture.save(file, "WEBP", lossless=True, quality=100, method=6)
    return file.tell()


def measure(run: RunFolder, num: int, best: bool) -> common.Row:
    trained = restore(run, best=best)
    experiment, codec, state = trained.experiment, trained.codec, trained.state
    model = experiment.compute_model
    check_model(model)
    if not 1 <= num <= experiment.data.count("test"):
        raise UserError(f"num is {num}: {experiment.data.count('test')} test images are there, give 1 to as many")
    test = take(experiment.data.arrays("test"), np.arange(num))
    levels = model.code_levels
    images = np.rint(np.rint(test["x"] / 255 * (levels - 1)) * (255 / (levels - 1))).astype(np.uint8)
    cond = test.get("cond") if model.sample_cond(1, test) is not None else None

    mark = fingerprint(experiment, state)
    seconds = {}
    begin = time.perf_counter()
    data = compress(model, state, images, mark, cond)
    seconds["compress"] = time.perf_counter() - begin
    begin = time.perf_counter()
    back = decompress(model, state, data, mark)
    seconds["decompress"] = time.perf_counter() - begin
    if not np.array_equal(back, images):
        raise RuntimeError(f"{np.sum(back != images)} pixels came back as others")

    batch = {"x": images} if cond is None else {"x": images, "cond": cond}
    nats = core.evaluate(model, state, core.sample_keys(0, num), batch, codec)["nats"]
    said = float(np.sum(np.asarray(nats), dtype=np.float64)) / math.log(2)
    side = math.ceil(math.sqrt(num))
    blank = np.zeros((side * side - num, *images.shape[1:]), np.uint8)
    _, height, width, channels = images.shape
    sheet = np.concatenate([images, blank]).reshape(side, side, height, width, channels).swapaxes(1, 2)
    sheet = sheet.reshape(side * height, side * width, channels)
    return {
        "name": run.path.name,
        "step": int(state.step),
        "images": num,
        "levels": levels,
        "bytes": len(data),
        "bits_per_dim": 8 * len(data) / images.size,
        "model_bits_per_dim": said / images.size,
        "over_model": 8 * len(data) / said - 1,
        "png_bytes": sum(png_bytes(image, levels) for image in images),
        "png_sheet_bytes": png_bytes(sheet, levels),
        "webp_bytes": sum(map(webp_bytes, images)),
        "webp_sheet_bytes": webp_bytes(sheet),
        "identical": True,
        "seconds": seconds,
    }


COLUMNS = {
    "run": lambda r: r["name"],
    "images": lambda r: str(r["images"]),
    "bytes": lambda r: f"{r['bytes']:,}",
    "bits/dim": lambda r: f"{r['bits_per_dim']:.4f}",
    "the model's": lambda r: f"{r['model_bits_per_dim']:.4f}",
    "over it": lambda r: f"{r['over_model']:+.2%}",
    "PNG each": lambda r: f"{r['png_bytes']:,}",
    "PNG sheet": lambda r: f"{r['png_sheet_bytes']:,}",
    "WebP each": lambda r: f"{r['webp_bytes']:,}",
    "WebP sheet": lambda r: f"{r['webp_sheet_bytes']:,}",
    "s": lambda r: " ".join(f"{s:.1f}" for s in r["seconds"].values()),
}


def main(args: list[str] | None = None) -> None:
    options = parse.parse(Options, None, sys.argv[1:] if args is None else args, "lossless.py", __doc__)
    devices.start_jax()
    runs = [RunFolder(Path(run)) for run in options.runs]
    of_one = f"-{runs[0].path.name}" if len(runs) == 1 else ""
    rows = common.rows(options.out or common.RESULTS / f"lossless{of_one}.json", "compression", COLUMNS, options)
    for run in runs:
        rows.add(run.path.name, lambda run=run: measure(run, options.num, options.best))
    rows.finish("lossless compression")


if __name__ == "__main__":
    parse.run(main)
