"""The U-Net of Stable Diffusion 1.x: residual blocks with a time embedding, and transformer blocks that attend to text.

arXiv:2112.10752, sections 3.2 and 3.3, in the exact form of the published weights. x: f32[B, H, W, C], latents; t:
f32[B] on the scale of 0 to 1000; context: f32[B, L, D], embedded tokens. Layers have the names of diffusers'
UNet2DConditionModel, with `_` for its dots, wherever it has one.
"""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import MinLen
from flax import linen as nn

from jaxgen.core.ranges import Depth, Size, Sizes
from jaxgen.errors import UserError
from jaxgen.nets.conv import Conv, DoubleConv, linen_conv
from jaxgen.nets.dense import Dense
from jaxgen.nets.norm import GroupNorm
from jaxgen.nets.unet import ZERO, time_embedding
from jaxgen.ops.attention import attention
from jaxgen.ops.resize import double

RES_EPSILON, TRANSFORMER_EPSILON = 1e-5, 1e-6
"""Of group normalization in residual blocks and at the end, and before the transformer blocks."""


class ResnetBlock(nn.Module):
    """Norm, SiLU, conv, add time, norm, SiLU, conv from zero. The skip is linear where the width changes."""

    features: int
    groups: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array) -> jax.Array:
        def normalized(h: jax.Array, name: str) -> jax.Array:
            return nn.silu(GroupNorm(self.groups, RES_EPSILON, dtype=self.dtype, name=name)(h))

        h = Conv(self.features, dtype=self.dtype, name="conv1")(normalized(x, "norm1"))
        time = Dense(self.features, dtype=self.dtype, name="time_emb_proj")(nn.silu(embedding))
        h = normalized(h + time[:, None, None], "norm2")
        h = Conv(self.features, kernel_init=ZERO, dtype=self.dtype, name="conv2")(h)
        if x.shape[-1] != self.features:
            x = Dense(self.features, dtype=self.dtype, name="conv_shortcut")(x)
        return x + h


class ContextAttention(nn.Module):
    """Attention of h: f32[B, T, C] to itself, or to a context f32[B, S, D]; only the output layer has biases."""

    heads: int
    dtype: Any = None

    @nn.compact
    def __call__(self, h: jax.Array, context: jax.Array | None = None, mask: jax.Array | None = None) -> jax.Array:
        """mask: bool[B, S], false where the context is padding."""

        def per_head(name: str, source: jax.Array) -> jax.Array:
            out = Dense(h.shape[-1], use_bias=False, dtype=self.dtype, name=name)(source)
            return out.reshape(*out.shape[:2], self.heads, -1)

        source = h if context is None else context
        q, k, v = per_head("to_q", h), per_head("to_k", source), per_head("to_v", source)
        seen = None if mask is None else mask[:, None]
        return Dense(h.shape[-1], dtype=self.dtype, name="to_out")(attention(q, k, v, mask=seen).reshape(h.shape))


class TransformerBlock(nn.Module):
    """Self-attention, attention to the context and a gated MLP (GEGLU, arXiv:2002.05202), each x + f(norm(x))."""

    heads: int
    dtype: Any = None

    @nn.compact
    def __call__(self, h: jax.Array, context: jax.Array | None, mask: jax.Array | None = None) -> jax.Array:
        def norm(name: str) -> jax.Array:
            return nn.LayerNorm(1e-5, dtype=self.dtype, name=name)(h)

        h += ContextAttention(self.heads, self.dtype, name="attn1")(norm("norm1"))
        h += ContextAttention(self.heads, self.dtype, name="attn2")(norm("norm2"), context, mask)
        up, gate = jnp.split(Dense(8 * h.shape[-1], dtype=self.dtype, name="ff_in")(norm("norm3")), 2, axis=-1)
        return h + Dense(h.shape[-1], dtype=self.dtype, name="ff_out")(up * nn.gelu(gate, approximate=False))


class SpatialTransformer(nn.Module):
    """A residual block of transformer blocks over all pixels of x: f32[B, H, W, C], between two linear layers."""

    heads: int
    groups: int
    depth: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array | None, mask: jax.Array | None = None) -> jax.Array:
        batch, height, width, channels = x.shape
        h = GroupNorm(self.groups, TRANSFORMER_EPSILON, dtype=self.dtype, name="norm")(x)
        h = Dense(channels, dtype=self.dtype, name="proj_in")(h.reshape(batch, height * width, channels))
        for i in range(self.depth):
            h = TransformerBlock(self.heads, self.dtype, name=f"transformer_blocks_{i}")(h, context, mask)
        h = Dense(channels, kernel_init=ZERO, dtype=self.dtype, name="proj_out")(h)
        return x + h.reshape(x.shape)


class Downsampler(nn.Module):
    """A 3x3 convolution of stride 2 with one row and column of zeros on each side, as PyTorch's padding of 1."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # Not `Conv`: SAME padding of an even size has its zeros at the end.
        conv = nn.Conv(
            self.features, (3, 3), 2, padding=((1, 1), (1, 1)), dtype=self.dtype, name="conv",
            conv_general_dilated=linen_conv,
        )  # fmt: skip
        return conv(x)


class Upsampler(nn.Module):
    """Nearest-neighbour doubling, cut to (height, width), then a 3x3 convolution."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, height: int, width: int) -> jax.Array:
        if (height, width) == (2 * x.shape[1], 2 * x.shape[2]):
            return DoubleConv(self.features, dtype=self.dtype, name="conv")(x)
        return Conv(self.features, dtype=self.dtype, name="conv")(double(x)[:, :height, :width])


class SDUNet(nn.Module):
    """`blocks` residual blocks of widths[i] channels at the i-th resolution, each half the one before, rounded up."""

    widths: Sizes = (320, 640, 1280, 1280)
    attention: Annotated[tuple[bool, ...], MinLen(1)] = (True, True, True, False)
    """At which resolutions transformer blocks follow each residual block; the middle always has them."""
    blocks: Depth = 2
    heads: Size = 8
    """Of attention, at every resolution."""
    depth: Depth = 1
    """Transformer blocks after each residual block."""
    groups: Size = 32
    """Of group normalization."""
    remat: bool = False
    """The backward pass recomputes each block, which takes less memory."""
    dtype: Any = None

    def problem(self) -> str | None:
        if len(self.attention) != len(self.widths):
            return f"attention has {len(self.attention)} entries: one for each of {len(self.widths)} widths is expected"
        for width in self.widths:
            if width % self.heads or width % self.groups:
                return (
                    f"widths has {width}: a multiple of heads = {self.heads} and of groups = {self.groups} is expected"
                )

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UserError unless `shape` is (H, W, C)."""
        if len(shape) != 3:
            raise UserError(f"examples have shape {shape}: (H, W, C), as of images or their latents, is expected")

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
    ) -> jax.Array:
        """f32[B, H, W, out]. y: one-hot f32[B, K], all zeros for no class. context_mask: bool[B, L], false for padding.
        Without a context, what would attend to it attends to the pixels."""
        embed_dim = 4 * self.widths[0]
        embedding = Dense(embed_dim, dtype=self.dtype, name="time_embedding_linear_1")(
            time_embedding(t, self.widths[0])
        )
        embedding = Dense(embed_dim, dtype=self.dtype, name="time_embedding_linear_2")(nn.silu(embedding))
        if y is not None:
            embedding += Dense(embed_dim, use_bias=False, dtype=self.dtype, name="label")(y)

        resnet = nn.remat(ResnetBlock) if self.remat else ResnetBlock
        transformer = nn.remat(SpatialTransformer) if self.remat else SpatialTransformer

        def res(h: jax.Array, features: int, name: str) -> jax.Array:
            return resnet(features, self.groups, self.dtype, name=name)(h, embedding)

        def attend(h: jax.Array, name: str) -> jax.Array:
            block = transformer(self.heads, self.groups, self.depth, self.dtype, name=name)
            return block(h, context, context_mask)

        h = Conv(self.widths[0], dtype=self.dtype, name="conv_in")(x)
        skips = [h]
        for level, width in enumerate(self.widths):
            place = f"down_blocks_{level}"
            for i in range(self.blocks):
                h = res(h, width, f"{place}_resnets_{i}")
                h = attend(h, f"{place}_attentions_{i}") if self.attention[level] else h
                skips.append(h)
            if level < len(self.widths) - 1:
                h = Downsampler(width, self.dtype, name=f"{place}_downsamplers_0")(h)
                skips.append(h)

        h = res(h, self.widths[-1], "mid_block_resnets_0")
        h = attend(h, "mid_block_attentions_0")
        h = res(h, self.widths[-1], "mid_block_resnets_1")

        for i, (width, attends) in enumerate(zip(self.widths[::-1], self.attention[::-1])):
            place = f"up_blocks_{i}"
            for j in range(self.blocks + 1):
                h = res(jnp.concatenate([h, skips.pop()], axis=-1), width, f"{place}_resnets_{j}")
                h = attend(h, f"{place}_attentions_{j}") if attends else h
            if skips:
                h = Upsampler(width, self.dtype, name=f"{place}_upsamplers_0")(h, *skips[-1].shape[1:3])

        h = nn.silu(GroupNorm(self.groups, RES_EPSILON, dtype=self.dtype, name="conv_norm_out")(h))
        return Conv(out, kernel_init=ZERO, dtype=self.dtype, name="conv_out")(h).astype(jnp.float32)
