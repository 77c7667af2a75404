"""2-D convolutions whose gradients stay fast inside a compiled loop, to any order.

Dimensions are NHWC for images and HWIO for kernels throughout. y = C(x, k) is linear in each, and so are its
transposes dx = X(k, dy) and dk = K(x, dy): the derivatives of each of the three are the other two.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxgen.ops.patches import depth_to_space

DIMS = ("NHWC", "HWIO", "NHWC")
Sizes = tuple[int, int]
Pads = tuple[Sizes, Sizes]
NONE: Pads = ((0, 0), (0, 0))
NARROW = 8  # outputs up to which `upconv` is one convolution


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv(x: jax.Array, kernel: jax.Array, strides: Sizes = (1, 1), pads: Pads = NONE) -> jax.Array:
    """Convolution of f32[B, H, W, I] with f32[h, w, I, O], XLA's own.

    Differentiated as usual, XLA folds the transposes of both gradients into the convolutions' dimension numbers once
    they stand in the body of a while loop, and its CPU back end then has only a naive loop for them: a 3x3
    convolution's gradients take 1,224 ms for five steps of a scan against 49 ms this way. Reverse mode only: jacrev
    and vjp work, to any order; jacfwd and jvp do not.
    """
    return _xla(x, kernel, strides, pads)


# Both gradients as convolutions in the plain NHWC form on a CPU; barriers keep the transposes where they stand.


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _to_image(kernel: jax.Array, dy: jax.Array, strides: Sizes, pads: Pads, size: Sizes) -> jax.Array:
    """X: what y's gradient dy is for an image of `size`."""

    def default(kernel: jax.Array, dy: jax.Array) -> jax.Array:
        x = jax.ShapeDtypeStruct((dy.shape[0], *size, kernel.shape[2]), dy.dtype)
        return jax.linear_transpose(lambda x: _xla(x, kernel, strides, pads), x)(dy)[0]

    def plain(kernel: jax.Array, dy: jax.Array) -> jax.Array:
        """dx[n, i] = sum_{a, o} dy[(n + low - a) / s, o] kernel[a, i, o] over whole quotients."""
        flipped = lax.optimization_barrier(kernel[::-1, ::-1].swapaxes(2, 3))
        sizes = zip(kernel.shape[:2], pads, size, strides, dy.shape[1:3], strict=True)
        around = [(k - 1 - lo, n - s * (m - 1) + lo - 1) for k, (lo, _), n, s, m in sizes]
        return lax.conv_general_dilated(dy, flipped, (1, 1), around, lhs_dilation=strides, dimension_numbers=DIMS)

    return lax.platform_dependent(kernel, dy, cpu=plain, default=default)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _to_kernel(x: jax.Array, dy: jax.Array, strides: Sizes, pads: Pads, taps: Sizes) -> jax.Array:
    """K: what y's gradient dy is for a kernel of `taps`."""

    def default(x: jax.Array, dy: jax.Array) -> jax.Array:
        kernel = jax.ShapeDtypeStruct((*taps, x.shape[3], dy.shape[3]), dy.dtype)
        return jax.linear_transpose(lambda kernel: _xla(x, kernel, strides, pads), kernel)(dy)[0]

    def plain(x: jax.Array, dy: jax.Array) -> jax.Array:
        """dk[a, i, o] = sum_{b, p} x[b, s p + a - low, i] dy[b, p, o]."""
        sizes = zip(taps, pads, x.shape[1:3], strides, dy.shape[1:3], strict=True)
        around = [(lo, k + s * (m - 1) - n - lo) for k, (lo, _), n, s, m in sizes]
        x, dy = lax.optimization_barrier((x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3)))
        dk = lax.conv_general_dilated(x, dy, (1, 1), around, rhs_dilation=strides, dimension_numbers=DIMS)
        return lax.optimization_barrier(dk).transpose(1, 2, 0, 3)

    return lax.platform_dependent(x, dy, cpu=plain, default=default)


conv.defvjp(
    lambda x, kernel, *how: (conv(x, kernel, *how), (x, kernel)),
    lambda strides, pads, saved, dy: (
        _to_image(saved[1], dy, strides, pads, saved[0].shape[1:3]),
        _to_kernel(saved[0], dy, strides, pads, saved[1].shape[:2]),
    ),
)
_to_image.defvjp(
    lambda kernel, dy, *how: (_to_image(kernel, dy, *how), (kernel, dy)),
    lambda strides, pads, size, saved, gx: (
        _to_kernel(gx, saved[1], strides, pads, saved[0].shape[:2]),
        conv(gx, saved[0], strides, pads),
    ),
)
_to_kernel.defvjp(
    lambda x, dy, *how: (_to_kernel(x, dy, *how), (x, dy)),
    lambda strides, pads, taps, saved, gk: (
        _to_image(gk, saved[1], strides, pads, saved[0].shape[1:3]),
        conv(saved[0], gk, strides, pads),
    ),
)


def _xla(x: jax.Array, kernel: jax.Array, strides: Sizes = (1, 1), pads: Pads = NONE) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=DIMS)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def narrow_conv(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    """`conv` of stride 1 for kernels of a few taps: on CPU the weight gradient is one matrix product, with what lies
    under each tap side by side."""
    return conv(x, kernel, (1, 1), pads)


def _narrow_backward(pads: Pads, saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    taps, (height, width) = kernel.shape[:2], dy.shape[1:3]

    def product(x: jax.Array, dy: jax.Array) -> jax.Array:
        padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
        under = [padded[:, a : a + height, b : b + width] for a in range(taps[0]) for b in range(taps[1])]
        return jnp.einsum("bhwi,bhwo->io", jnp.concatenate(under, axis=-1), dy).reshape(kernel.shape)

    def default(x: jax.Array, dy: jax.Array) -> jax.Array:
        return _to_kernel(x, dy, (1, 1), pads, taps)

    d_kernel = lax.platform_dependent(x, dy, cpu=product, default=default)
    return _to_image(kernel, dy, (1, 1), pads, x.shape[1:3]), d_kernel


narrow_conv.defvjp(lambda x, kernel, pads: (narrow_conv(x, kernel, pads), (x, kernel)), _narrow_backward)


def upconv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed convolution, kernel 4, stride 2, padding 1 in PyTorch's sense: f32[B, H, W, I] -> [B, 2H, 2W, O].

    kernel: f32[4, 4, I, O]; y[o] = sum_i x[i] kernel[o + 1 - 2i]. An even output row sees taps 3 and 1 of two input
    rows, an odd one taps 2 and 0, so the result is four 2x2 convolutions interleaved; the direct form's gradient is
    16 times slower on XLA's CPU.
    """
    batch, height, width, _ = x.shape
    phases = [(a, b) for a in (0, 1) for b in (0, 1)]
    taps = [kernel[3 - a :: -2, 3 - b :: -2] for a, b in phases]
    if kernel.shape[-1] <= NARROW:
        # With a few outputs each, four convolutions spend their time on reading x: one of 3x3 reads it once.
        around = [((a, 1 - a), (b, 1 - b), (0, 0), (0, 0)) for a, b in phases]
        merged = jnp.concatenate([jnp.pad(t, pads) for t, pads in zip(taps, around, strict=True)], axis=-1)
        return depth_to_space(conv(x, merged, pads=((1, 1), (1, 1))), 2)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    parts = [conv(padded[:, a : a + height + 1, b : b + width + 1], t) for (a, b), t in zip(phases, taps, strict=True)]
    rows = [jnp.stack(parts[i : i + 2], axis=3) for i in (0, 2)]
    return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, kernel.shape[-1])


def doubled_kernel(kernel: jax.Array) -> jax.Array:
    """The 4x4 kernel with which `upconv` does what nearest doubling and a 3x3 SAME convolution do.

    kernel: f32[3, 3, I, O]. After doubling, two neighbouring taps often meet the same input pixel: adding them first
    leaves 4 / 9 of the products.
    """
    for axis in (0, 1):
        after, before = [(0, 0)] * 4, [(0, 0)] * 4
        after[axis], before[axis] = (0, 1), (1, 0)
        flipped = jnp.flip(kernel, axis)
        kernel = jnp.pad(flipped, after) + jnp.pad(flipped, before)
    return kernel
