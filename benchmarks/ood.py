"""How well the scores of trained runs tell their test data from images of another kind: areas under the ROC.

    python benchmarks/ood.py runs/ebm-mnist-0 runs/vae-mnist-0 runs/glow-mnist-0

A run is scored by its model's energy, or else the tightest bound that it gives of minus the log likelihood, or by the
number of `evaluate` that is named after a colon (runs/vae-mnist-0:kl), which is to be high for what is unlike the data.
The others are emoji of the data's size, grey where it is, over white and inverted, and uniform noise.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import common
import numpy as np
import tyro

from jaxgen import core
from jaxgen.cli import parse
from jaxgen.data import Emoji
from jaxgen.data.dataset import take
from jaxgen.data.embedded import area_resize
from jaxgen.errors import UserError, nearest
from jaxgen.ops.degrade import LUMA
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import restore
from jaxgen.runtime import devices

SCORES = ("energy", "nll", "nats", "iwae", "nelbo", "bits_per_dim")  # the first of them that there is


@dataclass(frozen=True)
class Options:
    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    num: int = 10_000
    """Images of each kind at most."""
    seed: int = 0
    batch: int = 200
    out: str = str(common.RESULTS / "ood.json")


def others(shape: tuple[int, ...], num: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Images that are no digits, uint8[at most num, *shape] by name; shape: (side, side, 1 or 3)."""
    side, _, channels = shape
    emoji = Emoji(size=64).arrays("all")["x"].astype(np.float64)
    if channels == 1:
        emoji = emoji @ np.array(LUMA)[:, None]
    emoji = np.rint(area_resize(emoji, side)).astype(np.uint8)[:num]
    noise = np.random.default_rng(seed).integers(0, 256, (num, *shape), np.uint8)
    return {"emoji": emoji, "emoji_inverted": 255 - emoji, "uniform": noise}


def numbers(
    model: Any, state: Any, codec: Any, images: np.ndarray, cond: np.ndarray | None, options: Options
) -> dict[str, np.ndarray]:
    """What `evaluate` gives for each of `images`, f32[N] by name. cond: their classes."""
    parts: dict[str, list[np.ndarray]] = {}
    for first in range(0, len(images), options.batch):
        index = np.minimum(np.arange(first, first + options.batch), len(images) - 1)
        batch = {"x": images[index]} if cond is None else {"x": images[index], "cond": cond[index]}
        keys = core.sample_keys(options.seed, options.batch, first, core.EVAL)
        for name, values in core.evaluate(model, state, keys, batch, codec).items():
            parts.setdefault(name, []).append(np.asarray(values))
    return {name: np.concatenate(values)[: len(images)] for name, values in parts.items()}


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Probability that a score of `outside` is above one of `inside`, ties counted half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(np.repeat([0, 1], [len(inside), len(outside)]), np.concatenate([inside, outside])))


def judge(name: str, options: Options) -> dict[str, Any]:
    """The row of one run, RUN or RUN:SCORE."""
    folder, _, asked = name.partition(":")
    run = RunFolder(Path(folder))
    trained = restore(run)
    experiment, codec, state = trained.experiment, trained.codec, trained.state
    model = experiment.compute_model
    count = min(options.num, experiment.data.count("test"))
    test = take(experiment.data.arrays("test"), np.arange(count))
    if test["x"].ndim != 4 or test["x"].shape[1] != test["x"].shape[2]:
        raise UserError(f"{folder} is of examples {test['x'].shape[1:]}: a run of square images is expected")
    images = {"test": test["x"], **others(test["x"].shape[1:], options.num, options.seed)}
    found = {}
    for kind, x in images.items():
        # Other images have no class: they are given the test images' in turn.
        cond = np.resize(test["cond"], len(x)) if "cond" in test else None
        found[kind] = numbers(model, state, codec, x, cond, options)
    names = list(found["test"])
    score = asked or next((s for s in SCORES if s in names), "")
    if score not in names:
        wrong = f"score {score!r}{nearest(score, names)}" if score else "likelihood or energy"
        raise UserError(f"{folder} has no {wrong}: name one after a colon, from {', '.join(names) or 'none'}")
    inside = found["test"][score]
    return {
        "run": run.path.resolve().name,
        "model": type(model).__name__,
        "step": int(state.step),
        "parameters": core.count_params(state.sampling_params),
        "score": score,
        "num": {kind: len(x) for kind, x in images.items()},
        "mean": {kind: float(np.mean(values[score], dtype=np.float64)) for kind, values in found.items()},
        "auroc": {kind: auroc(inside, values[score]) for kind, values in found.items() if kind != "test"},
    }


COLUMNS = {
    "experiment": lambda r: r["run"],
    "score": lambda r: r["score"],
    "AUROC": lambda r: "  ".join(f"{kind} {value:.4f}" for kind, value in r["auroc"].items()),
}


def main(argv: list[str] | None = None) -> None:
    options = parse.parse(Options, None, sys.argv[1:] if argv is None else argv, "ood.py", __doc__)
    if not options.runs or options.num < 1 or options.batch < 1:
        given = f"{len(options.runs)} runs, num {options.num}, batch {options.batch}"
        raise UserError(f"{given} were given: at least 1 is needed of each")
    devices.start_jax()
    rows = common.rows(options.out, "ood", COLUMNS, options)
    for name in options.runs:
        rows.add(name, lambda name=name: judge(name, options))
    rows.finish("areas under the curve, test images against others", seed=options.seed)


if __name__ == "__main__":
    parse.run(main)
