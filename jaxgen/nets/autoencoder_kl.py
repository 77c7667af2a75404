"""The autoencoder of latent diffusion (arXiv:2112.10752, appendix G) in the exact form of Stable Diffusion's weights.

x: f32[B, H, W, C] in [-1, 1]; q(z|x) = N(mean, exp(logvar)), each f32[B, h, w, latent], where h = H / 2^(widths - 1).
Layers have the names of diffusers' AutoencoderKL, with `_` for its dots within a part.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.ranges import Depth, Size, Sizes
from jaxgen.errors import UserError
from jaxgen.nets.conv import Conv, DoubleConv
from jaxgen.nets.dense import Dense
from jaxgen.nets.norm import GroupNorm
from jaxgen.ops.attention import attention

EPSILON = 1e-6  # of group normalization
LOGVAR = (-30.0, 20.0)  # bounds of logvar
MOST_LEVELS = 10
SD_SCALE = 0.18215
"""Stable Diffusion's latents are z times this, which gives them a deviation of about 1."""


def split_moments(moments: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and logvar of `KLCoder.moments`."""
    mean, logvar = jnp.split(moments, 2, axis=-1)
    return mean, jnp.clip(logvar, *LOGVAR)


class ResnetBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), where x goes through a 1x1 convolution if its channels change."""

    features: int
    groups: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = x
        for i in ("1", "2"):
            h = nn.silu(GroupNorm(self.groups, EPSILON, dtype=self.dtype, name=f"norm{i}")(h))
            h = Conv(self.features, dtype=self.dtype, name=f"conv{i}")(h)
        if x.shape[-1] != self.features:
            x = Dense(self.features, dtype=self.dtype, name="conv_shortcut")(x)
        return x + h


class PixelAttention(nn.Module):
    """x + self-attention over all pixels of x, with one head of all channels."""

    groups: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        h = GroupNorm(self.groups, EPSILON, dtype=self.dtype, name="group_norm")(x)
        h = h.reshape(batch, height * width, channels)
        q, k, v = (Dense(channels, dtype=self.dtype, name=f"to_{name}")(h)[:, :, None] for name in "qkv")
        h = Dense(channels, dtype=self.dtype, name="to_out")(attention(q, k, v)[:, :, 0])
        return x + h.reshape(x.shape)


class Part(nn.Module):
    """Settings of `Encoder` and `Decoder`, and what they share."""

    widths: Sizes
    blocks: int
    groups: int
    out: int
    """Channels of the output."""
    remat: bool = False
    dtype: Any = None

    def res(self, x: jax.Array, features: int, name: str) -> jax.Array:
        block = nn.remat(ResnetBlock) if self.remat else ResnetBlock
        return block(features, self.groups, self.dtype, name=name)(x)

    def middle(self, x: jax.Array) -> jax.Array:
        x = self.res(x, self.widths[-1], "mid_block_resnets_0")
        x = PixelAttention(self.groups, self.dtype, name="mid_block_attentions_0")(x)
        return self.res(x, self.widths[-1], "mid_block_resnets_1")

    def end(self, x: jax.Array) -> jax.Array:
        x = nn.silu(GroupNorm(self.groups, EPSILON, dtype=self.dtype, name="conv_norm_out")(x))
        return Conv(self.out, dtype=self.dtype, name="conv_out")(x)


class Encoder(Part):
    """x: f32[B, H, W, C] -> f32[B, h, w, out]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Conv(self.widths[0], dtype=self.dtype, name="conv_in")(x)
        for level, width in enumerate(self.widths):
            for i in range(self.blocks):
                x = self.res(x, width, f"down_blocks_{level}_resnets_{i}")
            if level < len(self.widths) - 1:
                # Zeros below and to the right alone.
                name, pads = f"down_blocks_{level}_downsamplers_0", ((0, 1), (0, 1))
                x = Conv(width, stride=2, padding=pads, dtype=self.dtype, name=name)(x)
        return self.end(self.middle(x))


class Decoder(Part):
    """z: f32[B, h, w, latent] -> f32[B, H, W, out]. Each level has a block more than the encoder's."""

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        x = self.middle(Conv(self.widths[-1], dtype=self.dtype, name="conv_in")(z))
        for level, width in enumerate(reversed(self.widths)):
            for i in range(self.blocks + 1):
                x = self.res(x, width, f"up_blocks_{level}_resnets_{i}")
            if level < len(self.widths) - 1:
                x = DoubleConv(width, dtype=self.dtype, name=f"up_blocks_{level}_upsamplers_0")(x)
        return self.end(x)


class KLCoder(nn.Module):
    """`encode` to mean and logvar, `decode` of z.

    widths: channels of each resolution, each half the one before: Stable Diffusion's are 8 times smaller in the end.
    blocks: residual blocks of each resolution. latent: channels of z. groups: of group normalization.
    remat: the backward pass recomputes each block, which takes less memory.
    """

    widths: Sizes = (128, 256, 512, 512)
    blocks: Depth = 2
    latent: Size = 4
    channels: Size = 3
    """Of images."""
    groups: Size = 32
    remat: bool = False
    dtype: Any = None

    @property
    def factor(self) -> int:
        """How many times smaller height and width of z are."""
        return 2 ** (len(self.widths) - 1)

    @property
    def last(self) -> tuple[str, ...]:
        """Path of the last layer's kernel in the parameters."""
        return "decoder", "conv_out", "kernel"

    def problem(self) -> str | None:
        if len(self.widths) > MOST_LEVELS:
            return f"widths has {len(self.widths)} entries: at most {MOST_LEVELS} are expected, each halves the picture"
        for width in self.widths:
            if width % self.groups:
                return f"widths has {width}: multiples of groups = {self.groups} are expected"

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UserError if images of `shape` = (H, W, C) cannot be encoded."""
        if len(shape) != 3 or shape[2] != self.channels or shape[0] % self.factor or shape[1] % self.factor:
            raise UserError(
                f"images have shape {tuple(shape)}: sides that divide by {self.factor} and {self.channels} channels "
                "are expected; pass another size, --model.generator.channels or fewer --model.generator.widths"
            )

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Shape of z of images of `shape`."""
        return shape[0] // self.factor, shape[1] // self.factor, self.latent

    def setup(self) -> None:
        both = {
            "widths": self.widths, "blocks": self.blocks, "groups": self.groups, "remat": self.remat,
            "dtype": self.dtype,
        }  # fmt: skip
        self.encoder = Encoder(**both, out=2 * self.latent)
        self.decoder = Decoder(**both, out=self.channels)
        self.quant_conv = Dense(2 * self.latent, dtype=self.dtype)
        self.post_quant_conv = Dense(self.latent, dtype=self.dtype)

    def moments(self, x: jax.Array) -> jax.Array:
        """Mean and unbounded logvar of q(z|x), f32[B, h, w, 2 latent]."""
        return self.quant_conv(self.encoder(x)).astype(jnp.float32)

    def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and logvar of q(z|x), f32[B, h, w, latent] each."""
        return split_moments(self.moments(x))

    def decode(self, z: jax.Array) -> jax.Array:
        """x: f32[B, H, W, C]."""
        return self.decoder(self.post_quant_conv(z)).astype(jnp.float32)

    def __call__(self, x: jax.Array) -> jax.Array:
        """The decoded mean."""
        return self.decode(self.encode(x)[0])
