"""`jaxgen judge`: pairs of pictures of several runs, or of a run and real data, for a person to choose from, blind."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from jaxgen.core import compiled
from jaxgen.core.keys import sample_keys
from jaxgen.core.types import PyTree
from jaxgen.data.dataset import take
from jaxgen.errors import UserError
from jaxgen.inference.prompting import conditions
from jaxgen.inference.prompts import captions
from jaxgen.inference.sampling import draw
from jaxgen.models.conditions import label_of
from jaxgen.report.choices import write_choices
from jaxgen.runs.marks import check_mark
from jaxgen.runs.restore import Trained
from jaxgen.runtime.png import png_bytes

KIND = "jaxgen answers 1"
"""What the first field of the answers says."""


class Contestant(NamedTuple):
    """One of those compared.

    facts: what the answers say of it. images: uint8[N, H, W, 1 or 3]. numbers: i64[N], of the sample, or of the example
    in its split. said: what each was asked to show; empty where they were asked nothing in words.
    """

    facts: dict[str, Any]
    images: np.ndarray
    numbers: np.ndarray
    said: Sequence[str] = ()


class Trial(NamedTuple):
    """Two contestants, left and right, of which image i is shown."""

    left: int
    right: int
    i: int


def trials(contestants: int, num: int, seed: int) -> list[Trial]:
    """`num` trials of each couple of contestants, in an order and on sides by the seed; within a couple each is on the
    left as often as the other, or once more."""
    rng = np.random.default_rng(seed)
    planned = []
    for a, b in combinations(range(contestants), 2):
        swapped = rng.permutation((np.arange(num) + rng.integers(2)) % 2)
        planned += [Trial(b, a, i) if swap else Trial(a, b, i) for i, swap in enumerate(swapped)]
    return [planned[k] for k in rng.permutation(len(planned))]


def check(runs: Sequence[Trained], num: int, prompts: Sequence[str] = ()) -> None:
    """Raises UserError for runs that draw no pictures, or not of one size. Draws none."""
    shapes = []
    for run in runs:
        sampler = partial(compiled.sample_program, run.model)
        drawn = jax.eval_shape(sampler, run.state, sample_keys(0, num), _asked(run, num, prompts), run.codec)
        _check_pictures(drawn, run.name)
        shapes.append(drawn.shape[1:])
    _check_sizes(shapes)


def of_run(trained: Trained, num: int, seed: int, prompts: Sequence[str] = (), batch: int = 256) -> Contestant:
    """Samples 0 to num - 1 of a run that `check` has passed."""
    cond = _asked(trained, num, prompts)
    images = draw(trained, seed, num, cond, batch)
    facts = {"of": "samples", "run": trained.name, "model": type(trained.experiment.model).__name__}
    facts |= {"step": trained.step, "parameters": trained.state.sampling_field, "weights": trained.weights}
    return Contestant({**facts, "seed": seed, "num": num}, images, np.arange(num), captions(trained, cond))


def of_data(trained: Trained, num: int, seed: int) -> Contestant:
    """`num` held-out examples of a run's data, chosen by the seed; where the run draws classes, example i is of the
    class of sample i. Raises UserError for data that are no pictures, or too few, or not what the run began with."""
    data = trained.experiment.data
    check_mark(trained.folder, trained.experiment, "test")
    if num > (count := data.count("test")):
        raise UserError(f"num is {num}, but {type(data).__name__} has {count} held-out examples: ask for fewer")
    chosen = np.random.default_rng(seed).permutation(count)
    arrays, asked = data.arrays("test"), label_of(_asked(trained, num, ()))
    own = np.asarray(arrays["cond"]) if isinstance(arrays, Mapping) and "cond" in arrays else np.empty(0)
    if asked is not None and asked.shape == (num,) and own.shape == (count,):
        chosen = _alike(chosen, own, np.asarray(asked))
    x = np.asarray(take(arrays, chosen[:num])["x"])
    _check_pictures(x, f"the data of {trained.name}")
    return Contestant({"of": "test", "data": type(data).__name__}, x, chosen[:num])


def _alike(order: np.ndarray, own: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """For each label asked the next example in `order` whose own label it is; over again where they are too few."""
    chosen = np.empty(len(asked), int)
    for label in np.unique(asked):
        examples = order[own[order] == label]
        if not len(examples):
            raise UserError(f"no held-out example is of class {label}, which the run draws: leave --real out")
        chosen[asked == label] = np.resize(examples, np.sum(asked == label))
    return chosen


def _asked(trained: Trained, num: int, prompts: Sequence[str]) -> PyTree:
    """Conditions of `num` samples."""
    return conditions(trained, prompts, num) if prompts else trained.model.sample_cond(num, trained.examples)


def _check_pictures(x: Any, whose: str) -> None:
    if getattr(x, "ndim", 0) != 4 or x.dtype != np.uint8 or x.shape[-1] not in (1, 3):
        kind = f"{x.dtype}{list(x.shape[1:])}" if hasattr(x, "dtype") else "of several parts"
        raise UserError(f"what {whose} shows is {kind}: pictures, uint8[H, W, 1 or 3], can be judged")


def _check_sizes(shapes: Sequence[tuple[int, ...]]) -> None:
    if len(different := list(dict.fromkeys(shapes))) > 1:
        sizes = " and ".join(" x ".join(map(str, shape)) for shape in different)
        raise UserError(f"pictures of {sizes} are told apart by their size: name runs of one size")


def write_judge(file: Path, contestants: Sequence[Contestant], question: str, seed: int) -> int:
    """Writes the page on which each couple of contestants is compared by all of their images, and returns the number of
    choices. Raises UserError for pictures of different sizes, which would give away whose they are."""
    _check_sizes([contestant.images.shape[1:] for contestant in contestants])
    num, height, width, _ = contestants[0].images.shape
    planned = trials(len(contestants), num, seed)
    seen = list(dict.fromkeys((side, trial.i) for trial in planned for side in trial[:2]))
    place = {image: k for k, image in enumerate(seen)}
    pictures = [png_bytes(_image(contestants[side].images[i])) for side, i in seen]
    about = {"kind": KIND, "question": question, "seed": seed, "contestants": [c.facts for c in contestants]}
    rows = []
    for trial in planned:
        sides = {name: _named(contestants, side, trial.i) for name, side in zip(("left", "right"), trial)}
        shown = [place[side, trial.i] for side in trial[:2]]
        rows.append({"pictures": shown, "said": _said([contestants[side] for side in trial[:2]], trial.i), **sides})
    content = hashlib.sha256(json.dumps([about, rows]).encode() + b"".join(pictures)).hexdigest()[:16]
    write_choices(file, {"page": content, "about": about, "trials": rows}, pictures, (height, width))
    return len(planned)


def _named(contestants: Sequence[Contestant], side: int, i: int) -> dict[str, int]:
    return {"contestant": side, "sample": int(contestants[side].numbers[i])}


def _said(both: Sequence[Contestant], i: int) -> str:
    """What both pictures were asked to show; empty unless it is the same."""
    left, right = (contestant.said[i] if contestant.said else "" for contestant in both)
    return left if left == right else ""


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
