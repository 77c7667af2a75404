"""Positional encodings of points and of Gaussians, and the Gaussians that approximate parts of a cone.

x: f32[..., 3] are points, or means of Gaussians whose covariances have the diagonals var: f32[..., 3]; only the
diagonals matter.
"""

import math

import jax
import jax.numpy as jnp


def frequencies(x: jax.Array, num: int) -> jax.Array:
    """(sin(2^k pi x), cos(2^k pi x)) for k < num, eq. 4 of arXiv:2003.08934: f32[..., 3] to f32[..., 2 * num * 3]."""
    angles = _angles(x, num)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def integrated_frequencies(x: jax.Array, var: jax.Array, num: int) -> jax.Array:
    """The expectation of `frequencies` over a Gaussian, eq. 14 of arXiv:2103.13415: frequencies whose period is shorter
    than the Gaussian is wide fade to 0."""
    angles = _angles(x, num)
    scale = (math.pi * 2.0 ** jnp.arange(num, dtype=jnp.float32)) ** 2
    faded = (var[..., None, :] * scale.reshape((1,) * (var.ndim - 1) + (num, 1))).reshape(angles.shape)
    kept = jnp.exp(-0.5 * faded)
    return jnp.concatenate([kept * jnp.sin(angles), kept * jnp.cos(angles)], axis=-1)


def _angles(x: jax.Array, num: int) -> jax.Array:
    """2^k pi x: f32[..., num * 3]."""
    scale = math.pi * 2.0 ** jnp.arange(num, dtype=jnp.float32)
    return (x[..., None, :] * scale.reshape((1,) * (x.ndim - 1) + (num, 1))).reshape(*x.shape[:-1], -1)


def frustum_gaussians(
    origin: jax.Array, direction: jax.Array, radius: jax.Array, t: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Means and variances, f32[B, N, 3] each, of the parts of cones between the edges t: f32[B, N+1]: eqs. 7, 8 and 16
    of arXiv:2103.13415, in the form that is stable in f32. origin, direction: f32[B, 3], direction of length one;
    radius: f32[B], of the cone at distance one."""
    middle, half = (t[:, 1:] + t[:, :-1]) / 2, (t[:, 1:] - t[:, :-1]) / 2
    bottom = jnp.maximum(3 * middle**2 + half**2, 1e-12)
    mean_t = middle + 2 * middle * half**2 / bottom
    var_t = half**2 / 3 - 4 / 15 * half**4 * (12 * middle**2 - half**2) / bottom**2
    var_r = radius[:, None] ** 2 * (middle**2 / 4 + 5 / 12 * half**2 - 4 / 15 * half**4 / bottom)
    direction = direction[:, None]
    mean = origin[:, None] + direction * mean_t[..., None]
    square = direction**2
    return mean, var_t[..., None] * square + var_r[..., None] * (1 - square)


def box_crossing(
    origin: jax.Array, direction: jax.Array, near: jax.Array, far: jax.Array, bound: float
) -> tuple[jax.Array, jax.Array]:
    """The part of [near, far] in which rays are inside the box [-bound, bound]^3, f32[B] each. Rays that miss the box
    get (far, far). origin, direction: f32[B, 3]; near, far: f32[B]."""
    # A direction parallel to a face would divide by zero; with a tiny slope it meets that face far away instead.
    slope = jnp.where(jnp.abs(direction) < 1e-9, 1e-9, direction)
    one, two = (-bound - origin) / slope, (bound - origin) / slope
    enters = jnp.maximum(jnp.max(jnp.minimum(one, two), axis=-1), near)
    leaves = jnp.minimum(jnp.min(jnp.maximum(one, two), axis=-1), far)
    met = enters < leaves
    return jnp.where(met, enters, far), jnp.where(met, leaves, far)
