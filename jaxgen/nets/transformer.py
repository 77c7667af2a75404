"""One transformer for text, codes and patches (arXiv:1706.03762); later variants are settings.

x: f32[B, T, C]. The caller adds learned or sinusoidal positions to x; rotary positions are part of attention. The
blocks are one scanned block with stacked parameters, [depth, ...], so a deep network compiles as fast as a shallow one.
Layer names are those that `ops.placement.TENSOR_RULES` splits over devices.

To sample token by token, `Transformer.keep` returns the keys and values of a whole pass and `decode` continues from
them. The cache is an ordinary value that a sampler's scan carries, not a Flax collection.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen.core.ranges import Decay, Depth, NonNegative, OptionalSize, Size
from jaxgen.core.types import PyTree
from jaxgen.errors import UserError
from jaxgen.nets.apply import apply, blocks_in_turn, scanned_block
from jaxgen.nets.dense import Dense, prefer_kernel_on_left, transpose_kernels
from jaxgen.ops.attention import Dropout, attention, cached_attention, rotate

XAVIER = nn.initializers.xavier_uniform()

ACTIVATIONS = {
    "gelu_tanh": nn.gelu,
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
}

KeysValues = tuple[jax.Array, jax.Array]
"""Keys and values of one layer: f32[B * groups, S, d] each. Batch and groups share one axis because XLA's CPU back end
would copy the whole cache at every step if they were two and B is 1."""


class Placement(NamedTuple):
    """Where the tokens of a pass stand, and what they attend to.

    positions: i32[B or 1, T] for rotary positions, 0 to T - 1 if None. mask: bool[B or 1, T or 1, S], true where a
    token may see a key, in addition to `causal`; all True if None. cache: keys and values in S slots, to which those
    of the tokens are written from `slot` on (0 if None); the mask, then required, says which slots each token sees,
    its own among them.
    """

    positions: jax.Array | None = None
    mask: jax.Array | None = None
    cache: KeysValues | None = None
    slot: jax.Array | int | None = None


WHOLE = Placement()
"""Tokens at positions 0 to T - 1, without a mask or a cache."""


@dataclass(frozen=True)
class BlockSettings:
    """What the layers of a block are made from; `Transformer` explains the fields."""

    heads: int
    hidden: int
    groups: int = 0
    causal: bool = False
    pre_norm: bool = True
    rms: bool = False
    swiglu: bool = False
    rotary: bool = False
    bias: bool = True
    dropout: float = 0.0
    std: float = 0.0
    out_std: float = 0.0
    """`std` of the kernels whose output is added to the residual."""
    train: bool = False
    dtype: Any = None
    activation: str = "gelu_tanh"
    zero_out: bool = False
    """Kernels whose output is added to the residual start from zero instead."""

    def dense(self, features: int, name: str) -> Dense:
        """A dense layer that starts from `std`."""
        return Dense(features, self.bias, dtype=self.dtype, kernel_init=kernel_init(self.std), name=name)

    def dense_out(self, features: int, name: str) -> Dense:
        """A dense layer that starts from `out_std`."""
        init = nn.initializers.zeros if self.zero_out else kernel_init(self.out_std)
        return Dense(features, self.bias, dtype=self.dtype, kernel_init=init, name=name)

    def norm(self, **fields: Any) -> nn.Module:
        """Root mean square (arXiv:1910.07467) or layer normalization over channels, statistics in f32."""
        if self.rms:
            return nn.RMSNorm(1e-5, dtype=self.dtype, **fields)
        return nn.LayerNorm(1e-5, use_bias=self.bias, dtype=self.dtype, **fields)


def kernel_init(std: float) -> nn.initializers.Initializer:
    """N(0, std^2), or Xavier's uniform distribution if std is 0."""
    return nn.initializers.normal(std) if std else XAVIER


def sinusoids(height: int, width: int, dim: int) -> np.ndarray:
    """Fixed 2-D positions, f32[height * width, dim], row by row: sines and cosines of the column, then of the row, at
    dim / 4 frequencies each."""
    frequency = 10_000.0 ** (-np.arange(dim // 4) / (dim // 4))

    def waves(position: np.ndarray) -> np.ndarray:
        angle = position.reshape(-1, 1) * frequency
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)

    row, column = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return np.concatenate([waves(column), waves(row)], axis=1).astype(np.float32)


class Attention(nn.Module):
    """Multi-head attention of x: f32[B, T, C] to itself, or to a context: f32[B, S, D]."""

    settings: BlockSettings

    @nn.compact
    def __call__(
        self, x: jax.Array, context: jax.Array | None = None, place: Placement = WHOLE, keep: bool = False
    ) -> tuple[jax.Array, KeysValues | None]:
        """f32[B, T, C], and with a cache in `place` or with `keep` also the keys and values."""
        config = self.settings
        channels, heads, groups = x.shape[-1], config.heads, config.groups or config.heads
        size = channels // heads
        if context is None and groups == heads:
            qkv = config.dense(3 * channels, "qkv")(x)
            # The channels of qkv are (head, which of q, k and v, channel), so a split over devices separates heads.
            q, k, v = jnp.split(qkv.reshape(*x.shape[:2], heads, -1), 3, axis=-1)
        else:
            source = x if context is None else context
            q = config.dense(channels, "query")(x).reshape(*x.shape[:2], heads, size)
            k, v = (
                config.dense(groups * size, name)(source).reshape(*source.shape[:2], groups, size)
                for name in ("key", "value")
            )
        if config.rotary and context is None:
            positions = jnp.arange(x.shape[1])[None] if place.positions is None else place.positions
            q, k = rotate(q, positions), rotate(k, positions)
        kept = None
        if place.cache is not None:
            assert place.mask is not None, "a cache needs a mask: some of its slots are empty"
            slot = 0 if place.slot is None else place.slot
            kept = (_written(place.cache[0], k, slot), _written(place.cache[1], v, slot))
            h = cached_attention(q, *kept, place.mask)
        else:
            drops = config.train and config.dropout
            dropout = Dropout(config.dropout, self.make_rng("dropout")) if drops else None
            h = attention(q, k, v, config.causal and context is None, place.mask, dropout)
            kept = (_by_group(k), _by_group(v)) if keep else None
        return config.dense_out(channels, "out")(h.reshape(x.shape)), kept


def _written(slots: jax.Array, new: jax.Array, slot: jax.Array | int) -> jax.Array:
    """Slots f32[B * groups, S, d] with new: f32[B, T, groups, d] written from `slot` on."""
    return jax.lax.dynamic_update_slice_in_dim(slots, _by_group(new).astype(slots.dtype), slot, axis=1)


def _by_group(x: jax.Array) -> jax.Array:
    """f32[B, T, groups, d] -> f32[B * groups, T, d]."""
    return x.swapaxes(1, 2).reshape(-1, x.shape[1], x.shape[3])


class MLP(nn.Module):
    """Two dense layers, with `hidden` channels between them: f32[B, T, C] -> f32[B, T, C].

    The activation is one of ACTIVATIONS, or with `swiglu` silu(gate) * up, arXiv:2002.05202.
    """

    settings: BlockSettings

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config = self.settings
        h = config.dense(config.hidden, "up")(x)
        # The gate's name ends in "up" as well, so that both layers are split over devices alike.
        if config.swiglu:
            h = nn.silu(config.dense(config.hidden, "gate_up")(x)) * h
        else:
            h = ACTIVATIONS[config.activation](h)
        return config.dense_out(x.shape[-1], "down")(h)


class Block(nn.Module):
    """Self-attention, attention to the context if there is one, then an MLP, each added to a residual.

    Pre-norm is x + f(norm(x)), arXiv:2002.04745; post-norm is norm(x + f(x)), the original form.
    """

    settings: BlockSettings

    @nn.compact
    def __call__(
        self, x: jax.Array, context: jax.Array | None = None, place: Placement = WHOLE, keep: bool = False
    ) -> tuple[jax.Array, KeysValues | None]:
        """f32[B, T, C], and the keys and values of self-attention where `Attention` returns them."""
        config, kept = self.settings, None

        def to_itself(h: jax.Array) -> jax.Array:
            nonlocal kept
            h, kept = Attention(config, name="self_attention")(h, None, place, keep)
            return h

        def to_context(h: jax.Array) -> jax.Array:
            return Attention(config, name="cross_attention")(h, context)[0]

        parts = {"norm_self": to_itself, "norm_cross": to_context, "norm_mlp": MLP(config, name="token_mlp")}
        if context is None:
            del parts["norm_cross"]
        for name, part in parts.items():
            norm = config.norm(name=name)
            h = part(norm(x) if config.pre_norm else x)
            x = x + nn.Dropout(config.dropout, deterministic=not config.train)(h)
            x = x if config.pre_norm else norm(x)
        return x, kept


class DecodeParams(NamedTuple):
    """A transformer's parameters as `decode` takes them: one entry per block, and those of the last norm if any."""

    blocks: list[PyTree]
    norm: PyTree


class Transformer(nn.Module):
    """`depth` blocks over tokens of `width` channels: f32[B, T, width] -> f32[B, T, width].

    remat: the backward pass recomputes each block, which takes less memory.
    """

    width: Size = 384
    depth: Depth = 6
    heads: Size = 6
    groups: OptionalSize = 0
    """Heads of keys and values, each shared by heads / groups queries; as many as heads if 0."""
    hidden: OptionalSize = 0
    """Channels inside the MLPs; 4 times the width if 0."""
    causal: bool = False
    """Position t sees positions up to t."""
    pre_norm: bool = True
    final_norm: bool = True
    """Normalize the last block's output."""
    rms: bool = False
    """Normalize by the root mean square alone."""
    swiglu: bool = False
    rotary: bool = False
    bias: bool = True
    """Biases of dense layers and norms."""
    dropout: Decay = 0.0
    """Of attention weights and of the output of attention and MLPs, in training."""
    std: NonNegative = 0.02
    """Kernels start from N(0, std^2), or from Xavier's uniform distribution if 0."""
    scaled: bool = True
    """Kernels whose output is added to the residual start from std / sqrt(2 depth), as in GPT-2."""
    remat: bool = False
    dtype: Any = None
    activation: Literal["gelu_tanh", "gelu", "quick_gelu"] = "gelu_tanh"
    """Of the MLPs, without swiglu; quick_gelu is x sigmoid(1.702 x)."""

    def check(self) -> None:
        """Raises UserError if heads do not divide the width, or groups do not divide heads."""
        if self.width % self.heads or self.width % 4 or (self.rotary and self.width // self.heads % 2):
            even = " of an even size" if self.rotary else ""
            raise UserError(f"width is {self.width}: a multiple of 4 and of heads = {self.heads}{even} is expected")
        if self.groups and self.heads % self.groups:
            raise UserError(f"groups is {self.groups}: a divisor of heads = {self.heads} is expected")

    def _settings(self, train: bool = False) -> BlockSettings:
        return BlockSettings(
            self.heads, self.hidden or 4 * self.width, self.groups, self.causal, self.pre_norm, self.rms, self.swiglu,
            self.rotary, self.bias, self.dropout, self.std,
            self.std / math.sqrt(2 * self.depth) if self.scaled else self.std, train, self.dtype, self.activation,
        )  # fmt: skip

    def __call__(
        self,
        x: jax.Array,
        context: jax.Array | None = None,
        positions: jax.Array | None = None,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """f32[B, T, width]. context: f32[B, S, D] that each block also attends to. positions, mask: see `Placement`."""
        return self._blocks(x, context, Placement(positions, mask), train, False)[0]

    def keep(
        self, x: jax.Array, positions: jax.Array | None = None, mask: jax.Array | None = None
    ) -> tuple[jax.Array, KeysValues]:
        """f32[B, T, width], and the keys and values of all blocks, f32[depth, B * groups, T, d] each."""
        return self._blocks(x, None, Placement(positions, mask), False, True)

    @nn.compact
    def _blocks(
        self, x: jax.Array, context: jax.Array | None, place: Placement, train: bool, keep: bool
    ) -> tuple[jax.Array, Any]:
        kind = Block if self.is_initializing() or keep else scanned_block(Block, self.remat, self.dtype)
        flags = {"keep": True} if keep else {}  # only without remat, which would trace the flag
        stack = nn.scan(
            lambda block, x, context: block(x, context, place, **flags), length=self.depth,
            unroll=blocks_in_turn(self.depth), in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]  # typed as int
            variable_axes={"params": 0}, split_rngs={"params": True, "dropout": True},
        )  # fmt: skip
        settings = self._settings(train)
        x, kept = stack(kind(settings, name="blocks"), x, context)
        return (settings.norm(name="norm")(x) if self.final_norm else x), kept

    # --- token by token ---

    def decode_params(self, params: PyTree, rows: int) -> DecodeParams:
        """`params` as `decode` takes them, for this many rows. Call it before the loop that decodes: inside the loop,
        taking a block's slice of the stack would copy it at every step."""
        blocks = [jax.tree.map(lambda a, i=i: a[i], params["blocks"]) for i in range(self.depth)]
        if prefer_kernel_on_left(rows):
            blocks = [transpose_kernels(block) for block in blocks]
        return DecodeParams(blocks, params["norm"] if self.final_norm else None)

    @property
    def key_heads(self) -> int:
        """Heads of keys and values."""
        return self.groups or self.heads

    def empty_cache(self, batch: int, slots: int) -> list[KeysValues]:
        """Zeros for the keys and values of each block in `slots` slots."""
        shape, dtype = (batch * self.key_heads, slots, self.width // self.heads), self.dtype or jnp.float32
        return [(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(self.depth)]

    def decode(
        self,
        params: DecodeParams,
        cache: list[KeysValues],
        x: jax.Array,
        place: Placement,
        context: jax.Array | None = None,
    ) -> tuple[jax.Array, list[KeysValues]]:
        """The output for x: f32[B, T, width], tokens that follow those in the cache, and the cache with theirs.

        Equals what a pass over all tokens returns for x. place: `mask` and `slot`, and `positions` if rotary. The
        blocks are unrolled: a scan would copy the whole cache at every step.
        """
        settings, new = self._settings(), []
        block = Block(settings, parent=None)
        for layer, kept in zip(params.blocks, cache):
            x, kept = apply(block, {"params": layer}, x, context, place._replace(cache=kept))
            new.append(kept)
        if self.final_norm:
            x = apply(settings.norm(parent=None), {"params": params.norm}, x)
        return x, new
