"""Small pictures enlarged by models trained for it, beside cubic interpolation and the best linear estimate.

    python experiments/super_resolution.py digits; python experiments/pix2pix.py enlarging
    RUNS="runs/super_resolution-digits-0 runs/pix2pix-enlarging-0"
    python benchmarks/enlarging.py $RUNS --classifier runs/classifier-digits-0

Held-out pictures are made small by the mean of squares of pixels and enlarged again: by a diffusion model (SR3), one
sample and the mean of several, and by a GAN (pix2pix). PSNR and SSIM are beside the whole picture; the Frechet distance
is of a classifier's features, to those of all held-out pictures; recognised: how often it sees the right class.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
import restoration
from rows import Row, Rows

from jaxgen.cli import parse
from jaxgen.core.ranges import Samples, Seed
from jaxgen.data import Dataset, ShrunkPairs
from jaxgen.errors import UserError
from jaxgen.inference.sampling import draw
from jaxgen.metrics.fid import Gaussian, frechet_distance
from jaxgen.metrics.image import psnr, ssim
from jaxgen.models.pix2pix import Pix2Pix
from jaxgen.models.super_resolution import SuperResolution
from jaxgen.report import save_picture
from jaxgen.report.seeds import estimate
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import Trained, restore
from jaxgen.runtime.reading import user_path
from jaxgen.scoring import features

SHOWN = 12


@dataclass(frozen=True)
class Options:
    classifier: str = ""
    """Run of a classifier of the same pictures."""
    samples: Samples = 8
    """Of the diffusion model, whose mean is taken."""
    num: Samples = 400
    """Held-out pictures at most."""
    seed: Seed = 0
    out: str = ""
    """JSON, and beside it a picture; benchmarks/results/enlarging-PRESET.json when empty."""


def pictures_of(run: Trained) -> tuple[Dataset, int]:
    """The data of whole pictures, and the factor. Raises UserError for a run of another kind."""
    data, model = run.experiment.data, run.model
    if isinstance(model, SuperResolution):
        return data, model.factor
    if isinstance(model, Pix2Pix) and isinstance(data, ShrunkPairs):
        return data.data, data.factor
    raise UserError(f"{run.name} enlarges nothing: name runs of super_resolution, or of pix2pix with ShrunkPairs")


def enlarged(run: Trained, pairs: Any, seed: int, batch: int = 200) -> np.ndarray:
    """One sample for each small picture, uint8[N, H, W, C]."""
    model, cond = run.model, pairs["cond"]
    if isinstance(model, SuperResolution):
        cond = {"image": cond[:, :: model.factor, :: model.factor]}
        if model.num_classes:
            cond["label"] = pairs["label"]
    return draw(run, seed, len(pairs["x"]), jax.tree.map(jnp.asarray, cond), batch)


def main(args: list[str]) -> None:
    runs, options = common.runs_asked(args, Options(), "enlarging.py", __doc__)
    found = [pictures_of(run) for run in runs]
    if any(other != found[0] for other in found):
        raise UserError("the runs enlarge different pictures, or by different factors: name runs of one kind")
    if not options.classifier:
        raise UserError("no classifier was named: pass --classifier RUN, trained on the same pictures")
    judge = restore(RunFolder(user_path(options.classifier)))
    data, factor = found[0]
    out = Path(common.out_of(options.out, "enlarging", runs[0]))
    test: Any = data.arrays("test")
    pairs: Any = {name: x[: options.num] for name, x in ShrunkPairs(data=data, factor=factor).load("test").items()}
    x, labels = pairs["x"], np.asarray(test["cond"])[: options.num]
    pairs["label"] = labels
    network = features.of_run(judge)
    real = Gaussian.of(np.asarray(network.apply(np.asarray(test["x"]))["features"]))
    small = pairs["cond"][:, ::factor, ::factor] / 255
    train = np.asarray(data.arrays("train")["x"]) / 255
    shape = x.shape[1:]

    def measured(guess: np.ndarray) -> Row:
        close = jnp.asarray(guess), jnp.asarray(x)
        numbers = {"psnr": psnr(*close), "ssim": ssim(*close, gaussian=min(shape[:2]) >= 11)}
        seen = Gaussian.of(np.asarray(network.apply(guess)["features"]))
        return {
            "num": len(guess), **{name: estimate(np.asarray(values).tolist()) for name, values in numbers.items()},
            "fd": frechet_distance(seen, real), "recognised": float(common.recognised(judge, guess, labels).mean()),
        }  # fmt: skip

    columns = {
        "experiment": lambda r: r["case"],
        "PSNR": lambda r: f"{r['psnr']['mean']:.2f} ± {r['psnr']['ci95']:.2f}",
        "SSIM": lambda r: f"{r['ssim']['mean']:.3f}",
        "fd": lambda r: f"{r['fd']:.2f}",
        "recognised": lambda r: f"{r['recognised']:.1%}",
    }
    table = Rows(out, "enlarging", columns, options, common.provenance())
    cubic = restoration.simple(small, "resolution", None, shape, None)
    linear = restoration.linear(small, restoration.Degraded(lost="resolution", factor=factor).degrade, 0.0, train)
    guesses = {"cubic interpolation": restoration.to_bytes(cubic), "best linear estimate": restoration.to_bytes(linear)}
    for run in runs:
        many = [enlarged(run, pairs, options.seed)]
        guesses[f"{run.name}, one sample"] = many[0]
        if isinstance(run.model, SuperResolution):
            many += [enlarged(run, pairs, options.seed + 1 + i) for i in range(options.samples - 1)]
            guesses[f"{run.name}, mean of {options.samples}"] = np.rint(np.mean(many, axis=0)).astype(np.uint8)
    for name, guess in guesses.items():
        table.add(name, lambda guess=guess: measured(guess))
    # Of all, whether their rows were kept or measured.
    shown = [x, pairs["cond"], *guesses.values()]
    save_picture(out.with_suffix(".png"), np.stack([picture[:SHOWN] for picture in shown]))
    table.finish(f"pictures enlarged {factor} times")


if __name__ == "__main__":
    parse.run(lambda: main(sys.argv[1:]))
