"""Dense layers over the last axis."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
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


class Dense(nn.Dense):
    """flax's, by `rows_dot`."""

    dot_general: Callable[..., jax.Array] | None = rows_dot
