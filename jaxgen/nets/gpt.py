"""A transformer language model: embeds tokens and returns logits of the next one. GPT-2's layout by default."""

from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxgen.core.ranges import Size, Vocabulary
from jaxgen.errors import UserError
from jaxgen.nets.dense import dot_transposed
from jaxgen.nets.transformer import KeysValues, Transformer

CHUNK, LOGITS = 128, 1 << 22
"""Positions whose logits are computed together, and logits of an example from which on they are: for a tenth more
arithmetic a step of GPT-2 does not hold those of all, which are 2.3 GiB for 12 windows of 1,024."""


def check_sizes(vocab: int, window: int) -> None:
    """Raises UserError for fewer than 2 tokens or 1 position."""
    if vocab < 2 or window < 1:
        raise UserError(f"vocab is {vocab}, window {window}: 2 tokens and 1 position at least are needed")


class TokenTransformer(nn.Module):
    """tokens: i32[B, T] in [0, vocab). Positions are learned embeddings, unless the body's are rotary.

    starts: f32[n, width], or None, are embeddings of n further tokens, vocab to vocab + n - 1. They can stand in the
    input but have no logits.
    """

    vocab: Vocabulary = 256
    window: Size = 64
    """Number of positions."""
    body: Transformer = field(default_factory=lambda: Transformer(causal=True))
    tied: bool = True
    """The output layer is the transpose of the embedding, arXiv:1608.05859; otherwise it has its own parameters."""
    dtype: Any = None

    def check(self) -> None:
        """Raises UserError for invalid sizes, or a body that is not causal."""
        self.body.check()
        check_sizes(self.vocab, self.window)
        if not self.body.causal:
            raise UserError("model.network.body.causal is False: each token would see itself; set it")

    def setup(self) -> None:
        init = nn.initializers.normal(self.body.std or 0.02)
        width = self.body.width
        self.tokens = self.param("tokens", init, (self.vocab, width))
        if not self.body.rotary:
            self.positions = self.param("positions", init, (self.window, width))
        if not self.tied:
            self.head = self.param("head", init, (self.vocab, width))
        self.drop = nn.Dropout(self.body.dropout)

    def embed(self, tokens: jax.Array, positions: jax.Array, starts: jax.Array | None = None) -> jax.Array:
        """f32[B, T, width]; positions: i32[B or 1, T] in [0, window)."""
        x = self.tokens[jnp.minimum(tokens, self.vocab - 1)]
        if starts is not None:
            first = starts[jnp.maximum(tokens - self.vocab, 0)]
            x = jnp.where((tokens >= self.vocab)[..., None], first, x)
        if not self.body.rotary:
            x = x + jnp.broadcast_to(self.positions[jnp.minimum(positions, self.window - 1)], x.shape)
        return x if self.dtype is None else x.astype(self.dtype)

    def logits(self, h: jax.Array) -> jax.Array:
        """f32[..., vocab] of the body's output, [..., width]."""
        # Accumulated in f32: in bf16, logits of different tokens would be equal.
        return dot_transposed(h, self._table(h.dtype), jnp.float32)

    def _table(self, dtype: Any) -> jax.Array:
        """The output layer, [vocab, width]."""
        return (self.tokens if self.tied else self.head).astype(dtype)

    def __call__(self, tokens: jax.Array, starts: jax.Array | None = None, train: bool = False) -> jax.Array:
        """f32[B, T, vocab]: at position t, logits of the token after tokens 0 to t."""
        return self.logits(self._hidden(tokens, starts, train))

    def _hidden(self, tokens: jax.Array, starts: jax.Array | None, train: bool) -> jax.Array:
        x = self.embed(tokens, jnp.arange(tokens.shape[1])[None], starts)
        return self.body(self.drop(x, deterministic=not train), train=train)

    def nats(
        self, tokens: jax.Array, targets: jax.Array, starts: jax.Array | None = None, train: bool = False
    ) -> jax.Array:
        """-log p of `targets`, f32[B, T], as the tokens after each of `tokens`.

        Logits of a large vocabulary are never there for all positions at once, nor kept for the backward pass.
        """
        h, length = self._hidden(tokens, starts, train), tokens.shape[1]
        if length * self.vocab < LOGITS:
            return optax.softmax_cross_entropy_with_integer_labels(self.logits(h), targets)
        table = self._table(h.dtype)

        @jax.checkpoint
        def chunk(rows: tuple[jax.Array, jax.Array]) -> jax.Array:
            h, targets = rows
            logits = dot_transposed(h, table, jnp.float32)
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets)

        # Positions are cut, not examples: devices split these.
        def cut(a: jax.Array) -> jax.Array:
            whole = jnp.pad(a, ((0, 0), (0, -length % CHUNK), *((0, 0),) * (a.ndim - 2)))
            return jnp.moveaxis(whole.reshape(len(a), -1, CHUNK, *a.shape[2:]), 1, 0)

        nats = jnp.moveaxis(jax.lax.map(chunk, (cut(h), cut(targets))), 0, 1)
        return nats.reshape(len(targets), -1)[:, :length]

    def keep(self, tokens: jax.Array, positions: jax.Array, mask: jax.Array | None = None) -> KeysValues:
        """Keys and values of all blocks, [depth, B * groups, T, d] each, from which decoding continues."""
        x = self.embed(tokens, positions)
        return self.body.keep(x, positions, mask)[1]
