"""The shapes of a batch of an experiment whose data need not be here."""

from typing import Any

import jax
import numpy as np

from jaxgen.codecs import Identity
from jaxgen.core.codec import Codec
from jaxgen.data import (
    Cameras,
    Captioned,
    Dataset,
    Digits,
    Emoji,
    EmojiEdges,
    Mirrored,
    MovingDigits,
    Notes,
    PairFolder,
    ShrunkPairs,
    Sounds,
    Speech,
    SpokenWords,
    Text,
    Tones,
    Toy2D,
)
from jaxgen.data.rays import PosedViews
from jaxgen.data.unpaired import Unpaired
from jaxgen.data.whole_views import WholeViews
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.inference.embedded import Embedded
from jaxgen.ops import splatting
from jaxgen.ops.cameras import RAY
from jaxgen.ops.views import CAMERA
from jaxgen.runs.pretrained import Pretrained

EMBEDDED = (Digits, Emoji, EmojiEdges, MovingDigits, Notes, Toy2D, Tones)
SECONDS, LETTERS = 10.0, 160
"""Of the longest clips of speech, as in LJSpeech."""

Shapes = dict[str, jax.ShapeDtypeStruct]


def raw_batch(experiment: Experiment) -> tuple[Shapes, Codec, list[str]]:
    """Shapes of the raw batch that a step takes, the codec that reads it, and what stands in for data or runs that are
    not here.

    Raises UserError for data whose shapes its settings do not tell.
    """
    codec, notes, here = experiment.codec, [], True
    try:
        codec = codec.load()
    except UserError:
        if not isinstance(codec, Pretrained):  # nothing stands in for a teacher, say
            raise
        notes.append(f"the first stage {codec.run} is not here: its codes are taken as the data")
        codec, here = Identity(), False
    found = _examples(experiment.data, experiment, experiment.model, here)
    return {name: _many(spec, experiment.batch_size) for name, spec in found.items()}, codec, notes


def _many(spec: jax.ShapeDtypeStruct, count: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((count, *spec.shape), spec.dtype)


def _spec(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _examples(data: Dataset, experiment: Experiment, model: Any, raw: bool) -> Shapes:
    """The shapes of one example. raw: as the data has it, rather than encoded by a first stage."""
    if isinstance(data, ShrunkPairs):
        x = _examples(data.data, experiment, model, raw)["x"]
        return {"x": x, "cond": x}
    if isinstance(data, Embedded):  # by a run of a CLIP, without which nobody knows how long embeddings are
        return {name: _spec(array.shape[1:], array.dtype) for name, array in data.batch_at(0, 0, 1).items()}
    if isinstance(data, Captioned):
        text = {"text": _spec((data.window,), np.int32), "text_mask": _spec((data.window,), np.bool_)}
        return {**_examples(data.data, experiment, model, raw), **text}
    if isinstance(data, Mirrored):
        return _examples(data.data, experiment, model, raw)
    in_memory = isinstance(data, Unpaired) and all(isinstance(one, EMBEDDED) for one in (data.targets, data.sources))
    if raw and (in_memory or isinstance(data, EMBEDDED)):
        batch = data.batch_at(0, 0, 1)
        return {name: _spec(array.shape[1:], array.dtype) for name, array in batch.items()}
    if isinstance(data, Text):
        return {"x": _spec((data.block + 1,), np.int32), "bytes": _spec((), np.int32)}
    if isinstance(data, Cameras):
        return {"x": _spec((data.size, data.size, 3), np.uint8), "cond": _spec((CAMERA,), np.float32)}
    if isinstance(data, WholeViews):  # how large its pictures are, an analytic scene alone says without files
        size = getattr(data.scene, "size", 0)
        if not isinstance(size, int) or not size:
            raise UserError(f"the shapes of {type(data.scene).__name__} cannot be told without its files: name them")
        return {
            "x": _spec((size, size, 3), np.uint8), "cond": _spec((splatting.CAMERA,), np.float32),
            "alpha": _spec((size, size, 1), np.uint8),
        }  # fmt: skip
    if isinstance(data, PosedViews):
        return {"x": _spec((3,), np.uint8), "cond": _spec((RAY,), np.float32), "alpha": _spec((1,), np.uint8)}
    if isinstance(data, PairFolder):
        channels = {"x": data.target_channels, "cond": data.source_channels}
        return {name: _spec((*data.size, count), np.uint8) for name, count in channels.items()}
    if isinstance(data, Speech):
        frames = int(np.ceil(SECONDS * data.mel.rate / data.mel.hop / data.frames)) * data.frames
        return {
            "text": _spec((LETTERS,), np.int32), "text_length": _spec((), np.int32),
            "x": _spec((frames, data.mel.bands), np.float32), "length": _spec((), np.int32),
        }  # fmt: skip
    if isinstance(data, Sounds):
        return {"x": _spec((data.samples,), np.float32)}
    if isinstance(data, SpokenWords):
        return {"x": _spec((data.samples,), np.float32), "cond": _spec((), np.int32)}
    return _of_model(experiment, model, raw)


def _of_model(experiment: Experiment, model: Any, raw: bool) -> Shapes:
    """Pictures, or a first stage's codes of them, with their classes, as the model takes them."""
    shape = tuple(getattr(model, "shape", ()))
    classes = getattr(model, "num_classes", 0)
    label = {"cond": _spec((), np.int32)} if classes else {}
    if not raw and not shape:
        return {"x": _spec((model.num_tokens,), np.int32), **label}
    if not shape:
        name = type(experiment.data).__name__
        raise UserError(f"the shapes of {name} cannot be told without its files: name them with --data")
    if not raw:
        return {"x": _spec(shape, np.float32), **label}
    pictures = experiment.codec.raw_shape(shape)
    return {"x": _spec(pictures, np.uint8 if len(pictures) == 3 else np.float32), **label}
