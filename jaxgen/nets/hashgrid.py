"""A radiance field on a multi-resolution hash grid, arXiv:2201.05989.

Level l of L has N_l = floor(N_min b^l) cells a side. A level with at most T corners stores features of each; a larger
one stores them at (x ^ 2654435761 y ^ 805459861 z) mod T, where corners may collide (eq. 4). In plain XLA this is one
gather of all corners of all levels, whose gradient is one scatter-add. Sorting the corners so that the scatter accesses
memory in order does not pay: on two CPU cores a million corners take 980 ms sorted, 12 ms unsorted.
"""

from dataclasses import field
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Le
from flax import linen as nn

from jaxgen.core.ranges import Depth, OptionalDepth, Size
from jaxgen.nets.dense import Dense
from jaxgen.nets.nerf import Colour

PRIMES = np.array([1, 2654435761, 805459861], np.uint32)
CORNERS = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), axis=-1).reshape(8, 3)
MAX_LOG_DENSITY = 10.0


class HashGrid(nn.Module):
    """x: f32[..., 3] in [-1, 1]^3 -> f32[..., levels * features], by trilinear interpolation at each level."""

    levels: Depth = 16
    features: Size = 2
    log2_table: Annotated[int, Ge(1), Le(24)] = 19
    """log2 of T, the most rows of a level's table."""
    coarsest: Size = 16
    """N_min."""
    finest: Size = 2048
    """N of the finest level."""

    def problem(self) -> str | None:
        if self.levels < 2 or self.coarsest > self.finest:
            return (
                f"the grid has {self.levels} levels from {self.coarsest} to {self.finest} cells: 2 levels or more and "
                "finest >= coarsest are expected"
            )

    @property
    def resolutions(self) -> np.ndarray:
        """N_l: int64[L]."""
        growth = np.exp(np.log(self.finest / self.coarsest) / (self.levels - 1))
        # The margin keeps rounding from making the last level one cell too small.
        return np.floor(self.coarsest * growth ** np.arange(self.levels) + 1e-6).astype(np.int64)

    @property
    def sizes(self) -> np.ndarray:
        """Number of rows of each level's table: int64[L]."""
        return np.minimum((self.resolutions + 1) ** 3, 2**self.log2_table)

    def rows(self, corner: jax.Array) -> jax.Array:
        """Rows of corners u32[..., L, 8, 3] in the concatenation of all tables: i32[..., L, 8]."""
        lead = (1,) * (corner.ndim - 3)
        n = self.resolutions
        strides = np.stack([(n + 1) ** 2, n + 1, np.ones_like(n)], axis=-1).astype(np.uint32)
        direct = jnp.sum(corner * strides.reshape(*lead, self.levels, 1, 3), axis=-1, dtype=jnp.uint32)
        mixed = corner * PRIMES.reshape(*lead, 1, 1, 3)
        hashed = (mixed[..., 0] ^ mixed[..., 1] ^ mixed[..., 2]) & np.uint32(2**self.log2_table - 1)
        fits = ((n + 1) ** 3 <= 2**self.log2_table).reshape(*lead, self.levels, 1)
        first = (np.cumsum(self.sizes) - self.sizes).astype(np.int32).reshape(*lead, self.levels, 1)
        return jnp.where(fits, direct, hashed).astype(jnp.int32) + first

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def start(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return jax.random.uniform(key, shape, minval=-1e-4, maxval=1e-4)

        table = self.param("table", start, (int(self.sizes.sum()), self.features))
        lead = (1,) * (x.ndim - 1)
        n = self.resolutions.astype(np.float32).reshape(*lead, self.levels, 1)
        position = jnp.clip((x[..., None, :] + 1) / 2, 0, 1) * n
        # Points on the far face belong to the last cell, as there is none after it.
        cell = jnp.minimum(jnp.floor(position), n - 1)
        fraction = (position - cell)[..., None, :]
        corners = CORNERS.reshape(*lead, 1, 8, 3)
        weight = jnp.prod(jnp.where(corners == 1, fraction, 1 - fraction), axis=-1)
        rows = self.rows(cell.astype(jnp.uint32)[..., None, :] + corners.astype(np.uint32))
        found = table.at[rows].get(mode="promise_in_bounds")
        return jnp.sum(found * weight[..., None], axis=-2).reshape(*x.shape[:-1], self.levels * self.features)


class HashField(nn.Module):
    """A small network from the grid's features to the density, and another from its output and the direction to the
    colour.

    sigma is an exponential (section 5.4): the density of a surface is hundreds of times that of a haze.
    """

    cones: ClassVar[bool] = False  # the grid is a function of points, and ignores `var`
    grid: nn.Module = field(default_factory=HashGrid)
    width: Size = 64
    hidden: Size = 16
    """Features that the colour's network takes from the density's."""
    colour_layers: OptionalDepth = 2
    direction_frequencies: Annotated[int, Ge(0), Le(64)] = 4
    view_dependent: bool = True
    """Whether the colour of a point depends on the direction that it is seen from."""
    shift: float = -1.0
    """Added to the logarithm of the density."""
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, d: jax.Array, var: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        h = nn.relu(Dense(self.width, dtype=self.dtype)(self.grid(x)))
        h = Dense(self.hidden, dtype=self.dtype)(h)
        sigma = jnp.exp(jnp.minimum(h[..., 0].astype(jnp.float32) + self.shift, MAX_LOG_DENSITY))
        return sigma, Colour((self.width,) * self.colour_layers, self.direction_frequencies, self.dtype)(
            h, d if self.view_dependent else None
        )
