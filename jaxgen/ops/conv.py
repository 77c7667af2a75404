"""2-D convolutions whose gradients stay fast inside a compiled loop, to any order.

Dimensions are NHWC for images and HWIO for kernels throughout. y = C(x, k) is linear in each, and so are its
transposes dx = X(k, dy) and dk = K(x, dy): the transposes of each of the three are the other two.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxgen.ops.linear import Multilinear

DIMS = ("NHWC", "HWIO", "NHWC")
Sizes = tuple[int, int]
Pads = tuple[Sizes, ...]
NONE: Pads = ((0, 0), (0, 0))
NARROW = 8  # up to so many channels, one dilated convolution is faster than one for each phase


def conv(x: jax.Array, kernel: jax.Array, strides: Sizes = (1, 1), pads: Pads = NONE) -> jax.Array:
    """Convolution of f32[B, H, W, I] with f32[h, w, I, O], XLA's own. Differentiable in both modes, to any order.

    Why it has its own gradients: inside a while loop, XLA folds the transposes of the usual gradients into the
    convolutions' dimension numbers, for which its CPU back end has only a naive loop. The gradients of a 3x3
    convolution in five steps of a scan take 49 ms this way instead of 1,224 ms.
    """
    return _conv(x, kernel, strides=strides, pads=pads)


# On a CPU, both gradients are convolutions in the plain NHWC form. Barriers keep XLA from folding the transposes.


def _image_gradient(kernel: jax.Array, dy: jax.Array, strides: Sizes, pads: Pads, size: Sizes) -> jax.Array:
    """X: the gradient for an image of `size`, from the gradient dy of the output."""

    def default(kernel: jax.Array, dy: jax.Array) -> jax.Array:
        x = jax.ShapeDtypeStruct((dy.shape[0], *size, kernel.shape[2]), dy.dtype)
        return jax.linear_transpose(lambda x: _xla(x, kernel, strides, pads), x)(dy)[0]

    def plain(kernel: jax.Array, dy: jax.Array) -> jax.Array:
        """dx[n, i] = sum_{a, o} dy[(n + low - a) / s, o] kernel[a, i, o] where s divides n + low - a."""
        flipped = lax.optimization_barrier(kernel[::-1, ::-1].swapaxes(2, 3))
        rows, columns = (_phases(*of) for of in zip(kernel.shape[:2], strides, pads, size, dy.shape[1:3], strict=True))
        if kernel.shape[2] > NARROW and rows and columns:
            parts = [[_forward(dy, flipped[y, x], (1, 1), (ys, xs)) for x, xs in columns] for y, ys in rows]
            interleaved = jnp.stack([jnp.stack(row, axis=3) for row in parts], axis=2)
            return interleaved.reshape(dy.shape[0], *size, kernel.shape[2])
        sizes = zip(kernel.shape[:2], pads, size, strides, dy.shape[1:3], strict=True)
        around = tuple((k - 1 - lo, n - s * (m - 1) + lo - 1) for k, (lo, _), n, s, m in sizes)
        if strides == (1, 1):
            return _on_cpu(dy, flipped, strides, around)
        return lax.conv_general_dilated(dy, flipped, (1, 1), around, lhs_dilation=strides, dimension_numbers=DIMS)

    # XLA's CPU convolutions give wrong results where padding is negative.
    usual = all(s <= k > max(pad) for k, s, pad in zip(kernel.shape[:2], strides, pads, strict=True))
    return lax.platform_dependent(kernel, dy, cpu=plain if usual else default, default=default)


def _phases(k: int, s: int, pad: Sizes, n: int, m: int) -> list[tuple[slice, Sizes]]:
    """The image's gradient along one axis as s convolutions, one for the pixels of each residue modulo the stride s.

    k: taps of the flipped kernel; n: pixels of the image; m: pixels of dy. For each residue: the slice of taps that
    reach its pixels, and the padding of dy. A dilated dy would have zeros between its pixels; without them only 1 / s
    of the products remain. Empty where n, k, s and the padding do not allow it."""
    found = []
    for residue in range(s):
        first, ahead = (residue + pad[0]) % s, (residue + pad[0]) // s
        count = len(range(first, k, s))
        before = count - 1 - ahead
        after = n // s + ahead - m
        if n % s or min(before, after) < 0:
            return []
        found.append((slice((k - 1 - first) % s, None, s), (before, after)))
    return found


def _kernel_gradient(x: jax.Array, dy: jax.Array, strides: Sizes, pads: Pads, taps: Sizes) -> jax.Array:
    """K: the gradient for a kernel of `taps`, from the gradient dy of the output."""

    def default(x: jax.Array, dy: jax.Array) -> jax.Array:
        kernel = jax.ShapeDtypeStruct((*taps, x.shape[3], dy.shape[3]), dy.dtype)
        return jax.linear_transpose(lambda kernel: _xla(x, kernel, strides, pads), kernel)(dy)[0]

    def plain(x: jax.Array, dy: jax.Array) -> jax.Array:
        """dk[a, i, o] = sum_{b, p} x[b, s p + a - low, i] dy[b, p, o]."""
        sizes = zip(taps, pads, x.shape[1:3], strides, dy.shape[1:3], strict=True)
        around = tuple((lo, k + s * (m - 1) - n - lo) for k, (lo, _), n, s, m in sizes)
        x, dy = lax.optimization_barrier((x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3)))
        dk = _on_cpu(x, dy, (1, 1), around, strides)
        return lax.optimization_barrier(dk).transpose(1, 2, 0, 3)

    return lax.platform_dependent(x, dy, cpu=plain, default=default)


def _forward(x: jax.Array, kernel: jax.Array, strides: Sizes, pads: Pads) -> jax.Array:
    default = partial(_xla, strides=strides, pads=pads)
    if not _exceeds(x, kernel, pads):
        return default(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=partial(_on_cpu, strides=strides, pads=pads), default=default)


def _exceeds(x: jax.Array, kernel: jax.Array, pads: Pads, spread: Sizes = (1, 1)) -> bool:
    """Whether the kernel, its taps `spread` pixels apart, is larger than the image and fits the padded one."""
    reach = [s * (k - 1) + 1 for s, k in zip(spread, kernel.shape[:2], strict=True)]
    room = [n + sum(pad) for n, pad in zip(x.shape[1:3], pads, strict=True)]
    return any(r > n for r, n in zip(reach, x.shape[1:3])) and all(r <= n for r, n in zip(reach, room))


def _on_cpu(x: jax.Array, kernel: jax.Array, strides: Sizes, pads: Pads, spread: Sizes = (1, 1)) -> jax.Array:
    """The convolution, the kernel's taps `spread` pixels apart. For a kernel larger than the image XLA's CPU back end
    has only a naive loop, of a fiftieth of the speed: the image is padded beforehand."""
    if _exceeds(x, kernel, pads, spread):
        padding = [(lo, hi, 0) for lo, hi in ((0, 0), *pads, (0, 0))]
        x, pads = lax.optimization_barrier(lax.pad(x, jnp.zeros((), x.dtype), padding)), NONE
    return lax.conv_general_dilated(x, kernel, strides, pads, rhs_dilation=spread, dimension_numbers=DIMS)


def patches(x: jax.Array, taps: Sizes, strides: Sizes, pads: Pads) -> jax.Array:
    """What of f32[B, H, W, I] lies under each place of a kernel: f32[B, H', W', h w I] (im2col)."""
    padded = lax.pad(x, jnp.zeros((), x.dtype), [(lo, hi, 0) for lo, hi in ((0, 0), *pads, (0, 0))])
    height, width = ((n - k) // s + 1 for n, k, s in zip(padded.shape[1:3], taps, strides, strict=True))
    rows, columns = ((n - 1) * s + 1 for n, s in zip((height, width), strides, strict=True))
    return jnp.concatenate(
        [
            padded[:, a : a + rows : strides[0], b : b + columns : strides[1]]
            for a in range(taps[0]) for b in range(taps[1])
        ],
        axis=-1,
    )  # fmt: skip


def _xla(x: jax.Array, kernel: jax.Array, strides: Sizes, pads: Pads) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=DIMS)


_conv, _to_image, _to_kernel = (Multilinear(f) for f in (_forward, _image_gradient, _kernel_gradient))
_conv.transpose_by(
    lambda dy, x, kernel, strides, pads: _to_image(kernel, dy, strides=strides, pads=pads, size=x.shape[1:3]),
    lambda dy, x, kernel, strides, pads: _to_kernel(x, dy, strides=strides, pads=pads, taps=kernel.shape[:2]),
)
_to_image.transpose_by(
    lambda gx, kernel, dy, strides, pads, size: _to_kernel(gx, dy, strides=strides, pads=pads, taps=kernel.shape[:2]),
    lambda gx, kernel, dy, strides, pads, size: conv(gx, kernel, strides, pads),
)
_to_kernel.transpose_by(
    lambda gk, x, dy, strides, pads, taps: _to_image(gk, dy, strides=strides, pads=pads, size=x.shape[1:3]),
    lambda gk, x, dy, strides, pads, taps: conv(x, gk, strides, pads),
)


def narrow_conv(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    """`conv` of stride 1 for kernels of a few taps. On a CPU, the kernel's gradient is one matrix product with the
    image patches (im2col)."""
    return _narrow(x, kernel, pads=pads)


def _narrow_kernel_gradient(dy: jax.Array, x: jax.Array, kernel: jax.ShapeDtypeStruct, pads: Pads) -> jax.Array:
    taps: Sizes = (kernel.shape[0], kernel.shape[1])

    def product(x: jax.Array, dy: jax.Array) -> jax.Array:
        return jnp.einsum("bhwi,bhwo->io", patches(x, taps, (1, 1), pads), dy).reshape(kernel.shape)

    def default(x: jax.Array, dy: jax.Array) -> jax.Array:
        return _to_kernel(x, dy, strides=(1, 1), pads=pads, taps=taps)

    return lax.platform_dependent(x, dy, cpu=product, default=default)


_narrow = Multilinear(lambda x, kernel, pads: _forward(x, kernel, (1, 1), pads))
_narrow.transpose_by(
    lambda dy, x, kernel, pads: _to_image(kernel, dy, strides=(1, 1), pads=pads, size=x.shape[1:3]),
    _narrow_kernel_gradient,
)


def upconv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed convolution, kernel 4, stride 2, padding 1 in PyTorch's sense: f32[B, H, W, I] -> [B, 2H, 2W, O].

    kernel: f32[4, 4, I, O]. y[o] = sum_i x[i] kernel[o + 1 - 2i]: the image's gradient of a `conv` with stride 2.
    """
    size = 2 * x.shape[1], 2 * x.shape[2]
    return _to_image(kernel.swapaxes(2, 3), x, strides=(2, 2), pads=((1, 1), (1, 1)), size=size)


def doubled_kernel(kernel: jax.Array) -> jax.Array:
    """The 4x4 kernel with which `upconv` equals nearest-neighbour upsampling by two and a 3x3 SAME convolution.

    kernel: f32[3, 3, I, O]. After upsampling, neighbouring taps often meet the same input pixel. Adding those taps
    beforehand leaves 4 / 9 of the products.
    """
    for axis in (0, 1):
        after, before = [(0, 0)] * 4, [(0, 0)] * 4
        after[axis], before[axis] = (0, 1), (1, 0)
        flipped = jnp.flip(kernel, axis)
        kernel = jnp.pad(flipped, after) + jnp.pad(flipped, before)
    return kernel
