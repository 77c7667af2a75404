"""Fully connected networks."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.ranges import Size
from jaxgen.nets.condition import concat_condition


class MLP(nn.Module):
    """Dense layers with ReLU between them: f32[B, ...], flattened, to f32[B, *shape].

    cond: one-hot f32[B, num_classes], concatenated to the input. The output is f32 whatever `dtype` is.
    """

    hidden: tuple[Size, ...] = (400,)
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, shape: tuple[int, ...], cond: jax.Array | None = None) -> jax.Array:
        h = concat_condition(x.reshape(x.shape[0], -1), cond)
        for width in self.hidden:
            h = nn.relu(nn.Dense(width, dtype=self.dtype)(h))
        return nn.Dense(math.prod(shape), dtype=self.dtype)(h).astype(jnp.float32).reshape(-1, *shape)
