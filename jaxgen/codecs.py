"""From raw data to model space and back.

Models never see [0, 255]; metrics and pictures always do. A codec is a pytree with static configuration, so compiled
functions take it as an ordinary argument. The codecs here have no weights and so no leaves.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct

from jaxgen.core.codec import Codec, static
from jaxgen.core.ranges import Bits
from jaxgen.core.types import Batch


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
