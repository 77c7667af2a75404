"""Whole views of random cameras, inside compiled functions; `jaxgen.ops.cameras` has single rays in NumPy.

A camera is f32[13]: its pose [3, 4] row by row (see `jaxgen.ops.cameras`) and its focal length in units of the
picture's width. It has no lens, and its axis meets the picture's middle.
"""

import jax
import jax.numpy as jnp

CAMERA = 13


def view_rays(cameras: jax.Array, size: tuple[int, int]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rays through all pixel centres, row by row: origins and unit directions f32[B, H W, 3], and the radii of the
    pixels' cones at distance one, f32[B, H W]. cameras: f32[B, 13]; size: H, W."""
    height, width = size
    pose, focal = cameras[:, :12].reshape(-1, 3, 4), cameras[:, 12:] * width
    y, x = jnp.meshgrid(jnp.arange(height) + 0.5 - height / 2, jnp.arange(width) + 0.5 - width / 2, indexing="ij")
    across, down = (a.reshape(1, -1) / focal for a in (x, y))
    local = jnp.stack([across, -down, -jnp.ones_like(across)], axis=-1)
    length = jnp.linalg.norm(local, axis=-1)
    direction = jnp.einsum("bij,bnj->bni", pose[:, :, :3], local / length[..., None])
    origin = jnp.broadcast_to(pose[:, None, :, 3], direction.shape)
    # As `cameras.pixel_rays`: a disc with the variance of a square pixel.
    return origin, direction, 2 / jnp.sqrt(12.0) / focal / length


def ball_crossing(
    origin: jax.Array, direction: jax.Array, centre: jax.Array, radius: float
) -> tuple[jax.Array, jax.Array]:
    """Where rays enter and leave the ball about centre f32[3], f32[B] each; equal for rays that miss it, which is about
    where they come nearest, and never behind the origin. origin, direction: f32[B, 3], directions of length one."""
    to = centre[None] - origin
    along = jnp.sum(to * direction, axis=-1)
    apart = jnp.sum(to**2, axis=-1) - along**2  # squared distance of the ray from the centre
    half = jnp.sqrt(jnp.maximum(radius**2 - apart, 0.0))
    return jnp.maximum(along - half, 0.0), jnp.maximum(along + half, 0.0)
