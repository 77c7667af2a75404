"""Output distributions of autoregressive sound: p(x_t | x_1 ... x_{t-1}) of one sample x_t in [-1, 1].

`params`: f32[..., outputs], the network's output at t. `x`: f32[...], a waveform. `u`: f32[..., 2], uniform on [0, 1),
by which a sample is drawn.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Le

from jaxgen.core.ranges import Depth, Positive
from jaxgen.ops.audio import mu_law, mu_law_encode
from jaxgen.ops.levels import Categorical, LogisticMixture
from jaxgen.ops.likelihood import soft_bound

STEP = 2 / 65_535
"""The width of one of 65,536 levels."""
LEAST = 2.0**-24
"""The smallest u that is inverted: at 0 a quantile is infinite."""


@dataclass(frozen=True)
class WaveOutput:
    """The interface."""

    @property
    def outputs(self) -> int:
        """Length of `params`."""
        raise NotImplementedError

    @property
    def tokens(self) -> int:
        """Levels that the network reads as tokens without order; 0 if it reads values."""
        return 0

    def nearest(self, x: jax.Array) -> jax.Array:
        """The values that `draw` can give nearest to x, f32[...]."""
        return x

    def log_prob(self, params: jax.Array, x: jax.Array) -> jax.Array:
        """Log of the probability of the level of x, in nats, f32[...]."""
        raise NotImplementedError

    def draw(self, params: jax.Array, u: jax.Array, temperature: float = 1.0) -> jax.Array:
        """Samples f32[...]. temperature: below 1, likely values are drawn more often."""
        raise NotImplementedError


@dataclass(frozen=True)
class MuLaw(WaveOutput):
    """A softmax over the levels of the companded waveform, section 2.2 of arXiv:1609.03499 with mu = levels - 1. Levels
    are fine near 0 and coarse near +-1."""

    levels: Annotated[int, Ge(2), Le(65_536)] = 256

    @property
    def outputs(self) -> int:
        return self.levels

    @property
    def tokens(self) -> int:
        return self.levels

    def level(self, x: jax.Array) -> jax.Array:
        """i32[...] in [0, levels)."""
        return mu_law_encode(x, self.levels - 1)

    def value(self, level: jax.Array) -> jax.Array:
        """f32[...] of levels i32[...]: from a table, so that they are the same to the bit in every program."""
        mu = self.levels - 1
        y = 2 * np.arange(self.levels) / mu - 1
        return jnp.asarray(np.sign(y) * np.expm1(np.abs(y) * math.log1p(mu)) / mu, jnp.float32)[level]

    def nearest(self, x: jax.Array) -> jax.Array:
        return self.value(self.level(x))

    def log_prob(self, params: jax.Array, x: jax.Array) -> jax.Array:
        companded = mu_law(jnp.clip(x, -1, 1), self.levels - 1)
        return Categorical(self.levels).log_prob(params, companded[..., None])[..., 0]

    def draw(self, params: jax.Array, u: jax.Array, temperature: float = 1.0) -> jax.Array:
        softmax = Categorical(self.levels)
        companded = softmax.draw(params, params[..., :1], 0, u[..., 0], temperature)
        return self.value(softmax.level(companded))


@dataclass(frozen=True)
class Logistics(WaveOutput):
    """A mixture of logistics over `levels` even steps, as in arXiv:1701.05517 and, for sound, arXiv:1711.10433."""

    components: Depth = 10
    levels: Annotated[int, Ge(2), Le(65_536)] = 65_536

    @property
    def _mixture(self) -> LogisticMixture:
        return LogisticMixture(self.components, self.levels)

    @property
    def outputs(self) -> int:
        return self._mixture.outputs(1)

    def nearest(self, x: jax.Array) -> jax.Array:
        return self._mixture.nearest(x)

    def log_prob(self, params: jax.Array, x: jax.Array) -> jax.Array:
        return self._mixture.log_prob(params, self.nearest(x)[..., None])[..., 0]

    def draw(self, params: jax.Array, u: jax.Array, temperature: float = 1.0) -> jax.Array:
        """A component by u_0, then its quantile at u_1, rounded to a level; the levels at both ends have the tails.
        Going through all levels at each sample, as `Levels.draw` does, would take longer than the network."""
        weight, mean, log_scale = self._mixture.split(params)
        p = jax.nn.softmax(weight / temperature)
        chosen = jnp.sum(jnp.cumsum(p, axis=-1) <= u[..., :1], axis=-1, keepdims=True)
        chosen = jnp.minimum(chosen, self.components - 1)  # by rounding, the last cumulative sum can be below u
        mean, log_scale = (jnp.take_along_axis(a, chosen, axis=-1)[..., 0] for a in (mean, log_scale))
        v = jnp.maximum(u[..., 1], LEAST)
        return self.nearest(mean + temperature * jnp.exp(log_scale) * (jnp.log(v) - jnp.log1p(-v)))


@dataclass(frozen=True)
class Normal(WaveOutput):
    """N(mu, sigma^2), as in arXiv:1807.07281; probabilities are the density times one of 65,536 steps. log sigma is -2
    at first, bounded smoothly to -2 +- bound, so that a sigma is some steps wide at least."""

    bound: Positive = 7.0

    @property
    def outputs(self) -> int:
        return 2

    def _split(self, params: jax.Array) -> tuple[jax.Array, jax.Array]:
        return params[..., 0], soft_bound(params[..., 1], self.bound) - 2.0

    def log_prob(self, params: jax.Array, x: jax.Array) -> jax.Array:
        mu, log_sigma = self._split(params)
        z = (x - mu) * jnp.exp(-log_sigma)
        return -0.5 * (z**2 + math.log(2 * math.pi)) - log_sigma + math.log(STEP)

    def draw(self, params: jax.Array, u: jax.Array, temperature: float = 1.0) -> jax.Array:
        mu, log_sigma = self._split(params)
        z = jax.scipy.special.ndtri(jnp.maximum(u[..., 0], LEAST))
        return jnp.clip(mu + temperature * jnp.exp(log_sigma) * z, -1, 1)
