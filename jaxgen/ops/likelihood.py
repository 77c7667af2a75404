"""Decoder distributions p(x | z): each maps a network's output to log-probabilities and to a mean image.

`params` is f32[..., H, W, C * num_params] (any shape with a last axis of channels); `x` is f32[..., H, W, C].
"""

import math
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt, Le, Lt

from jaxgen.core.ranges import Positive


def soft_bound(x: jax.Array, bound: float) -> jax.Array:
    """x bounded smoothly to (-bound, bound), the identity near 0. Clipping would stop gradients; without a bound, exp
    would overflow."""
    return bound * jnp.tanh(x / bound)


@dataclass(frozen=True)
class Likelihood:
    """A distribution with num_params parameters for each channel of x. `log_prob` is per element, in nats, with all
    constants included."""

    @property
    def num_params(self) -> int:
        return 1

    @property
    def discrete(self) -> bool:
        """Whether log_prob is a log-probability, so that bits/dim are meaningful, rather than a log density."""
        return True

    def log_prob(self, params: jax.Array, x: jax.Array) -> jax.Array:
        raise NotImplementedError

    def mean(self, params: jax.Array) -> jax.Array:
        raise NotImplementedError


@dataclass(frozen=True)
class Bernoulli(Likelihood):
    """x in {0, 1}, or in [0, 1], where log_prob is minus the cross-entropy. params are logits l.

    log p = x l - softplus(l), computed from logits since log(1 - sigmoid(20)) is -inf in f32.
    """

    def log_prob(self, params: jax.Array, x: jax.Array) -> jax.Array:
        return x * params - jax.nn.softplus(params)

    def mean(self, params: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(params)


@dataclass(frozen=True)
class Gaussian(Likelihood):
    """log N(x; mu, sigma^2), constants included.

    learned: the network outputs log sigma^2 of each element, bounded smoothly to +-bound; otherwise sigma is the
    constant `std`. Without the bound, pixels that never change would drive sigma to 0 and the density to infinity.
    """

    learned: bool = True
    std: Positive = 1.0
    bound: Positive = 6.0

    @property
    def num_params(self) -> int:
        return 2 if self.learned else 1

    @property
    def discrete(self) -> bool:
        return False

    def _split(self, params: jax.Array) -> tuple[jax.Array, jax.Array]:
        if not self.learned:
            return params, jnp.full((), 2 * math.log(self.std))
        mu, raw = jnp.split(params, 2, axis=-1)
        return mu, soft_bound(raw, self.bound)

    def log_prob(self, params: jax.Array, x: jax.Array) -> jax.Array:
        mu, logvar = self._split(params)
        return -0.5 * (math.log(2 * math.pi) + logvar + (x - mu) ** 2 * jnp.exp(-logvar))

    def mean(self, params: jax.Array) -> jax.Array:
        return self._split(params)[0]


def log_logistic_level(x: jax.Array, mu: jax.Array, log_scale: jax.Array, levels: int = 256) -> jax.Array:
    """log P of the level x, one of `levels` equal steps from -1 to 1: a logistic distribution's mass between the
    midpoints to both neighbours; the two end levels include the tails. Arguments broadcast. Eq. 2 of arXiv:1701.05517.
    """
    half = 1 / (levels - 1)
    inv = jnp.exp(-log_scale)
    upper, lower = (x - mu + half) * inv, (x - mu - half) * inv
    # log(sigmoid(u) - sigmoid(l)) with u - l = d > 0 equals log_sigmoid(u) + log_sigmoid(-l) + log(1 - e^-d), which
    # subtracts no nearly equal numbers in either tail.
    inside = jax.nn.log_sigmoid(upper) + jax.nn.log_sigmoid(-lower) + jnp.log(-jnp.expm1(-2 * half * inv))
    at_low, at_high = x < -1 + half, x > 1 - half
    return jnp.where(at_low, jax.nn.log_sigmoid(upper), jnp.where(at_high, jax.nn.log_sigmoid(-lower), inside))


@dataclass(frozen=True)
class DiscretizedLogistic(Likelihood):
    """P of the level of x in [-1, 1] by `log_logistic_level`. Eq. 2 of arXiv:1606.04934."""

    levels: Annotated[int, Ge(2), Le(65_536)] = 256
    """Evenly spaced on [-1, 1]. x is rounded to them: with fewer than the data have, bits/dim are of coarser data."""
    bound: Positive = 7.0
    """The log scale is -2 at first, bounded smoothly to -2 +- bound."""

    @property
    def num_params(self) -> int:
        return 2

    def _split(self, params: jax.Array) -> tuple[jax.Array, jax.Array]:
        mu, raw = jnp.split(params, 2, axis=-1)
        return mu, soft_bound(raw, self.bound) - 2.0

    def log_prob(self, params: jax.Array, x: jax.Array) -> jax.Array:
        mu, log_scale = self._split(params)
        steps = (self.levels - 1) / 2
        return log_logistic_level(jnp.round((x + 1) * steps) / steps - 1, mu, log_scale, self.levels)

    def mean(self, params: jax.Array) -> jax.Array:
        return jnp.clip(self._split(params)[0], -1, 1)


@dataclass(frozen=True)
class LogitLaplace(Likelihood):
    """x in [-1, 1] is mapped to u in [0.1, 0.9], and logit(u) has a Laplace distribution about mu with scale b:
    appendix A.3 of arXiv:2102.12092. Like pixel values, u is bounded: no mass lies outside (0, 1).

    `log_prob` is the log density of u; log b is bounded smoothly to +-bound.
    """

    margin: Annotated[float, Gt(0), Lt(0.5)] = 0.1
    bound: Positive = 5.0

    @property
    def num_params(self) -> int:
        return 2

    @property
    def discrete(self) -> bool:
        return False

    def log_prob(self, params: jax.Array, x: jax.Array) -> jax.Array:
        mu, raw = jnp.split(params, 2, axis=-1)
        log_b = soft_bound(raw, self.bound)
        u = (1 - 2 * self.margin) * (jnp.clip(x, -1, 1) + 1) / 2 + self.margin
        logit = jnp.log(u) - jnp.log1p(-u)
        return -jnp.abs(logit - mu) * jnp.exp(-log_b) - math.log(2) - log_b - jnp.log(u) - jnp.log1p(-u)

    def mean(self, params: jax.Array) -> jax.Array:
        """The median, not the mean: mu mapped back to x."""
        u = jax.nn.sigmoid(jnp.split(params, 2, axis=-1)[0])
        # Can exceed [-1, 1] slightly: clipping here would stop gradients.
        return 2 * (u - self.margin) / (1 - 2 * self.margin) - 1
