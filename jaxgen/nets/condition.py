"""Conditions as further channels, and the mean of a context."""

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


def masked_mean(context: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The mean of f32[B, L, D] over the tokens where mask, bool[B, L], is true, f32[B, D]; zero where there is none."""
    if mask is None:
        return jnp.mean(context, axis=1)
    seen = mask[..., None].astype(context.dtype)
    return jnp.sum(context * seen, axis=1) / jnp.maximum(jnp.sum(seen, axis=1), 1)
