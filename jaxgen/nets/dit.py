"""The diffusion transformer with adaLN-Zero, arXiv:2212.09748. Tokens are patches of x_t; time and class scale and
shift them. A context is attended to, by cross-attention in each block as in PixArt (arXiv:2310.00426, section 2.3), and
its mean is added to the time.

x: f32[B, H, W, C]; t: f32[B] on the scale of 0 to 1000; y: one-hot f32[B, K], all zeros for no class; context:
f32[B, L, D], such as embedded text tokens; context_mask: bool[B, L], false for padding, all True if None.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.ranges import Depth, Size
from jaxgen.errors import UserError
from jaxgen.nets.apply import blocks_in_turn, scanned_block
from jaxgen.nets.condition import masked_mean
from jaxgen.nets.dense import Dense
from jaxgen.nets.transformer import MLP, XAVIER, Attention, BlockSettings, Placement, sinusoids
from jaxgen.nets.unet import SMALL, ZERO, SpanEmbedding, time_embedding
from jaxgen.ops.patches import depth_to_space, space_to_depth

SIZES = {"tiny": (192, 6, 3), "S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}
"""Width, depth and heads by name: those of table 1, and a tiny one that trains on two CPU cores."""
HIDDEN = "hidden"
"""The collection in which a pass that may change it leaves the tokens after each block, f32[depth, B, T, width]."""


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array, dtype: Any) -> jax.Array:
    """x: f32[B, T, C] normalized over C, then scaled by 1 + scale and shifted; shift and scale: f32[B, C]."""
    x = nn.LayerNorm(use_bias=False, use_scale=False, dtype=dtype)(x)
    return x * (1 + scale[:, None]) + shift[:, None]


class DiTBlock(nn.Module):
    """Attention, then an MLP, each with modulated input and an output gate that starts at zero: figure 3, right.
    Between them attention to the context, if there is one, whose output layer starts at zero.

    tokens: f32[B, T, C]; embedding: f32[B, C] of time and class.
    """

    heads: int
    mlp_ratio: int = 4
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        embedding: jax.Array,
        context: jax.Array | None = None,
        context_mask: jax.Array | None = None,
    ) -> jax.Array:
        channels = tokens.shape[-1]
        gains = Dense(6 * channels, kernel_init=ZERO, dtype=self.dtype, name="modulation")(nn.silu(embedding))
        shift, scale, gate, shift2, scale2, gate2 = jnp.split(gains, 6, axis=-1)
        settings = BlockSettings(self.heads, self.mlp_ratio * channels, dtype=self.dtype)
        attention, mlp = Attention(settings, name="self_attention"), MLP(settings, name="token_mlp")
        tokens += gate[:, None] * attention(modulate(tokens, shift, scale, self.dtype))[0]
        if context is not None:
            cross = Attention(replace(settings, zero_out=True), name="cross_attention")
            place = Placement(mask=None if context_mask is None else context_mask[:, None])
            tokens += cross(tokens, context, place)[0]
        return tokens + gate2[:, None] * mlp(modulate(tokens, shift2, scale2, self.dtype))


class DiT(nn.Module):
    """`depth` blocks over tokens of `width` channels, one token per patch of `patch` x `patch` pixels.

    The blocks are one scanned block with stacked parameters, [depth, ...], so a deep network compiles as fast as a
    shallow one. remat: the backward pass recomputes each block, which takes less memory.
    """

    width: Size = 384
    depth: Depth = 12
    heads: Size = 6
    patch: Size = 2
    remat: bool = False
    dtype: Any = None

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UserError if images of `shape` = (H, W, C) cannot be cut into patches, or the width into heads."""
        if len(shape) != 3 or shape[0] % self.patch or shape[1] % self.patch:
            raise UserError(
                f"images of shape {shape} cannot be cut into whole patches: height and width must be multiples of "
                f"{self.patch}; choose another --model.network.patch"
            )
        if self.width % self.heads or self.width % 4:
            raise UserError(f"width is {self.width}: a multiple of 4 and of heads = {self.heads} is expected")

    def grid(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns of the tokens of images of `shape` = (H, W, C)."""
        return shape[0] // self.patch, shape[1] // self.patch

    def told_texts(self, shape: tuple[int, ...]) -> "DiT":
        """Itself: every network of this kind attends to a context that it is given."""
        return self

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
        """f32[B, H, W, out]. frames: each so many images are a clip in turn, for the blocks of a network of clips.
        span: f32[B], on the scale of t, see `SpanEmbedding`."""
        dtype = self.dtype
        patches = space_to_depth(x, self.patch)
        batch, rows, columns, channels = patches.shape
        patches = patches.reshape(batch, rows * columns, channels)
        tokens = Dense(self.width, kernel_init=XAVIER, dtype=dtype, name="patches")(patches)
        tokens += jnp.asarray(sinusoids(rows, columns, self.width), tokens.dtype)[None]

        embedding = Dense(self.width, kernel_init=SMALL, dtype=dtype, name="time_in")(time_embedding(t, 256))
        embedding = Dense(self.width, kernel_init=SMALL, dtype=dtype, name="time_out")(nn.silu(embedding))
        if y is not None:
            embedding += Dense(self.width, use_bias=False, kernel_init=SMALL, dtype=dtype, name="label")(y)
        if span is not None:
            embedding += SpanEmbedding(self.width, dtype, name="span")(time_embedding(span, 256))
        if context is not None:
            mean = masked_mean(context, context_mask)
            embedding += Dense(self.width, kernel_init=SMALL, dtype=dtype, name="context_mean")(mean)

        tokens = self._blocks(tokens, embedding, context, context_mask, frames)

        gains = Dense(2 * self.width, kernel_init=ZERO, dtype=dtype, name="out_modulation")(nn.silu(embedding))
        shift, scale = jnp.split(gains, 2, axis=-1)
        tokens = modulate(tokens, shift, scale, dtype)
        patches = Dense(self.patch**2 * out, kernel_init=ZERO, dtype=dtype, name="out")(tokens).astype(jnp.float32)
        return depth_to_space(patches.reshape(batch, rows, columns, -1), self.patch)

    def _blocks(
        self,
        tokens: jax.Array,
        embedding: jax.Array,
        context: jax.Array | None,
        context_mask: jax.Array | None,
        frames: int,
    ) -> jax.Array:
        """f32[B, T, width] of tokens: f32[B, T, width]."""
        told = (embedding,) if context is None else (embedding, context, context_mask)
        return self._scanned(DiTBlock, tokens, *told)

    def _scanned(self, kind: type[nn.Module], tokens: Any, *told: Any) -> Any:
        """`tokens` after `depth` blocks of this kind, each of which is told the same."""
        block: Any = kind if self.is_initializing() else scanned_block(kind, self.remat, self.dtype)
        keep = self.is_mutable_collection(HIDDEN) and not self.is_initializing()

        def turn(block: Any, tokens: Any, *told: Any) -> tuple[Any, Any]:
            tokens = block(tokens, *told)
            return tokens, (tokens[0] if isinstance(tokens, tuple) else tokens) if keep else None

        stack = nn.scan(
            turn, length=self.depth,
            unroll=blocks_in_turn(self.depth), in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]  # typed as int
            variable_axes={"params": 0}, split_rngs={"params": True},
        )  # fmt: skip
        tokens, each = stack(block(self.heads, dtype=self.dtype, name="blocks"), tokens, *told)
        if keep:
            self.sow(HIDDEN, "tokens", each)
        return tokens


def dit(size: str, patch: int = 2, **fields: Any) -> DiT:
    """DiT-S, B, L or XL of table 1, or the tiny one: `size` is a key of `SIZES`."""
    width, depth, heads = SIZES[size]
    return DiT(width, depth, heads, patch, **fields)
