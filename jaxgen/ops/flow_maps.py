"""Targets of networks that learn the flow map of an ODE: where it leads over a span of time, in one evaluation.

dz/dt = v(z, t), and u(z, t, span) is the average of v over the times from t - span to t along the trajectory through z
at t, so that the flow map is z - span u, and u = v where span is 0. z, v, u: f32[B, ...]; t, span: f32[B] in [0, 1].
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxgen.ops.attention import forward_mode
from jaxgen.ops.schedules import expand

AverageVelocity = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""u(z, t, span)."""


def mean_flow(
    u: AverageVelocity, z: jax.Array, t: jax.Array, span: jax.Array, v: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(u, its target v - span du/dt), which has no gradient: eqs. 8 to 11 of arXiv:2505.13447 with r = t - span.

    The total derivative along the trajectory, for a fixed r, is one product with the Jacobian in forward mode. v: the
    velocity at z and t, or a draw with that expectation, as the target is linear in it."""
    with forward_mode():
        answer, slope = jax.jvp(u, (z, t, span), (v, jnp.ones_like(t), jnp.ones_like(span)))
    return answer, jax.lax.stop_gradient(v - expand(span, z.ndim) * slope)


def two_halves(u: AverageVelocity, z: jax.Array, t: jax.Array, span: jax.Array) -> jax.Array:
    """The average velocity over `span` by two steps of half of it, without a gradient: eq. 4 of arXiv:2410.12557."""
    half = span / 2
    early = u(z, t, half)
    late = u(z - expand(half, z.ndim) * early, t - half, half)
    return jax.lax.stop_gradient((early + late) / 2)


def adaptive(error: jax.Array, power: float, offset: float = 1e-3) -> jax.Array:
    """The weight 1 / (error + offset)^power of squared errors f32[B], without a gradient: eq. 22 of
    arXiv:2505.13447."""
    return jax.lax.stop_gradient((error + offset) ** -power)
