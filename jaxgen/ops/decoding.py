"""How the next token is chosen from logits: filters remove tokens, then each row is drawn with its own key.

logits: f32[B, V]; removed tokens get -inf. `Decoding.filtered` applies the repetition penalty, the temperature, top-k,
top-p and min-p in this order, each to the result of the one before.
"""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Ge, Le

from jaxgen.core.ranges import Fraction, NonNegative, OptionalCount, Positive, PositiveFraction
from jaxgen.errors import UserError


def penalise(logits: jax.Array, seen: jax.Array, penalty: float) -> jax.Array:
    """Repetition penalty, section 4.1 of arXiv:1909.05858: logits of the tokens in `seen`, bool[B, V], are divided by
    the penalty where positive and multiplied by it elsewhere."""
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def top_k(logits: jax.Array, k: int) -> jax.Array:
    """Keeps the k largest logits and any that tie with the smallest of them."""
    if k >= logits.shape[-1]:
        return logits
    return jnp.where(logits < jax.lax.top_k(logits, k)[0][..., -1:], -jnp.inf, logits)


def top_p(logits: jax.Array, p: float) -> jax.Array:
    """Keeps the nucleus, arXiv:1904.09751: the smallest set of most likely tokens whose probabilities sum to at least
    p, and any token that ties with the least likely of them."""
    ordered = jnp.sort(logits, axis=-1, descending=True)
    probability = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    # The likeliest token is kept for every p > 0: the sum before it is 0.
    last = jnp.min(jnp.where(before < p, ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits < last, -jnp.inf, logits)


def min_p(logits: jax.Array, p: float) -> jax.Array:
    """Keeps the tokens that are at least p times as likely as the likeliest, arXiv:2407.01082."""
    return jnp.where(logits < jnp.max(logits, axis=-1, keepdims=True) + jnp.log(p), -jnp.inf, logits)


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How tokens are drawn, one after another."""

    tokens: OptionalCount = 0
    """Number of tokens drawn after the prompt; 0 for as many as the window holds."""
    temperature: NonNegative = 1.0
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: OptionalCount = 0
    """Draws only from this many of the likeliest tokens; 0 for all."""
    top_p: PositiveFraction = 1.0
    """Draws only from the likeliest tokens whose probabilities sum to this."""
    min_p: Fraction = 0.0
    """Draws only from tokens at least this many times as likely as the likeliest; a number in [0, 1]."""
    repetition_penalty: Positive = 1.0
    """Above 1, tokens that the prompt or the text drawn so far contains become less likely."""
    end: Annotated[int, Ge(-1), Le(1 << 24)] = -1
    """The token that ends a text; the rest of the row is filled with it. Negative for none."""
    keep: OptionalCount = 0
    """When the window is full, this many of the last tokens start a new window and the text continues from there; 0
    keeps half a window. Window - 1 forgets one token at a time, as nanoGPT does, but costs a full pass a token."""

    def check(self, vocab: int, window: int) -> None:
        """Raises UserError for settings that this vocabulary or window does not allow."""
        for name, low, high in (("end", -1, vocab - 1), ("keep", 0, window - 1)):
            if getattr(self, name) > high:
                raise UserError(f"model.decoding.{name} is {getattr(self, name)}: from {low} to {high} is expected")

    def filtered(self, logits: jax.Array, seen: jax.Array | None = None) -> jax.Array:
        """The filtered logits, f32[B, V]. seen: bool[B, V], the tokens that the repetition penalty applies to."""
        if self.repetition_penalty != 1 and seen is not None:
            logits = penalise(logits, seen, self.repetition_penalty)
        if self.temperature == 0:
            likeliest = jnp.argmax(logits, axis=-1, keepdims=True)
            return jnp.where(jnp.arange(logits.shape[-1])[None] == likeliest, 0.0, -jnp.inf)
        logits = logits / self.temperature
        logits = top_k(logits, self.top_k) if self.top_k else logits
        logits = top_p(logits, self.top_p) if self.top_p < 1 else logits
        return min_p(logits, self.min_p) if self.min_p else logits

    def draw(self, keys: jax.Array, logits: jax.Array, seen: jax.Array | None = None) -> jax.Array:
        """Token of each row, i32[B]; row i is drawn with keys[i]."""
        logits = self.filtered(logits, seen)
        if self.temperature == 0:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)
