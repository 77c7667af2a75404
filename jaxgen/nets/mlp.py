"""Fully connected networks."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


class MLP(nn.Module):
    """Dense layers with ReLU between: x f32[B, ...] is flattened, the result is f32[B, *shape].

    cond, f32[B, num_classes] one-hot, is concatenated to the input. The output is f32 whatever `dtype`.
    """

    hidden: tuple[int, ...] = (400,)
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, shape: tuple[int, ...], cond: jax.Array | None = None) -> jax.Array:
        h = x.reshape(x.shape[0], -1)
        if cond is not None:
            h = jnp.concatenate([h, cond.astype(h.dtype)], axis=-1)
        for width in self.hidden:
            h = nn.relu(nn.Dense(width, dtype=self.dtype)(h))
        return nn.Dense(math.prod(shape), dtype=self.dtype)(h).astype(jnp.float32).reshape(-1, *shape)
