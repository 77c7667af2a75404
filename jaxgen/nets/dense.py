"""Dense layers over the last axis, arranged so that XLA's CPU back end computes them quickly."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import lax

from jaxgen.core.types import PyTree


def flatten_dot(lhs: jax.Array, rhs: jax.Array, dimension_numbers: Any, *args: Any, **kwargs: Any) -> jax.Array:
    """`lax.dot_general` over lhs's last axis, with lhs's other axes flattened into one and restored afterwards.

    The gradient with respect to rhs sums over those axes. If there are two or more, XLA's CPU back end first transposes
    copies of both factors, which made a training step of a transformer take nearly twice as long.
    """
    ((lhs_axes, rhs_axes), batch) = dimension_numbers
    if lhs.ndim <= 2 or tuple(lhs_axes) != (lhs.ndim - 1,) or batch[0]:
        return lax.dot_general(lhs, rhs, dimension_numbers, *args, **kwargs)
    rows = lhs.reshape(-1, lhs.shape[-1])
    out = lax.dot_general(rows, rhs, (((1,), rhs_axes), batch), *args, **kwargs)
    return out.reshape(*lhs.shape[:-1], *out.shape[1:])


def prefer_kernel_on_left(rows: Any) -> bool:
    """Whether XLA's CPU back end multiplies this many rows faster with the kernel as the left factor.

    It repacks the right factor on every call, which takes longer than the product itself for 8 rows; for one or two
    rows it packs nothing. rows: an int, or in an export a symbolic size, for which the answer is False.
    """
    return isinstance(rows, int) and 2 < rows <= 64


def dot_transposed(rows: jax.Array, kernel: jax.Array, dtype: Any = None) -> jax.Array:
    """f32[..., n] times the transpose of kernel: f32[m, n], giving [..., m] accumulated in `dtype`."""

    def kernel_on_right(rows: jax.Array, kernel: jax.Array) -> jax.Array:
        return flatten_dot(rows, kernel, (((rows.ndim - 1,), (1,)), ((), ())), preferred_element_type=dtype)

    def kernel_on_left(rows: jax.Array, kernel: jax.Array) -> jax.Array:
        flat = rows.reshape(-1, rows.shape[-1])
        out = lax.dot_general(kernel, flat, (((1,), (1,)), ((), ())), preferred_element_type=dtype)
        # Without the barrier the compiler would swap the factors back.
        return lax.optimization_barrier(out).T.reshape(*rows.shape[:-1], -1)

    if not prefer_kernel_on_left(math.prod(rows.shape[:-1])):
        return kernel_on_right(rows, kernel)
    return lax.platform_dependent(rows, kernel, cpu=kernel_on_left, default=kernel_on_right)


def transpose_kernels(params: PyTree) -> PyTree:
    """Parameters of `Dense` layers with every `kernel` replaced by its transpose, named `kernel_transposed`.

    For loops that multiply few rows at a time, see `prefer_kernel_on_left`.
    """
    if not isinstance(params, Mapping):
        return params
    others = {name: transpose_kernels(value) for name, value in params.items() if name != "kernel"}
    return {**others, "kernel_transposed": params["kernel"].T} if "kernel" in params else others


class Dense(nn.Dense):
    """`nn.Dense` computed by `flatten_dot`, or by `dot_transposed` with parameters from `transpose_kernels`."""

    dot_general: Callable[..., jax.Array] | None = flatten_dot

    def __call__(self, inputs: jax.Array) -> jax.Array:
        if not self.has_variable("params", "kernel_transposed"):
            return super().__call__(inputs)
        bias = self.get_variable("params", "bias") if self.use_bias else None
        kernel = self.get_variable("params", "kernel_transposed")
        inputs, kernel, bias = promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        out = dot_transposed(inputs, kernel)
        return out if bias is None else out + bias.reshape((1,) * (out.ndim - 1) + (-1,))
