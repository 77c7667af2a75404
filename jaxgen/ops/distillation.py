"""Score distillation (arXiv:2209.14988), and the prior on a scene's transmittance (arXiv:2112.01455)."""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt, Le

from jaxgen.core.ranges import Fraction, NonNegative, OptionalSteps, PositiveFraction
from jaxgen.ops.diffusion import Denoise
from jaxgen.ops.schedules import Schedule

TIMES = 1000
"""Times that one is drawn from, of a schedule that has no fewer."""


@dataclass(frozen=True, kw_only=True)
class Transmittance:
    """The prior that keeps a scene sparse, eq. 6 of arXiv:2112.01455: -min(tau, mean T), which asks that the fraction
    tau of the light pass a view, and no more."""

    weight: NonNegative = 0.5
    """lambda of eq. 7."""
    target: Fraction = 0.9
    """tau at the end."""
    start: Annotated[float, Ge(0), Le(1)] = 0.5
    """tau at first. A scene that must be sparse from the start may lose everything."""
    anneal: OptionalSteps = 500
    """Steps in which 1 - tau goes from one to the other, exponentially."""

    def problem(self) -> str | None:
        if self.anneal and max(self.start, self.target) >= 1:
            return f"tau goes from {self.start} to {self.target}: both below 1 are expected, as 1 - tau is annealed"

    def tau(self, step: jax.Array) -> jax.Array:
        """f32[]."""
        if not self.anneal:
            return jnp.float32(self.target)
        done = jnp.clip(step.astype(jnp.float32) / self.anneal, 0, 1)
        return 1 - (1 - self.start) ** (1 - done) * (1 - self.target) ** done

    def __call__(self, transmittance: jax.Array, step: jax.Array) -> jax.Array:
        """The prior f32[B] of views whose mean transmittance is f32[B] in [0, 1]. Its gradient is -1 below tau, and 0
        above."""
        return -jnp.minimum(transmittance, self.tau(step))


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """How a diffusion model pulls pictures. Times are uniform between two fractions of its schedule."""

    scale: NonNegative = 20.0
    """Of classifier-free guidance; the paper takes 100, with pictures that are then saturated."""
    lowest: Fraction = 0.02
    highest: PositiveFraction = 0.98
    weighting: Annotated[float, Gt(-4), Le(4)] = 1.0
    """p of w(t) = (sigma^2 / (alpha^2 + sigma^2))^p: 1 is sigma_t^2 where the schedule preserves variance, 0 weighs all
    times alike."""

    def problem(self) -> str | None:
        if self.lowest >= self.highest:
            return f"times go from {self.lowest} to {self.highest}: lowest < highest is expected"

    def time(self, schedule: Schedule, fraction: jax.Array) -> jax.Array:
        """Times [B] of the schedule at the place `fraction` f32[B] in [0, 1] between lowest and highest."""
        most = getattr(schedule, "num_steps", TIMES)
        times = jnp.asarray(schedule.times(min(most, TIMES))[::-1].copy())  # increasing noise
        place = (self.lowest + (self.highest - self.lowest) * fraction) * (len(times) - 1)
        return times[jnp.round(place).astype(jnp.int32)]

    def weight(self, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
        """w(t)."""
        return (sigma**2 / (alpha**2 + sigma**2)) ** self.weighting


def noise_error(
    denoise: Denoise, schedule: Schedule, x: jax.Array, t: jax.Array, eps: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(eps_hat(x_t; t) - eps, alpha_t, sigma_t) of x, eps: f32[B, ...], where x_t = alpha_t x + sigma_t eps, and
    alpha_t, sigma_t: f32[B, 1, ...]. t: [B]."""
    alpha, sigma = schedule.at(t, x.ndim)
    noised = alpha * x + sigma * eps
    return (noised - alpha * denoise(noised, t).x0) / sigma - eps, alpha, sigma


def pulled(x: jax.Array, pull: jax.Array) -> jax.Array:
    """f32[B], half the squared norm of each pull f32[B, ...], whose gradient in x is `pull` itself: eq. 3 of
    arXiv:2209.14988 for pull = w(t) (eps_hat - eps). The network that computed `pull` is not differentiated."""
    pull = jax.lax.stop_gradient(pull)
    axes = tuple(range(1, x.ndim))
    slope = jnp.sum(pull * x, axis=axes)
    return jnp.sum(pull**2, axis=axes) / 2 + slope - jax.lax.stop_gradient(slope)
