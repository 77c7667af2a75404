"""The U-Net of diffusion models: residual blocks with a time embedding, and attention at chosen resolutions.

arXiv:2006.11239 appendix B, with the options of ADM, arXiv:2105.05233 section 3. x: f32[B, H, W, C]; t: f32[B] on the
scale of 0 to 1000; y: one-hot f32[B, K], all zeros for no class; context: f32[B, L, D], such as embedded text tokens;
context_mask: bool[B, L], false for padding, all True if None.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.ranges import Decay, Depth, Size, Sizes
from jaxgen.errors import UserError
from jaxgen.nets.condition import masked_mean
from jaxgen.nets.conv import Conv, DoubleConv
from jaxgen.nets.dense import Dense
from jaxgen.nets.norm import GroupNorm
from jaxgen.ops.attention import attention
from jaxgen.ops.patches import depth_to_space, space_to_depth
from jaxgen.ops.resize import double, halve

ZERO = nn.initializers.zeros
SMALL = nn.initializers.normal(0.02)


def time_embedding(t: jax.Array, dim: int, longest: float = 10_000.0) -> jax.Array:
    """Sinusoids of t: f32[B] at dim / 2 geometric frequencies, f32[B, dim]. Section 3.5 of arXiv:1706.03762."""
    frequency = jnp.exp(-math.log(longest) / (dim // 2) * jnp.arange(dim // 2))
    angle = t[:, None].astype(jnp.float32) * frequency[None]
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


class SpanEmbedding(nn.Module):
    """What is added to the embedding of a time t for the network of a flow map, whose answer is about all times from
    t - span to t (`models.flow_map`): f32[B, width]. It starts at zero, so that a network that was trained without may
    go on with it.

    span: sinusoids f32[B, N] of the span, as of t.
    """

    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, span: jax.Array) -> jax.Array:
        h = Dense(self.width, dtype=self.dtype, name="in")(span)
        return Dense(self.width, kernel_init=ZERO, dtype=self.dtype, name="out")(nn.silu(h))


def norm(channels: int, dtype: Any, name: str | None = None) -> GroupNorm:
    """Group normalization with 32 groups, or fewer: as many as divide the channels, with four channels each at least.
    """
    return GroupNorm(math.gcd(channels, math.gcd(32, max(1, channels // 4))), dtype=dtype, name=name)


class ResBlock(nn.Module):
    """Norm, SiLU, conv, add time, norm, SiLU, dropout, conv from zero. The skip is linear where the width changes.

    scale_shift: the time embedding scales and shifts the output of the second norm, instead of being added before it.
    resample: halve (-1) or double (1) height and width before the first convolution, and on the skip.
    """

    features: int
    dropout: float = 0.0
    scale_shift: bool = False
    resample: int = 0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array, train: bool = False) -> jax.Array:
        h = nn.silu(norm(x.shape[-1], self.dtype)(x))
        if self.resample > 0:
            h, x = DoubleConv(self.features, dtype=self.dtype)(h), double(x)
        else:
            if self.resample < 0:
                h, x = halve(h), halve(x)
            h = Conv(self.features, dtype=self.dtype)(h)
        out = 2 * self.features if self.scale_shift else self.features
        time = Dense(out, dtype=self.dtype)(nn.silu(embedding))[:, None, None, :]
        if self.scale_shift:
            scale, shift = jnp.split(time, 2, axis=-1)
            h = norm(self.features, self.dtype)(h) * (1 + scale) + shift
        else:
            h = norm(self.features, self.dtype)(h + time)
        h = nn.Dropout(self.dropout, deterministic=not train)(nn.silu(h))
        h = Conv(self.features, kernel_init=ZERO, dtype=self.dtype)(h)
        if x.shape[-1] != self.features:
            x = Dense(self.features, dtype=self.dtype, name="skip")(x)
        return x + h


class AttentionBlock(nn.Module):
    """A residual block of self-attention over all pixels of x: f32[B, H, W, C], or of attention to a context:
    f32[B, L, D] if one is given. Heads have `head_dim` channels; the output layer starts at zero."""

    head_dim: int = 64
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: jax.Array, context: jax.Array | None = None, context_mask: jax.Array | None = None
    ) -> jax.Array:
        batch, height, width, channels = x.shape
        heads = max(1, channels // self.head_dim)
        h = norm(channels, self.dtype)(x).reshape(batch, height * width, channels)

        def per_head(a: jax.Array) -> jax.Array:
            return a.reshape(batch, a.shape[1], heads, -1)

        if context is None:
            qkv = Dense(3 * channels, dtype=self.dtype, name="qkv")(h)
            q, k, v = jnp.split(per_head(qkv), 3, axis=-1)
        else:
            q = per_head(Dense(channels, dtype=self.dtype, name="query")(h))
            k, v = (per_head(Dense(channels, dtype=self.dtype, name=name)(context)) for name in ("key", "value"))
        mask = None if context_mask is None else context_mask[:, None]
        h = attention(q, k, v, mask=mask).reshape(batch, height * width, channels)
        h = Dense(channels, kernel_init=ZERO, dtype=self.dtype, name="out")(h)
        return x + h.reshape(x.shape)


class UNet(nn.Module):
    """`blocks` residual blocks of width * mults[i] channels at the i-th resolution, each half the one before.

    attention: heights at which self-attention follows each residual block; the middle always has it.
    cross_attention: heights at which attention to a context follows as well; if there are any, the middle has it too.
    pooled_context: the context's mean is added to the time embedding, as in Imagen (arXiv:2205.11487, section 2.3).
    patch: side of the patches of pixels that the network treats as one pixel with patch^2 times the channels
    (arXiv:2301.11093); the heights above count patches.
    scale_shift: see `ResBlock`. resample_blocks: halve and double by residual blocks instead of a convolution.
    remat: the backward pass recomputes each block, which takes less memory.
    """

    width: Size = 128
    mults: Sizes = (1, 2, 2, 2)
    blocks: Depth = 2
    attention: tuple[Size, ...] = (16,)
    head_dim: Size = 64
    dropout: Decay = 0.0
    cross_attention: tuple[Size, ...] = ()
    pooled_context: bool = False
    scale_shift: bool = False
    resample_blocks: bool = False
    patch: Size = 1
    remat: bool = False
    dtype: Any = None

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UserError if images of `shape` = (H, W, C) cannot be halved between all resolutions of `mults`, or
        heads do not divide a level with attention."""
        factor = self.patch * 2 ** (len(self.mults) - 1)
        if len(shape) != 3 or shape[0] % factor or shape[1] % factor:
            raise UserError(
                f"images of shape {shape} cannot be halved {len(self.mults) - 1} times in patches of {self.patch}: "
                f"height and width must be multiples of {factor}; give --model.network.mults fewer entries or resize "
                f"the data"
            )
        for level, mult in enumerate(self.mults):
            channels, height = self.width * mult, shape[0] // self.patch >> level
            attends = level == len(self.mults) - 1 or height in (*self.attention, *self.cross_attention)
            if attends and channels % max(1, channels // self.head_dim):
                raise UserError(
                    f"{channels} channels do not split into heads of {self.head_dim}: change --model.network.width or "
                    "--model.network.head-dim"
                )

    def told_texts(self, shape: tuple[int, ...]) -> "UNet":
        """A copy that is given a context beside images of `shape` = (H, W, C): it attends to that where it attends to
        the image, and in the middle."""
        lowest = shape[0] // self.patch // 2 ** (len(self.mults) - 1)
        return self.clone(cross_attention=self.attention or (lowest,), pooled_context=True)

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        t: jax.Array,
        out: int,
        y: jax.Array | None = None,
        context: jax.Array | None = None,
        context_mask: jax.Array | None = None,
        train: bool = False,
        frames: int = 1,
        span: jax.Array | None = None,
    ) -> jax.Array:
        """f32[B, H, W, out]. Training with dropout needs the rng `dropout`. frames: see `_over_time`. span: f32[B], on
        the scale of t, see `SpanEmbedding`."""
        if bool(self.cross_attention) != (context is not None):
            given = "no context" if context is None else "a context"
            raise UserError(f"{given} was given to a U-Net with cross_attention {self.cross_attention}: change either")
        embed_dim = 4 * self.width
        embedding = Dense(embed_dim, dtype=self.dtype)(time_embedding(t, self.width))
        embedding = Dense(embed_dim, dtype=self.dtype)(nn.silu(embedding))
        if y is not None:
            embedding += Dense(embed_dim, use_bias=False, dtype=self.dtype, name="label")(y)
        if span is not None:
            embedding += SpanEmbedding(embed_dim, self.dtype, name="span")(time_embedding(span, self.width))

        if context is not None and self.pooled_context:
            mean = masked_mean(context, context_mask)
            embedding += Dense(embed_dim, kernel_init=SMALL, dtype=self.dtype, name="context_mean")(mean)

        # Explicit names: Flax's automatic ones would differ with remat.
        residual = nn.remat(ResBlock, static_argnums=(3,)) if self.remat else ResBlock
        attend = nn.remat(AttentionBlock) if self.remat else AttentionBlock
        count = {"ResBlock": 0, "AttentionBlock": 0, "CrossAttentionBlock": 0}

        def numbered(kind: str) -> str:
            count[kind] += 1
            return f"{kind}_{count[kind] - 1}"

        def res(h: jax.Array, features: int, name: str, resample: int = 0) -> jax.Array:
            block = residual(features, self.dropout, self.scale_shift, resample, self.dtype, name=name)
            return block(h, embedding, train)

        def block(h: jax.Array, features: int) -> jax.Array:
            h = res(h, features, numbered("ResBlock"))
            if h.shape[1] in self.attention:
                h = attend(self.head_dim, self.dtype, name=numbered("AttentionBlock"))(h)
            if h.shape[1] in self.cross_attention:
                h = attend(self.head_dim, self.dtype, name=numbered("CrossAttentionBlock"))(h, context, context_mask)
            return self._over_time(h, frames, str(count["ResBlock"] - 1), h.shape[1] in self.attention)

        h = Conv(self.width, dtype=self.dtype)(space_to_depth(x, self.patch))
        skips = [h]
        for level, mult in enumerate(self.mults):
            for _ in range(self.blocks):
                h = block(h, self.width * mult)
                skips.append(h)
            if level < len(self.mults) - 1:
                name = f"down{level}"
                h = (
                    res(h, h.shape[-1], name, -1)
                    if self.resample_blocks
                    else Conv(h.shape[-1], 3, 2, dtype=self.dtype, name=name)(h)
                )
                skips.append(h)

        h = res(h, h.shape[-1], "middle_in")
        h = attend(self.head_dim, self.dtype, name="middle_attention")(h)
        if self.cross_attention:
            h = attend(self.head_dim, self.dtype, name="middle_cross_attention")(h, context, context_mask)
        h = self._over_time(h, frames, "middle", True)
        h = res(h, h.shape[-1], "middle_out")

        for level, mult in reversed(list(enumerate(self.mults))):
            for _ in range(self.blocks + 1):
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), self.width * mult)
            if level:
                name = f"up{level}"
                h = (
                    res(h, h.shape[-1], name, 1)
                    if self.resample_blocks
                    else DoubleConv(h.shape[-1], dtype=self.dtype, name=name)(h)
                )

        h = nn.silu(norm(h.shape[-1], self.dtype, "out_norm")(h))
        h = Conv(out * self.patch**2, kernel_init=ZERO, dtype=self.dtype, name="out")(h).astype(jnp.float32)
        return depth_to_space(h, self.patch)

    def _over_time(self, h: jax.Array, frames: int, name: str, attention: bool) -> jax.Array:
        """What a network of clips adds after the block `name`, where each `frames` images of h are a clip in turn.
        attention: whether that block attends to all pixels."""
        return h


def ddpm32() -> UNet:
    """The CIFAR-10 network of arXiv:2006.11239, appendix B: 35.7 M parameters."""
    return UNet(width=128, mults=(1, 2, 2, 2), blocks=2, attention=(16,), head_dim=256, dropout=0.1)


def improved32() -> UNet:
    """The CIFAR-10 network of arXiv:2102.09672, appendix A: 52.5 M parameters with learned variances."""
    return UNet(
        width=128, mults=(1, 2, 2, 2), blocks=3, attention=(16, 8), head_dim=64, dropout=0.3, scale_shift=True
    )  # fmt: skip


def adm64() -> UNet:
    """The ImageNet 64 x 64 network of arXiv:2105.05233, table 9: 296 M parameters with classes and learned
    variances."""
    return UNet(
        width=192, mults=(1, 2, 3, 4), blocks=3, attention=(32, 16, 8), head_dim=64, dropout=0.1, scale_shift=True,
        resample_blocks=True,
    )  # fmt: skip
