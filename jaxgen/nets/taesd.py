"""Tiny autoencoders of the latents of diffusion models, TAESD (github.com/madebyollin/taesd): 8 times smaller each way.

x: f32[B, H, W, 3] in [0, 1], z: f32[B, H/8, W/8, latent]. A layer has the number that it has in the published files.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.ranges import Size
from jaxgen.errors import UserError
from jaxgen.nets.conv import Conv, DoubleConv
from jaxgen.nets.dense import Dense
from jaxgen.nets.norm import GroupNorm

FACTOR = 8
BLOCKS = 3
"""Residual blocks at each size below the largest, which has one."""
BOUND = 3.0
"""The decoder sees latents squashed to (-3, 3)."""


class Block(nn.Module):
    """relu(x + three 3x3 convolutions of x), f32[B, h, w, width].

    pool: x + a branch of 1x1 convolutions, normalized, takes the place of x: the wider channels of TAEF2.
    """

    width: int
    pool: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.pool:
            h = Dense(4 * self.width, use_bias=False, dtype=self.dtype, name="pool_0")(x)
            h = nn.relu(GroupNorm(4, epsilon=1e-5, dtype=self.dtype, name="pool_1")(h))
            x = x + Dense(self.width, use_bias=False, dtype=self.dtype, name="pool_3")(h)
        h = nn.relu(Conv(self.width, dtype=self.dtype, name="conv_0")(x))
        h = nn.relu(Conv(self.width, dtype=self.dtype, name="conv_2")(h))
        return nn.relu(x + Conv(self.width, dtype=self.dtype, name="conv_4")(h))


class Encoder(nn.Module):
    """x: f32[B, H, W, 3] -> z: f32[B, H/8, W/8, latent]."""

    latent: int
    width: int
    pool: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Conv(self.width, dtype=self.dtype, name="layer_0")(x)
        x = Block(self.width, dtype=self.dtype, name="layer_1")(x)
        layer = 2
        for size in (FACTOR // 4, FACTOR // 2, FACTOR):
            # PyTorch's padding, where SAME would pad the far side alone.
            down = {"stride": 2, "padding": 1, "use_bias": False, "dtype": self.dtype, "name": f"layer_{layer}"}
            x = Conv(self.width, **down)(x)
            for i in range(layer + 1, layer + 1 + BLOCKS):
                x = Block(self.width, self.pool and size == FACTOR, dtype=self.dtype, name=f"layer_{i}")(x)
            layer += 1 + BLOCKS
        return Conv(self.latent, dtype=self.dtype, name=f"layer_{layer}")(x).astype(jnp.float32)


class Decoder(nn.Module):
    """z: f32[B, h, w, latent] -> x: f32[B, 8h, 8w, 3]."""

    width: int
    pool: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        x = nn.relu(Conv(self.width, dtype=self.dtype, name="layer_1")(jnp.tanh(z / BOUND) * BOUND))
        layer = 3
        for size in (FACTOR, FACTOR // 2, FACTOR // 4):
            for i in range(layer, layer + BLOCKS):
                x = Block(self.width, self.pool and size == FACTOR, dtype=self.dtype, name=f"layer_{i}")(x)
            layer += BLOCKS + 1  # the doubling is a layer of its own there
            x = DoubleConv(self.width, use_bias=False, dtype=self.dtype, name=f"layer_{layer}")(x)
            layer += 1
        x = Block(self.width, dtype=self.dtype, name=f"layer_{layer}")(x)
        return Conv(3, dtype=self.dtype, name=f"layer_{layer + 1}")(x).astype(jnp.float32)


class TinyAutoencoder(nn.Module):
    """`encode` and `decode`.

    latent: channels of z: 4 of TAESD and TAESDXL, 16 of TAESD3 and TAEF1, 32 of TAEF2. pool: blocks of the smallest
    maps have the branch of `Block`: TAEF2 alone.
    """

    latent: Size = 4
    width: Size = 64
    pool: bool = False
    dtype: Any = None

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UserError if images of `shape` = (H, W, C) cannot be encoded."""
        if len(shape) != 3 or shape[2] != 3 or shape[0] % FACTOR or shape[1] % FACTOR:
            raise UserError(
                f"pictures have shape {tuple(shape)}: RGB with sides that divide by {FACTOR} is expected; pass another "
                "--size or --model.shape"
            )

    def setup(self) -> None:
        self.encoder = Encoder(self.latent, self.width, self.pool, dtype=self.dtype)
        self.decoder = Decoder(self.width, self.pool, dtype=self.dtype)

    def encode(self, x: jax.Array) -> jax.Array:
        return self.encoder(x)

    def decode(self, z: jax.Array) -> jax.Array:
        return self.decoder(z)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.decode(self.encode(x))
