"""Layers of published feature networks, for inference: convolutions with ReLU and poolings, in forms fast on a CPU.

NHWC throughout. Functions that take a name create a submodule of that name in the module that calls them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxgen.core.ranges import Shape
from jaxgen.ops import conv as ops

# Features must equal those of other implementations; by default TPUs multiply in bfloat16 and GPUs in TF32.
EXACT = lax.Precision.HIGHEST


class Affine(nn.Module):
    """The kernel, of `shape`, and the bias of one layer, returned for the caller to compute with."""

    shape: Shape

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        kernel = self.param("kernel", nn.initializers.he_normal(), self.shape)
        return kernel, self.param("bias", nn.initializers.zeros, self.shape[-1:])


def conv(
    name: str, x: jax.Array, features: int, size: tuple[int, int] = (1, 1), stride: int = 1, pad: int | None = None
) -> jax.Array:
    """ReLU of a convolution with bias, f32[B, H, W, C] -> f32[B, H', W', features].

    pad: zeros at each border; half the kernel's size if None. Without padding, the convolution is computed padded and
    then cropped: XLA's CPU back end takes two to four times as long for an unpadded one.
    """
    kernel, bias = Affine((*size, x.shape[-1], features), name=name)()
    if size == (1, 1):  # a matrix product, twice as fast as XLA's convolution
        return nn.relu(jnp.dot(x, kernel[0, 0], precision=EXACT) + bias[None, None, None])
    crop = pad == 0
    pads = [(n // 2, n // 2) if pad is None else (stride, stride) if crop else (pad, pad) for n in size]
    with jax.default_matmul_precision("highest"):
        y = ops.conv(x, kernel, (stride, stride), tuple(pads))
    if crop:
        height, width = ((n - k) // stride + 1 for n, k in zip(x.shape[1:3], size))
        y = y[:, 1 : 1 + height, 1 : 1 + width]
    return nn.relu(y + bias[None, None, None])


def pointwise(x: jax.Array, **heads: int) -> list[jax.Array]:
    """1x1 convolutions of x with bias and without ReLU, as one matrix product. heads: their features by name."""
    kernels, biases = zip(*(Affine((1, 1, x.shape[-1], n), name=name)() for name, n in heads.items()))
    kernel, bias = jnp.concatenate(kernels, axis=-1)[0, 0], jnp.concatenate(biases)
    y = jnp.dot(x, kernel, precision=EXACT) + bias[None, None, None]
    widths = list(heads.values())
    return jnp.split(y, [sum(widths[:i]) for i in range(1, len(widths))], axis=-1)


def dense(name: str, x: jax.Array, features: int) -> jax.Array:
    """A linear layer with bias: f32[B, C] -> f32[B, features]."""
    kernel, bias = Affine((x.shape[-1], features), name=name)()
    return jnp.dot(x, kernel, precision=EXACT) + bias[None]


def max_pool(x: jax.Array, size: int = 3, stride: int = 2, pad: int = 0) -> jax.Array:
    """Maximum over size x size windows."""
    for axis in (1, 2):
        x = _windows(_padded(x, axis, pad, -jnp.inf), axis, size, stride, jnp.maximum)
    return x


def mean_pool(x: jax.Array) -> jax.Array:
    """Mean over 3x3 windows, stride 1, of the pixels inside the image; height and width stay the same."""
    for axis in (1, 2):
        inside = jnp.ones([n if i == axis else 1 for i, n in enumerate(x.shape)])
        x, count = (_windows(_padded(a, axis, 1, 0.0), axis, 3, 1, jnp.add) for a in (x, inside))
        x = x / count
    return x


def _padded(x: jax.Array, axis: int, pad: int, value: float) -> jax.Array:
    return jnp.pad(x, [(pad, pad) if i == axis else (0, 0) for i in range(x.ndim)], constant_values=value)


def _windows(x: jax.Array, axis: int, size: int, stride: int, combine: Callable) -> jax.Array:
    """Windows of `size` along an axis reduced by `combine`. On XLA's CPU back end, slices take a half to a fifth of the
    time of `reduce_window`."""
    reach = stride * ((x.shape[axis] - size) // stride) + 1
    result = lax.slice_in_dim(x, 0, reach, stride, axis)
    for i in range(1, size):
        result = combine(result, lax.slice_in_dim(x, i, i + reach, stride, axis))
    return result
