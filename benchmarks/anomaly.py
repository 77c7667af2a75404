"""Anomalies by generative models: each is trained on one class alone, and tells held-out pictures of it from the rest.

    python benchmarks/anomaly.py digits                            # five families, ten classes, an hour of one core
    python benchmarks/anomaly.py mnist --data-dir DIR --seconds 30

The area under the ROC curve of a picture's score, over classes. A family's score is its energy, the tightest bound
that it gives of minus the log likelihood, or else the error of its reconstruction or of its predicted noise. Simple
baselines on pixels: the distance to the nearest training picture, the error of a reconstruction by principal
components, and Mahalanobis' distance. Every model is trained for as many CPU seconds.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import common
import numpy as np
import tyro
from ood import auroc, numbers
from rows import Row, Rows

from jaxgen.cli import parse
from jaxgen.comparison import families
from jaxgen.core.ranges import Positive, Samples, Seed
from jaxgen.data.dataset import Dataset
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.report.seeds import estimate
from jaxgen.runtime import devices
from jaxgen.train.loop import train_in_memory

SCORES = ("energy", "iwae", "nelbo", "nll", "bits_per_dim", "mse", "eps_mse", "v_mse", "loss")
"""The first of them that there is: of diffusion models, the error of what the network predicts, or the loss."""
FAMILIES = ("autoencoder", "vae", "maf", "ebm", "ddpm")
COMPONENTS = 20
"""Of the reconstruction by principal components."""


@dataclass(frozen=True)
class Options:
    data: Annotated[str, tyro.conf.Positional] = "digits"
    """The preset of each family that is trained: digits or mnist."""
    families: tuple[str, ...] = FAMILIES
    seconds: Positive = 45.0
    """CPU seconds of each training."""
    num: Samples = 2000
    """Held-out pictures at most."""
    seed: Seed = 0
    batch: Samples = 200
    data_dir: str = ""
    out: str = ""
    """benchmarks/results/anomaly-DATA.json when empty."""


@dataclass(frozen=True, kw_only=True)
class OneClass(Dataset):
    """The pictures of one class, without their labels."""

    whole: Dataset
    label: int

    def load(self, split: str) -> Any:
        arrays: Any = self.whole.arrays(split)
        return {"x": np.asarray(arrays["x"])[np.asarray(arrays["cond"]) == self.label]}


def experiment_of(script: str, options: Options) -> Experiment:
    """The family's preset without classes. Raises UserError where there is none."""
    experiment = common.preset_of(script, options.data, options.data_dir)
    return replace(experiment, model=experiment.model.fitted(experiment.model.shape, 0), mesh="", seed=options.seed)  # pyright: ignore[reportAttributeAccessIssue]


def held_out(data: Dataset, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and their classes, the first of the test split."""
    arrays: Any = data.arrays("test")
    return np.asarray(arrays["x"])[: options.num], np.asarray(arrays["cond"])[: options.num]


def areas(scores: np.ndarray, labels: np.ndarray, label: int) -> float:
    return auroc(scores[labels == label], scores[labels != label])


def by_family(script: str, options: Options) -> Row:
    """The row of a family: `auroc` of each class."""
    experiment = experiment_of(script, options)
    seconds, _, _ = families.seconds_per_step(replace(experiment, data=OneClass(whole=experiment.data, label=0)))
    short = families.of_length(experiment, options.seconds / seconds)
    x, labels = held_out(experiment.data, options)
    found, name = [], ""
    for label in range(experiment.data.num_classes):
        run = train_in_memory(replace(short, data=OneClass(whole=experiment.data, label=label)))
        given = numbers(run.experiment.compute_model, run.state, run.codec, x, None, options)  # pyright: ignore[reportArgumentType]
        name = next(score for score in SCORES if score in given)
        found.append(areas(given[name], labels, label))
        print(f"{script}, class {label}: {name}, {found[-1]:.4f}", file=sys.stderr, flush=True)
    return {"score": name, "steps": short.steps, "auroc": found, **estimate(found)}


def nearest(train: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The squared distance to the nearest training picture."""
    parts = [np.min(((one - train) ** 2).sum(axis=1)) for one in x]
    return np.array(parts)


def principal(train: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The squared error of a reconstruction by the first principal components."""
    from sklearn.decomposition import PCA

    pca = PCA(min(COMPONENTS, *train.shape)).fit(train)
    return ((pca.inverse_transform(pca.transform(x)) - x) ** 2).sum(axis=1)


def mahalanobis(train: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The squared distance to the mean by a covariance that Ledoit and Wolf's rule shrinks."""
    from sklearn.covariance import LedoitWolf

    return LedoitWolf().fit(train).mahalanobis(x)


BASELINES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "nearest neighbour": nearest, "principal components": principal, "Mahalanobis": mahalanobis,
}  # fmt: skip


def by_baseline(score: Callable[[np.ndarray, np.ndarray], np.ndarray], options: Options) -> Row:
    data = experiment_of(options.families[0], options).data
    x, labels = held_out(data, options)
    flat = x.reshape(len(x), -1) / 255
    found = []
    for label in range(data.num_classes):
        train: Any = OneClass(whole=data, label=label).arrays("train")
        known = np.asarray(train["x"]).reshape(len(train["x"]), -1) / 255
        found.append(areas(score(known, flat), labels, label))
    return {"baseline": True, "auroc": found, **estimate(found)}


def main(args: list[str]) -> None:
    options = parse.parse(Options, None, args, "anomaly.py", __doc__)
    if unknown := set(options.families) - set(FAMILIES):
        raise UserError(f"{', '.join(sorted(unknown))} is not measured here: choose from {', '.join(FAMILIES)}")
    for script in options.families or FAMILIES:
        experiment_of(script, options)
    devices.start_jax()
    columns = {
        "experiment": lambda r: r["case"],
        "AUROC": lambda r: f"{r['mean']:.3f} ± {r.get('ci95', 0):.3f}",
        "worst class": lambda r: f"{min(r['auroc']):.3f}",
    }
    out = Path(options.out or common.RESULTS / f"anomaly-{options.data}.json")
    table = Rows(out, "anomaly", columns, options, common.provenance())
    for name, score in BASELINES.items():
        table.add(name, lambda s=score: by_baseline(s, options))
    for script in options.families:
        table.add(script, lambda s=script: by_family(s, options))
    table.finish(f"one class of {options.data} against the rest")


if __name__ == "__main__":
    parse.run(lambda: main(sys.argv[1:]))
