"""2-D convolutions whose gradients stay fast inside a compiled loop.

Dimensions are NHWC for images and HWIO for kernels throughout.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

DIMS = ("NHWC", "HWIO", "NHWC")
Pads = tuple[tuple[int, int], tuple[int, int]]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv(x: jax.Array, kernel: jax.Array, strides: tuple[int, int] = (1, 1), pads: Pads = ((0, 0), (0, 0))):
    """Convolution of f32[B, H, W, I] with f32[h, w, I, O]: XLA's own forward, and its gradients bit for bit.

    Differentiated as usual, XLA folds the transposes of both gradients into the convolutions' dimension numbers once
    they stand in the body of a while loop, and its CPU back end then has only a naive loop for them: a 3x3
    convolution's gradients take 1,224 ms for five steps of a scan against 49 ms this way. Reverse mode only: jacrev
    and vjp work, to any order; jacfwd and jvp do not.
    """
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=DIMS)


def _forward(x, kernel, strides, pads):
    return conv(x, kernel, strides, pads), (x, kernel)


def _backward(strides, pads, residuals, dy):
    return lax.platform_dependent(
        *residuals, dy, cpu=partial(_plain_gradients, strides, pads), default=partial(_gradients, strides, pads)
    )


def _gradients(strides, pads, x, kernel, dy):
    def forward(x, kernel):
        return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=DIMS)

    return jax.vjp(forward, x, kernel)[1](dy)


def _plain_gradients(strides, pads, x, kernel, dy):
    """Both gradients as convolutions in the plain NHWC form; barriers keep the transposes where they stand."""
    height, width = x.shape[1:3]
    low = (pads[0][0], pads[1][0])
    reach = [stride * (n - 1) for stride, n in zip(strides, dy.shape[1:3], strict=True)]
    x_t, dy_t, kernel_t = lax.optimization_barrier(
        (x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), kernel[::-1, ::-1].swapaxes(2, 3))
    )
    sizes = list(zip(kernel.shape[:2], (height, width), low, reach, strict=True))
    # dkernel[a, i, o] = sum_{b, p} x[b, s p + a - low, i] dy[b, p, o]
    d_kernel = lax.conv_general_dilated(
        x_t, dy_t, (1, 1), [(lo, k + r - n - lo) for k, n, lo, r in sizes], rhs_dilation=strides, dimension_numbers=DIMS
    )
    # dx[b, n, i] = sum_{a, o} dy[b, (n + low - a) / s, o] kernel[a, i, o] over whole quotients
    d_x = lax.conv_general_dilated(
        dy, kernel_t, (1, 1), [(k - 1 - lo, n - r + lo - 1) for k, n, lo, r in sizes], lhs_dilation=strides,
        dimension_numbers=DIMS,
    )  # fmt: skip
    return d_x, lax.optimization_barrier(d_kernel).transpose(1, 2, 0, 3)


conv.defvjp(_forward, _backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def narrow_conv(x: jax.Array, kernel: jax.Array, pads: Pads):
    """`conv` of stride 1 for kernels of a few taps: on CPU the weight gradient is one matrix product, with what lies
    under each tap side by side, which takes half the time for 2 x 3 taps and 32 to 64 channels. Reverse mode only.
    """
    return conv(x, kernel, (1, 1), pads)


def _narrow_forward(x, kernel, pads):
    return narrow_conv(x, kernel, pads), (x, kernel)


def _narrow_backward(pads, residuals, dy):
    return lax.platform_dependent(
        *residuals, dy, cpu=partial(_tap_gradients, pads), default=partial(_gradients, (1, 1), pads)
    )


def _tap_gradients(pads, x, kernel, dy):
    rows, columns = kernel.shape[:2]
    height, width = dy.shape[1:3]
    flipped = lax.optimization_barrier(kernel[::-1, ::-1].swapaxes(2, 3))
    # y[n] meets x[n + a - low] at tap a, so dx[n] meets dy[n + low - a].
    back = [(k - 1 - low, k - 1 - high) for k, (low, high) in zip(kernel.shape[:2], pads, strict=True)]
    d_x = lax.conv_general_dilated(dy, flipped, (1, 1), back, dimension_numbers=DIMS)
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    taps = [padded[:, a : a + height, b : b + width] for a in range(rows) for b in range(columns)]
    d_kernel = jnp.einsum("bhwi,bhwo->io", jnp.concatenate(taps, axis=-1), dy)
    return d_x, d_kernel.reshape(kernel.shape)


narrow_conv.defvjp(_narrow_forward, _narrow_backward)


def upconv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed convolution, kernel 4, stride 2, padding 1 in PyTorch's sense: f32[B, H, W, I] -> [B, 2H, 2W, O].

    kernel: f32[4, 4, I, O]; y[o] = sum_i x[i] kernel[o + 1 - 2i]. An even output row sees taps 3 and 1 of two input
    rows, an odd one taps 2 and 0, so the result is four 2x2 convolutions interleaved; the direct form's gradient is
    16 times slower on XLA's CPU.
    """
    batch, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def phase(a: int, b: int) -> jax.Array:
        taps = kernel[3 - a :: -2, 3 - b :: -2]
        return conv(padded[:, a : a + height + 1, b : b + width + 1], taps)

    rows = [jnp.stack([phase(a, 0), phase(a, 1)], axis=3) for a in (0, 1)]
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
