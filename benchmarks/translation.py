"""Digits translated without pairs: does a classifier of one data set read the other's pictures after translation?

    python benchmarks/translation.py --data-dir DIR                # trains cyclegan mnist if need be, ten minutes

The classifier has seen scikit-learn's digits alone. It reads MNIST's test digits, shrunk to 8 x 8, as they are, with
their range and mean matched to the other set's pixel by pixel, and translated by CycleGAN; and held-out digits of its
own set, the most that could be reached.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import common
import jax
import numpy as np
from rows import Row, Rows

from jaxgen import core
from jaxgen.cli import parse
from jaxgen.comparison import measure
from jaxgen.core.ranges import Samples
from jaxgen.report import save_picture
from jaxgen.runtime import devices

SHOWN = 12


@dataclass(frozen=True)
class Options:
    data_dir: str = ""
    num: Samples = 5000
    """Test digits of MNIST."""
    folder: str = "runs"
    out: str = str(common.RESULTS / "translation.json")


def matched(x: np.ndarray, like: np.ndarray) -> np.ndarray:
    """uint8[N, ...] with each pixel's mean and deviation over `like`."""
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-6
    return np.rint(np.clip((x - mean) / std * like.std(axis=0) + like.mean(axis=0), 0, 255)).astype(np.uint8)


def accuracy(judge: Any, x: np.ndarray, labels: np.ndarray) -> Row:
    right = common.recognised(judge, x, labels)
    error = float(right.std() / np.sqrt(len(right)))
    return {"accuracy": {"mean": float(right.mean()), "stderr": error}, "num": len(x)}


def main(args: list[str]) -> None:
    options = parse.parse(Options, None, args, "translation.py", __doc__)
    devices.start_jax()
    folder = Path(options.folder)
    experiment = common.preset_of("cyclegan", "mnist")
    data: Any = experiment.data
    data = replace(data, sources=replace(data.sources, data_dir=options.data_dir))
    run = measure.trained(replace(experiment, data=data), folder / "cyclegan-mnist-0")
    judge = measure.trained(common.preset_of("classifier", "digits"), folder / "classifier-digits-0")
    test: Any = data.sources.arrays("test")
    labels = np.asarray(test["cond"])[: options.num]
    # In order, as `Unpaired` shuffles.
    small = data.pictures(data.sources, "test")
    small, digits = small[: options.num], data.targets.arrays("test")
    model: Any = run.model
    keys = core.sample_keys(0, len(small))
    translated = np.asarray(run.codec.decode(jax.jit(model.translate)(run.state, keys, small)))
    train = data.targets.arrays("train")["x"]
    shown = {
        "as they are": (small, labels), "pixels matched": (matched(small, train), labels),
        "translated": (translated, labels), "its own held-out digits": (digits["x"], digits["cond"]),
    }  # fmt: skip
    columns = {
        "experiment": lambda r: r["case"],
        "accuracy": lambda r: f"{r['accuracy']['mean']:.4f} ± {1.96 * r['accuracy']['stderr']:.4f}",
    }
    table = Rows(options.out, "translation", columns, options, common.provenance())
    for name, (x, labels_of) in shown.items():
        table.add(name, lambda x=x, labels_of=labels_of: accuracy(judge, np.asarray(x), np.asarray(labels_of)))
    pictures = np.stack([np.asarray(x)[:SHOWN] for x, _ in shown.values()])
    save_picture(Path(options.out).with_suffix(".png"), pictures)
    table.finish("accuracy of a classifier of scikit-learn's digits")


if __name__ == "__main__":
    parse.run(lambda: main(sys.argv[1:]))
