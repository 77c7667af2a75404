"""One transformer for all: text, codes and patches (arXiv:1706.03762), with what has changed since as settings.

x: f32[B, T, C]. Positions are added to x by who calls, learned or as sinusoids; rotary ones belong to attention. The
blocks are one scanned block, their parameters stacked, [depth, ...], so that a deep network compiles as fast as a
shallow one. Names of layers are those that `parallel.TENSOR_RULES` splits over devices.

Sampling token by token keeps keys and values: `Transformer(..., keep=True)` gives those of a whole pass and `decode`
goes on from them. Nothing is hidden in a collection: the cache is what a sampler's scan carries.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen.errors import UserError
from jaxgen.nets.dense import Dense, prefer_kernel_on_left, transpose_kernels
from jaxgen.ops.attention import attention, cached_attention, rotate

UNROLL = 2  # blocks in a turn of the loop: what the way back needs is copied less
XAVIER = nn.initializers.xavier_uniform()

KeysValues = tuple[jax.Array, jax.Array]
"""Of one layer: f32[B * groups, S, d] each, with one axis of rows as they are multiplied: of two, where B is 1, XLA's
CPU back end copies all at each step."""


def kernel_init(std: float) -> Any:
    """N(0, std^2), or Xavier's uniform where std is 0."""
    return nn.initializers.normal(std) if std else XAVIER


def layer(bias: bool, dtype: Any, std: float, features: int, name: str) -> Dense:
    """A dense layer that starts by `kernel_init`."""
    return Dense(features, bias, dtype=dtype, kernel_init=kernel_init(std), name=name)


def sinusoids(height: int, width: int, dim: int) -> np.ndarray:
    """Sines and cosines of column and row at dim / 4 frequencies each, f32[height * width, dim], rows of patches in
    order: 2-D positions that are not learnt."""
    frequency = 10_000.0 ** (-np.arange(dim // 4) / (dim // 4))

    def of(position: np.ndarray) -> np.ndarray:
        angle = position.reshape(-1, 1) * frequency
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)

    row, column = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return np.concatenate([of(column), of(row)], axis=1).astype(np.float32)


class Attention(nn.Module):
    """Multi-head attention of x: f32[B, T, C] to itself, or to a context: f32[B, S, D]."""

    heads: int
    groups: int = 0
    """Heads of keys and values, each shared by heads / groups of the queries; as many as heads when 0."""
    causal: bool = False
    rotary: bool = False
    bias: bool = True
    dropout: float = 0.0
    """Of the weights, in training."""
    std: float = 0.0
    """Of the kernels at the start, see `kernel_init`; `out_std` of the last one."""
    out_std: float = 0.0
    train: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        context: jax.Array | None = None,
        positions: jax.Array | None = None,
        mask: jax.Array | None = None,
        cache: KeysValues | None = None,
        slot: jax.Array | int = 0,
        keep: bool = False,
    ) -> jax.Array | tuple[jax.Array, KeysValues]:
        """f32[B, T, C], with `cache` or `keep` also the keys and values.

        positions: i32[B or 1, T] for rotary ones, 0 to T - 1 when None. mask: bool[B or 1, T, S] of what is seen.
        cache: keys and values of S slots; those of x are put at `slot` and on, and mask says which slots are seen.
        """
        channels, groups = x.shape[-1], self.groups or self.heads
        size = channels // self.heads

        dense = partial(layer, self.bias, self.dtype, self.std)
        if context is None and groups == self.heads:
            qkv = dense(3 * channels, "qkv")(x)
            # Channels of qkv are (head, which of three, channel), so that a split over devices cuts heads apart.
            q, k, v = jnp.split(qkv.reshape(*x.shape[:2], self.heads, -1), 3, axis=-1)
        else:
            source = x if context is None else context
            q = dense(channels, "query")(x).reshape(*x.shape[:2], self.heads, size)
            k, v = (
                dense(groups * size, n)(source).reshape(*source.shape[:2], groups, size) for n in ("key", "value")
            )
        if self.rotary and context is None:
            positions = jnp.arange(x.shape[1])[None] if positions is None else positions
            q, k = rotate(q, positions), rotate(k, positions)
        kept = None
        if cache is not None:
            kept = tuple(
                jax.lax.dynamic_update_slice_in_dim(old, _by_group(new).astype(old.dtype), slot, axis=1)
                for old, new in zip(cache, (k, v))
            )
            h = cached_attention(q, *kept, mask)
        else:
            key = self.make_rng("dropout") if self.train and self.dropout else None
            h = attention(q, k, v, self.causal and context is None, mask, self.dropout, key)
            kept = (_by_group(k), _by_group(v)) if keep else None
        h = layer(self.bias, self.dtype, self.out_std, channels, "out")(h.reshape(x.shape))
        return h if kept is None else (h, kept)


def _by_group(x: jax.Array) -> jax.Array:
    """f32[B, T, groups, d] -> f32[B * groups, T, d]."""
    return x.swapaxes(1, 2).reshape(-1, x.shape[1], x.shape[3])


class MLP(nn.Module):
    """Two dense layers of `hidden` channels: f32[B, T, C] -> f32[B, T, C].

    Between them a GELU (tanh form), or with `swiglu` silu(gate) * up, arXiv:2002.05202.
    """

    hidden: int
    swiglu: bool = False
    bias: bool = True
    std: float = 0.0
    out_std: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dense = partial(layer, self.bias, self.dtype, self.std)
        h = dense(self.hidden, "up")(x)
        # The gate's name ends in up too, so that both are split over devices alike.
        h = nn.silu(dense(self.hidden, "gate_up")(x)) * h if self.swiglu else nn.gelu(h)
        return layer(self.bias, self.dtype, self.out_std, x.shape[-1], "down")(h)


def norm(rms: bool, bias: bool, dtype: Any, **fields: Any) -> nn.Module:
    """Root mean square (arXiv:1910.07467) or layer normalisation over channels, statistics in f32."""
    if rms:
        return nn.RMSNorm(1e-5, dtype=dtype, **fields)
    return nn.LayerNorm(1e-5, use_bias=bias, dtype=dtype, **fields)


class Block(nn.Module):
    """Attention to itself, to a context where there is one, then an MLP; each beside a residual.

    Pre-norm is x + f(norm(x)), arXiv:2002.04745; post-norm is norm(x + f(x)), as at first.
    """

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
    train: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        context: jax.Array | None = None,
        positions: jax.Array | None = None,
        mask: jax.Array | None = None,
        cache: KeysValues | None = None,
        slot: jax.Array | int = 0,
        keep: bool = False,
    ) -> tuple[jax.Array, KeysValues | None]:
        """The arguments are `Attention`'s."""
        kept = None
        inits = {"bias": self.bias, "std": self.std, "out_std": self.out_std, "dtype": self.dtype}
        attend = {"dropout": self.dropout, "train": self.train, **inits}

        def look_back(h: jax.Array) -> jax.Array:
            nonlocal kept
            back = Attention(
                self.heads, self.groups, self.causal, self.rotary, **attend, name="self_attention"
            )  # fmt: skip
            out = back(h, None, positions, mask, cache, slot, keep)
            if cache is None and not keep:
                return out
            out, kept = out
            return out

        def look_aside(h: jax.Array) -> jax.Array:
            return Attention(self.heads, self.groups, **attend, name="cross_attention")(h, context)

        parts = {"norm_self": look_back, "norm_mlp": MLP(self.hidden, self.swiglu, **inits, name="token_mlp")}
        if context is not None:
            parts = {"norm_self": look_back, "norm_cross": look_aside, "norm_mlp": parts["norm_mlp"]}
        for name, part in parts.items():
            normalise = norm(self.rms, self.bias, self.dtype, name=name)
            h = part(normalise(x) if self.pre_norm else x)
            x = x + nn.Dropout(self.dropout, deterministic=not self.train)(h)
            x = x if self.pre_norm else normalise(x)
        return x, kept


class Transformer(nn.Module):
    """`depth` blocks over tokens of `width` channels: f32[B, T, width] -> f32[B, T, width].

    remat: blocks are computed again in the backward pass, for less memory.
    """

    width: int = 384
    depth: int = 6
    heads: int = 6
    groups: int = 0
    """Heads of keys and values; as many as heads when 0."""
    hidden: int = 0
    """Channels inside the MLPs; 4 times the width when 0."""
    causal: bool = False
    """Position t sees positions up to t."""
    pre_norm: bool = True
    final_norm: bool = True
    """Normalise what the last block gives."""
    rms: bool = False
    """Normalise by the root mean square alone."""
    swiglu: bool = False
    rotary: bool = False
    bias: bool = True
    """Biases of dense layers and norms."""
    dropout: float = 0.0
    """Of attention weights and of what each part adds, in training."""
    std: float = 0.02
    """Kernels start as N(0, std^2); 0 for Xavier's uniform."""
    scaled: bool = True
    """Kernels whose result is added to the residual start at std / sqrt(2 depth), as GPT-2's do."""
    remat: bool = False
    dtype: Any = None

    def check(self) -> None:
        """Raises UserError when there is nothing of something, width is not whole heads, or heads not whole groups."""
        for name, least in (("width", 1), ("depth", 1), ("heads", 1), ("groups", 0), ("hidden", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}: {least} at least is expected")
        if self.width % self.heads or self.width % 4 or (self.rotary and self.width // self.heads % 2):
            even = " of an even size" if self.rotary else ""
            raise UserError(f"width is {self.width}: a multiple of 4 and of heads = {self.heads}{even} is expected")
        if self.groups and self.heads % self.groups:
            raise UserError(f"groups is {self.groups}: a divisor of heads = {self.heads} is expected")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}: from 0 to below 1 is expected")

    def _block(self, kind: Any = Block, train: bool = False, **fields: Any) -> Any:
        return kind(
            self.heads, self.hidden or 4 * self.width, self.groups, self.causal, self.pre_norm, self.rms, self.swiglu,
            self.rotary, self.bias, self.dropout, self.std,
            self.std / math.sqrt(2 * self.depth) if self.scaled else self.std, train, self.dtype, **fields,
        )  # fmt: skip

    def _final(self, **fields: Any) -> nn.Module:
        return norm(self.rms, self.bias, self.dtype, **fields)

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        context: jax.Array | None = None,
        positions: jax.Array | None = None,
        mask: jax.Array | None = None,
        train: bool = False,
        keep: bool = False,
    ) -> jax.Array | tuple[jax.Array, KeysValues]:
        """f32[B, T, width]; with `keep` also keys and values of all blocks, f32[depth, B * groups, T, d] each.

        context: f32[B, S, D] that each block attends to as well. positions, mask: see `Attention`.
        """
        kind = nn.remat(Block, prevent_cse=False) if self.remat and not keep else Block
        wanted = {"keep": True} if keep else {}  # what is passed to a block that recomputes would be traced
        stack = nn.scan(
            lambda block, x, context: block(x, context, positions, mask, **wanted), length=self.depth, unroll=UNROLL,
            in_axes=nn.broadcast, variable_axes={"params": 0}, split_rngs={"params": True, "dropout": True},
        )  # fmt: skip
        x, kept = stack(self._block(kind, train, name="blocks"), x, context)
        if self.final_norm:
            x = self._final(name="norm")(x)
        return (x, kept) if keep else x

    # --- token by token ---

    def layers(self, params: Any, rows: int) -> list[Any]:
        """The parameters of each block, as `decode` takes them with so many rows. To be called before the loop that
        decodes: a slice inside of it is a copy at every step."""
        each = [jax.tree.map(lambda a, i=i: a[i], params["blocks"]) for i in range(self.depth)]
        return [transpose_kernels(layer) for layer in each] if prefer_kernel_on_left(rows) else each

    @property
    def key_heads(self) -> int:
        """Heads of keys and values."""
        return self.groups or self.heads

    def empty_cache(self, batch: int, slots: int) -> list[KeysValues]:
        """Of each block, `slots` places for keys and values."""
        shape = (batch * self.key_heads, slots, self.width // self.heads)
        return [tuple(jnp.zeros(shape, self.dtype or jnp.float32) for _ in range(2)) for _ in range(self.depth)]

    def decode(
        self,
        params: Any,
        layers: list[Any],
        cache: list[KeysValues],
        x: jax.Array,
        slot: jax.Array | int,
        mask: jax.Array,
        positions: jax.Array | None = None,
        context: jax.Array | None = None,
    ) -> tuple[jax.Array, list[KeysValues]]:
        """What the whole pass would give for x: f32[B, T, width], tokens that come after those in the cache.

        They are put at `slot` and on; mask: bool[B, T, S] says which of the S slots each sees, itself among them.
        positions: i32[B, T], for rotary ones. Written out block by block, not scanned: a scan over the cache copies
        all of it at each step.
        """
        block, new = self._block(parent=None), []
        for layer, kept in zip(layers, cache):
            x, kept = block.apply({"params": layer}, x, context, positions, mask, kept, slot)
            new.append(kept)
        if self.final_norm:
            x = self._final(parent=None).apply({"params": params["norm"]}, x)
        return x, new
