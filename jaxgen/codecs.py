"""From raw data to model space and back.

Models never see [0, 255]; metrics and pictures always do. A codec is a pytree with static configuration, so compiled
functions take it as an ordinary argument. Those without weights have no leaves.
"""

import math
from collections.abc import Iterable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Le
from flax import struct

from jaxgen.core.codec import Codec, static
from jaxgen.core.ranges import Bits, Shape
from jaxgen.core.types import Batch, RawBatch
from jaxgen.errors import UserError
from jaxgen.ops.palette import palette
from jaxgen.ops.quantize import nearest


def to_levels(unit: jax.Array) -> jax.Array:
    """The nearest of 256 levels, uint8, of values in [0, 1]; others are clipped."""
    return jnp.round(jnp.clip(unit, 0, 1) * 255).astype(jnp.uint8)


@struct.dataclass
class Identity(Codec):
    """For data that is already in model space, such as 2-D points."""

    @property
    def draws(self) -> bool:
        return False

    def encode(self, batch: Batch, key: jax.Array) -> Batch:
        return batch

    def decode(self, x: jax.Array) -> jax.Array:
        return x


@struct.dataclass
class Pixels(Codec):
    """uint8 images to f32 in [low, high], in 255 equal steps, and back: decode(encode(x)) == x."""

    low: float = static(-1.0)
    high: float = static(1.0)

    @property
    def draws(self) -> bool:
        return False

    def encode(self, batch: Batch, key: jax.Array) -> Batch:
        return {**batch, "x": batch["x"].astype(jnp.float32) / 255 * (self.high - self.low) + self.low}

    def decode(self, x: jax.Array) -> jax.Array:
        return to_levels(self.unrounded(x))

    def unrounded(self, x: jax.Array) -> jax.Array:
        return (x.astype(jnp.float32) - self.low) / (self.high - self.low)


@struct.dataclass
class Binarize(Codec):
    """uint8 images to {0, 1}, and probabilities back to grey levels.

    dynamic: whether each value is drawn with probability pixel / 255, anew in every epoch, as for dynamically binarized
    MNIST (arXiv:1509.00519, section 5), or else thresholded at 1/2.
    """

    dynamic: bool = static(True)

    @property
    def draws(self) -> bool:
        return self.dynamic

    def encode(self, batch: Batch, key: jax.Array) -> Batch:
        p = batch["x"].astype(jnp.float32) / 255
        x = jax.random.bernoulli(key, p) if self.dynamic else p > 0.5
        return {**batch, "x": x.astype(jnp.float32)}

    def decode(self, x: jax.Array) -> jax.Array:
        return to_levels(x)

    def unrounded(self, x: jax.Array) -> jax.Array:
        return x


@struct.dataclass
class Dequantize(Codec):
    """uint8 to continuous values: (x + u) / 2^bits in [0, 1) with u ~ U[0, 1), rescaled to [low, high).

    A density model of these values bounds the probability of the levels: E log p(x + u) <= log P(x), arXiv:1511.01844,
    section 3.1. bits < 8 first drops the low bits, as in Glow. Without noise u is 0, for a model that draws its own.
    """

    bits: Bits = static(8)
    low: float = static(0.0)
    high: float = static(1.0)
    noise: bool = static(True)

    @property
    def draws(self) -> bool:
        return self.noise

    def encode(self, batch: Batch, key: jax.Array) -> Batch:
        levels = batch["x"] >> (8 - self.bits)
        # In f32, 255 + u rounds to 256 if u is within 2^-17 of one.
        u = jax.random.uniform(key, levels.shape, maxval=1 - 2**-16) if self.noise else 0.0
        unit = (levels.astype(jnp.float32) + u) / 2**self.bits
        return {**batch, "x": unit * (self.high - self.low) + self.low}

    def decode(self, x: jax.Array) -> jax.Array:
        levels = jnp.clip(jnp.floor(self.unrounded(x) * 2**self.bits), 0, 2**self.bits - 1)
        # The middle of the range that the dropped bits span; exact for 8 bits.
        return (levels * 2 ** (8 - self.bits) + (2 ** (8 - self.bits) - 1) // 2).astype(jnp.uint8)

    def unrounded(self, x: jax.Array) -> jax.Array:
        return (x.astype(jnp.float32) - self.low) / (self.high - self.low)

    @property
    def log_volume(self) -> float:
        """Log of the width of a level in model space. Per dimension, log P(level) >= E log density + log_volume."""
        return math.log((self.high - self.low) / 2**self.bits)


@struct.dataclass
class Augmented(Codec):
    """`codec` after random changes of images x uint8[B, H, W, C], for training alone; the step's key draws them.

    flip: each picture is mirrored left to right with probability 1/2. shift: each is moved by up to so many pixels
    along each axis, where edges are reflected.
    """

    codec: Codec
    flip: bool = static(False)
    shift: int = static(0)

    def encode(self, batch: Batch, key: jax.Array) -> Batch:
        key, key_flip, key_shift = jax.random.split(key, 3)
        x = batch["x"]
        if self.shift:
            around = ((0, 0), (self.shift, self.shift), (self.shift, self.shift), (0, 0))
            padded = jnp.pad(x, around, mode="symmetric")
            place = jax.random.randint(key_shift, (len(x), 2), 0, 2 * self.shift + 1)
            x = jax.vmap(lambda a, p: jax.lax.dynamic_slice(a, (p[0], p[1], 0), x.shape[1:]))(padded, place)
        if self.flip:
            x = jnp.where(jax.random.bernoulli(key_flip, 0.5, (len(x), 1, 1, 1)), x[:, :, ::-1], x)
        return self.codec.encode({**batch, "x": x}, key)

    def decode(self, x: jax.Array) -> jax.Array:
        return self.codec.decode(x)

    def unrounded(self, x: jax.Array) -> jax.Array:
        return self.codec.unrounded(x)


@struct.dataclass
class Colours(Codec):
    """uint8 pictures [B, *shape] as tokens i32[B, H W] in raster order, the index of each pixel's nearest colour among
    `size`, and back: "Generative Pretraining from Pixels", section 3 (Chen et al., ICML 2020).

    The colours are k-means centres of the training data (`ops.palette`), measured as a run begins and kept with it. A
    grey picture whose levels are no more than `size` comes back exactly; otherwise the nearest colours do.
    """

    shape: Shape = static((32, 32, 3))
    """(H, W, C)."""
    size: Annotated[int, Ge(2), Le(65_536)] = static(512)

    def load(self, record: dict[str, Any] | None = None) -> "Palette":
        """With the colours of `record`, or with levels of grey in equal steps until some are measured. Raises UserError
        for a record of other colours than these."""
        colours = np.rint(np.linspace(0, 255, self.size))[:, None].repeat(self.shape[-1], axis=1)
        if record is not None:
            expected, colours = colours.shape, np.asarray(record.get("colours", ()))
            if colours.shape != expected or colours.dtype.kind != "i" or np.any(colours.astype(np.uint8) != colours):
                raise UserError(f"the run's record of colours is no table of {expected} levels: bring the file back")
        return Palette(jnp.asarray(colours, jnp.uint8), tuple(self.shape))

    def fitted(self, shape: tuple[int, ...]) -> "Colours":
        return Colours(shape, self.size)

    def encode(self, batch: Batch, key: jax.Array) -> Batch:
        raise UserError("this codec has no colours yet: call its load()")

    def decode(self, x: jax.Array) -> jax.Array:
        raise UserError("this codec has no colours yet: call its load()")


@struct.dataclass
class Palette(Codec):
    """What `Colours` loads."""

    colours: jax.Array
    """uint8[K, C]."""
    shape: tuple[int, ...] = static((32, 32, 3))

    @property
    def provenance(self) -> dict[str, Any]:
        return {"colours": np.asarray(self.colours).tolist()}

    @property
    def draws(self) -> bool:
        return False

    def measured(self, batches: Iterable[RawBatch]) -> "Palette":
        """The codec with the colours of these pictures."""
        pixels = np.concatenate([np.asarray(batch["x"]).reshape(-1, self.shape[-1]) for batch in batches])
        return Palette(jnp.asarray(palette(pixels, len(self.colours))), self.shape)

    def check_model(self, model: Any) -> None:
        """Raises UserError unless `model` counts tokens as there are colours, of pictures of this shape."""
        if (vocab := getattr(model, "vocab", 0)) != len(self.colours):
            raise UserError(
                f"the model knows {vocab} tokens, the codec has {len(self.colours)} colours: pass "
                f"--model.network.vocab {len(self.colours)}, to a model of tokens such as ImageGPT"
            )
        if (shape := tuple(getattr(model, "shape", self.shape))) != self.shape:
            raise UserError(f"model.shape is {shape}, codec.shape {self.shape}: give both the shape of the pictures")

    def encode(self, batch: Batch, key: jax.Array) -> Batch:
        x = batch["x"]
        if (given := tuple(x.shape[1:])) != self.shape:
            sides = " ".join(map(str, given))
            raise UserError(
                f"pictures have shape {given}, codec.shape is {self.shape}: pass --codec.shape {sides} --model.shape "
                f"{sides}, and height times width as --model.network.window"
            )
        return {**batch, "x": nearest(x.reshape(x.shape[0], -1, self.shape[-1]), self.colours)}

    def decode(self, x: jax.Array) -> jax.Array:
        return self.colours[x].reshape(x.shape[0], *self.shape)
