"""The U-Net of diffusion models: residual blocks with a time embedding, and self-attention at chosen resolutions.

arXiv:2006.11239 appendix B, with the heads and residual order of arXiv:2105.05233. x: f32[B, H, W, C]; t: f32[B] on
the scale of 0 to 1000; y: one-hot f32[B, K].
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.errors import UserError
from jaxgen.nets.conv import Conv, DoubleConv
from jaxgen.nets.norm import GroupNorm
from jaxgen.ops.attention import attention

ZERO = nn.initializers.zeros


def time_embedding(t: jax.Array, dim: int, longest: float = 10_000.0) -> jax.Array:
    """Sinusoids of t: f32[B] at dim / 2 geometric frequencies, f32[B, dim]. Section 3.5 of arXiv:1706.03762."""
    frequency = jnp.exp(-math.log(longest) / (dim // 2) * jnp.arange(dim // 2))
    angle = t[:, None].astype(jnp.float32) * frequency[None]
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def norm(channels: int, dtype: Any, name: str | None = None) -> GroupNorm:
    """32 groups, or as many as divide a narrower layer into groups of at least four channels."""
    return GroupNorm(math.gcd(32, max(1, channels // 4)), dtype=dtype, name=name)


class ResBlock(nn.Module):
    """norm, SiLU, conv, add time, norm, SiLU, dropout, conv from zero; skip by a linear map where the width changes."""

    features: int
    dropout: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array, train: bool) -> jax.Array:
        h = nn.silu(norm(x.shape[-1], self.dtype)(x))
        h = Conv(self.features, dtype=self.dtype)(h)
        h += nn.Dense(self.features, dtype=self.dtype)(nn.silu(embedding))[:, None, None, :]
        h = nn.silu(norm(self.features, self.dtype)(h))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = Conv(self.features, kernel_init=ZERO, dtype=self.dtype)(h)
        if x.shape[-1] != self.features:
            x = nn.Dense(self.features, dtype=self.dtype, name="skip")(x)
        return x + h


class AttentionBlock(nn.Module):
    """Self-attention over all positions of x: f32[B, H, W, C], heads of `head_dim` channels, output from zero."""

    head_dim: int = 64
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        heads = max(1, channels // self.head_dim)
        h = norm(channels, self.dtype)(x).reshape(batch, height * width, channels)
        qkv = nn.Dense(3 * channels, dtype=self.dtype, name="qkv")(h)
        q, k, v = jnp.split(qkv.reshape(batch, height * width, heads, 3 * channels // heads), 3, axis=-1)
        h = attention(q, k, v).reshape(batch, height * width, channels)
        h = nn.Dense(channels, kernel_init=ZERO, dtype=self.dtype, name="out")(h)
        return x + h.reshape(x.shape)


class UNet(nn.Module):
    """width * mults[i] channels at the i-th resolution, halving between; `blocks` residual blocks at each.

    attention: the heights at which self-attention follows each residual block (it always is in the middle).
    """

    width: int = 128
    mults: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (16,)
    head_dim: int = 64
    dropout: float = 0.0
    dtype: Any = None

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UserError when images of `shape` = (H, W, C) cannot be halved as often as `mults` asks."""
        factor = 2 ** (len(self.mults) - 1)
        if len(shape) != 3 or shape[0] % factor or shape[1] % factor:
            raise UserError(
                f"images of shape {shape} cannot be halved {len(self.mults) - 1} times: height and width must be "
                f"multiples of {factor}; give --model.network.mults fewer entries or resize the data"
            )

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, out: int, y: jax.Array | None = None, train: bool = False
    ) -> jax.Array:
        """f32[B, H, W, out]. With train=True and dropout, needs the rng `dropout`."""
        embed_dim = 4 * self.width
        embedding = nn.Dense(embed_dim, dtype=self.dtype)(time_embedding(t, self.width))
        embedding = nn.Dense(embed_dim, dtype=self.dtype)(nn.silu(embedding))
        if y is not None:
            embedding += nn.Dense(embed_dim, use_bias=False, dtype=self.dtype, name="label")(y)

        def block(h: jax.Array, features: int) -> jax.Array:
            h = ResBlock(features, self.dropout, self.dtype)(h, embedding, train)
            return AttentionBlock(self.head_dim, self.dtype)(h) if h.shape[1] in self.attention else h

        h = Conv(self.width, dtype=self.dtype)(x)
        skips = [h]
        for level, mult in enumerate(self.mults):
            for _ in range(self.blocks):
                h = block(h, self.width * mult)
                skips.append(h)
            if level < len(self.mults) - 1:
                h = Conv(h.shape[-1], 3, 2, dtype=self.dtype, name=f"down{level}")(h)
                skips.append(h)

        h = ResBlock(h.shape[-1], self.dropout, self.dtype, name="middle_in")(h, embedding, train)
        h = AttentionBlock(self.head_dim, self.dtype, name="middle_attention")(h)
        h = ResBlock(h.shape[-1], self.dropout, self.dtype, name="middle_out")(h, embedding, train)

        for level, mult in reversed(list(enumerate(self.mults))):
            for _ in range(self.blocks + 1):
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), self.width * mult)
            if level:
                h = DoubleConv(h.shape[-1], dtype=self.dtype, name=f"up{level}")(h)

        h = nn.silu(norm(h.shape[-1], self.dtype, "out_norm")(h))
        return Conv(out, kernel_init=ZERO, dtype=self.dtype, name="out")(h).astype(jnp.float32)
