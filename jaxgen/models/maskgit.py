"""MaskGIT, arXiv:2202.04200: a bidirectional transformer that draws the codes of an image in a few parallel steps.

x: i32[B, T] tokens, M the set of masked positions. Training masks gamma(r) T tokens, gamma(r) = cos(pi r / 2), r
uniform, and minimises -sum_{i in M} log p(x_i | x without M)                                                (eq. 1).
Sampling starts with all tokens masked. Each of S steps draws all masked tokens at once, keeps the most confident ones
and masks the others again, so that gamma(t / S) T stay masked after step t: section 3.2.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.gradients import Seen
from jaxgen.core.keys import fold_each, one_key, split_each, uniform_each
from jaxgen.core.model import LossModel
from jaxgen.core.ranges import Decay, NonNegative, OptionalSize, Positive, Size, Steps, Vocabulary
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.shared import ClassConditionalModel, check_classes, check_rows, check_tokens
from jaxgen.nets.apply import apply
from jaxgen.nets.dense import Dense
from jaxgen.nets.gpt import check_sizes
from jaxgen.nets.transformer import Transformer
from jaxgen.ops.masking import any_order_nats, ranks

ORDERS = 8  # how many numbers of masked tokens `evaluate` tries
TOKENS, CHOICE = range(2)  # streams of a sampling step's key: the tokens, and the noise on which of them stay


class MaskedTransformer(nn.Module):
    """Logits f32[B, T, vocab] of tokens i32[B, T], in which the number `vocab` is the mask. y: f32[B, width], if given,
    is prepended as a token of its own."""

    vocab: Vocabulary = 256
    window: Size = 64
    """T."""
    body: Transformer = field(default_factory=lambda: Transformer(width=256, depth=6, heads=8))
    dtype: Any = None

    def check(self) -> None:
        """Raises UserError for sizes that do not fit."""
        self.body.check()
        check_sizes(self.vocab, self.window)
        if self.body.causal:
            raise UserError("model.network.body.causal is set: tokens must see those after them; unset it")

    @nn.compact
    def __call__(self, tokens: jax.Array, y: jax.Array | None = None, train: bool = False) -> jax.Array:
        width, init = self.body.width, nn.initializers.normal(0.02)
        table: jax.Array = self.param("tokens", init, (self.vocab + 1, width))
        x = table[tokens] + self.param("positions", init, (self.window, width))[None]
        if y is not None:
            x = jnp.concatenate([y[:, None], x], axis=1)
        x = x if self.dtype is None else x.astype(self.dtype)
        h: jax.Array = self.body(x, train=train)  # pyright: ignore[reportAssignmentType]: no cache is asked for
        h = h[:, -self.window :]
        h = nn.gelu(Dense(width, dtype=self.dtype, kernel_init=init, name="head")(h))
        h = nn.LayerNorm(1e-5, dtype=self.dtype, name="head_norm")(h).astype(jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.vocab,))
        return h @ table[: self.vocab].T + bias[None, None]


def masked_left(tokens: int, steps: int, step: jax.Array) -> jax.Array:
    """How many of `tokens` stay masked after the given step, i32[]. The cosine is bounded so that each step reveals at
    least one token and leaves one for each later step; none is masked after the last."""
    left = jnp.floor(tokens * jnp.cos(0.5 * math.pi * (step + 1) / steps)).astype(jnp.int32)
    return jnp.clip(left, steps - 1 - step, tokens - 1 - step)


@dataclass(frozen=True, kw_only=True)
class MaskGIT(ClassConditionalModel, LossModel):
    """x: i32[B, T]; cond, where num_classes > 0: i32[B] in [0, num_classes)."""

    network: MaskedTransformer = field(default_factory=MaskedTransformer)
    num_classes: OptionalSize = 0
    label_smoothing: Decay = 0.1
    steps: Steps = 8
    """S, the steps of sampling, each one pass of the network."""
    choice_temperature: NonNegative = 4.5
    """Scale of the Gumbel noise on the confidences log p; it falls linearly to 0 over the steps."""
    temperature: Positive = 1.0
    """Logits are divided by it when tokens are drawn."""

    @property
    def vocab(self) -> int:
        return self.network.vocab

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.network.window

    def check(self, batch: Batch) -> None:
        self.network.check()
        x = batch["x"]
        check_rows(x)
        if x.shape[1] != self.num_tokens:
            raise UserError(
                f"examples have {x.shape[1]} tokens, the window {self.num_tokens}: pass --model.network.window "
                f"{x.shape[1]}"
            )
        check_tokens(x, self.vocab)
        check_classes(self.num_classes, batch)
        self._check_sampling()

    def _check_sampling(self) -> None:
        if self.steps > self.num_tokens:
            raise UserError(f"model.steps is {self.steps}: from 1 to {self.num_tokens}, the number of tokens")

    # --- training ---

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        key_network, key_classes = jax.random.split(key)
        width, params = self.network.body.width, {}
        if self.num_classes:
            params["classes"] = {"embedding": 0.02 * jax.random.normal(key_classes, (self.num_classes, width))}
        y = jnp.zeros((1, width)) if self.num_classes else None
        return params | {"network": self.network.init(key_network, batch["x"][:1], y)["params"]}

    def logits(
        self, params: PyTree, tokens: jax.Array, mask: jax.Array, cond: PyTree = None, key: jax.Array | None = None
    ) -> jax.Array:
        """f32[B, T, vocab] of tokens i32[B, T], hidden where mask, bool[B, T], is set. key: of dropout masks, given in
        training."""
        y = params["classes"]["embedding"][cond] if self.num_classes else None
        dropout = {} if key is None else {"train": True, "rngs": {"dropout": key}}
        seen = jnp.where(mask, self.vocab, tokens)
        return apply(self.network, {"params": params["network"]}, seen, y, **dropout)

    def seen(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Seen]:
        """Nats per masked token with label smoothing; the metric `nats` is without it."""
        keys_ratio, keys_order, keys_drop = split_each(keys, 3)
        x = batch["x"]
        ratio = jnp.cos(0.5 * math.pi * uniform_each(keys_ratio, (1,)))
        # At least one is masked: the positions of the `count` smallest of T random numbers.
        count = jnp.maximum(1, jnp.round(ratio * x.shape[1]))
        mask = ranks(uniform_each(keys_order, x.shape[1:])) < count
        log_p = jax.nn.log_softmax(self.logits(params, x, mask, batch.get("cond"), one_key(keys_drop)))
        nats = -jnp.take_along_axis(log_p, x[..., None], axis=-1)[..., 0]
        smoothed = (1 - self.label_smoothing) * nats - self.label_smoothing * jnp.mean(log_p, axis=-1)
        total = jnp.sum(mask, dtype=jnp.float32)
        return jnp.sum(smoothed * mask) / total, Seen({"nats": jnp.sum(nats * mask) / total}, weight=total)

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """`nats_per_token`, f32[B]: an estimate from a few masks of a bound on -log p(x) / T, p being the model that
        draws the tokens one by one in random order. The bound is the mean of -log p(x_i | x without M) over i in M,
        averaged over |M| uniform in 1 to T and over M: section 2 of arXiv:2110.02037."""
        x, cond = batch["x"], batch.get("cond")

        def nats(mask: jax.Array) -> jax.Array:
            log_p = jax.nn.log_softmax(self.logits(state.sampling_params, x, mask, cond))
            return -jnp.take_along_axis(log_p, x[..., None], axis=-1)[..., 0]

        return {"nats_per_token": any_order_nats(keys, x.shape[1], ORDERS, nats)}

    # --- samples ---

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """i32[len(keys), T]. cond: i32[len(keys)] for a conditional model."""
        params, shape = state.sampling_params, (keys.shape[0], self.num_tokens)

        def step(carry: tuple[jax.Array, jax.Array], i: jax.Array):
            tokens, mask = carry
            logits = self.logits(params, tokens, mask, cond) / self.temperature
            keys_step = fold_each(keys, i)
            drawn = jax.vmap(jax.random.categorical)(fold_each(keys_step, TOKENS), logits)
            tokens = jnp.where(mask, drawn.astype(jnp.int32), tokens)
            confidence = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=-1)[..., 0]
            noise = jax.vmap(lambda key: jax.random.gumbel(key, shape[1:]))(fold_each(keys_step, CHOICE))
            confidence += self.choice_temperature * (1 - (i + 1) / self.steps) * noise
            # Tokens drawn in earlier steps stay.
            again = ranks(jnp.where(mask, confidence, jnp.inf)) < masked_left(shape[1], self.steps, i)
            return (tokens, again), None

        start = (jnp.zeros(shape, jnp.int32), jnp.ones(shape, bool))
        (tokens, _), _ = jax.lax.scan(step, start, jnp.arange(self.steps))
        return tokens

    def check_cond(self, cond: PyTree) -> None:
        self._check_sampling()
        super().check_cond(cond)
