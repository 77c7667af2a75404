"""A diffusion model's predictions of x_0 once a measurement y = A x_0 + std noise is known, with a linear A.

Of a Gaussian x_0, or wherever x_0 given x_t is about one, E[x_0 | x_t, y] is a Kalman update of E[x_0 | x_t] = D(x_t)
by the covariance of x_0 given x_t, which is the network's own Jacobian, V = sigma^2 / alpha dD / dx_t:

    D_y(x_t) = D + V A^T (std^2 + A V A^T)^-1 (y - A D),

section 4.2 of arXiv:2405.13712. The system is solved by conjugate gradients, a backward pass of the network for each
iteration. A sampler that is given D_y instead of D draws from p(x_0 | y): exactly so of Gaussian data.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxgen.ops.diffusion import Denoise, Denoised
from jaxgen.ops.schedules import Schedule

SMALLEST = 1e-12
"""Of a squared length: below it conjugate gradients stop, as 0 / 0 follows."""


def dot_each(a: jax.Array, b: jax.Array) -> jax.Array:
    """Inner products over all axes but the first, f32[B, 1, ...]."""
    return jnp.sum(a * b, axis=tuple(range(1, a.ndim)), keepdims=True)


def conjugate_gradients(matrix: Callable[[jax.Array], jax.Array], r: jax.Array, iterations: int) -> jax.Array:
    """v with matrix(v) = r, f32[B, ...], of a symmetric positive matrix for each example, from v = 0.

    A direction without curvature or with a negative one, which a trained network's Jacobian may have, is not taken."""

    def step(carry, _):
        v, r, p, rr = carry
        q = matrix(p)
        curvature = dot_each(p, q)
        size = jnp.where(curvature > SMALLEST, rr / jnp.maximum(curvature, SMALLEST), 0.0)
        v, r = v + size * p, r - size * q
        new = dot_each(r, r)
        p = r + jnp.where(rr > SMALLEST, new / jnp.maximum(rr, SMALLEST), 0.0) * p
        return (v, r, p, new), None

    (v, *_), _ = jax.lax.scan(step, (jnp.zeros_like(r), r, r, dot_each(r, r)), length=iterations)
    return v


def measured(
    denoise: Denoise,
    schedule: Schedule,
    measure: Callable[[jax.Array], jax.Array],
    y: jax.Array,
    std: jax.Array | float,
    iterations: int,
) -> Denoise:
    """D_y for D. y: f32[B, ...] = measure(x_0) + std noise, in model space. iterations: of conjugate gradients; as many
    as y has elements are exact, a few do for pictures."""

    def known(x: jax.Array, t: jax.Array) -> Denoised:
        alpha, sigma = schedule.at(t, x.ndim)
        _, pull, answer = jax.vjp(lambda x: ((found := denoise(x, t)).x0, found), x, has_aux=True)
        transposed = jax.linear_transpose(measure, x)
        shape = (-1,) + (1,) * (y.ndim - 1)
        noise = jnp.reshape(std**2 * alpha / sigma**2, shape)  # the whole system is divided by sigma^2 / alpha

        def spread(v: jax.Array) -> jax.Array:
            """dD / dx_t A^T v."""
            return pull(transposed(v)[0])[0]

        v = conjugate_gradients(lambda v: noise * v + measure(spread(v)), y - measure(answer.x0), iterations)
        return answer._replace(x0=answer.x0 + spread(v))

    return known
