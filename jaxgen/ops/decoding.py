"""How the next token is chosen from logits: filters that take tokens out, then a draw by each row's own key.

logits: f32[B, V]; what is taken out is -inf. Filters go in the order of `Decoding.filtered`: penalty, temperature,
top-k, top-p, min-p, each on what the one before has left.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxgen.errors import UserError


def penalise(logits: jax.Array, seen: jax.Array, penalty: float) -> jax.Array:
    """Logits of tokens in `seen`, bool[B, V], divided by the penalty where positive, else multiplied: section 4.1 of
    arXiv:1909.05858."""
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def top_k(logits: jax.Array, k: int) -> jax.Array:
    """The k largest, and what ties with the last of them."""
    if k >= logits.shape[-1]:
        return logits
    return jnp.where(logits < jax.lax.top_k(logits, k)[0][..., -1:], -jnp.inf, logits)


def top_p(logits: jax.Array, p: float) -> jax.Array:
    """The nucleus, arXiv:1904.09751: the fewest of the most likely tokens whose probabilities sum to p at least, and
    what ties with the last of them."""
    ordered = jnp.sort(logits, axis=-1, descending=True)
    probability = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    # The first is kept whatever p is: before it there is nothing.
    last = jnp.min(jnp.where(before < p, ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits < last, -jnp.inf, logits)


def min_p(logits: jax.Array, p: float) -> jax.Array:
    """Tokens at least p times as likely as the likeliest, arXiv:2407.01082."""
    return jnp.where(logits < jnp.max(logits, axis=-1, keepdims=True) + jnp.log(p), -jnp.inf, logits)


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How tokens are drawn, one after another."""

    tokens: int = 0
    """Tokens drawn after the prompt; as many as the window holds when 0."""
    temperature: float = 1.0
    """Logits are divided by it; 0 always takes the likeliest."""
    top_k: int = 0
    """Only the so many likeliest tokens; all when 0."""
    top_p: float = 1.0
    """Only the likeliest tokens whose probabilities sum to this."""
    min_p: float = 0.0
    """Only tokens at least this times as likely as the likeliest."""
    repetition_penalty: float = 1.0
    """Above 1, tokens of the prompt and those drawn are less likely again."""
    end: int = -1
    """The token after which nothing follows: the rest is filled up with it. None when negative."""
    keep: int = 0
    """Once the window is full, so many of the last tokens are read anew as its first, and the text goes on from there;
    half of it when 0. Window less 1 forgets one token at a time, as nanoGPT does, at the cost of a pass for each."""

    def check(self, vocab: int, window: int) -> None:
        """Raises UserError for settings that make no sense, or none for this vocabulary."""
        for name, low, high in (
            ("tokens", 0, None), ("temperature", 0, None), ("top_k", 0, None), ("top_p", 0, 1), ("min_p", 0, 1),
            ("end", -1, vocab - 1), ("keep", 0, window - 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if value < low or (high is not None and value > high):
                expected = f"from {low} on" if high is None else f"from {low} to {high}"
                raise UserError(f"model.decoding.{name} is {value}: {expected} is expected")
        if self.repetition_penalty <= 0 or self.top_p == 0:
            raise UserError("model.decoding.repetition_penalty and top_p must be above 0")

    def filtered(self, logits: jax.Array, seen: jax.Array | None = None) -> jax.Array:
        """Logits of what may be drawn, f32[B, V]; seen: bool[B, V], for the penalty."""
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
        """i32[B], row i by keys[i]."""
        logits = self.filtered(logits, seen)
        if self.temperature == 0:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)
