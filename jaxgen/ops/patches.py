"""Conversion between images and smaller images whose channels are patches."""

import jax


def space_to_depth(x: jax.Array, patch: int) -> jax.Array:
    """Moves patches of patch x patch pixels into channels: [B, H, W, C] -> [B, H / patch, W / patch, patch^2 C]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // patch, patch, width // patch, patch, channels).swapaxes(2, 3)
    return x.reshape(*x.shape[:3], -1)


def depth_to_space(x: jax.Array, patch: int) -> jax.Array:
    """The inverse of `space_to_depth`: [B, H, W, patch^2 C] -> [B, H patch, W patch, C]."""
    batch, rows, columns, channels = x.shape
    x = x.reshape(batch, rows, columns, patch, patch, -1).swapaxes(2, 3)
    return x.reshape(batch, rows * patch, columns * patch, channels // patch**2)
