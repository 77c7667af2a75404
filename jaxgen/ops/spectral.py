"""Spectral norms by power iteration, section 2.2 and algorithm 1 of arXiv:1802.05957.

W: a kernel [..., O] reshaped to the matrix [I, O] that the layer multiplies by. u: f32[O], an estimate of the first
right singular vector of W, carried from step to step.
"""

import jax
import jax.numpy as jnp


def unit(v: jax.Array) -> jax.Array:
    """v / |v|, and 0 for v = 0."""
    return v / jnp.sqrt(jnp.sum(v**2) + 1e-24)


def iterate(kernel: jax.Array, u: jax.Array, times: int = 1) -> jax.Array:
    """u after `times` power iterations."""
    matrix = kernel.reshape(-1, kernel.shape[-1])
    for _ in range(times):
        u = unit(unit(matrix @ u) @ matrix)
    return u


def spectral_norm(kernel: jax.Array, u: jax.Array) -> jax.Array:
    """|W u|, f32[]: the largest singular value, once u has converged. Differentiable in the kernel only; the gradient
    is the outer product of the two singular vectors."""
    matrix = kernel.reshape(-1, kernel.shape[-1])
    u = jax.lax.stop_gradient(u)
    v = jax.lax.stop_gradient(unit(matrix @ u))
    return v @ matrix @ u
