"""An occupancy grid, which marks the parts of space that are not empty (appendix C of arXiv:2201.05989). All shapes are
static.

The grid f32[R, R, R] covers [-1, 1]^3. Each cell holds a decaying maximum of the densities sampled in it, or -1 before
its first visit. Of B rays with N samples each, the samples in occupied cells are packed into lists of a fixed size.
"""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Ge, Le

from jaxgen.core.ranges import Count, Decay, NonNegative, OptionalCount, Size


@dataclass(frozen=True, kw_only=True)
class Occupancy:
    """The settings of an occupancy grid, and its updates."""

    resolution: Annotated[int, Ge(0), Le(1_024)] = 0
    """R, cells along a side; 0 for no grid, so that every sample is computed."""
    budget: Size = 16
    """Number of samples that are computed, as a multiple of the batch's rays. A ray whose samples do not all fit is
    left out of that step."""
    threshold: NonNegative = 0.3
    """Density above which a cell is occupied; the mean over all cells is used instead where it is lower."""
    every: Count = 4
    """Training steps between two updates of the grid."""
    cells: Count = 8192
    """Number of cells visited by each update, in turn."""
    decay: Decay = 0.95
    """Factor on a cell's old density at each visit."""
    warmup: OptionalCount = 200
    """Training steps during which all cells count as occupied: an untrained field may be empty everywhere."""

    def problem(self) -> str | None:
        size = self.resolution**3
        if size % self.cells and self.cells < size:
            return f"cells is {self.cells}: a divisor of the {size} cells is expected, so that all are visited"

    def start(self) -> jax.Array:
        """The grid before any update."""
        return jnp.full((self.resolution,) * 3, -1.0)

    def places(self, turn: jax.Array) -> jax.Array:
        """i32[M]: indices of the cells visited at a turn, all different. R^3 / M turns visit each cell once."""
        count = min(self.cells, self.resolution**3)
        turns = self.resolution**3 // count
        return turn % turns + turns * jnp.arange(count, dtype=jnp.int32)

    def points(self, places: jax.Array, key: jax.Array) -> jax.Array:
        """One uniform point in each of the cells `places`: f32[M, 3] in [-1, 1]^3."""
        r = self.resolution
        cell = jnp.stack([places // r**2, places // r % r, places % r], axis=-1)
        return (cell + jax.random.uniform(key, cell.shape)) / r * 2 - 1

    def seen(self, grid: jax.Array, places: jax.Array, density: jax.Array) -> jax.Array:
        """The grid after a visit to the cells `places`, where the field has `density`: f32[M]."""
        flat = grid.reshape(-1)
        old = flat[places]
        return flat.at[places].set(jnp.maximum(old * self.decay, density)).reshape(grid.shape)

    def occupied(self, grid: jax.Array, step: jax.Array) -> jax.Array:
        """bool[R, R, R]: which cells count as occupied at a training step."""
        enough = jnp.minimum(self.threshold, jnp.mean(jnp.maximum(grid, 0.0)))
        return (grid < 0) | (grid > enough) | (step < self.warmup)


def lookup(cells: jax.Array, x: jax.Array) -> jax.Array:
    """bool[...]: whether points f32[..., 3] lie in [-1, 1]^3 and in a true cell of `cells`: bool[R, R, R]."""
    r = len(cells)
    cell = jnp.clip(jnp.floor((x + 1) / 2 * r).astype(jnp.int32), 0, r - 1)
    index = (cell[..., 0] * r + cell[..., 1]) * r + cell[..., 2]
    return cells.reshape(-1)[index] & jnp.all(jnp.abs(x) <= 1, axis=-1)


def pack(wanted: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Indices i32[size] of the first `size` true elements of the flattened `wanted`: bool[B, N], padded with B * N; and
    bool[B], true for the rays whose wanted samples are all among them."""
    index = jnp.nonzero(wanted.reshape(-1), size=size, fill_value=wanted.size)[0]
    return index.astype(jnp.int32), jnp.cumsum(jnp.sum(wanted, axis=-1, dtype=jnp.int32)) <= size
