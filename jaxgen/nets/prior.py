"""The network of a diffusion prior, which predicts an embedding of a picture from a text: section 2.2 of
arXiv:2204.06125.

A causal transformer reads, in this order, the encoded text, the text's embedding, the time, the noised embedding of
the picture, and a learned token, from whose output the embedding without noise is predicted.

x: f32[B, D], noised; t: f32[B] on the scale of 0 to 1000; embedding: f32[B, E] of the text, zeros for no text; context:
f32[B, L, C], the encoded text; context_mask: bool[B, L], false for padding, all True if None; y: f32[B, K] or None.
"""

from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.errors import UserError
from jaxgen.nets.dense import Dense
from jaxgen.nets.transformer import Transformer
from jaxgen.nets.unet import ZERO, time_embedding

AFTER = 4
"""Tokens after those of the text: its embedding, the time, the noised embedding, the one that answers."""


def prior_mask(seen: jax.Array) -> jax.Array:
    """bool[B, L + 4, L + 4]: which of all tokens each may see, beside being causal. No padding of the text, where seen,
    bool[B, L], is false, is seen by any token but itself: a token that saw nothing would get what is undefined."""
    keys = jnp.pad(seen, ((0, 0), (0, AFTER)), constant_values=True)
    return keys[:, None] | jnp.eye(keys.shape[1], dtype=bool)[None]


class PriorTransformer(nn.Module):
    """Positions of the text are those that `context` has; the tokens after it have learned ones, so that the padding of
    a text changes nothing."""

    body: Transformer = field(default_factory=lambda: Transformer(causal=True))
    dtype: Any = None

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UserError for another shape than (D,), and for a body that is not causal."""
        if len(shape) != 1:
            raise UserError(f"model.shape is {tuple(shape)}: one vector (D,) is expected")
        if not self.body.causal:
            raise UserError("the transformer is not causal: pass --model.network.body.causal True")
        self.body.check()

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        t: jax.Array,
        out: int,
        y: jax.Array | None = None,
        context: jax.Array | None = None,
        context_mask: jax.Array | None = None,
        embedding: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """f32[B, out]. Training with dropout needs the rng `dropout`."""
        assert context is not None and embedding is not None
        width = self.body.width

        def dense(features: int, name: str, **kwargs: Any) -> Dense:
            return Dense(features, dtype=self.dtype, name=name, **kwargs)

        time = dense(width, "time_out")(nn.silu(dense(width, "time_in")(time_embedding(t, 256))))
        if y is not None:
            time += dense(width, "label", use_bias=False)(y)
        answer = self.param("answer", nn.initializers.normal(0.02), (width,))
        after = [
            dense(width, "embedding_in")(embedding), time, dense(width, "noised_in")(x),
            jnp.broadcast_to(answer.astype(time.dtype), time.shape),
        ]  # fmt: skip
        places = self.param("positions", nn.initializers.normal(0.02), (AFTER, width))
        after = jnp.stack(after, axis=1) + places.astype(time.dtype)[None]
        tokens = jnp.concatenate([dense(width, "context_in")(context), after], axis=1)
        seen = jnp.ones(context.shape[:2], bool) if context_mask is None else context_mask
        h = self.body(tokens, mask=prior_mask(seen), train=train)
        return dense(out, "out", kernel_init=ZERO)(h[:, -1]).astype(jnp.float32)
