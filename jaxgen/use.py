"""What a trained model is used for: samples, numbers on held-out data, pictures."""

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxgen import core, parallel
from jaxgen.core import TrainState
from jaxgen.errors import UserError
from jaxgen.experiment import HELD_OUT, Experiment
from jaxgen.files import write_text
from jaxgen.metrics.modes import mode_coverage
from jaxgen.parallel import Layout
from jaxgen.runfolder import RunFolder

Distance = Callable[[jax.Array, jax.Array], jax.Array]
"""f32[B] of two batches of raw images."""


def loaded_codec(run: RunFolder, experiment: Experiment, layout: Layout | None = None) -> Any:
    """The experiment's codec with what it reads from files in place, the same that the run began with."""
    codec = experiment.codec.load(run.codec_record())
    return codec if layout is None else layout.put(codec, layout.everywhere)


def draw(
    model: Any,
    state: TrainState,
    seed: int,
    num: int,
    cond: Any,
    codec: Any,
    batch: int = 256,
    layout: Layout | None = None,
) -> np.ndarray:
    """Samples 0 to num - 1 of a seed as raw data, `batch` at a time (or the next multiple that splits over a mesh);
    the last batch is padded, not recompiled."""
    batch = parallel.divisible(min(batch, num), layout)
    return np.concatenate(list(drawn(model, state, seed, range(0, num, batch), cond, codec, layout)))[:num]


def drawn(
    model: Any, state: TrainState, seed: int, firsts: range, cond: Any, codec: Any, layout: Layout | None = None
) -> Iterator[np.ndarray]:
    """Samples of a seed as raw data, one batch of `firsts.step` for each number in `firsts`, from that sample on."""
    batch = firsts.step
    for first in firsts:
        keys = core.sample_keys(seed, batch, first)
        # Past the end, conditions start over: those samples are cut off below.
        some = jax.tree.map(lambda c, first=first: np.take(c, range(first, first + batch), axis=0, mode="wrap"), cond)
        if layout is not None:
            keys, some = layout.put((keys, some), layout.batch())
        yield parallel.whole(core.sample(model, state, keys, some, codec))


def in_rows(raw: np.ndarray, cond: Any) -> np.ndarray:
    """Images uint8[N, h, w, c] whose labels i32[N] come in several equal runs, of two or more each, as
    [classes, N / classes, h, w, c], for a picture with a row for each class; anything else as it is."""
    if raw.ndim != 4 or getattr(cond, "shape", None) != (len(raw),):
        return raw
    (ends,) = np.nonzero(np.diff(np.asarray(cond)))
    runs = len(ends) + 1
    length = len(raw) // runs
    if runs == 1 or length * runs != len(raw) or length < 2 or np.any((ends + 1) % length):
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


def held_out_numbers(
    experiment: Experiment,
    state: TrainState,
    codec: Any,
    seed: int,
    split: str,
    limit: int | None,
    batch: int,
    layout: Layout | None = None,
    distances: Mapping[str, Distance] | None = None,
) -> tuple[dict[str, dict[str, float]], int]:
    """Mean and standard error of each number of `evaluate`, and over how many examples.

    distances: further numbers, between what is sampled under each example's condition, an image, and the example.
    """
    totals: dict[str, list[np.ndarray]] = {}
    count = min(limit or sys.maxsize, experiment.data.count(split))
    batch = parallel.divisible(min(batch, count), layout)
    batches = experiment.data.padded_batches(batch, split, limit)
    for i, (raw, mask) in enumerate(batches):
        keys = core.sample_keys(seed, batch, i * batch, core.EVAL)
        if layout is not None:
            keys, raw = layout.put((keys, raw), layout.batch())
        images = _answers(experiment.compute_model, state, keys, raw, codec) if distances else None
        numbers = core.evaluate(experiment.compute_model, state, keys, raw, codec)
        numbers |= {name: distance(images, raw["x"]) for name, distance in (distances or {}).items()}
        for name, values in parallel.whole(numbers).items():
            totals.setdefault(name, []).append(np.asarray(values, np.float64)[mask])
    return {name: _mean(np.concatenate(parts)) for name, parts in totals.items()}, count


def _mean(values: np.ndarray) -> dict[str, float]:
    """Mean and standard error of f64[N]; of f64[N, 2], those of the first column's sum over the second's, the error to
    first order."""
    if values.ndim == 2:
        over, under = values.T
        mean = over.sum() / max(under.sum(), 1e-12)
        values = mean + (over - mean * under) / max(under.mean(), 1e-12)
    stderr = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0
    return {"mean": float(values.mean()), "stderr": stderr}


def _answers(model: Any, state: TrainState, keys: jax.Array, raw: core.Batch, codec: Any) -> jax.Array:
    """What the model makes of each example's condition, by the keys that `evaluate` has for it: raw data."""
    cond = model.sample_cond(keys.shape[0], raw)
    if not any(leaf.ndim >= 3 for leaf in jax.tree.leaves(cond)):
        raise UserError(f"{type(model).__name__} makes no image of an image: there is none to compare with --lpips")
    return core.sample(model, state, core.fold_each(keys, 1), cond, codec)


def save_pictures(
    run: RunFolder, experiment: Experiment, codec: Any, state: TrainState, final: bool, layout: Layout | None = None
) -> None:
    """A grid of samples, or their text, and, at the end, what else the family shows. Where the data's modes are known,
    how many of them the samples reach goes to RUN/held_out.jsonl."""
    from jaxgen.report import save_picture

    model, folder, batch = experiment.compute_model, run.pictures(int(state.step)), run.examples()
    num = experiment.num_samples
    cond = model.sample_cond(num, batch)
    samples = draw(model, state, experiment.seed, num, cond, codec, num, layout)
    texts = experiment.data.texts(samples)
    pictures = {"samples.png": in_rows(samples, cond)} if texts is None else {}
    frame = experiment.data.frame
    if final:
        some = core.sample_keys(experiment.seed, len(batch["x"]))
        if layout is not None:
            some, batch = layout.put((some, batch), layout.everywhere)
        pictures |= parallel.whole(core.pictures(model, state, some, batch, codec))
    if parallel.is_main():
        if (modes := experiment.data.modes) is not None:
            counted = mode_coverage(samples, *modes)
            finite = {f"samples/{name}": value for name, value in counted.items() if np.isfinite(value)}
            run.append(run.held_out, [{"step": int(state.step), **finite}])
        if texts is not None:
            write_text(folder / "samples.txt", in_one(texts))
        for name, picture in pictures.items():
            save_picture(folder / name, in_frames(picture, frame))


def in_one(texts: list[str]) -> str:
    """Several texts in one, each under its number."""
    return "\n".join(f"--- {i} ---\n{text}" for i, text in enumerate(texts)) + "\n"


def score(
    experiment: Experiment, state: TrainState, codec: Any, run: RunFolder, layout: Layout | None = None
) -> float | None:
    """What `best` says of a state about to be saved, lower being better; None where nothing is asked."""
    name = experiment.best.removeprefix("-")
    if not name:
        return None
    sign, step = -1 if experiment.best.startswith("-") else 1, int(state.step)
    if not name.startswith("test/"):
        since = (step - 1) // experiment.save_every * experiment.save_every
        # From the file, not from memory, so that a resumed run finds what a straight one does.
        return sign * parallel.from_main(parallel.on_main(lambda: run.mean(name, since)))
    # Of pixels the first picture at least: its first rows may show nothing.
    limit = max(HELD_OUT, math.prod(experiment.data.frame or (0,)))
    numbers, _ = held_out_numbers(
        experiment, state, codec, experiment.seed, "test", limit, experiment.batch_size, layout
    )
    means = {f"test/{n}": value["mean"] for n, value in numbers.items()}
    run.append(run.held_out, [{"step": step, **means}])
    return sign * means[name]
