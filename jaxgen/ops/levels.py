"""Output distributions of autoregressive image models: p(x_1) p(x_2 | x_1) ... over a pixel's channels, each with a
fixed number of equally spaced levels.

`params`: f32[..., outputs(C)] is the network's output, one vector a pixel. `x`: f32[..., C] is in model space, where
level l of n has the value low + l (1 - low) / (n - 1).
"""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Ge, Le

from jaxgen.core.ranges import Depth, Positive
from jaxgen.ops.likelihood import Bernoulli, Likelihood, log_logistic_level, soft_bound


@dataclass(frozen=True)
class Levels(Likelihood):
    """`log_prob` gives log p of each channel given the channels before it, in nats; their sum is log p of the
    pixel."""

    @property
    def levels(self) -> int:
        """The number of values a channel can take."""
        raise NotImplementedError

    @property
    def low(self) -> float:
        """The value of level 0; the highest level's is 1."""
        return -1.0

    @property
    def joint(self) -> bool:
        """Whether one network output serves all channels of a pixel. Otherwise the network must see the channels before
        each."""
        return False

    def outputs(self, channels: int) -> int:
        """Length of `params` for a pixel of `channels` channels."""
        return channels * self.num_params

    def value(self, level: jax.Array) -> jax.Array:
        """The values in model space of levels i32[...], f32[...]."""
        return self.low + level * ((1 - self.low) / (self.levels - 1))

    def level(self, x: jax.Array) -> jax.Array:
        """The levels nearest to values in model space, i32[...]."""
        nearest = jnp.round((x - self.low) * ((self.levels - 1) / (1 - self.low)))
        return jnp.clip(nearest, 0, self.levels - 1).astype(jnp.int32)

    def nearest(self, x: jax.Array) -> jax.Array:
        """x rounded to the nearest level, to the bit the value that `draw` gives for it."""
        return self.value(self.level(x))

    def log_probs(self, params: jax.Array, x: jax.Array, channel: jax.Array | int) -> jax.Array:
        """log p of every level of the channel `channel`, f32[..., levels]. Only the earlier channels of x are read."""
        raise NotImplementedError

    def draw(self, params: jax.Array, x: jax.Array, channel: int, u: jax.Array, temperature: float = 1.0) -> jax.Array:
        """Draws the channel's value in model space, f32[...], by inverting its cdf at u: f32[...] in [0, 1).

        temperature: divides log p; below 1, likely levels are drawn more often.
        """
        p = jax.nn.softmax(self.log_probs(params, x, channel) / temperature, axis=-1)
        below = jnp.sum(jnp.cumsum(p, axis=-1) <= u[..., None], axis=-1)
        # By rounding, the last cumulative sum can be below u.
        return self.value(jnp.minimum(below, self.levels - 1))


@dataclass(frozen=True)
class Binary(Levels):
    """x in {0, 1}, with one logit a channel."""

    @property
    def levels(self) -> int:
        return 2

    @property
    def low(self) -> float:
        return 0.0

    def log_prob(self, params: jax.Array, x: jax.Array) -> jax.Array:
        return Bernoulli().log_prob(params, x)

    def log_probs(self, params: jax.Array, x: jax.Array, channel: jax.Array | int) -> jax.Array:
        return Bernoulli().log_prob(params[..., channel, None], jnp.arange(2.0).reshape(*[1] * (params.ndim - 1), 2))

    def mean(self, params: jax.Array) -> jax.Array:
        return Bernoulli().mean(params)


@dataclass(frozen=True)
class Categorical(Levels):
    """A logit for each level of each channel, section 3.4 of arXiv:1601.06759. The order of the levels is not used."""

    levels: Annotated[int, Ge(2), Le(65_536)] = 256

    @property
    def num_params(self) -> int:
        return self.levels

    def _logits(self, params: jax.Array) -> jax.Array:
        """log p, f32[..., C, levels]."""
        return jax.nn.log_softmax(params.reshape(*params.shape[:-1], -1, self.levels))

    def log_prob(self, params: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(self._logits(params), self.level(x)[..., None], axis=-1)[..., 0]

    def log_probs(self, params: jax.Array, x: jax.Array, channel: jax.Array | int) -> jax.Array:
        return self._logits(params)[..., channel, :]

    def mean(self, params: jax.Array) -> jax.Array:
        return jnp.exp(self._logits(params)) @ self.value(jnp.arange(self.levels))


@dataclass(frozen=True)
class LogisticMixture(Levels):
    """Mixture of discretized logistics over whole pixels, section 2.2 of arXiv:1701.05517.

    Component k has weight pi_k. In it, channel c is logistic about mu_c + sum_{c' < c} a_{c c'} x_{c'} with all a in
    (-1, 1): eq. 3 there, for RGB. One network output therefore serves all channels of a pixel.
    """

    components: Depth = 10
    levels: Annotated[int, Ge(2), Le(65_536)] = 256
    bound: Positive = 7.0
    """Log scales are -2 at first, bounded smoothly to -2 +- bound."""

    @property
    def joint(self) -> bool:
        return True

    def outputs(self, channels: int) -> int:
        return self.components * (1 + 2 * channels + channels * (channels - 1) // 2)

    def _split(self, params: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """log pi: f32[..., K]; the means given x and the log scales: f32[..., C, K] each."""
        channels = x.shape[-1]
        params = params.reshape(*params.shape[:-1], -1, self.components)
        weight, mu, raw, coefficient = jnp.split(params, [1, 1 + channels, 1 + 2 * channels], axis=-2)
        # Pairs in the order (2, 1), (3, 1), (3, 2), ...
        means, a, pair = [], jnp.tanh(coefficient), 0
        for c in range(channels):
            before = [a[..., pair + i, :] * x[..., i, None] for i in range(c)]
            means.append(sum(before, mu[..., c, :]))
            pair += c
        return jax.nn.log_softmax(weight[..., 0, :]), jnp.stack(means, axis=-2), soft_bound(raw, self.bound) - 2.0

    def split(self, params: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """log pi, means and log scales of one channel, f32[..., K] each, params: f32[..., 3 K]."""
        weight, means, log_scale = self._split(params, jnp.zeros((*params.shape[:-1], 1)))
        return weight, means[..., 0, :], log_scale[..., 0, :]

    def _running(self, params: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """log(pi_k prod_{c' < c} p_k(x_c' | ...)) for c = 1 .. C + 1, f32[..., C + 1, K]; the means and log scales."""
        weight, means, log_scale = self._split(params, x)
        each = log_logistic_level(x[..., None], means, log_scale, self.levels)
        start = weight[..., None, :]
        return jnp.concatenate([start, start + jnp.cumsum(each, axis=-2)], axis=-2), means, log_scale

    def log_prob(self, params: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.diff(jax.nn.logsumexp(self._running(params, x)[0], axis=-1), axis=-1)

    def log_probs(self, params: jax.Array, x: jax.Array, channel: jax.Array | int) -> jax.Array:
        running, means, log_scale = self._running(params, x)
        before, mean, log_scale = (a[..., channel, None, :] for a in (running, means, log_scale))
        values = self.value(jnp.arange(self.levels)).reshape(*[1] * (params.ndim - 1), self.levels, 1)
        each = log_logistic_level(values, mean, log_scale, self.levels)
        return jax.nn.logsumexp(jax.nn.log_softmax(before) + each, axis=-1)
