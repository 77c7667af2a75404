"""Dense layers over the last axis, with what XLA's CPU back end needs to be quick at them."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import lax


def rows_dot(lhs: jax.Array, rhs: jax.Array, dimension_numbers: Any, *args: Any, **kwargs: Any) -> jax.Array:
    """`lax.dot_general` of lhs's last axis, its other axes made one before and parted again after.

    The gradient by rhs sums over all of those: of two or more XLA's CPU back end first copies both factors with their
    axes turned, which made a step of a transformer take nearly twice as long.
    """
    ((lhs_axes, rhs_axes), batch) = dimension_numbers
    if lhs.ndim <= 2 or tuple(lhs_axes) != (lhs.ndim - 1,) or batch[0]:
        return lax.dot_general(lhs, rhs, dimension_numbers, *args, **kwargs)
    rows = lhs.reshape(-1, lhs.shape[-1])
    out = lax.dot_general(rows, rhs, (((1,), rhs_axes), batch), *args, **kwargs)
    return out.reshape(*lhs.shape[:-1], *out.shape[1:])


def kernel_first(rows: Any) -> bool:
    """Whether products of so many rows are quicker on XLA's CPU with the kernel as their left factor. The right one is
    packed anew each time, which of 8 rows takes longer than the product; of one or two none is.

    rows: a number, or in export a symbol, of which nothing is known.
    """
    return isinstance(rows, int) and 2 < rows <= 64


def turned_dot(rows: jax.Array, turned: jax.Array, dtype: Any = None) -> jax.Array:
    """rows: f32[..., n] times the transpose of turned: f32[m, n], f32[..., m]; of another type with `dtype`."""

    def second(rows: jax.Array, turned: jax.Array) -> jax.Array:
        return rows_dot(rows, turned, (((rows.ndim - 1,), (1,)), ((), ())), preferred_element_type=dtype)

    def first(rows: jax.Array, turned: jax.Array) -> jax.Array:
        flat = rows.reshape(-1, rows.shape[-1])
        out = lax.dot_general(turned, flat, (((1,), (1,)), ((), ())), preferred_element_type=dtype)
        # The compiler would take the factors the other way round.
        return lax.optimization_barrier(out).T.reshape(*rows.shape[:-1], -1)

    if not kernel_first(math.prod(rows.shape[:-1])):
        return second(rows, turned)
    return lax.platform_dependent(rows, turned, cpu=first, default=second)


def turned(params: Any) -> Any:
    """Parameters of `Dense` layers with kernels turned, for loops that use them with few rows: see `kernel_first`."""
    if not isinstance(params, Mapping):
        return params
    others = {name: turned(value) for name, value in params.items() if name != "kernel"}
    return {**others, "turned": params["kernel"].T} if "kernel" in params else others


class Dense(nn.Dense):
    """flax's, by `rows_dot`, or by `turned_dot` with parameters that are `turned`."""

    dot_general: Callable[..., jax.Array] | None = rows_dot

    def __call__(self, inputs: jax.Array) -> jax.Array:
        if not self.has_variable("params", "turned"):
            return super().__call__(inputs)
        bias = self.get_variable("params", "bias") if self.use_bias else None
        inputs, kernel, bias = promote_dtype(inputs, self.get_variable("params", "turned"), bias, dtype=self.dtype)
        out = turned_dot(inputs, kernel)
        return out if bias is None else out + bias.reshape((1,) * (out.ndim - 1) + (-1,))
