"""Distances to nearest neighbours in feature space, computed on the device in blocks of rows."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

BLOCK = 512  # rows of the distance matrix held at a time
ROUNDING = 1e-6
"""Of squared distances in f32, over |a|^2 + |b|^2: within it a point lies on the border of a ball."""


def centred(*sets: np.ndarray) -> list[jax.Array]:
    """The sets, [N, D] each, minus the mean of the first: far from 0, |a|^2 + |b|^2 - 2 a'b would lose digits."""
    middle = sets[0].mean(axis=0, dtype=np.float64, keepdims=True)
    return [jnp.asarray((s - middle).astype(np.float32)) for s in sets]


def _squared(row: jax.Array, base: jax.Array) -> jax.Array:
    """Squared distances f32[N] from one row f32[D] to base f32[N, D]. Mapped over rows it is a matrix product."""
    cross = jnp.dot(base, row, precision=jax.lax.Precision.HIGHEST)
    return jnp.maximum(jnp.sum(base**2, axis=1) + jnp.sum(row**2) - 2 * cross, 0)


@partial(jax.jit, static_argnums=1)
def squared_radii(x: jax.Array, k: int) -> jax.Array:
    """f32[N]: the squared distance from each row of f32[N, D] to its k-th nearest other row."""
    places = jnp.arange(x.shape[0])

    def one(at: tuple[jax.Array, jax.Array]) -> jax.Array:
        place, row = at
        others = jnp.where(places == place, jnp.inf, _squared(row, x))
        return jax.lax.top_k(-others, k)[0]

    # Sliced after the loop: next to the top_k, XLA's CPU back end sorts whole rows instead, 30 times slower.
    return -jax.lax.map(one, (places, x), batch_size=BLOCK)[:, -1]


@jax.jit
def nearest_rows(queries: jax.Array, base: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The squared distance f32[Q] from each query to the nearest row of the base, and that row's index i32[Q]."""

    def one(row: jax.Array) -> tuple[jax.Array, jax.Array]:
        distance = _squared(row, base)
        return jnp.min(distance), jnp.argmin(distance)

    return jax.lax.map(one, queries, batch_size=BLOCK)


@jax.jit
def count_balls(queries: jax.Array, centres: jax.Array, squared_radius: jax.Array) -> jax.Array:
    """i32[Q]: the number of balls that contain each query, border included. centres: f32[N, D], squared_radius: f32[N].
    """

    def one(row: jax.Array) -> jax.Array:
        return jnp.sum(_within(_squared(row, centres), squared_radius, row, centres), dtype=jnp.int32)

    return jax.lax.map(one, queries, batch_size=BLOCK)


@jax.jit
def contain_any(centres: jax.Array, squared_radius: jax.Array, queries: jax.Array) -> jax.Array:
    """bool[N]: whether each ball contains a query, border included. centres: f32[N, D], squared_radius: f32[N]."""

    def one(ball: tuple[jax.Array, jax.Array]) -> jax.Array:
        centre, radius = ball
        return jnp.any(_within(_squared(centre, queries), radius, centre, queries))

    return jax.lax.map(one, (centres, squared_radius), batch_size=BLOCK)


def _within(squared: jax.Array, radius: jax.Array, row: jax.Array, base: jax.Array) -> jax.Array:
    """Whether squared distances f32[N] from a row to the base are at most squared radii, up to `ROUNDING`."""
    return squared <= radius + ROUNDING * (jnp.sum(row**2) + jnp.sum(base**2, axis=1))
