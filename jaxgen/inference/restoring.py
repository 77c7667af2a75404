"""Pictures behind a degraded one: samples of a diffusion model's posterior."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import numpy as np

from jaxgen.codecs import Pixels
from jaxgen.core.capabilities import Restores
from jaxgen.core.codec import Codec
from jaxgen.core.model import GenerativeModel
from jaxgen.core.ranges import Fraction, Positive, Size, Steps
from jaxgen.core.types import Batch, PyTree, RawBatch, TrainState
from jaxgen.errors import UserError
from jaxgen.inference.editing import check_free
from jaxgen.models.conditions import Conditioned, without
from jaxgen.ops.degrade import Blurred, Degrade, Grey, Noisy, Small
from jaxgen.runs.restore import Trained


@dataclass(frozen=True)
class Degraded:
    """What a picture has lost."""

    lost: Literal["noise", "colour", "resolution", "sharpness"] = "noise"
    """noise: nothing, but noise was added. colour: it is grey. resolution: it is smaller, by means over squares.
    sharpness: it was blurred."""
    factor: Size = 4
    """Of resolution: the sides of squares."""
    width: Positive = 1.5
    """Of sharpness: the blur's standard deviation in pixels."""
    std: Fraction = 0.0
    """Standard deviation of the noise in the picture, of a range from 0 (black) to 1; rounding to 8 bits is added."""
    iterations: Steps = 3
    """Of conjugate gradients, a backward pass of the network each: more follow the picture more closely."""

    @property
    def degrade(self) -> Degrade:
        match self.lost:
            case "noise":
                return Noisy()
            case "colour":
                return Grey()
            case "resolution":
                return Small(self.factor)
            case "sharpness":
                return Blurred(self.width)

    def std_of(self, codec: Pixels) -> float:
        """The noise's standard deviation in model space, with that of rounding, 1 / sqrt(12) of a level."""
        return (codec.high - codec.low) * float(np.hypot(self.std, 1 / 255 / np.sqrt(12)))

    def shape(self, model: GenerativeModel, codec: Codec) -> tuple[int, ...]:
        """(h, w, c) of degraded pictures. Raises UserError for a run that restores none, or no such ones."""
        if not isinstance(model, Restores):
            raise UserError(f"{type(model).__name__} restores no pictures: a diffusion model does, as ddpm or edm")
        check_free(model)
        if type(codec) is not Pixels:
            raise UserError(f"the run's codec is {type(codec).__name__}: pictures are restored by models of pixels")
        self.degrade.check(model.shape)
        return jax.eval_shape(self.degrade, jax.ShapeDtypeStruct((1, *model.shape), np.float32)).shape[1:]


def conditions(model: GenerativeModel, num: int, classes: tuple[int, ...], batch: Batch | RawBatch) -> PyTree:
    """What `num` pictures are restored under: the classes in turn; where none are named, none if the model was trained
    on examples without (`class_dropout`), and else every class. batch: raw examples of the model's data. Raises
    UserError for classes that the model is not told."""
    cond = model.sample_cond(num, batch)
    if classes:
        if cond is None or isinstance(cond, dict):
            raise UserError(f"classes were named, but {type(model).__name__} is told none: leave them out")
        cond = np.resize(np.asarray(classes, np.int32), num)
    elif isinstance(model, Conditioned) and model.guidable:
        cond = without(cond, model.empty)
    model.check_cond(cond)
    return cond


def restore_pictures(trained: Trained, keys: jax.Array, y: np.ndarray, degraded: Degraded, cond: PyTree) -> np.ndarray:
    """What may have been degraded to y, uint8[N, h, w, c]: uint8[N, H, W, C], a sample of the posterior for each of
    `keys`. Raises UserError for a run that restores no such pictures, or pictures of another shape."""
    expected = degraded.shape(trained.model, trained.codec)
    if y.dtype != np.uint8 or y.shape != (len(keys), *expected):
        raise UserError(f"degraded pictures are {y.dtype}{list(y.shape)}: uint8{[len(keys), *expected]} is expected")
    codec: Any = trained.codec  # Pixels: `shape` has seen to it
    std = degraded.std_of(codec)
    return np.asarray(_restored(trained.model, degraded, codec, trained.state, keys, y, std, cond))


@partial(jax.jit, static_argnums=(0, 1))
def _restored(
    model: Restores, degraded: Degraded, codec: Codec, state: TrainState, keys: jax.Array, y: jax.Array, std: Any,
    cond: PyTree,
) -> jax.Array:  # fmt: skip
    y = codec.encode({"x": y}, jax.random.key(0))["x"]
    return codec.decode(model.restore(state, keys, y, degraded.degrade, std, cond, degraded.iterations))
