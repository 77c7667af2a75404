"""The two halves of a transformer block. Names of layers are those that `parallel.TENSOR_RULES` splits over devices."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.ops.attention import attention

XAVIER = nn.initializers.xavier_uniform()


class SelfAttention(nn.Module):
    """Multi-head attention of x: f32[B, T, C] to itself, of all positions to all: f32[B, T, C]."""

    heads: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        qkv = nn.Dense(3 * channels, kernel_init=XAVIER, dtype=self.dtype, name="qkv")(x)
        # Channels of qkv are (head, which of three, channel), so that a split of them over devices cuts heads apart.
        q, k, v = jnp.split(qkv.reshape(*x.shape[:2], self.heads, -1), 3, axis=-1)
        h = attention(q, k, v).reshape(x.shape)
        return nn.Dense(channels, kernel_init=XAVIER, dtype=self.dtype, name="out")(h)


class MLP(nn.Module):
    """Two dense layers with a GELU (tanh form) between, of `hidden` channels: f32[B, T, C] -> f32[B, T, C]."""

    hidden: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = nn.gelu(nn.Dense(self.hidden, kernel_init=XAVIER, dtype=self.dtype, name="up")(x))
        return nn.Dense(x.shape[-1], kernel_init=XAVIER, dtype=self.dtype, name="down")(h)
