"""Samples of a trained model, and their layout for a picture."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxgen.core import compiled
from jaxgen.core.configuration import check_value
from jaxgen.core.keys import sample_keys
from jaxgen.core.mesh import divisible
from jaxgen.core.ranges import Samples, Seed, Size
from jaxgen.errors import UserError
from jaxgen.models.autoguided import Autoguided
from jaxgen.models.diffusion import Diffusion
from jaxgen.runs.restore import Trained
from jaxgen.runtime.processes import whole


def check_numbers(num: int, batch: int, seed: int) -> None:
    """Raises UserError for numbers that no samples can be drawn by."""
    for name, value, kind in (("num", num, Samples), ("batch", batch, Size), ("seed", seed, Seed)):
        check_value(value, kind, name)


def draw(trained: Trained, seed: int, num: int, cond: Any = None, batch: int = 256) -> np.ndarray:
    """Samples 0 to num - 1 of a seed as raw data, `batch` at a time (or the next multiple that splits over a mesh);
    the last batch is padded, not recompiled. cond: leading axis num, or None."""
    batch = divisible(min(batch, num), trained.layout)
    return np.concatenate(list(drawn(trained, seed, range(0, num, batch), cond)))[:num]


def drawn(trained: Trained, seed: int, firsts: range, cond: Any = None) -> Iterator[np.ndarray]:
    """Samples of a seed as raw data, one batch of `firsts.step` for each number in `firsts`, from that sample on."""
    batch, layout = firsts.step, trained.layout
    for first in firsts:
        keys = sample_keys(seed, batch, first)
        # Past the end, conditions start over: those samples are cut off below.
        some = jax.tree.map(lambda c, first=first: np.take(c, range(first, first + batch), axis=0, mode="wrap"), cond)
        if layout is not None:
            trained.model.check_cond(some)  # while its values are here: devices of other hosts will have most of them
            keys, some = layout.put((keys, some), layout.batch())
        yield whole(compiled.sample(trained.model, trained.state, keys, some, trained.codec))


def guided(trained: Trained, guide: Trained) -> Trained:
    """A diffusion model guided by a worse one, arXiv:2406.02507, by the scale model.guidance.scale.

    Raises UserError for models that do not fit each other.
    """
    model, other = trained.experiment.model, guide.experiment.model
    if not isinstance(model, Diffusion) or not isinstance(other, Diffusion):
        raise UserError(f"{type(model).__name__} cannot be guided by {type(other).__name__}: two diffusion models can")
    if (model.shape, model.num_classes, model.schedule) != (other.shape, other.num_classes, other.schedule):
        raise UserError(f"the guide {guide.name} has another shape, schedule or number of classes than {trained.name}")
    if type(model).sample is not Diffusion.sample:
        raise UserError(f"{type(model).__name__} samples in a way of its own, which takes no guide: leave it out")
    if model.guidance.scale == 1:
        raise UserError("guidance.scale is 1, which asks no guide: pass --guidance 2, say")
    pair = Autoguided(model=model, guide=other)
    experiment = dataclasses.replace(trained.experiment, model=pair)
    return dataclasses.replace(trained, experiment=experiment, state=pair.join(trained.state, guide.state))


def in_rows(raw: np.ndarray, cond: Any) -> np.ndarray:
    """Images uint8[N, h, w, c], or clips uint8[N, F, h, w, c], whose labels i32[N] come in several equal runs, of two
    or more each, as [classes, N / classes, ...], for a picture with a row for each class; anything else as it is, and
    so are many classes of few images each, as their picture would be a tower."""
    if raw.ndim not in (4, 5) or getattr(cond, "shape", None) != (len(raw),):
        return raw
    (ends,) = np.nonzero(np.diff(np.asarray(cond)))
    runs = len(ends) + 1
    length = len(raw) // runs
    if runs == 1 or length * runs != len(raw) or length < 2 or runs > 8 * length or np.any((ends + 1) % length):
        return raw
    return raw.reshape(runs, length, *raw.shape[1:])


def in_frames(raw: np.ndarray, frame: tuple[int, int] | None) -> np.ndarray:
    """Pixels uint8[..., N, c] of pictures of size `frame` as [..., K, h, w, c], as far as they fill pictures, or else
    as one picture of the rows that they fill; what has no frame as it is."""
    if frame is None or raw.ndim < 2:
        return raw
    (height, width), num = frame, raw.shape[-2]
    if num < height * width:
        width = min(width, num)
        height = num // width
    pictures = num // (height * width)
    return raw[..., : pictures * height * width, :].reshape(*raw.shape[:-2], pictures, height, width, raw.shape[-1])


def is_clips(raw: np.ndarray) -> bool:
    """Whether raw examples or samples [N, ...] are clips, uint8[N, F, h, w, c]."""
    return raw.ndim == 5 and raw.dtype == np.uint8


def as_picture(name: str, raw: np.ndarray, clips: bool, frame: tuple[int, int] | None) -> tuple[str, np.ndarray]:
    """The file name and contents, as `report.save_picture` takes them, of a picture NAME.png or NAME.gif of raw
    examples, which lie in the last axes of `raw`. Of clips, [..., F, h, w, c], it is a film of all at once."""
    if not clips:
        return name, in_frames(raw, frame)
    return f"{name.rpartition('.')[0]}.gif", np.moveaxis(raw, -4, 0)


def in_one(texts: list[str]) -> str:
    """Several texts in one, each under its number."""
    return "\n".join(f"--- {i} ---\n{text}" for i, text in enumerate(texts)) + "\n"
