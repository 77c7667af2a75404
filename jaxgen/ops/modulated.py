"""The operations of style-based networks: resampling with the filter [1, 3, 3, 1], and modulated convolution.

Section 2.2 of arXiv:1912.04958. A style s scales the input channels of a kernel, w'_ijk = s_i w_ijk (eq. 1), and the
outputs are divided by the standard deviation that they would have for inputs of unit variance (eq. 3). Scaling the
input and output images instead is equivalent, so one kernel serves the whole batch without grouped convolution. Images
are f32[B, H, W, C].
"""

from functools import reduce

import jax
import jax.numpy as jnp

from jaxgen.ops.conv import conv
from jaxgen.ops.linear import Multilinear

FILTER = (1 / 8, 3 / 8, 3 / 8, 1 / 8)


def _filtered(x: jax.Array, axis: int, pad: tuple[int, int], stride: int = 1) -> jax.Array:
    """sum_k FILTER[k] x[stride n + k - pad[0]] along an axis, with zeros outside. Computed as a sum of shifted arrays,
    as XLA's depthwise convolution is three times slower on CPU."""
    x = jnp.pad(x, [pad if i == axis else (0, 0) for i in range(x.ndim)])
    reach = x.shape[axis] - len(FILTER) + 1
    taps = [tap * jax.lax.slice_in_dim(x, k, k + reach, stride, axis) for k, tap in enumerate(FILTER)]
    return reduce(jnp.add, taps)


def blur(x: jax.Array, pad: int) -> jax.Array:
    """Filters along both axes with `pad` zeros on each side, 0 to 3; the result is larger by 2 pad - 3 pixels."""
    return _blur(x, pad=pad)


def downsample(x: jax.Array) -> jax.Array:
    """Filters, then keeps every other pixel: f32[B, H / 2, W / 2, C], for even H and W."""
    return _down(x)


def upsample(x: jax.Array) -> jax.Array:
    """Inserts zeros between pixels, then filters with weight 4: f32[B, 2 H, 2 W, C]. An even output pixel is 3/4 of its
    input pixel plus 1/4 of the one before; an odd one is 3/4 of its input pixel plus 1/4 of the one after."""
    return _up(x)


def _doubled(x: jax.Array) -> jax.Array:
    for axis in (1, 2):
        size = x.shape[axis]
        padded = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(x.ndim)])
        before, here, after = (jax.lax.slice_in_dim(padded, k, k + size, axis=axis) for k in range(3))
        pair = jnp.stack([0.25 * before + 0.75 * here, 0.75 * here + 0.25 * after], axis=axis + 1)
        x = pair.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
    return x


# The filter is symmetric, so that gradients are resampled in the same ways. JAX's own, sums of padded arrays, take ten
# times as long on a CPU.
_blur = Multilinear(lambda x, pad: _filtered(_filtered(x, 1, (pad, pad)), 2, (pad, pad)))
_down = Multilinear(lambda x: _filtered(_filtered(x, 1, (1, 1), 2), 2, (1, 1), 2))
_up = Multilinear(_doubled)
_blur.transpose_by(lambda dy, x, pad: _blur(dy, pad=len(FILTER) - 1 - pad))
_down.transpose_by(lambda dy, x: _up(dy) / 4)
_up.transpose_by(lambda dy, x: 4 * _down(dy))


def conv_same(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution with an odd square kernel [k, k, I, O], SAME padding."""
    pad = kernel.shape[0] // 2
    return conv(x, kernel, (1, 1), ((pad, pad), (pad, pad)))


def conv_down(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Filters, then convolves with stride 2, which halves an even size. kernel: f32[3, 3, I, O] or [1, 1, I, O]."""
    if kernel.shape[0] == 1:
        return conv(downsample(x), kernel)
    return conv(blur(x, 2), kernel, (2, 2))


def conv_up(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed convolution of stride 2, then a filter of weight 4: doubles the size. kernel: f32[3, 3, I, O].

    Before the filter, y[o] = sum_i x[i] kernel[o - 2 i] for o in 0 ... 2 H. An even row of y combines two input rows by
    taps 0 and 2, an odd row one input row by tap 1. So y is four interleaved convolutions, one for each phase; unlike
    the direct form, these have fast gradients on XLA's CPU.
    """
    batch, height, width, _ = x.shape

    def phase(a: int, b: int) -> jax.Array:
        taps = tuple(slice(1, 2) if odd else slice(2, None, -2) for odd in (a, b))
        y = conv(x, kernel[taps], (1, 1), tuple((0, 0) if odd else (1, 1) for odd in (a, b)))
        # An odd phase is one row short, which is cut off below. As padding of the convolution, that row would be as
        # wide as its kernel, and the gradients XLA's naive loops.
        return jnp.pad(y, ((0, 0), (0, a), (0, b), (0, 0)))

    rows = [jnp.stack([phase(a, 0), phase(a, 1)], axis=3) for a in (0, 1)]
    y = jnp.stack(rows, axis=2).reshape(batch, 2 * height + 2, 2 * width + 2, kernel.shape[-1])
    return 4 * blur(y[:, :-1, :-1], 1)


def demodulation(kernel: jax.Array, style: jax.Array) -> jax.Array:
    """1 / sqrt(sum_ik (s_i w_ijk)^2), f32[B, O], eq. 3: kernel f32[h, w, I, O], style f32[B, I]."""
    return jax.lax.rsqrt(style**2 @ jnp.sum(kernel**2, axis=(0, 1)) + 1e-8)


def modulated_conv(
    x: jax.Array, kernel: jax.Array, style: jax.Array, demodulate: bool = True, up: bool = False
) -> jax.Array:
    """Convolves each example with the kernel modulated by its style: [B, H, W, I] to [B, H, W, O], or to
    [B, 2 H, 2 W, O] with `up`. kernel: f32[k, k, I, O]; style: f32[B, I]. Computed in the dtype of x."""
    y = (conv_up if up else conv_same)(x * style[:, None, None].astype(x.dtype), kernel.astype(x.dtype))
    return y * demodulation(kernel, style)[:, None, None].astype(y.dtype) if demodulate else y
