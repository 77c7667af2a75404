"""Maps computed in overlapping tiles, so that a large picture takes the memory of one tile."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

OVERLAP = 0.25
"""Share of a tile's side over which neighbours are blended, as in diffusers."""


def tiled(function: Callable[[jax.Array], jax.Array], x: jax.Array, tile: int, unit: int = 1) -> jax.Array:
    """function(x), f32[B, H', W', D], of x: f32[B, H, W, C], computed tile by tile.

    function: a network of any size of map, whose output is larger or smaller by a factor. tile: side of a tile in units
    of `unit` pixels of x, which divides H and W; 0 for the whole at once, as where x is no larger than a tile. Tiles
    are blended linearly over a quarter of their side. Where one tile alone counts, and so far from its edges that
    `function` does not see across them, the result is that of the whole. A network that normalizes over its whole map,
    or attends to it, sees a tile's statistics instead.
    """
    sides = tuple(side // unit for side in x.shape[1:3])
    if not tile or max(sides) <= tile:
        return function(x)
    height, width = (min(side, tile) for side in sides)
    patch = jax.ShapeDtypeStruct((x.shape[0], height * unit, width * unit, x.shape[3]), x.dtype)
    out = jax.eval_shape(function, patch)
    scale = out.shape[1] // height  # of a unit, in pixels of the output
    (rows, row_weights), (columns, column_weights) = (cover(side, tile, scale) for side in sides)

    def add(total: jax.Array, place: jax.Array) -> tuple[jax.Array, None]:
        row, column = place[0], place[1]
        top, left = jnp.asarray(rows)[row], jnp.asarray(columns)[column]
        part = function(jax.lax.dynamic_slice(x, (0, top * unit, left * unit, 0), patch.shape))
        weight = jnp.asarray(row_weights)[row][:, None] * jnp.asarray(column_weights)[column][None]
        corner = (0, top * scale, left * scale, 0)
        old = jax.lax.dynamic_slice(total, corner, out.shape)
        return jax.lax.dynamic_update_slice(total, old + part * weight[None, :, :, None], corner), None

    places = jnp.asarray([(i, j) for i in range(len(rows)) for j in range(len(columns))], jnp.int32)
    total = jnp.zeros((x.shape[0], sides[0] * scale, sides[1] * scale, out.shape[3]), out.dtype)
    return jax.lax.scan(add, total, places)[0]


def cover(side: int, tile: int, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts i32[T] of the tiles that cover `side` units, and their weights f32[T, tile * scale] along it, whose sum
    over tiles is 1 for each of the side * scale pixels. The last tile ends where the side does."""
    size = min(side, tile)
    overlap = min(math.ceil(OVERLAP * size), size - 1)
    starts = np.unique(np.append(np.arange(0, side - size, size - overlap), side - size))
    pixels, weights = np.arange(size * scale), np.ones((len(starts), size * scale))
    if ramp := overlap * scale:
        weights[1:] *= np.minimum(1, pixels / ramp)
        weights[:-1] *= np.minimum(1, (pixels[::-1] + 1) / ramp)  # what the next tile leaves
    total = np.zeros(side * scale)
    for start, weight in zip(starts * scale, weights):
        total[start : start + size * scale] += weight
    shares = [weight / total[start : start + size * scale] for start, weight in zip(starts * scale, weights)]
    return starts.astype(np.int32), np.stack(shares).astype(np.float32)
