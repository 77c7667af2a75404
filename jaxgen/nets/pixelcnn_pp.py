"""PixelCNN++, arXiv:1701.05517: a U-Net of gated residual blocks in each of the two streams of `nets.pixelcnn`.

u: the vertical stream; h: the causal one, which takes features of u at every block. Both go down `levels` resolutions
and up again, with a skip from each feature on the way down to a block on the way up (figure 2). In pixel-by-pixel
computation, a lower resolution advances at every second row and column only, and is cached in between.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.ranges import Decay, Depth, Size
from jaxgen.errors import UserError
from jaxgen.nets.dense import Dense
from jaxgen.nets.pixelcnn import CausalConv, Index, Place, VerticalConv, row_above
from jaxgen.ops.patches import depth_to_space

SMALL = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")
"""A tenth of the usual spread, so that blocks start near the identity."""
Sides = dict[str, Any]
"""The vertical stream's features for each block of the causal one by name, and under `inner` those one level down."""


def concat_elu(x: jax.Array) -> jax.Array:
    """ELU of x and of -x, concatenated to twice the channels."""
    return nn.elu(jnp.concatenate([x, -x], axis=-1))


class Residual(nn.Module):
    """x + a sigmoid(b), where a and b come from two convolutions with concatenated ELUs and dropout between them.

    causal: the stream that it belongs to. skip: features of the way down, mapped linearly. side: features of the other
    stream, added as they are. at: in cached computation, True in the vertical stream and the `Place` in the causal one.
    """

    causal: bool
    dropout: float
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: jax.Array, skip: jax.Array | None, side: jax.Array | None, y: jax.Array | None, train: bool,
        at: Place | bool | None,
    ) -> jax.Array:  # fmt: skip
        width = x.shape[-1]

        def convolve(h: jax.Array, features: int, kernel_init: nn.initializers.Initializer) -> jax.Array:
            if self.causal:
                place = at if isinstance(at, Place) else None
                return CausalConv(features, (2, 2), kernel_init=kernel_init, dtype=self.dtype)(h, place)
            return VerticalConv(features, (2, 3), kernel_init=kernel_init, dtype=self.dtype)(h, at is True)

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
    """One resolution of the vertical stream and the `depth` ones below it: u and `Sides`.

    row: in cached computation, the index of the only row in u: f32[B, 1, W, C].
    """

    depth: int
    blocks: int
    dropout: float
    dtype: Any = None

    @nn.compact
    def __call__(self, u: jax.Array, y: jax.Array | None, train: bool, row: Index | None) -> tuple[jax.Array, Sides]:
        width, cached = u.shape[-1], row is not None
        sides: Sides = {}

        def block(name: str, u: jax.Array, skip: jax.Array | None) -> jax.Array:
            u = Residual(False, self.dropout, self.dtype, name=name)(u, skip, None, y, train, cached)
            # The features are mapped linearly here, a row at once, rather than in the causal stream a pixel at a time.
            sides[name] = Dense(width, dtype=self.dtype, name=f"{name}_across")(concat_elu(u))
            return u

        skips = [u]
        for n in range(self.blocks):
            skips.append(block(f"down{n}", skips[-1], None))
        if self.depth:
            below = VerticalConv(width, (2, 3), 2, dtype=self.dtype, name="halve")(skips[-1], cached)
            inner = VerticalLevel(self.depth - 1, self.blocks, self.dropout, self.dtype, name="inner")
            if row is None:
                lower, sides["inner"] = inner(below, y, train, None)
            else:
                lower, sides["inner"] = self._every_second(inner, below, y, row)
            u = depth_to_space(Dense(4 * width, dtype=self.dtype, name="double")(lower), 2)
            if row is not None:
                u = jax.lax.dynamic_slice_in_dim(u, row % 2, 1, axis=1)
        else:
            u = skips.pop()
        for n in range(len(skips)):
            u = block(f"up{n}", u, skips.pop())
        return u, sides

    def _every_second(
        self, inner: "VerticalLevel", below: jax.Array, y: jax.Array | None, row: Index
    ) -> tuple[jax.Array, Sides]:
        """The output of `inner`, computed at even rows and repeated at odd ones."""

        def compute(inner: VerticalLevel, kept: Any) -> Any:
            return inner(below, y, False, row // 2)

        if self.has_variable("cache", "lower"):
            kept = self.get_variable("cache", "lower")
            output = nn.cond(row % 2 == 0, compute, lambda inner, kept: kept, inner, kept)
        else:
            output = compute(inner, None)
        self.put_variable("cache", "lower", output)
        return output


class CausalLevel(nn.Module):
    """One resolution of the causal stream and the `depth` ones below it.

    place: in cached computation, the place of the only pixel in h: f32[B, 1, 1, C].
    """

    depth: int
    blocks: int
    dropout: float
    dtype: Any = None

    @nn.compact
    def __call__(self, h: jax.Array, sides: Sides, y: jax.Array | None, train: bool, place: Place | None) -> jax.Array:
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

    def _every_second(
        self, inner: "CausalLevel", below: jax.Array, sides: Sides, y: jax.Array | None, place: Place
    ) -> jax.Array:
        """The output of `inner`, computed where row and column are even and repeated at the other three pixels."""
        lower = place.halved()

        def compute(inner: CausalLevel, row: jax.Array) -> jax.Array:
            pixel = inner(below, sides, y, False, lower)
            return jax.lax.dynamic_update_slice(row, pixel, (0, 0, lower.column, 0))

        if self.has_variable("cache", "lower"):
            fresh = (place.row % 2 == 0) & (place.column % 2 == 0)
            row = nn.cond(fresh, compute, lambda inner, row: row, inner, self.get_variable("cache", "lower"))
        else:
            row = compute(inner, jnp.zeros((below.shape[0], 1, lower.width, below.shape[3]), below.dtype))
        self.put_variable("cache", "lower", row)
        return lower.of(row)


class PPVertical(nn.Module):
    """The vertical stream: `Sides` from the image shifted down by a row. row: in cached computation, the index of the
    only row in x."""

    width: int
    level: dict[str, Any]
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, y: jax.Array | None, train: bool, row: Index | None = None) -> Sides:
        u = VerticalConv(self.width, (2, 3), dtype=self.dtype)(x, row is not None)
        return VerticalLevel(**self.level, dtype=self.dtype)(u, y, train, row)[1]


class PPCausal(nn.Module):
    """The causal stream and the output: f32[B, H, W, out]."""

    width: int
    level: dict[str, Any]
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: jax.Array, sides: Sides, out: int, y: jax.Array | None, train: bool, place: Place | None = None
    ) -> jax.Array:
        # Three columns of the row above, and the pixel to the left.
        h = CausalConv(self.width, (2, 3), 1, first=True, dtype=self.dtype)(x, place)
        h = CausalLevel(**self.level, dtype=self.dtype)(h, sides, y, train, place)
        return Dense(out, dtype=self.dtype, name="out")(nn.elu(h)).astype(jnp.float32)


def with_ones(x: jax.Array) -> jax.Array:
    """x with a channel of ones, which tells the image from the zeros around it."""
    return jnp.concatenate([x, jnp.ones((*x.shape[:3], 1), x.dtype)], axis=-1)


class PixelCNNPP(nn.Module):
    """`blocks` residual blocks of `width` features at each of `levels` resolutions, on the way down and up again.

    The network of figure 2 and section 3 of the paper, but without weight normalization, and with 2 x 2 transposed
    convolutions for doubling in both streams. It computes all channels of a pixel at once: use a joint likelihood.
    """

    width: Size = 160
    blocks: Depth = 5
    levels: Depth = 3
    dropout: Decay = 0.5
    dtype: Any = None

    def check(self, shape: tuple[int, ...], groups: int) -> None:
        """Raises UserError for images of `shape` = (H, W, C) or groups that the network cannot handle."""
        factor = 2 ** (self.levels - 1)
        if shape[0] % factor or shape[1] % factor:
            raise UserError(
                f"images of shape {shape} cannot be halved {self.levels - 1} times: height and width must be multiples "
                f"of {factor}; give --model.network.levels a smaller number"
            )
        if groups != 1:
            raise UserError(
                "PixelCNN++ computes all channels of a pixel at once: give --model.likelihood a joint one, such as "
                "logistic-mixture"
            )

    def setup(self) -> None:
        level = {"depth": self.levels - 1, "blocks": self.blocks, "dropout": self.dropout}
        self.vertical = PPVertical(self.width, level, self.dtype)
        self.horizontal = PPCausal(self.width, level, self.dtype)

    def __call__(
        self, x: jax.Array, out: int, y: jax.Array | None = None, *, groups: int = 1, train: bool = False
    ) -> jax.Array:
        x = with_ones(x)
        return self.horizontal(x, self.vertical(row_above(x), y, train), out, y, train)

    def row(self, x: jax.Array, i: Index, y: jax.Array | None = None) -> Sides:
        """The vertical stream's features for row i."""
        return self.vertical(row_above(with_ones(x), i), y, False, i)

    def pixel(
        self, x: jax.Array, side: Sides, place: tuple[Index, Index], out: int, y: jax.Array | None = None, *,
        groups: int = 1,
    ) -> jax.Array:  # fmt: skip
        """f32[B, out] for the pixel at (row, column)."""
        return self.horizontal(with_ones(x), side, out, y, False, Place(*place, x.shape[2]))[:, 0, 0]
