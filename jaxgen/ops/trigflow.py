"""TrigFlow (arXiv:2410.11081, section 3): every diffusion process as a rotation of data into noise.

    x_t = cos(t) x_0 + sin(t) eps,    F(x, t) = E[cos(t) eps - sin(t) x_0 | x_t = x],

t from 0 to pi / 2. dx / dt = F is the probability-flow ODE, x_0hat = cos(t) x - sin(t) F, and a DDIM step from t to s
is x_s = cos(t - s) x_t - sin(t - s) F. A process x' = alpha x_0 + sigma eps is the same one at tan(t) = sigma / alpha,
where x' = sqrt(alpha^2 + sigma^2) x_t: a denoiser of any schedule gives F without approximation. Data are of unit
scale: the paper's sigma_d is 1, and its x is ours times sigma_d.

A consistency function f(x_t, t) is x_0 at the end of the ODE's path through x_t, so that df / dt = 0 along the path. A
network F_theta stands for f = cos(t) x - sin(t) F_theta, and learns by the tangent cos(t) df / dt.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.ranges import Positive
from jaxgen.ops.attention import forward_mode
from jaxgen.ops.diffusion import Denoise
from jaxgen.ops.schedules import Schedule, check_steps, expand

Flow = Callable[[jax.Array, jax.Array], jax.Array]
"""F: (x_t: f32[B, ...], t: f32[B] in (0, pi / 2]) -> f32[B, ...]."""
SMALL = 1e-4
"""Least sin(t) that F is computed of x_0hat with: its rounding error is 1e-7 / sin(t)."""


@dataclass(frozen=True)
class Trig(Schedule):
    """alpha = cos t and sigma = sin t, t in [0, pi / 2], for data of unit scale. Sampling times are evenly spaced."""

    sigma_max: Positive = 160.0
    """tan of the noisiest time: the paper's 80 for data of a standard deviation of 0.5."""
    scale: Positive = 10.0
    """The network is told scale t. A large one, whose sinusoids turn fast, makes the derivative in t unstable (section
    4.1)."""

    def levels(self, t):
        return np.cos(t), np.sin(t)

    def at(self, t, ndim):
        t = expand(t, ndim)
        return jnp.cos(t), jnp.sin(t)

    def times(self, steps):
        check_steps(steps)
        return math.atan(self.sigma_max) * (1 - np.arange(steps) / steps)

    def path(self, points):
        return np.linspace(math.atan(self.sigma_max), 1e-3, points)

    def of_angle(self, angle):
        return angle

    def network_time(self, t):
        return self.scale * t

    @property
    def continuous(self):
        return True


def flow_of(denoise: Denoise, schedule: Schedule) -> Flow:
    """F of a denoiser of any schedule. t beyond the schedule's `angles` are taken for the nearest it has."""

    def flow(x: jax.Array, t: jax.Array) -> jax.Array:
        time = schedule.of_angle(t)
        alpha, sigma = schedule.at(time, x.ndim)
        x0 = denoise((alpha**2 + sigma**2) ** 0.5 * x, time).x0
        angle = expand(t, x.ndim)
        return (jnp.cos(angle) * x - x0) / jnp.maximum(jnp.sin(angle), SMALL)

    return flow


def noised(x0: jax.Array, eps: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(x_t, its derivative in t) of data and noise f32[B, ...] at t: f32[B]."""
    cos, sin = cos_sin(t, x0.ndim)
    return cos * x0 + sin * eps, cos * eps - sin * x0


def cos_sin(t: jax.Array, ndim: int) -> tuple[jax.Array, jax.Array]:
    """Of t: f32[B], f32[B, 1, ...] with `ndim` axes each."""
    t = expand(t, ndim)
    return jnp.cos(t), jnp.sin(t)


def stepped(flow: Flow, x: jax.Array, t: jax.Array, s: jax.Array) -> jax.Array:
    """x_s by one DDIM step from x = x_t, f32[B, ...]: eq. 12 of arXiv:2010.02502 with no noise. s, t: f32[B]; s = 0
    gives x_0hat."""
    cos, sin = cos_sin(t - s, x.ndim)
    return cos * x - sin * flow(x, t)


def flow_between(x: jax.Array, end: jax.Array, turn: jax.Array) -> jax.Array:
    """The F with which one DDIM step takes x = x_t to end = x_s, f32[B, ...]; turn: t - s, f32[B]. Of two steps' end,
    this is the target of progressive distillation: x~ of appendix G of arXiv:2202.00512 in terms of F."""
    cos, sin = cos_sin(turn, x.ndim)
    return (cos * x - end) / sin


def tangent(
    flow: Flow, x: jax.Array, t: jax.Array, velocity: jax.Array, warm: jax.Array | float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """(F, g) at x = x_t, f32[B, ...]: g = cos(t) df / dt along dx / dt = velocity, by algorithm 1 of arXiv:2410.11081,

        g = -cos(t)^2 (F - dx / dt) - warm cos(t) sin(t) (x + dF / dt).

    One forward-mode product gives cos(t) sin(t) dF / dt, which is bounded where dF / dt is not (section 4.1). warm:
    f32[], r of tangent warm-up; with 0, F - g is a target of ordinary diffusion training."""
    cos, sin = cos_sin(t, x.ndim)
    each = (jnp.cos(t) * jnp.sin(t)).astype(t.dtype)
    with forward_mode():
        value, slope = jax.jvp(flow, (x, t), (cos * sin * velocity, each))
    return value, -(cos**2) * (value - velocity) - warm * (cos * sin * x + slope)


def normalised(g: jax.Array, c: float = 0.1) -> jax.Array:
    """g / (|g| + c), |g| the root mean square of each example: tangent normalisation, section 4.1."""
    size = jnp.sqrt(jnp.mean(g**2, axis=tuple(range(1, g.ndim)), keepdims=True) + 1e-12)
    return g / (size + c)
