"""Which parts of space hold anything (arXiv:2201.05989, appendix C), with shapes that never change.

A grid f32[R, R, R] covers [-1, 1]^3 and keeps in each cell the highest density seen of late, -1 where none was looked
at. Of B rays with N samples each, those in occupied cells are packed into lists of a fixed size.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxgen.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Occupancy:
    """How a grid is kept and used."""

    resolution: int = 0
    """R, cells a side; 0 for no grid, when every sample is computed."""
    budget: int = 16
    """Samples that are computed, as a multiple of the batch's rays; a ray whose samples do not all fit is left out of
    that step."""
    threshold: float = 0.3
    """Density above which a cell is occupied, or the mean over cells where that is lower."""
    every: int = 4
    """Steps between two looks at the field."""
    cells: int = 8192
    """Cells visited by each look, in turn."""
    decay: float = 0.95
    """Of what a cell keeps, at each visit."""
    warmup: int = 200
    """Steps during which all cells count as occupied: a field that knows nothing yet may call everything empty."""

    def __post_init__(self):
        size = self.resolution**3
        if self.resolution < 0 or self.budget < 1 or self.every < 1 or self.cells < 1:
            raise UserError(
                f"occupancy.resolution is {self.resolution}, budget {self.budget}, every {self.every}, cells "
                f"{self.cells}: resolution starts at 0, the others at 1"
            )
        if size % self.cells and self.cells < size:
            raise UserError(
                f"occupancy.cells is {self.cells}: a divisor of the {size} cells is expected, so that all are visited"
            )

    def start(self) -> jax.Array:
        """The grid before any look."""
        return jnp.full((self.resolution,) * 3, -1.0)

    def places(self, turn: jax.Array) -> jax.Array:
        """i32[M]: the cells visited at a turn, none twice; R^3 / M turns visit each once."""
        count = min(self.cells, self.resolution**3)
        turns = self.resolution**3 // count
        return turn % turns + turns * jnp.arange(count, dtype=jnp.int32)

    def points(self, places: jax.Array, key: jax.Array) -> jax.Array:
        """f32[M, 3] in [-1, 1]^3, uniform within cells."""
        r = self.resolution
        cell = jnp.stack([places // r**2, places // r % r, places % r], axis=-1)
        return (cell + jax.random.uniform(key, cell.shape)) / r * 2 - 1

    def seen(self, grid: jax.Array, places: jax.Array, density: jax.Array) -> jax.Array:
        """The grid after a look that found `density`, f32[M]."""
        flat = grid.reshape(-1)
        old = flat[places]
        return flat.at[places].set(jnp.maximum(old * self.decay, density)).reshape(grid.shape)

    def occupied(self, grid: jax.Array, step: jax.Array) -> jax.Array:
        """bool[R, R, R] at a step of training."""
        enough = jnp.minimum(self.threshold, jnp.mean(jnp.maximum(grid, 0.0)))
        return (grid < 0) | (grid > enough) | (step < self.warmup)


def lookup(cells: jax.Array, x: jax.Array) -> jax.Array:
    """bool[...]: whether points f32[..., 3] lie in [-1, 1]^3, in a cell of bool[R, R, R] that is true."""
    r = len(cells)
    cell = jnp.clip(jnp.floor((x + 1) / 2 * r).astype(jnp.int32), 0, r - 1)
    index = (cell[..., 0] * r + cell[..., 1]) * r + cell[..., 2]
    return cells.reshape(-1)[index] & jnp.all(jnp.abs(x) <= 1, axis=-1)


def pack(wanted: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Places i32[size] in the flattened bool[B, N] of the first `size` that are wanted, B * N where there are no more,
    and bool[B]: the rays of which all are among them."""
    index = jnp.nonzero(wanted.reshape(-1), size=size, fill_value=wanted.size)[0]
    return index.astype(jnp.int32), jnp.cumsum(jnp.sum(wanted, axis=-1, dtype=jnp.int32)) <= size
