"""The discrete variance-preserving process and its samplers, as tables and one scan.

x_0 data, x_t = alpha_t x_0 + sigma_t eps with eps ~ N(0, 1), alpha_t^2 = abar_t = prod_{s <= t} (1 - beta_s),
sigma_t^2 = 1 - abar_t, t = 0 .. T - 1, and abar before the first step is 1. Equations of arXiv:2006.11239 unless said.
Tables are float64 NumPy and become f32 where they are used: in bf16, 1 - beta_0 rounds to one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core import fold_each, normal_each
from jaxgen.errors import UserError


@dataclass(frozen=True)
class Schedule:
    """How noise grows over `num_steps` = T steps."""

    num_steps: int = 1000

    def abar(self) -> np.ndarray:
        """abar_t, float64[T], falling from nearly 1."""
        raise NotImplementedError


@dataclass(frozen=True)
class Linear(Schedule):
    """beta_t linear in t, section 4. The ends are those of T = 1000, scaled so that fewer steps reach as far."""

    beta_start: float = 1e-4
    beta_end: float = 0.02

    def abar(self) -> np.ndarray:
        scale = 1000 / self.num_steps
        beta = np.linspace(self.beta_start * scale, self.beta_end * scale, self.num_steps)
        if beta.max() >= 1:
            raise UserError(f"a linear schedule of {self.num_steps} steps has beta = {beta.max():.2f} >= 1: use more")
        return np.cumprod(1 - beta)


@dataclass(frozen=True)
class Cosine(Schedule):
    """abar_t = f(t) / f(0), f(t) = cos^2((t / T + s) / (1 + s) pi / 2), beta at most 0.999: eq. 17 of
    arXiv:2102.09672."""

    s: float = 0.008

    def abar(self) -> np.ndarray:
        f = np.cos((np.arange(self.num_steps + 1) / self.num_steps + self.s) / (1 + self.s) * math.pi / 2) ** 2
        beta = np.minimum(1 - f[1:] / f[:-1], 0.999)
        return np.cumprod(1 - beta)


def per_example(table: np.ndarray, t: jax.Array, ndim: int) -> jax.Array:
    """table[t] as f32[B, 1, ...] of `ndim` axes, for t: i32[B].

    The shape is made here, once: a bare f32[B] would broadcast along the width of an image when B == W.
    """
    return jnp.asarray(table, jnp.float32)[t].reshape((-1,) + (1,) * (ndim - 1))


def q_sample(abar: np.ndarray, x0: jax.Array, t: jax.Array, eps: jax.Array) -> jax.Array:
    """x_t given x_0, eq. 4: alpha_t x_0 + sigma_t eps."""
    return per_example(np.sqrt(abar), t, x0.ndim) * x0 + per_example(np.sqrt(1 - abar), t, x0.ndim) * eps


Predict = Callable[[jax.Array, jax.Array], jax.Array]
"""(x_t: f32[B, ...], t: i32[B]) -> eps: f32[B, ...]."""


@dataclass(frozen=True)
class Sampler:
    """Steps of the form x <- a x0_hat + b x + c noise over a subsequence of the T times.

    x0_hat = (x - sigma_t eps) / alpha_t is what the network thinks the data is. A subclass gives a, b, c.
    """

    steps: int = 0
    """Network evaluations, spread evenly over the schedule's times; 0 for all of them."""
    clip: float = 1.0
    """x0_hat is kept in [-clip, clip]; 0 leaves it alone."""

    def coefficients(self, abar: np.ndarray, abar_prev: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """a, b, c for steps from abar to abar_prev, float64 each of their shape."""
        raise NotImplementedError

    def times(self, num_steps: int) -> np.ndarray:
        """The times visited, int[steps], rising from 0 to T - 1. Raises UserError for more than T."""
        steps = self.steps or num_steps
        if not 1 <= steps <= num_steps:
            raise UserError(f"{steps} sampler steps asked of a schedule of {num_steps}: choose 1 to {num_steps}")
        if steps == 1:
            return np.array([num_steps - 1])
        return np.round(np.linspace(0, num_steps - 1, steps)).astype(int)

    def __call__(
        self, predict: Predict, schedule: Schedule, keys: jax.Array, shape: tuple[int, ...], frames: int = 0
    ) -> jax.Array:
        """One sample for each of `keys`, f32[B, *shape]; with `frames`, states on the way to it: [frames, B, ...], at
        most one a step, of which the last is the sample.
        """
        times = self.times(schedule.num_steps)[::-1]
        frames = min(frames, len(times))
        full = schedule.abar()
        abar = full[times]
        a, b, c = self.coefficients(abar, np.append(abar[1:], 1.0))
        # One row a step; frame `slot` is overwritten until the last step that falls to it.
        table = np.stack([np.sqrt(abar), np.sqrt(1 - abar), a, b, c], axis=1).astype(np.float32)
        slot = np.arange(len(times)) * max(1, frames) // len(times)
        # Step i of the loop folds i + 1: fold 0 is the starting noise.
        rows = (jnp.arange(1, len(times) + 1), jnp.asarray(times.copy()), jnp.asarray(table), jnp.asarray(slot))

        def step(carry, row):
            x, film = carry
            index, t, (alpha, sigma, a, b, c), slot = row
            eps = predict(x, jnp.full(len(keys), t))
            x0 = (x - sigma * eps) / alpha
            if self.clip:
                x0 = jnp.clip(x0, -self.clip, self.clip)
            x = a * x0 + b * x
            if random:
                x += c * normal_each(fold_each(keys, index), shape)
            return (x, film.at[slot].set(x) if frames else film), None

        random = bool(np.any(c))
        x = normal_each(fold_each(keys, 0), shape)
        (x, film), _ = jax.lax.scan(step, (x, jnp.zeros((frames, *x.shape))), rows)
        return film if frames else x


def posterior(abar: np.ndarray, abar_prev: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q(x_prev | x_t, x_0) = N(a x_0 + b x_t, variance), eq. 6 and 7: (a, b, variance).

    Valid for any pair of times on the process: beta = 1 - abar / abar_prev.
    """
    alpha = abar / abar_prev
    beta = 1 - alpha
    a = np.sqrt(abar_prev) * beta / (1 - abar)
    b = np.sqrt(alpha) * (1 - abar_prev) / (1 - abar)
    return a, b, beta * (1 - abar_prev) / (1 - abar)


@dataclass(frozen=True)
class Ancestral(Sampler):
    """Algorithm 2: draws from the posterior at x0_hat. With fewer steps, the respaced process of arXiv:2102.09672."""

    large: bool = False
    """Variance beta_t, right for x_0 ~ N(0, 1), instead of the posterior's, right for x_0 a point. Section 3.2."""

    def coefficients(self, abar, abar_prev):
        a, b, variance = posterior(abar, abar_prev)
        if self.large:
            variance = np.where(abar_prev < 1, 1 - abar / abar_prev, 0.0)
        return a, b, np.sqrt(variance)


@dataclass(frozen=True)
class DDIM(Sampler):
    """Eq. 12 of arXiv:2010.02502, with eq. 16's sigma scaled by eta: 0 is deterministic, 1 is ancestral."""

    steps: int = 50
    eta: float = 0.0

    def coefficients(self, abar, abar_prev):
        noise = self.eta * np.sqrt((1 - abar_prev) / (1 - abar) * (1 - abar / abar_prev))
        # eps in terms of x and x0_hat, so that it stays consistent with a clipped x0_hat.
        b = np.sqrt(np.maximum(1 - abar_prev - noise**2, 0) / (1 - abar))
        return np.sqrt(abar_prev) - b * np.sqrt(abar), b, noise
