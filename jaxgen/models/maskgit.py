"""MaskGIT, arXiv:2202.04200: codes of an image drawn in a few steps, many at once, by a transformer that sees those
that are there, on all sides.

x: i32[B, T] tokens, M the set of masked ones. Training masks gamma(r) T of them, gamma(r) = cos(pi r / 2), r uniform,
and minimises -sum_{i in M} log p(x_i | x without M)                                                         (eq. 1).
Sampling starts with all masked; each of S steps draws the masked ones all at once, keeps those it is surest of, so that
gamma(t / S) T stay masked, and masks the others again: section 3.2.
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
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.shared import check_classes, check_labels, check_rows, check_tokens, class_grid
from jaxgen.nets.dense import Dense
from jaxgen.nets.gpt import check_sizes
from jaxgen.nets.transformer import Transformer

ORDERS = 8  # numbers of masked tokens at which `evaluate` looks


class MaskedTransformer(nn.Module):
    """Logits f32[B, T, vocab] of tokens i32[B, T], where `vocab` itself stands for a mask. y: f32[B, width] comes first
    as a token of its own, where given."""

    vocab: int = 256
    window: int = 64
    """T."""
    body: Transformer = field(default_factory=lambda: Transformer(width=256, depth=6, heads=8))
    dtype: Any = None

    def check(self) -> None:
        """Raises UserError for sizes that do not fit."""
        self.body.check()
        check_sizes(self.vocab, self.window)
        if self.body.causal:
            raise UserError("model.network.body.causal is set: tokens are to see those after them; unset it")

    @nn.compact
    def __call__(self, tokens: jax.Array, y: jax.Array | None = None, train: bool = False) -> jax.Array:
        width, init = self.body.width, nn.initializers.normal(0.02)
        table = self.param("tokens", init, (self.vocab + 1, width))
        x = table[tokens] + self.param("positions", init, (self.window, width))[None]
        if y is not None:
            x = jnp.concatenate([y[:, None], x], axis=1)
        x = x if self.dtype is None else x.astype(self.dtype)
        h = self.body(x, train=train)[:, -self.window :]
        h = nn.gelu(Dense(width, dtype=self.dtype, kernel_init=init, name="head")(h))
        h = nn.LayerNorm(1e-5, dtype=self.dtype, name="head_norm")(h).astype(jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.vocab,))
        return h @ table[: self.vocab].T + bias[None, None]


def masked_left(tokens: int, steps: int, step: jax.Array) -> jax.Array:
    """How many of `tokens` stay masked after the step of this number, i32[]: by the cosine, but one less at each step
    at least and one for each step to come; none after the last."""
    left = jnp.floor(tokens * jnp.cos(0.5 * math.pi * (step + 1) / steps)).astype(jnp.int32)
    return jnp.clip(left, steps - 1 - step, tokens - 1 - step)


@dataclass(frozen=True, kw_only=True)
class MaskGIT(LossModel):
    """x: i32[B, T]; cond, where num_classes > 0: i32[B] in [0, num_classes)."""

    network: MaskedTransformer = field(default_factory=MaskedTransformer)
    num_classes: int = 0
    label_smoothing: float = 0.1
    steps: int = 8
    """S of sampling, each one pass of the network."""
    choice_temperature: float = 4.5
    """Of the Gumbel noise on log p by which it is chosen what stays; falls linearly to 0."""
    temperature: float = 1.0
    """Of drawing tokens: logits are divided by it."""

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
        if not 1 <= self.steps <= self.num_tokens:
            raise UserError(f"model.steps is {self.steps}: from 1 to {self.num_tokens}, the number of tokens")
        if not self.temperature > 0 or self.choice_temperature < 0:
            given = f"model.temperature is {self.temperature}, model.choice_temperature {self.choice_temperature}"
            raise UserError(f"{given}: more than 0, and 0 or more, are expected")

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
        """f32[B, T, vocab] of tokens i32[B, T], seen where mask: bool[B, T] is not set. key: of dropout, in
        training."""
        y = params["classes"]["embedding"][cond] if self.num_classes else None
        dropout = {} if key is None else {"train": True, "rngs": {"dropout": key}}
        return self.network.apply({"params": params["network"]}, jnp.where(mask, self.vocab, tokens), y, **dropout)

    def seen(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Seen]:
        """Nats per masked token, labels smoothed; `nats` are those of the labels as they are."""
        keys_ratio, keys_order, keys_drop = split_each(keys, 3)
        x = batch["x"]
        ratio = jnp.cos(0.5 * math.pi * uniform_each(keys_ratio, (1,)))
        # One masked at least: the smallest numbers of as many as there are.
        count = jnp.maximum(1, jnp.round(ratio * x.shape[1]))
        mask = _ranks(uniform_each(keys_order, x.shape[1:])) < count
        log_p = jax.nn.log_softmax(self.logits(params, x, mask, batch.get("cond"), one_key(keys_drop)))
        nats = -jnp.take_along_axis(log_p, x[..., None], axis=-1)[..., 0]
        smoothed = (1 - self.label_smoothing) * nats - self.label_smoothing * jnp.mean(log_p, axis=-1)
        total = jnp.sum(mask, dtype=jnp.float32)
        return jnp.sum(smoothed * mask) / total, Seen({"nats": jnp.sum(nats * mask) / total}, weight=total)

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """`nats_per_token`, f32[B]: an estimate, from a few masks, of the bound of -log p(x) / T by a model that draws
        one token after another in any order, section 2 of arXiv:2110.02037: E_n E_M |M| = n: mean of -log p over M, n
        uniform over 1 to T."""
        x, cond = batch["x"], batch.get("cond")
        length = x.shape[1]
        orders = min(ORDERS, length)

        def look(total: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
            u, v = jnp.moveaxis(uniform_each(fold_each(keys, i), (2, length)), 1, 0)
            # Each look takes n from a part of its own of 1 to T.
            count = 1 + jnp.floor((i + v[:, :1]) * (length / orders))
            mask = _ranks(u) < count
            log_p = jax.nn.log_softmax(self.logits(state.sampling_params, x, mask, cond))
            nats = -jnp.take_along_axis(log_p, x[..., None], axis=-1)[..., 0]
            return total + jnp.sum(nats * mask, axis=1) / jnp.sum(mask, axis=1), None

        total, _ = jax.lax.scan(look, jnp.zeros(len(x)), jnp.arange(orders))
        return {"nats_per_token": total / orders}

    # --- samples ---

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """i32[len(keys), T]. cond: i32[len(keys)] for a conditional model."""
        params, shape = state.sampling_params, (keys.shape[0], self.num_tokens)

        def step(carry: tuple[jax.Array, jax.Array], i: jax.Array):
            tokens, mask = carry
            logits = self.logits(params, tokens, mask, cond) / self.temperature
            each = fold_each(keys, i)
            drawn = jax.vmap(jax.random.categorical)(fold_each(each, 0), logits)
            tokens = jnp.where(mask, drawn.astype(jnp.int32), tokens)
            sure = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=-1)[..., 0]
            noise = jax.vmap(lambda key: jax.random.gumbel(key, shape[1:]))(fold_each(each, 1))
            sure += self.choice_temperature * (1 - (i + 1) / self.steps) * noise
            # What is known stays: it is the surest of all.
            again = _ranks(jnp.where(mask, sure, jnp.inf)) < masked_left(shape[1], self.steps, i)
            return (tokens, again), None

        start = (jnp.zeros(shape, jnp.int32), jnp.ones(shape, bool))
        (tokens, _), _ = jax.lax.scan(step, start, jnp.arange(self.steps))
        return tokens

    def check_cond(self, cond: PyTree) -> None:
        self._check_sampling()
        check_labels(self.num_classes, cond)

    def sample_cond(self, num: int, batch: Batch) -> PyTree:
        return class_grid(num, self.num_classes) if self.num_classes else None


def _ranks(values: jax.Array) -> jax.Array:
    """How many of its row come before each value, i32[B, T]."""
    return jnp.argsort(jnp.argsort(values, axis=1), axis=1)
