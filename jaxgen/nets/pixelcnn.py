"""Networks over images in raster order: the output at a pixel sees only pixels before it. Plain and gated PixelCNN.

A network is made of two streams. `Vertical` layers see whole rows above and go from row to row; `causal` layers see
what is left of the pixel too and go from pixel to pixel. Each layer can compute a whole image, or only what the next
row or pixel adds, from the few rows of its input that it keeps in the collection `cache`: the same parameters, the same
code. A network has

- `net(x, out, y, ...)`: f32[B, H, W, C] -> f32[B, H, W, out], the whole image at once;
- `net.row(x, i, y)`: what rows above say to the pixels of row i, a pytree; x: the image as far as it is known;
- `net.pixel(x, side, i, j, out, y, ...)`: f32[B, out] of pixel (i, j), `side` being its row's.

Rows and pixels must come in order, as the caches are those of the pixels before. y: one-hot f32[B, K] or None.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from jaxgen.errors import UserError
from jaxgen.nets.dense import Dense
from jaxgen.ops.conv import conv, narrow_conv

KERNEL = nn.initializers.lecun_normal()


@dataclass(frozen=True)
class Place:
    """A pixel, i32[] and i32[], in rows of so many."""

    row: jax.Array
    column: jax.Array
    width: int

    def halved(self) -> "Place":
        """The pixel of the half-sized image that holds it."""
        return Place(self.row // 2, self.column // 2, self.width // 2)

    def of(self, rows: jax.Array) -> jax.Array:
        """The pixel [B, 1, 1, C] of its row [B, 1, W, C]."""
        return jax.lax.dynamic_slice_in_dim(rows, self.column, 1, axis=2)


class VerticalConv(nn.Module):
    """Convolution over size[0] rows, of which the last is the output's own, and size[1] columns about it.

    cached: x is the next row alone, f32[B, 1, W, C]; the rows above are those of the calls before.
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
    """bool[rows, columns, channels, features]: which weights a causal convolution has; the last row is the output's
    own, its centre `right` columns from the end.

    At the centre, channels and features are split in `groups` of neighbours, one for each channel of a pixel: group g
    sees groups before g (first: mask A) and itself (not first: mask B). Section 3.3 of arXiv:1601.06759.
    """
    mask = np.ones((*size, channels, features), bool)
    centre = size[1] - 1 - right
    mask[-1, centre + 1 :] = False
    source = np.arange(channels)[:, None] * groups // channels
    target = np.arange(features)[None] * groups // features
    mask[-1, centre] = source < target if first else source <= target
    return mask


class CausalConv(nn.Module):
    """Convolution over size[0] rows, of which the last is the output's own, and size[1] columns, `right` of them to the
    right; what does not come before the output in raster order is masked (`causal_mask`).

    place: x is that pixel alone, f32[B, 1, 1, C], and so is the result; pixels before it are those of earlier calls,
    the last call at the same place counting. Where the layer is the first, x is the whole image nevertheless.
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
            window = self._of_image(x, place, left) if self.first else self._kept(x, place, left)
            x = (window.reshape(x.shape[0], -1) @ kernel.reshape(-1, self.features))[:, None, None]
        return x + bias[None, None, None]

    def _of_image(self, image: jax.Array, place: Place, left: int) -> jax.Array:
        """The pixels under the kernel at `place`, [B, *size, C], zeros beyond the border."""
        rows, columns = self.size
        padded = jnp.pad(image, ((0, 0), (rows - 1, 0), (left, self.right), (0, 0)))
        window = jax.lax.dynamic_slice_in_dim(padded, place.row, rows, axis=1)
        return jax.lax.dynamic_slice_in_dim(window, place.column, columns, axis=2)

    def _kept(self, x: jax.Array, place: Place, left: int) -> jax.Array:
        """The same of the layer's inputs so far, after x became the one at `place`."""
        rows, columns = self.size
        shape = (x.shape[0], rows, left + place.width + self.right, x.shape[-1])
        kept = self.variable("cache", "rows", jnp.zeros, shape, x.dtype)
        # Row i lies at i mod `rows`, over a row that no kernel reaches any more; what is left of it to the right of the
        # pixel meets weights that are masked.
        at = (0, place.row % rows, place.column + left, 0)
        kept.value = jax.lax.dynamic_update_slice(kept.value, x, at)
        window = jax.lax.dynamic_slice_in_dim(kept.value, place.column, columns, axis=2)
        return window if rows == 1 else window[:, (place.row + 1 + jnp.arange(rows)) % rows]


def row_above(x: jax.Array, row: jax.Array | None = None) -> jax.Array:
    """The image one row down, a row of zeros on top: [B, H, W, C]; of that only `row`, [B, 1, W, C], when given."""
    padded = jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)))
    return padded[:, :-1] if row is None else jax.lax.dynamic_slice_in_dim(padded, row, 1, axis=1)


def gate(x: jax.Array, groups: int = 1) -> jax.Array:
    """tanh of the first half times sigmoid of the second, of each group of channels: eq. 2 of arXiv:1606.05328."""
    a, b = jnp.split(x.reshape(*x.shape[:-1], groups, -1), 2, axis=-1)
    return (jnp.tanh(a) * nn.sigmoid(b)).reshape(*x.shape[:-1], -1)


def check_width(width: int, groups: int) -> None:
    """Raises UserError unless the features can be split among the channels of a pixel."""
    if width % groups:
        raise UserError(
            f"a width of {width} cannot be split among {groups} channels: give --model.network.width a multiple of "
            f"{groups}, or --model.likelihood one that is joint over channels"
        )


class PlainPixelCNN(nn.Module):
    """Masked convolutions alone: one `first_size` x `first_size` of mask A, then `layers` of mask B with ReLU before
    and a residual around, then two of 1 x 1. Section 3.5 of arXiv:1601.06759, without its bottlenecks.

    Above and to the right of each pixel lies a region that no depth of it sees, its blind spot. No batch norm: its
    statistics in training are of all pixels, later ones too, and with them the outputs.
    """

    width: int = 32
    layers: int = 6
    size: int = 3
    first_size: int = 7
    dtype: Any = None

    def check(self, shape: tuple[int, ...], groups: int) -> None:
        """Raises UserError for images of `shape` = (H, W, C) or groups that the network cannot take."""
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

    def row(self, x: jax.Array, i: jax.Array, y: jax.Array | None = None) -> tuple[()]:
        """Nothing: there is no vertical stream."""
        return ()

    def pixel(self, x, side, i, j, out, y=None, *, groups=1):
        """f32[B, out] of pixel (i, j)."""
        return self(x, out, y, groups=groups, place=Place(i, j, x.shape[2]))[:, 0, 0]


def with_coordinates(x: jax.Array, height: int, row: jax.Array | None = None) -> jax.Array:
    """x: [B, H, W, C], or its `row` alone, and after its channels a one, which tells the image from the zeros around
    it, and row and column in [-1, 1]: [B, H, W, C + 3]."""
    rows = jnp.arange(height) if row is None else jnp.reshape(row, 1)
    vertical = jnp.broadcast_to((2 * rows / max(height - 1, 1) - 1)[:, None], (len(rows), x.shape[2]))
    horizontal = jnp.broadcast_to(jnp.linspace(-1, 1, x.shape[2])[None], vertical.shape)
    place = jnp.stack([jnp.ones_like(vertical), vertical, horizontal], axis=-1).astype(x.dtype)
    return jnp.concatenate([x, jnp.broadcast_to(place[None], (x.shape[0], *place.shape))], axis=-1)


class GatedVertical(nn.Module):
    """The vertical stack: what it says to each layer of the horizontal one, f32[B, H, W, 2 width] each.

    x: f32[B, H, W, C], the image one row down. Unlike the paper's, layers add their input.
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
            # The first sees rows above alone, as x is one row down; the rest see rows whose features come from above.
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
    """The horizontal stack and the output, told by the vertical one: f32[B, H, W, out]."""

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

    size: of the square whose upper half a layer sees; kernels have the taps of that half alone: (size // 2 + 1, size)
    in the vertical stack, (1, size // 2 + 1) in the horizontal one. head: width of the last 1 x 1 layer before out.
    coordinates: the vertical stack is told where in the image it is, which convolutions alone find out only near the
    border, and not even there where zero is a value of pixels.
    """

    width: int = 32
    layers: int = 8
    size: int = 3
    first_size: int = 7
    head: int = 64
    coordinates: bool = False
    dtype: Any = None

    def check(self, shape: tuple[int, ...], groups: int) -> None:
        """Raises UserError for images of `shape` = (H, W, C) or groups that the network cannot take."""
        check_width(self.width, groups)
        check_width(self.head, groups)

    def setup(self) -> None:
        sizes = {"size": self.size, "first_size": self.first_size, "dtype": self.dtype}
        self.vertical = GatedVertical(self.width, self.layers, **sizes)
        self.horizontal = GatedHorizontal(self.width, head=self.head, **sizes)

    def __call__(
        self, x: jax.Array, out: int, y: jax.Array | None = None, *, groups: int = 1, train: bool = False
    ) -> jax.Array:
        return self.horizontal(x, self.vertical(self._above(x), y), out, y, groups, None)

    def _above(self, x: jax.Array, row: jax.Array | None = None) -> jax.Array:
        """What the vertical stack sees of the image f32[B, H, W, C], of `row` alone when given."""
        above = row_above(x, row)
        return with_coordinates(above, x.shape[1], row) if self.coordinates else above

    def row(self, x: jax.Array, i: jax.Array, y: jax.Array | None = None) -> list[jax.Array]:
        """What the vertical stack says along row i, f32[B, 1, W, 2 width] to each layer."""
        return self.vertical(self._above(x, i), y, cached=True)

    def pixel(self, x, side, i, j, out, y=None, *, groups=1):
        """f32[B, out] of pixel (i, j)."""
        return self.horizontal(x, side, out, y, groups, Place(i, j, x.shape[2]))[:, 0, 0]
