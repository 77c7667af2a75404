"""Conditioning by concatenation."""

import jax
import jax.numpy as jnp


def concat_condition(x: jax.Array, condition: jax.Array | None) -> jax.Array:
    """x: f32[B, ..., C] with the condition as further channels; x itself if that is None.

    condition: f32[B, K], such as one-hot classes, repeated at every pixel; or f32[B, ..., K] with x's pixels.
    """
    if condition is None:
        return x
    if condition.ndim < x.ndim:
        condition = jnp.expand_dims(condition, range(1, x.ndim - 1))
        condition = jnp.broadcast_to(condition, (*x.shape[:-1], condition.shape[-1]))
    return jnp.concatenate([x, condition.astype(x.dtype)], axis=-1)
