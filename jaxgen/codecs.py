"""Raw data to model space and back.

Models never see [0, 255]; metrics and pictures always do. A codec is a pytree whose configuration is static, so the
compiled functions take it as an ordinary argument: `Pixels` has no leaves, a codec with weights brings its own.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct

from jaxgen.core.codec import Codec, static
from jaxgen.core.types import Batch


@struct.dataclass
class Identity(Codec):
    """Data that already is what the model sees, such as 2-D points."""

    def encode(self, batch: Batch, key: jax.Array) -> Batch:
        return batch

    def decode(self, x: jax.Array) -> jax.Array:
        return x


@struct.dataclass
class Pixels(Codec):
    """uint8 images to f32 in [low, high] and back, each level at 255 equal steps: decode(encode(x)) == x."""

    low: float = static(-1.0)
    high: float = static(1.0)

    def encode(self, batch: Batch, key: jax.Array) -> Batch:
        return {**batch, "x": batch["x"].astype(jnp.float32) / 255 * (self.high - self.low) + self.low}

    def decode(self, x: jax.Array) -> jax.Array:
        unit = (x.astype(jnp.float32) - self.low) / (self.high - self.low)
        return jnp.round(jnp.clip(unit, 0, 1) * 255).astype(jnp.uint8)


@struct.dataclass
class Binarize(Codec):
    """uint8 images to {0, 1}: drawn anew at each visit with probability pixel / 255, as binary MNIST is defined
    (arXiv:1509.00519, section 5), or at a threshold of 1/2. Decodes probabilities, so that samples show as grey."""

    dynamic: bool = static(True)

    def encode(self, batch: Batch, key: jax.Array) -> Batch:
        p = batch["x"].astype(jnp.float32) / 255
        x = jax.random.bernoulli(key, p) if self.dynamic else p > 0.5
        return {**batch, "x": x.astype(jnp.float32)}

    def decode(self, x: jax.Array) -> jax.Array:
        return jnp.round(jnp.clip(x, 0, 1) * 255).astype(jnp.uint8)


@struct.dataclass
class Dequantize(Codec):
    """uint8 to continuous: (x + u) / 2^bits in [0, 1), u ~ U[0, 1), mapped to [low, high).

    A density of it bounds the probability of the levels: E log p(x + u) <= log P(x), arXiv:1511.01844, section 3.1.
    bits < 8 drops the low bits first, as Glow does. Without noise u is 0, for a model that draws its own.
    """

    bits: int = static(8)
    low: float = static(0.0)
    high: float = static(1.0)
    noise: bool = static(True)

    def encode(self, batch: Batch, key: jax.Array) -> Batch:
        levels = batch["x"] >> (8 - self.bits)
        # In f32, 255 + u is 256 for u within 2^-17 of one.
        u = jax.random.uniform(key, levels.shape, maxval=1 - 2**-16) if self.noise else 0.0
        unit = (levels.astype(jnp.float32) + u) / 2**self.bits
        return {**batch, "x": unit * (self.high - self.low) + self.low}

    def decode(self, x: jax.Array) -> jax.Array:
        unit = (x.astype(jnp.float32) - self.low) / (self.high - self.low)
        levels = jnp.clip(jnp.floor(unit * 2**self.bits), 0, 2**self.bits - 1)
        # The middle of what the dropped bits could have been; exact at 8 bits.
        return (levels * 2 ** (8 - self.bits) + (2 ** (8 - self.bits) - 1) // 2).astype(jnp.uint8)

    @property
    def log_volume(self) -> float:
        """log of the width of one level in model space: log P(level) >= log density + log_volume, per dimension."""
        return math.log((self.high - self.low) / 2**self.bits)
