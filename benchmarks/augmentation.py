"""Few labels and generated pictures: does a classifier of 100 labelled digits gain by a generator's samples?

    python benchmarks/augmentation.py                              # three seeds, half an hour of one core

A class-conditional diffusion model is trained on all training pictures, of which 100 have labels and are repeated; the
others are given the null class, as classifier-free guidance is trained. Its samples, labelled by the class that they
were drawn under, join the 100. Beside it: the 100 labels alone, samples of the same generator trained on the 100
pictures alone, and all labels. The classifier moves pictures by up to a pixel in training, as its preset says.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import common
import numpy as np
import tyro
from rows import Row, Rows
from safetensors.numpy import load_file

from jaxgen.api.run import Run
from jaxgen.cli import parse
from jaxgen.comparison import families, measure
from jaxgen.core.ranges import Samples, Steps
from jaxgen.data import Digits
from jaxgen.data.dataset import Dataset
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment, presets
from jaxgen.models.conditions import NO_CLASS
from jaxgen.report.seeds import estimate
from jaxgen.runtime import devices
from jaxgen.runtime.files import write_tensors

Kind = Literal["labels alone", "and samples, of labelled pictures", "and samples, of all pictures", "all labels"]
KINDS: tuple[Kind, ...] = (
    "labels alone", "and samples, of labelled pictures", "and samples, of all pictures", "all labels",
)  # fmt: skip
SAMPLES = "made.safetensors"


@dataclass(frozen=True)
class Options:
    script: str = "ddpm"
    """A class-conditional diffusion model with a preset for digits."""
    labels: Annotated[int, tyro.conf.arg(help="Labelled pictures of each class.")] = 10
    samples: Samples = 3000
    """Generated pictures."""
    steps: Steps = 1500
    """Of the generator's training."""
    seeds: int = 3
    folder: str = "runs/augmentation"
    out: str = str(common.RESULTS / "augmentation.json")


@dataclass(frozen=True, kw_only=True)
class FewLabels(Dataset):
    """Digits of which `labels` of each class keep theirs, by `seed`; the others have the null class, or are left out.
    The test split is whole."""

    labels: int
    seed: int
    others: bool = True

    def load(self, split: str) -> Any:
        arrays = Digits().load(split)
        if split == "test":
            return arrays
        chosen = labelled(arrays["cond"], self.labels, self.seed)
        if not self.others:
            return {name: values[chosen] for name, values in arrays.items()}
        # As many have a label as have none: of one in fourteen, too little is learnt of classes.
        known = np.resize(np.flatnonzero(chosen), np.count_nonzero(~chosen))
        every = np.concatenate([np.flatnonzero(~chosen), known])
        cond = np.where(chosen, arrays["cond"], NO_CLASS).astype(np.int32)
        return {"x": arrays["x"][every], "cond": cond[every]}

    @property
    def class_names(self) -> tuple[str, ...]:
        return Digits().class_names


@dataclass(frozen=True, kw_only=True)
class WithSamples(Dataset):
    """Labelled digits, and pictures in a run's samples, under the classes they were drawn by: each half of a batch."""

    known: Dataset
    run: str
    """Its folder."""

    def load(self, split: str) -> Any:
        known: Any = self.known.load(split)
        if split == "test":
            return known
        made = load_file(Path(self.run) / SAMPLES)
        x, cond = made["x"], made["cond"]
        times = max(1, len(x) // len(known["x"]))
        repeated = {name: np.concatenate([values] * times) for name, values in known.items()}
        return {"x": np.concatenate([repeated["x"], x]), "cond": np.concatenate([repeated["cond"], cond])}

    @property
    def class_names(self) -> tuple[str, ...]:
        return Digits().class_names


def labelled(labels: np.ndarray, each: int, seed: int) -> np.ndarray:
    """bool[N]: the `each` of every class that keep their label."""
    order = np.random.default_rng(seed).permutation(len(labels))
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        chosen[order[labels[order] == label][:each]] = True
    return chosen


def classifier_of(data: Dataset, seed: int) -> Experiment:
    known = presets(common.ROOT / "experiments" / "classifier.py")["digits"]
    return of_size(replace(known, data=data, seed=seed))


def of_size(experiment: Experiment) -> Experiment:
    """Batches of no more than half of the pictures."""
    return replace(experiment, batch_size=min(experiment.batch_size, experiment.data.count("train") // 2))


def generator(data: Dataset, seed: int, options: Options) -> Run:
    """The diffusion model of digits by class, trained on `data`."""
    known = presets(common.ROOT / "experiments" / f"{options.script}.py")["digits"]
    model: Any = known.model
    model = model.fitted(model.shape, 10)
    short = families.of_length(of_size(replace(known, model=model, data=data, seed=seed)), options.steps)
    which = "all" if getattr(data, "others", True) else "few"
    return measure.trained(short, Path(options.folder) / f"{options.script}-{which}-{seed}")


def training_data(kind: Kind, seed: int, options: Options) -> Dataset:
    few = FewLabels(labels=options.labels, seed=seed, others=False)
    if kind == "labels alone":
        return few
    if kind == "all labels":
        return Digits()
    run = generator(replace(few, others=kind.endswith("all pictures")), seed, options)
    cond = np.arange(options.samples, dtype=np.int32) % 10
    x = run.sample(options.samples, seed=seed, cond=cond)
    write_tensors(run.run.path / SAMPLES, {"x": x, "cond": cond})
    return WithSamples(known=few, run=str(run.run.path))


def near_labelled(made: np.ndarray, seed: int, options: Options) -> float:
    """The share of pictures whose nearest one among all training pictures is labelled."""
    arrays = Digits().load("train")
    flat = arrays["x"].reshape(len(arrays["x"]), -1).astype(np.float32)
    nearest = [np.argmin(((one - flat) ** 2).sum(axis=1)) for one in made.reshape(len(made), -1).astype(np.float32)]
    return float(np.mean(labelled(arrays["cond"], options.labels, seed)[nearest]))


def accuracy(kind: Kind, options: Options) -> Row:
    """The row of a way to train. Of samples `near` says how many repeat the labelled pictures, where a share of them is
    no more than their share in the training pictures when none does."""
    found, near = [], []
    for seed in range(options.seeds):
        data = training_data(kind, seed, options)
        if isinstance(data, WithSamples):
            near.append(near_labelled(load_file(Path(data.run) / SAMPLES)["x"], seed, options))
        experiment = classifier_of(data, seed)
        name = kind.replace(" ", "-").replace(",", "")
        if isinstance(data, WithSamples):  # whose number no setting of the training tells
            name += f"-{options.samples}"
        run = measure.trained(experiment, Path(options.folder) / f"classifier-{name}-{seed}")
        found.append(run.evaluate()["accuracy"]["mean"])
        print(f"{kind}, seed {seed}: {found[-1]:.4f}", file=sys.stderr, flush=True)
    return {"accuracies": found, "accuracy": estimate(found), "near": estimate(near) if near else None}


def main(args: list[str]) -> None:
    options = parse.parse(Options, None, args, "augmentation.py", __doc__)
    known = presets(common.ROOT / "experiments" / f"{options.script}.py").get("digits")
    if known is None or not hasattr(known.model, "class_dropout"):
        raise UserError(f"{options.script} is no diffusion model of digits that is told classes: ddpm is one")
    if options.labels < 1 or options.seeds < 1:
        raise UserError(f"labels is {options.labels} and seeds {options.seeds}: 1 or more are expected of each")
    devices.start_jax()
    columns = {
        "experiment": lambda r: r["case"],
        "accuracy": lambda r: f"{r['accuracy']['mean']:.4f} ± {r['accuracy'].get('ci95', 0):.4f}",
    }
    table = Rows(options.out, "augmentation", columns, options, common.provenance())
    for kind in KINDS:
        table.add(kind, lambda k=kind: accuracy(k, options))
    table.finish(f"accuracy by {10 * options.labels} labelled digits")


if __name__ == "__main__":
    parse.run(lambda: main(sys.argv[1:]))
