"""A fully connected network with a time input: the denoiser of points and other small data."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.ranges import Depth, Size
from jaxgen.nets.unet import ZERO, SpanEmbedding, time_embedding


class TimeMLP(nn.Module):
    """`depth` residual blocks of `width` channels, to each of which an embedding of time and class is added.

    x: f32[B, ..., C], flattened; t: f32[B]; y: one-hot f32[B, K]. Returns f32[B, ..., out], zero at initialization.
    `context` and its mask are ignored. span: f32[B], see `SpanEmbedding`.
    """

    width: Size = 128
    depth: Depth = 3
    dtype: Any = None

    def check(self, shape: tuple[int, ...]) -> None:
        """Accepts any shape."""

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        t: jax.Array,
        out: int,
        y: jax.Array | None = None,
        context: jax.Array | None = None,
        context_mask: jax.Array | None = None,
        train: bool = False,
        span: jax.Array | None = None,
    ) -> jax.Array:
        dense = partial(nn.Dense, dtype=self.dtype)
        embedding = dense(self.width, name="time")(time_embedding(t, self.width))
        if y is not None:
            embedding += dense(self.width, use_bias=False, name="label")(y)
        if span is not None:
            embedding += SpanEmbedding(self.width, self.dtype, name="span")(time_embedding(span, self.width))
        h = dense(self.width)(x.reshape(x.shape[0], -1))
        for _ in range(self.depth):
            inner = nn.silu(dense(self.width)(nn.LayerNorm(dtype=self.dtype)(h)) + embedding)
            h += dense(self.width)(inner)
        shape = (*x.shape[1:-1], out)
        h = dense(math.prod(shape), kernel_init=ZERO)(nn.silu(h))
        return h.astype(jnp.float32).reshape(-1, *shape)
