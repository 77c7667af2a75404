"""Distances to nearest neighbours in feature space, on the device, a block of rows at a time."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

BLOCK = 512  # rows of the distance matrix at once


def centred(*sets: np.ndarray) -> list[jax.Array]:
    """Sets [N, D] less the mean of the first: |a|^2 + |b|^2 - 2 a'b loses digits when all points lie far from 0."""
    middle = sets[0].mean(axis=0, dtype=np.float64, keepdims=True)
    return [jnp.asarray((s - middle).astype(np.float32)) for s in sets]


def _squared(row: jax.Array, base: jax.Array) -> jax.Array:
    """Squared distances f32[N] of one row f32[D] to base f32[N, D]; a product of matrices once mapped over rows."""
    cross = jnp.dot(base, row, precision=jax.lax.Precision.HIGHEST)
    return jnp.maximum(jnp.sum(base**2, axis=1) + jnp.sum(row**2) - 2 * cross, 0)


@partial(jax.jit, static_argnums=1)
def radii(x: jax.Array, k: int) -> jax.Array:
    """f32[N]: squared distance of each row of f32[N, D] to its k-th nearest other row."""

    places = jnp.arange(x.shape[0])

    def one(at: tuple[jax.Array, jax.Array]) -> jax.Array:
        place, row = at
        others = jnp.where(places == place, jnp.inf, _squared(row, x))
        return jax.lax.top_k(-others, k)[0]

    # Cut after the loop: XLA's CPU back end sorts whole rows, 30 times slower, where the cut meets the top_k.
    return -jax.lax.map(one, (places, x), batch_size=BLOCK)[:, -1]


@jax.jit
def nearest(queries: jax.Array, base: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Squared distance f32[Q] of each query to its nearest row of the base, and that row's index i32[Q]."""

    def one(row: jax.Array) -> tuple[jax.Array, jax.Array]:
        distance = _squared(row, base)
        return jnp.min(distance), jnp.argmin(distance)

    return jax.lax.map(one, queries, batch_size=BLOCK)


@jax.jit
def balls_around(queries: jax.Array, centres: jax.Array, radius: jax.Array) -> jax.Array:
    """i32[Q]: in how many of the balls about centres f32[N, D], of squared radius f32[N], each query lies."""

    def one(row: jax.Array) -> jax.Array:
        return jnp.sum(_squared(row, centres) <= radius, dtype=jnp.int32)

    return jax.lax.map(one, queries, batch_size=BLOCK)
