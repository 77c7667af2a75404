"""Masks of tokens: how many are hidden at a time of masked diffusion (arXiv:2406.07524, arXiv:2406.04329), and which.

t: f32[...] in [0, 1]. alpha(t): the probability that a token is still seen at t, 1 at t = 0 and 0 at t = 1; tokens are
hidden independently, and what is hidden stays so. The continuous-time bound on -log p(x), section 3.4 of
arXiv:2406.07524, is

    integral over t of w(t) E[sum over hidden i of -log p(x_i | tokens that are seen)],    w = -alpha' / (1 - alpha).

A network that is not told t has the same bound under every schedule: the mean over k uniform in 1 to T, and over sets
of k hidden tokens, of T times the mean of -log p(x_i | seen) over these (section 2 of arXiv:2110.02037).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxgen.core.keys import fold_each, uniform_each


@dataclass(frozen=True)
class MaskSchedule:
    """How tokens are hidden over time."""

    def alpha(self, t: jax.Array) -> jax.Array:
        """Probability that a token is seen at t."""
        raise NotImplementedError

    def weight(self, t: jax.Array) -> jax.Array:
        """w(t) for t in (0, 1]."""
        raise NotImplementedError

    def revealed(self, t: jax.Array, s: jax.Array) -> jax.Array:
        """Probability that a token hidden at t is seen at s <= t, by the reverse process."""
        alpha_t, alpha_s = self.alpha(t), self.alpha(s)
        return (alpha_s - alpha_t) / (1 - alpha_t)


@dataclass(frozen=True)
class LogLinear(MaskSchedule):
    """alpha = 1 - t, the log-linear schedule of arXiv:2406.07524: -log alpha is its noise."""

    def alpha(self, t: jax.Array) -> jax.Array:
        return 1 - t

    def weight(self, t: jax.Array) -> jax.Array:
        return 1 / t


@dataclass(frozen=True)
class CosineMasking(MaskSchedule):
    """alpha = 1 - cos(pi (1 - t) / 2), table 1 of arXiv:2406.04329: fewer tokens are revealed at first."""

    def alpha(self, t: jax.Array) -> jax.Array:
        # 1 - cos by a sine, which does not cancel where few are seen.
        return 2 * jnp.sin(0.25 * math.pi * (1 - t)) ** 2

    def weight(self, t: jax.Array) -> jax.Array:
        return 0.5 * math.pi / jnp.tan(0.5 * math.pi * t)


def ranks(values: jax.Array) -> jax.Array:
    """The rank of each value in its row, i32[B, T], 0 for the smallest."""
    return jnp.argsort(jnp.argsort(values, axis=1), axis=1)


def any_order_nats(keys: jax.Array, length: int, orders: int, nats: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The bound on -log p(x) / T of a network that is not told t, f32[B], estimated from `orders` masks.

    keys: [B]; length: T; nats: -log p f32[B, T] of each token given those that the mask bool[B, T] leaves seen. The
    number of hidden tokens is stratified: each mask draws it from its own part of 1 to T.
    """
    orders = min(orders, length)

    def estimate(total: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
        u, v = jnp.moveaxis(uniform_each(fold_each(keys, i), (2, length)), 1, 0)
        count = 1 + jnp.floor((i + v[:, :1]) * (length / orders))
        mask = ranks(u) < count
        return total + jnp.sum(nats(mask) * mask, axis=1) / jnp.sum(mask, axis=1), None

    total, _ = jax.lax.scan(estimate, jnp.zeros(len(keys)), jnp.arange(orders))
    return total / orders
