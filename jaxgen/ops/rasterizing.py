"""Splats drawn front to back, tile by tile, in one program whatever their number and places (arXiv:2308.04079, sec. 6).

At a pixel, with splats in order of depth, alpha_i = min(MOST, o_i exp(-x^T conic x / 2)), 0 below FAINTEST, and

    T_i = prod_{j < i} (1 - alpha_j),    w_i = T_i alpha_i,    C = sum_i w_i rgb_i + T background

Pairs of a splat and a tile that its box meets are sorted once, by a packed key (tile, place in depth). Each tile then
goes through its own pairs, `CHUNK` at a time, until these end or no light is left: work is that of the pairs there are,
in memory that does not depend on it. log T is a cumulative sum, a product with a triangular matrix. The backward pass
goes the same way once more and keeps nothing but the picture.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.ops.splatting import FAINTEST, Camera, Splats
from jaxgen.ops.volume import Rendered

CHUNK = 32
"""Pairs that a tile takes at a time."""
MOST = 0.99
"""Greatest opacity at a pixel: 1 - alpha stays above zero."""
DARK = 1e-4
"""Transmittance at which a pixel takes no more."""
COLUMNS = 10  # of a splat: u, v, the conic's a, b, c, log opacity, r, g, b, depth
SHOWN = 4  # the last of them, which are averaged by weight
EXACT = jax.lax.Precision.HIGHEST  # f32: a rounded log T is a wrong factor


class Tiling(NamedTuple):
    """How a picture is cut. size: H, W. side: of a tile in pixels. pairs: how many pairs of a splat and a tile are
    drawn at most; those of the farthest splats are left out."""

    size: tuple[int, int]
    side: int
    pairs: int

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return -(-self.size[0] // self.side), -(-self.size[1] // self.side)

    @property
    def tiles(self) -> int:
        return self.grid[0] * self.grid[1]


class Pairs(NamedTuple):
    """Pairs ordered by tile and depth. splat: i32[pairs + CHUNK], the splat of each. start: i32[tiles + 1], where each
    tile begins. dropped: f32[], the share of pairs that had no room."""

    splat: jax.Array
    start: jax.Array
    dropped: jax.Array


def rasterize(splats: Splats, tiling: Tiling) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """rgb f32[H, W, 3] over black, the sum of weights times depth f32[H, W], T behind all f32[H, W], and the share of
    pairs that were left out, f32[]."""
    pairs = paired(splats, tiling)
    log_opacity = jnp.log(jnp.maximum(splats.opacity, 1e-12))
    rows = jnp.concatenate(
        [splats.mean, splats.conic, log_opacity[:, None], splats.rgb, splats.depth[:, None]], axis=-1
    )
    drawn: Any = _composite(rows[pairs.splat], pairs.start, tiling)
    picture = _whole(drawn, tiling)
    return picture[..., :3], picture[..., 3], picture[..., 4], pairs.dropped


def rendered(splats: Splats, camera: Camera, tiling: Tiling, background: jax.Array) -> tuple[Rendered, jax.Array]:
    """A picture over a background f32[3], with rgb f32[H, W, 3] and, as distances from the camera, depth f32[H, W];
    and the share of pairs that were left out."""
    rgb, far, clear, dropped = rasterize(splats, tiling)
    opacity = 1 - clear
    x, y = (jnp.arange(n) + 0.5 for n in tiling.size[::-1])
    x, y = (x - camera.centre[0]) / camera.focal[0], (y - camera.centre[1]) / camera.focal[1]
    length = jnp.sqrt(1 + x[None] ** 2 + y[:, None] ** 2)
    met = opacity > 1e-3
    depth = jnp.where(met, length * far / jnp.where(met, opacity, 1.0), camera.far)
    return Rendered(rgb + clear[..., None] * background[None, None], depth, opacity), dropped


def paired(splats: Splats, tiling: Tiling) -> Pairs:
    """The pairs of splats and tiles whose pixel centres their boxes reach."""
    (rows, columns), side, count, room = tiling.grid, tiling.side, len(splats.depth), tiling.pairs
    mean, extent, depth = jax.lax.stop_gradient((splats.mean, splats.extent, splats.depth))
    shown = (extent[:, 0] > 0) & jnp.all(jnp.isfinite(mean), axis=-1)
    order = _by_depth(depth, shown)
    mean, extent, shown = mean[order], extent[order], shown[order]
    most = jnp.array([columns, rows], jnp.float32)
    # Pixel centres lie at halves.
    first = jnp.clip(jnp.floor(jnp.ceil(mean - extent - 0.5) / side), 0, most[None]).astype(jnp.int32)
    last = jnp.clip(jnp.floor(jnp.floor(mean + extent - 0.5) / side) + 1, 0, most[None]).astype(jnp.int32)
    wide, high = (jnp.where(shown, jnp.maximum(last - first, 0)[:, i], 0) for i in range(2))
    each = wide * high
    end = jnp.cumsum(each)
    owner = jnp.repeat(jnp.arange(count), each, total_repeat_length=room)
    slot = jnp.arange(room)
    within, across = slot - (end - each)[owner], jnp.maximum(wide[owner], 1)
    tile = (first[owner, 1] + within // across) * columns + first[owner, 0] + within % across
    tile = jnp.where(slot < end[-1], tile, tiling.tiles)
    if (tiling.tiles + 1) * count < 2**32:  # one key of both sorts faster
        keys = jnp.sort(tile.astype(jnp.uint32) * np.uint32(count) + owner.astype(jnp.uint32))
        tile, owner = (part.astype(jnp.int32) for part in (keys // np.uint32(count), keys % np.uint32(count)))
    else:
        tile, owner = jax.lax.sort((tile, owner), num_keys=2)
    start = jnp.searchsorted(tile, jnp.arange(tiling.tiles + 1))
    dropped = jnp.maximum(end[-1] - room, 0) / jnp.maximum(end[-1], 1)
    return Pairs(jnp.pad(order[owner], (0, CHUNK)), start, dropped.astype(jnp.float32))


def _by_depth(depth: jax.Array, shown: jax.Array) -> jax.Array:
    """i32[N]: the splats that are shown, by depth, and then the others."""
    count = len(depth)
    bits = (count - 1).bit_length()
    if bits > 16:
        return jnp.argsort(jnp.where(shown, depth, jnp.inf))
    # One integer of depth and place sorts twenty times as fast as a pair, and has 65,536 levels of depth or more.
    low, high = jnp.min(jnp.where(shown, depth, jnp.inf)), jnp.max(jnp.where(shown, depth, 0.0))
    last = 2 ** min(32 - bits, 24) - 1  # f32 has no larger integers without gaps
    level = jnp.clip((depth - low) / jnp.maximum(high - low, 1e-12), 0, 1) * (last - 1)
    level = jnp.where(shown, level, last).astype(jnp.uint32)
    keys = jnp.sort((level << bits) | jnp.arange(count, dtype=jnp.uint32))
    return (keys & np.uint32(2**bits - 1)).astype(jnp.int32)


def _whole(drawn: jax.Array, tiling: Tiling) -> jax.Array:
    """f32[H, W, C] of tiles f32[tiles, C, side^2]."""
    (rows, columns), side = tiling.grid, tiling.side
    cut = drawn.reshape(rows, columns, -1, side, side).transpose(0, 3, 1, 4, 2)
    return cut.reshape(rows * side, columns * side, -1)[: tiling.size[0], : tiling.size[1]]


# --- the tiles ----------------------------------------------------------------------------------------------------


def _places(tile: jax.Array, tiling: Tiling) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of a tile: its corner f32[2] in pixels, its pixels' centres from there f32[2, P], and whether they lie in the
    picture, bool[P]."""
    y, x = (np.mgrid[: tiling.side, : tiling.side].reshape(2, -1) + 0.5).astype(np.float32)
    corner = jnp.stack([tile % tiling.grid[1], tile // tiling.grid[1]]).astype(jnp.float32) * tiling.side
    at = jnp.asarray(np.stack([x, y]))
    return corner, at, (at[0] + corner[0] < tiling.size[1]) & (at[1] + corner[1] < tiling.size[0])


class _Part(NamedTuple):
    """A chunk of G pairs at P pixels. dx, dy: pixels from means; alpha, t (before each) and w: f32[G, P]."""

    dx: jax.Array
    dy: jax.Array
    alpha: jax.Array
    t: jax.Array
    w: jax.Array


def _part(rows: jax.Array, corner: jax.Array, at: jax.Array, left: jax.Array, t: jax.Array) -> _Part:
    """rows: f32[G, 10], of which the first `left` are the tile's. t: f32[P], before them."""
    u, v, a, b, c, log_opacity = (rows[:, i, None] for i in range(6))
    dx, dy = at[0][None] - (u - corner[0]), at[1][None] - (v - corner[1])
    alpha = jnp.minimum(jnp.exp(log_opacity - 0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy), MOST)
    there = (alpha >= FAINTEST) & (jnp.arange(len(rows)) < left)[:, None]
    alpha = jnp.where(there, alpha, 0.0)
    before = jnp.asarray(np.tril(np.ones((len(rows), len(rows)), np.float32), -1))
    t = t[None] * jnp.exp(jnp.matmul(before, jnp.log(1 - alpha), precision=EXACT))
    return _Part(dx, dy, alpha, t, t * alpha)


def _chunk(rows: jax.Array, at: jax.Array) -> jax.Array:
    return jax.lax.dynamic_slice(rows, (at, 0), (CHUNK, COLUMNS))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _composite(rows: jax.Array, start: jax.Array, tiling: Tiling) -> jax.Array:
    """f32[tiles, 5, P]: weighted r, g, b and depth, and T, of pairs f32[pairs + CHUNK, 10] in order."""

    def draw(nothing: None, tile: jax.Array) -> tuple[None, jax.Array]:
        corner, at, inside = _places(tile, tiling)
        end = start[tile + 1]

        def more(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            first, t, _ = carry
            return (first < end) & jnp.any(t > DARK)

        def add(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            first, t, shown = carry
            here = _chunk(rows, first)
            part = _part(here, corner, at, end - first, t)
            shown = shown + jnp.matmul(here[:, -SHOWN:].T, part.w, precision=EXACT)
            return first + CHUNK, part.t[-1] * (1 - part.alpha[-1]), shown

        begin = (start[tile], inside.astype(jnp.float32), jnp.zeros((SHOWN, at.shape[1])))
        *_, t, shown = jax.lax.while_loop(more, add, begin)
        return None, jnp.concatenate([shown, t[None]])

    return jax.lax.scan(draw, None, jnp.arange(tiling.tiles))[1]


def _forward(rows: jax.Array, start: jax.Array, tiling: Tiling) -> tuple[jax.Array, tuple]:
    drawn: Any = _composite(rows, start, tiling)
    return drawn, (rows, start, drawn)


def _backward(tiling: Tiling, kept: tuple, grads: jax.Array) -> tuple[jax.Array, None]:
    """With d_i the gradient in w_i, that in alpha_i is T_i d_i - (sum_{j > i} w_j d_j + T dT) / (1 - alpha_i)."""
    rows, start, drawn = kept

    def draw(total: jax.Array, of_tile: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        tile, drawn, grad = of_tile
        corner, at, inside = _places(tile, tiling)
        end, ones = start[tile + 1], jnp.ones_like(at[:1])
        moments = jnp.concatenate([ones, at, at * at, at[:1] * at[1:]])

        def more(carry: tuple) -> jax.Array:
            first, t, *_ = carry
            return (first < end) & jnp.any(t > DARK)

        def add(carry: tuple) -> tuple:
            first, t, behind, total = carry
            here = _chunk(rows, first)
            part = _part(here, corner, at, end - first, t)
            d = jnp.matmul(here[:, -SHOWN:], grad[:SHOWN], precision=EXACT)
            up_to = jnp.asarray(np.tril(np.ones((CHUNK, CHUNK), np.float32)))
            after = behind[None] - jnp.matmul(up_to, part.w * d, precision=EXACT)
            slope = part.t * d - after / (1 - part.alpha)
            slope = jnp.where((part.alpha > 0) & (part.alpha < MOST), slope * part.alpha, 0.0)
            found = jnp.concatenate(
                [_of_ellipse(jnp.matmul(slope, moments.T, precision=EXACT), here, corner),
                 jnp.matmul(part.w, grad[:SHOWN].T, precision=EXACT)], axis=-1
            )  # fmt: skip
            total = jax.lax.dynamic_update_slice(total, _chunk(total, first) + found, (first, 0))
            return first + CHUNK, part.t[-1] * (1 - part.alpha[-1]), after[-1], total

        begin = (start[tile], inside.astype(jnp.float32), jnp.sum(drawn * grad, axis=0), total)
        *_, total = jax.lax.while_loop(more, add, begin)
        return total, None

    total, _ = jax.lax.scan(draw, jnp.zeros_like(rows), (jnp.arange(tiling.tiles), drawn, grads))
    return total, None


def _of_ellipse(sums: jax.Array, rows: jax.Array, corner: jax.Array) -> jax.Array:
    """Gradients f32[G, 6] in u, v, a, b, c and log opacity. sums: f32[G, 6], of the gradient in the exponent over
    pixels, times 1, x, y, x^2, y^2 and x y from the tile's corner."""
    one, x, y, xx, yy, xy = (sums[:, i] for i in range(6))
    u, v, a, b, c = (rows[:, i] - (corner[i] if i < 2 else 0) for i in range(5))
    dx, dy = x - u * one, y - v * one
    dxx, dyy, dxy = xx - 2 * u * x + u * u * one, yy - 2 * v * y + v * v * one, xy - u * y - v * x + u * v * one
    return jnp.stack([a * dx + b * dy, b * dx + c * dy, -0.5 * dxx, -dxy, -0.5 * dyy, one], axis=-1)


_composite.defvjp(_forward, _backward)
