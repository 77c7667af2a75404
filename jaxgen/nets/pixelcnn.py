"""Networks over images in raster order, whose output at a pixel depends only on earlier pixels: plain and gated
PixelCNN.

A network has two streams: vertical layers see the rows above, causal layers also the pixels to the left. A layer
computes either a whole image, or only the next row or pixel from the few rows of its input that it keeps in the
collection `cache`, with the same parameters. A network has three calls:

- `net(x, out, y, ...)`: f32[B, H, W, C] -> f32[B, H, W, out], the whole image at once;
- `net.row(x, i, y)`: the vertical stream's features for row i, a pytree; x: the image, known up to there;
- `net.pixel(x, side, (i, j), out, y, ...)`: f32[B, out] for pixel (i, j); `side` is what `row` returned for row i.

Rows and pixels must be computed in order, as the cache holds those before. y: one-hot f32[B, K] or None.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from jaxgen.core.ranges import Depth, Size
from jaxgen.errors import UserError
from jaxgen.nets.dense import Dense
from jaxgen.ops.conv import conv, narrow_conv

KERNEL = nn.initializers.lecun_normal()


Index = jax.Array | int


@dataclass(frozen=True)
class Place:
    """The pixel (row, column), i32[] each, of an image of `width` columns."""

    row: Index
    column: Index
    width: int

    def halved(self) -> "Place":
        """The pixel of the half-sized image that contains this one."""
        return Place(self.row // 2, self.column // 2, self.width // 2)

    def of(self, rows: jax.Array) -> jax.Array:
        """This pixel, [B, 1, 1, C], of its row, [B, 1, W, C]."""
        return jax.lax.dynamic_slice_in_dim(rows, self.column, 1, axis=2)


class VerticalConv(nn.Module):
    """Convolution over size[0] rows, the last of which is the output's own, and size[1] columns centred on the output.

    cached: x is only the next row, f32[B, 1, W, C]; the rows above it are those of earlier calls.
    """

    features: int
    size: tuple[int, int]
    stride: int = 1
    kernel_init: nn.initializers.Initializer = KERNEL
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, cached: bool = False) -> jax.Array:
        rows, columns = self.size
        kernel = self.param("kernel", self.kernel_init, (rows, columns, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        above, sides = rows - 1, (columns // 2, columns // 2)
        if cached:
            kept = self.variable("cache", "rows", jnp.zeros, (x.shape[0], above, *x.shape[2:]), x.dtype)
            x = jnp.concatenate([kept.value, x], axis=1)
            kept.value = x[:, 1:]
            above = 0
        if self.stride == 1:
            x = narrow_conv(x, kernel, ((above, 0), sides))
        else:
            x = conv(x, kernel, (1 if cached else self.stride, self.stride), ((above, 0), sides))
        return x + bias[None, None, None]


def causal_mask(
    size: tuple[int, int], right: int, channels: int, features: int, groups: int, first: bool
) -> np.ndarray:
    """bool[rows, columns, channels, features]: the nonzero weights of a causal convolution. The last row is the
    output's own, with the output `right` columns from its end.

    At the output's pixel, channels and features form `groups` of neighbours, one for each channel of a pixel. Group g
    sees the groups before it (mask A, if `first`), or also itself (mask B): section 3.3 of arXiv:1601.06759.
    """
    mask = np.ones((*size, channels, features), bool)
    centre = size[1] - 1 - right
    mask[-1, centre + 1 :] = False
    source = np.arange(channels)[:, None] * groups // channels
    target = np.arange(features)[None] * groups // features
    mask[-1, centre] = source < target if first else source <= target
    return mask


class CausalConv(nn.Module):
    """Convolution over size[0] rows, the last of which is the output's own, and size[1] columns, `right` of them to the
    right of the output; `causal_mask` removes what does not precede the output in raster order.

    place: compute that pixel alone, f32[B, 1, 1, features]. x is then its input, f32[B, 1, 1, C], and the inputs of
    earlier pixels are those of earlier calls, the latest one if a pixel was computed twice. In the first layer, x is
    the whole image even then.
    """

    features: int
    size: tuple[int, int] = (1, 1)
    right: int = 0
    groups: int = 1
    first: bool = False
    stride: int = 1
    kernel_init: nn.initializers.Initializer = KERNEL
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, place: Place | None = None) -> jax.Array:
        rows, columns = self.size
        channels = x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (rows, columns, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        mask = causal_mask(self.size, self.right, channels, self.features, self.groups, self.first)
        if not mask.all():
            kernel = kernel * mask
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        left = columns - 1 - self.right
        if self.size == (1, 1) and not self.first:
            x = x @ kernel[0, 0]
        elif place is None and self.stride == 1:
            x = narrow_conv(x, kernel, ((rows - 1, 0), (left, self.right)))
        elif place is None:
            x = conv(x, kernel, (self.stride, self.stride), ((rows - 1, 0), (left, self.right)))
        else:
            window = self._image_window(x, place, left) if self.first else self._cached_window(x, place, left)
            x = (window.reshape(x.shape[0], -1) @ kernel.reshape(-1, self.features))[:, None, None]
        return x + bias[None, None, None]

    def _image_window(self, image: jax.Array, place: Place, left: int) -> jax.Array:
        """The pixels under the kernel at `place`, [B, *size, C], with zeros beyond the border."""
        rows, columns = self.size
        padded = jnp.pad(image, ((0, 0), (rows - 1, 0), (left, self.right), (0, 0)))
        window = jax.lax.dynamic_slice_in_dim(padded, place.row, rows, axis=1)
        return jax.lax.dynamic_slice_in_dim(window, place.column, columns, axis=2)

    def _cached_window(self, x: jax.Array, place: Place, left: int) -> jax.Array:
        """The same window of the cached inputs, after x is stored as the one at `place`."""
        rows, columns = self.size
        shape = (x.shape[0], rows, left + place.width + self.right, x.shape[-1])
        kept = self.variable("cache", "rows", jnp.zeros, shape, x.dtype)
        # Row i overwrites slot i mod `rows`, whose row no kernel reaches any more. Leftovers of that row to the right
        # of the pixel meet masked weights.
        at = (0, place.row % rows, place.column + left, 0)
        kept.value = jax.lax.dynamic_update_slice(kept.value, x, at)
        window = jax.lax.dynamic_slice_in_dim(kept.value, place.column, columns, axis=2)
        return window if rows == 1 else window[:, (place.row + 1 + jnp.arange(rows)) % rows]


def row_above(x: jax.Array, row: Index | None = None) -> jax.Array:
    """The image shifted down by one row of zeros, [B, H, W, C], or only `row` of that, [B, 1, W, C]."""
    padded = jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)))
    return padded[:, :-1] if row is None else jax.lax.dynamic_slice_in_dim(padded, row, 1, axis=1)


def gate(x: jax.Array, groups: int = 1) -> jax.Array:
    """tanh of the first half of each group of channels times sigmoid of the second: eq. 2 of arXiv:1606.05328."""
    a, b = jnp.split(x.reshape(*x.shape[:-1], groups, -1), 2, axis=-1)
    return (jnp.tanh(a) * nn.sigmoid(b)).reshape(*x.shape[:-1], -1)


def check_width(width: int, groups: int) -> None:
    """Raises UserError unless the features split evenly into `groups`, one for each channel of a pixel."""
    if width % groups:
        raise UserError(
            f"a width of {width} cannot be split among {groups} channels: give --model.network.width a multiple of "
            f"{groups}, or --model.likelihood one that is joint over channels"
        )


class PlainPixelCNN(nn.Module):
    """PixelCNN of section 3.5 of arXiv:1601.06759, without its bottlenecks.

    A `first_size` x `first_size` convolution of mask A, then `layers` residual ones of mask B with ReLU before each,
    then two of 1 x 1. At any depth there remains a blind spot above and to the right of each pixel. There is no batch
    normalization, through whose statistics outputs would depend on later pixels in training.
    """

    width: Size = 32
    layers: Depth = 6
    size: Size = 3
    first_size: Size = 7
    dtype: Any = None

    def check(self, shape: tuple[int, ...], groups: int) -> None:
        """Raises UserError for images of `shape` = (H, W, C) or groups that the network cannot handle."""
        check_width(self.width, groups)

    @nn.compact
    def __call__(
        self, x: jax.Array, out: int, y: jax.Array | None = None, *, groups: int = 1, train: bool = False,
        place: Place | None = None,
    ) -> jax.Array:  # fmt: skip
        h = x
        for layer in range(self.layers + 1):
            size = self.size if layer else self.first_size
            masked = CausalConv(
                self.width, (size // 2 + 1, size), size // 2, groups, layer == 0, dtype=self.dtype, name=f"layer{layer}"
            )
            new = masked(nn.relu(h) if layer else h, place)
            if y is not None:
                name = f"label{layer}"
                new += Dense(self.width, use_bias=False, dtype=self.dtype, name=name)(y)[:, None, None]
            h = h + new if layer else new
        h = CausalConv(self.width, groups=groups, dtype=self.dtype, name="head")(nn.relu(h))
        return CausalConv(out, groups=groups, dtype=self.dtype, name="out")(nn.relu(h)).astype(jnp.float32)

    def row(self, x: jax.Array, i: Index, y: jax.Array | None = None) -> tuple[()]:
        """Empty, as there is no vertical stream."""
        return ()

    def pixel(
        self, x: jax.Array, side: tuple[()], place: tuple[Index, Index], out: int, y: jax.Array | None = None, *,
        groups: int = 1,
    ) -> jax.Array:  # fmt: skip
        """f32[B, out] for the pixel at (row, column)."""
        return self(x, out, y, groups=groups, place=Place(*place, x.shape[2]))[:, 0, 0]


def with_coordinates(x: jax.Array, height: int, row: Index | None = None) -> jax.Array:
    """x: [B, H, W, C], or only its `row`, with three more channels: a one, which tells the image from the zeros around
    it, and the row and column in [-1, 1]."""
    rows = jnp.arange(height) if row is None else jnp.reshape(row, 1)
    vertical = jnp.broadcast_to((2 * rows / max(height - 1, 1) - 1)[:, None], (len(rows), x.shape[2]))
    horizontal = jnp.broadcast_to(jnp.linspace(-1, 1, x.shape[2])[None], vertical.shape)
    place = jnp.stack([jnp.ones_like(vertical), vertical, horizontal], axis=-1).astype(x.dtype)
    return jnp.concatenate([x, jnp.broadcast_to(place[None], (x.shape[0], *place.shape))], axis=-1)


class GatedVertical(nn.Module):
    """The vertical stack: its features for each layer of the horizontal stack, f32[B, H, W, 2 width] each.

    x: f32[B, H, W, C], the image shifted down by a row. Unlike the paper's, its layers are residual.
    """

    width: int
    layers: int
    size: int
    first_size: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, y: jax.Array | None = None, cached: bool = False) -> list[jax.Array]:
        v, sides = x, []
        for layer in range(self.layers):
            # x is shifted down, so the first layer sees rows above only. The others may include their own row, whose
            # features come from rows above.
            size = (self.size // 2 + 1, self.size) if layer else (self.first_size // 2, self.first_size)
            h = VerticalConv(2 * self.width, size, dtype=self.dtype)(v, cached)
            sides.append(Dense(2 * self.width, dtype=self.dtype, name=f"across{layer}")(h))
            if layer == self.layers - 1:
                break
            if y is not None:
                name = f"label{layer}"
                h += Dense(2 * self.width, use_bias=False, dtype=self.dtype, name=name)(y)[:, None, None]
            v = v + gate(h) if layer else gate(h)
        return sides


class GatedHorizontal(nn.Module):
    """The horizontal stack, which takes the vertical one's features `sides`, and the output: f32[B, H, W, out]."""

    width: int
    size: int
    first_size: int
    head: int
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: jax.Array, sides: list[jax.Array], out: int, y: jax.Array | None, groups: int, place: Place | None
    ) -> jax.Array:
        h = x
        for layer, side in enumerate(sides):
            size = (self.size if layer else self.first_size) // 2 + 1
            masked = CausalConv(
                2 * self.width, (1, size), 0, groups, layer == 0, dtype=self.dtype, name=f"layer{layer}"
            )
            new = masked(h, place) + (side if place is None else place.of(side))
            if y is not None:
                name = f"label{layer}"
                new += Dense(2 * self.width, use_bias=False, dtype=self.dtype, name=name)(y)[:, None, None]
            new = CausalConv(self.width, groups=groups, dtype=self.dtype, name=f"mix{layer}")(gate(new, groups))
            h = h + new if layer else new
        h = CausalConv(self.head, groups=groups, dtype=self.dtype, name="head")(nn.relu(h))
        return CausalConv(out, groups=groups, dtype=self.dtype, name="out")(nn.relu(h)).astype(jnp.float32)


class GatedPixelCNN(nn.Module):
    """Gated PixelCNN, section 2 of arXiv:1606.05328: a vertical and a horizontal stack, which leave no blind spot.

    size: side of the square of which a layer sees the upper half; kernels are (size // 2 + 1, size) in the vertical
    stack and (1, size // 2 + 1) in the horizontal one. head: width of the last 1 x 1 layer before the output.
    coordinates: give the vertical stack the pixels' coordinates. Convolutions alone can infer them only near the
    border, and not even there if zero is a value of pixels.
    """

    width: Size = 32
    layers: Depth = 8
    size: Size = 3
    first_size: Size = 7
    head: Size = 64
    coordinates: bool = False
    dtype: Any = None

    def check(self, shape: tuple[int, ...], groups: int) -> None:
        """Raises UserError for images of `shape` = (H, W, C) or groups that the network cannot handle."""
        check_width(self.width, groups)
        check_width(self.head, groups)
        for name, least in (("size", 1), ("first_size", 3)):
            if (size := getattr(self, name)) % 2 == 0 or size < least:
                raise UserError(f"network.{name} is {size}: an odd number from {least} on is expected")

    def setup(self) -> None:
        sizes = {"size": self.size, "first_size": self.first_size, "dtype": self.dtype}
        self.vertical = GatedVertical(self.width, self.layers, **sizes)
        self.horizontal = GatedHorizontal(self.width, head=self.head, **sizes)

    def __call__(
        self, x: jax.Array, out: int, y: jax.Array | None = None, *, groups: int = 1, train: bool = False
    ) -> jax.Array:
        return self.horizontal(x, self.vertical(self._above(x), y), out, y, groups, None)

    def _above(self, x: jax.Array, row: Index | None = None) -> jax.Array:
        """The vertical stack's input for the image f32[B, H, W, C], or only for its `row`."""
        above = row_above(x, row)
        return with_coordinates(above, x.shape[1], row) if self.coordinates else above

    def row(self, x: jax.Array, i: Index, y: jax.Array | None = None) -> list[jax.Array]:
        """The vertical stack's features for row i, f32[B, 1, W, 2 width] for each layer."""
        return self.vertical(self._above(x, i), y, cached=True)

    def pixel(
        self, x: jax.Array, side: list[jax.Array], place: tuple[Index, Index], out: int, y: jax.Array | None = None, *,
        groups: int = 1,
    ) -> jax.Array:  # fmt: skip
        """f32[B, out] for the pixel at (row, column)."""
        return self.horizontal(x, side, out, y, groups, Place(*place, x.shape[2]))[:, 0, 0]
