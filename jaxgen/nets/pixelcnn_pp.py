"""PixelCNN++, arXiv:1701.05517: a U-Net of gated residual blocks in each of the two streams of `nets.pixelcnn`.

u: the vertical stream, of rows above; h: the causal one, told by it at every block. Both go down `levels` resolutions
and up again, with a skip from each feature on the way down to a block on the way up (figure 2). From pixel to pixel, a
lower resolution moves on with every second row and column only, and is kept in between.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.errors import UserError
from jaxgen.nets.dense import Dense
from jaxgen.nets.pixelcnn import CausalConv, Place, VerticalConv, row_above
from jaxgen.ops.patches import depth_to_space

SMALL = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")
"""A tenth of the usual spread, so that blocks start near the identity."""
Sides = dict[str, Any]
"""What the vertical stream says to each block of the causal one by its name, and under `inner` one level down."""


def concat_elu(x: jax.Array) -> jax.Array:
    """ELU of x and of -x as twice the channels."""
    return nn.elu(jnp.concatenate([x, -x], axis=-1))


class Residual(nn.Module):
    """x + a sigmoid(b), both from two convolutions of a stream's kind with concatenated ELUs and dropout between.

    skip: features of the way down, f32 like x, by a linear map. side: added as it is. at: `cached` of a vertical
    convolution, `place` of a causal one.
    """

    causal: bool
    dropout: float
    dtype: Any = None

    @nn.compact
    def __call__(self, x, skip, side, y, train: bool, at: Place | bool | None) -> jax.Array:
        width = x.shape[-1]

        def convolve(h: jax.Array, features: int, kernel_init: nn.initializers.Initializer) -> jax.Array:
            kind: Any = CausalConv if self.causal else VerticalConv  # they take `at` in their own ways
            size = (2, 2) if self.causal else (2, 3)
            return kind(features, size, kernel_init=kernel_init, dtype=self.dtype)(h, at)

        h = convolve(concat_elu(x), width, nn.initializers.lecun_normal())
        if skip is not None:
            h += Dense(width, dtype=self.dtype, name="skip")(concat_elu(skip))
        if side is not None:
            h += side
        h = nn.Dropout(self.dropout, deterministic=not train)(concat_elu(h))
        h = convolve(h, 2 * width, SMALL)
        if y is not None:
            h += Dense(2 * width, use_bias=False, dtype=self.dtype, name="label")(y)[:, None, None]
        a, b = jnp.split(h, 2, axis=-1)
        return x + a * nn.sigmoid(b)


class VerticalLevel(nn.Module):
    """One resolution of the vertical stream and, with depth > 0, those below: u and `Sides`.

    row: u is that row alone, i32[], f32[B, 1, W, C].
    """

    depth: int
    blocks: int
    dropout: float
    dtype: Any = None

    @nn.compact
    def __call__(self, u, y, train: bool, row: jax.Array | None) -> tuple[jax.Array, Sides]:
        width, cached, sides = u.shape[-1], row is not None, {}

        def block(name: str, u: jax.Array, skip: jax.Array | None) -> jax.Array:
            u = Residual(False, self.dropout, self.dtype, name=name)(u, skip, None, y, train, cached)
            # Linear maps of what is said are made here, a row at once, and not a pixel at a time.
            sides[name] = Dense(width, dtype=self.dtype, name=f"{name}_across")(concat_elu(u))
            return u

        skips = [u]
        for n in range(self.blocks):
            skips.append(block(f"down{n}", skips[-1], None))
        if self.depth:
            below = VerticalConv(width, (2, 3), 2, dtype=self.dtype, name="halve")(skips[-1], cached)
            inner = VerticalLevel(self.depth - 1, self.blocks, self.dropout, self.dtype, name="inner")
            if cached:
                assert row is not None
                lower, sides["inner"] = self._every_second(inner, below, y, row)
            else:
                lower, sides["inner"] = inner(below, y, train, None)
            u = depth_to_space(Dense(4 * width, dtype=self.dtype, name="double")(lower), 2)
            if cached and row is not None:
                u = jax.lax.dynamic_slice_in_dim(u, row % 2, 1, axis=1)
        else:
            u = skips.pop()
        for n in range(len(skips)):
            u = block(f"up{n}", u, skips.pop())
        return u, sides

    def _every_second(self, inner: "VerticalLevel", below: jax.Array, y, row: jax.Array) -> tuple[jax.Array, Sides]:
        """What `inner` gives at even rows, and what it gave at the row before at odd ones."""

        def compute(inner: VerticalLevel, kept: Any) -> Any:
            return inner(below, y, False, row // 2)

        if self.has_variable("cache", "lower"):
            kept = self.get_variable("cache", "lower")
            given = nn.cond(row % 2 == 0, compute, lambda inner, kept: kept, inner, kept)
        else:
            given = compute(inner, None)
        self.put_variable("cache", "lower", given)
        return given


class CausalLevel(nn.Module):
    """One resolution of the causal stream and, with depth > 0, those below. place: h is that pixel alone."""

    depth: int
    blocks: int
    dropout: float
    dtype: Any = None

    @nn.compact
    def __call__(self, h, sides: Sides, y, train: bool, place: Place | None) -> jax.Array:
        width = h.shape[-1]

        def block(name: str, h: jax.Array, skip: jax.Array | None) -> jax.Array:
            side = sides[name] if place is None else place.of(sides[name])
            return Residual(True, self.dropout, self.dtype, name=name)(h, skip, side, y, train, place)

        skips = [h]
        for n in range(self.blocks):
            skips.append(block(f"down{n}", skips[-1], None))
        if self.depth:
            below = CausalConv(width, (2, 2), stride=2, dtype=self.dtype, name="halve")(skips[-1], place)
            inner = CausalLevel(self.depth - 1, self.blocks, self.dropout, self.dtype, name="inner")
            if place is None:
                lower = inner(below, sides["inner"], y, train, None)
            else:
                lower = self._every_second(inner, below, sides["inner"], y, place)
            h = depth_to_space(Dense(4 * width, dtype=self.dtype, name="double")(lower), 2)
            if place is not None:
                h = jax.lax.dynamic_slice_in_dim(h, place.row % 2, 1, axis=1)
                h = jax.lax.dynamic_slice_in_dim(h, place.column % 2, 1, axis=2)
        else:
            h = skips.pop()
        for n in range(len(skips)):
            h = block(f"up{n}", h, skips.pop())
        return h

    def _every_second(self, inner: "CausalLevel", below: jax.Array, sides: Sides, y, place: Place) -> jax.Array:
        """What `inner` gives where row and column are even; elsewhere what it gave for the square of that pixel."""
        lower = place.halved()

        def compute(inner: CausalLevel, row: jax.Array) -> jax.Array:
            given = inner(below, sides, y, False, lower)
            return jax.lax.dynamic_update_slice(row, given, (0, 0, lower.column, 0))

        if self.has_variable("cache", "lower"):
            fresh = (place.row % 2 == 0) & (place.column % 2 == 0)
            row = nn.cond(fresh, compute, lambda inner, row: row, inner, self.get_variable("cache", "lower"))
        else:
            row = compute(inner, jnp.zeros((below.shape[0], 1, lower.width, below.shape[3]), below.dtype))
        self.put_variable("cache", "lower", row)
        return lower.of(row)


class PPVertical(nn.Module):
    """Vertical stream: x, one row down, to `Sides`. row: x is that row alone."""

    width: int
    level: dict[str, Any]
    dtype: Any = None

    @nn.compact
    def __call__(self, x, y, train: bool, row: jax.Array | None = None) -> Sides:
        u = VerticalConv(self.width, (2, 3), dtype=self.dtype)(x, row is not None)
        return VerticalLevel(**self.level, dtype=self.dtype)(u, y, train, row)[1]


class PPCausal(nn.Module):
    """Causal stream and the output: f32[B, H, W, out]."""

    width: int
    level: dict[str, Any]
    dtype: Any = None

    @nn.compact
    def __call__(self, x, sides: Sides, out: int, y, train: bool, place: Place | None = None) -> jax.Array:
        # Three columns of the row above, and the pixel to the left.
        h = CausalConv(self.width, (2, 3), 1, first=True, dtype=self.dtype)(x, place)
        h = CausalLevel(**self.level, dtype=self.dtype)(h, sides, y, train, place)
        return Dense(out, dtype=self.dtype, name="out")(nn.elu(h)).astype(jnp.float32)


def with_ones(x: jax.Array) -> jax.Array:
    """x with a channel of ones, by which the image differs from the zeros around it."""
    return jnp.concatenate([x, jnp.ones((*x.shape[:3], 1), x.dtype)], axis=-1)


class PixelCNNPP(nn.Module):
    """`blocks` residual blocks of `width` features at each of `levels` resolutions, on the way down and up again.

    As figure 2 and section 3 of the paper, but without its weight normalization, and doubling by 2 x 2 transposed
    convolutions in both streams. All channels of a pixel are answered at once: use a joint likelihood.
    """

    width: int = 160
    blocks: int = 5
    levels: int = 3
    dropout: float = 0.5
    dtype: Any = None

    def check(self, shape: tuple[int, ...], groups: int) -> None:
        """Raises UserError for images of `shape` = (H, W, C) or groups that the network cannot take."""
        factor = 2 ** (self.levels - 1)
        if shape[0] % factor or shape[1] % factor:
            raise UserError(
                f"images of shape {shape} cannot be halved {self.levels - 1} times: height and width must be multiples "
                f"of {factor}; give --model.network.levels a smaller number"
            )
        if groups != 1:
            raise UserError(
                "PixelCNN++ answers all channels of a pixel at once: give --model.likelihood a joint one, as "
                "logistic-mixture"
            )

    def setup(self) -> None:
        level = {"depth": self.levels - 1, "blocks": self.blocks, "dropout": self.dropout}
        self.vertical = PPVertical(self.width, level, self.dtype)
        self.horizontal = PPCausal(self.width, level, self.dtype)

    def __call__(self, x, out: int, y: jax.Array | None = None, *, groups: int = 1, train: bool = False) -> jax.Array:
        x = with_ones(x)
        return self.horizontal(x, self.vertical(row_above(x), y, train), out, y, train)

    def row(self, x: jax.Array, i: jax.Array, y: jax.Array | None = None) -> Sides:
        """What the vertical stream says along row i."""
        return self.vertical(row_above(with_ones(x), i), y, False, i)

    def pixel(self, x, side: Sides, i, j, out: int, y: jax.Array | None = None, *, groups: int = 1) -> jax.Array:
        """f32[B, out] of pixel (i, j)."""
        return self.horizontal(with_ones(x), side, out, y, False, Place(i, j, x.shape[2]))[:, 0, 0]
