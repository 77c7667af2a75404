"""Random squares of a picture, as a network of fixed size sees them.

Guidance by a classifier or CLIP optimizes many of them at once: what has to look right in all of them is a picture,
where what has to look right in one may be noise.
"""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt, Le

from jaxgen.core.keys import normal_each, split_each, uniform_each
from jaxgen.core.ranges import Depth, Fraction


@dataclass(frozen=True, kw_only=True)
class Cutouts:
    """`__call__(keys, x, side)` maps pictures f32[B, H, W, C] in [-1, 1] to f32[B, num, side, side, C], differentiable
    in x; row i is drawn by keys[i] alone. The first of each picture is its middle square, without noise and changes.
    """

    num: Depth = 8
    smallest: Annotated[float, Gt(0), Le(1)] = 0.6
    """Side of the smallest square, in units of the picture's shorter side; sides are uniform from it to 1."""
    flip: bool = True
    """Mirror each square with probability 1/2."""
    colour: Fraction = 0.1
    """Standard deviation of brightness, and of the logarithm of contrast."""
    noise: Annotated[float, Ge(0), Le(1)] = 0.05
    """Standard deviation of the noise on each square."""

    def __call__(self, keys: jax.Array, x: jax.Array, side: int) -> jax.Array:
        keys_side, keys_place, keys_flip, keys_colour, keys_noise = split_each(keys, 5)
        height, width, channels = x.shape[1:]
        first = jnp.arange(self.num)[None] == 0  # [1, num]
        whole = min(height, width)
        sides = whole * jnp.where(first, 1.0, uniform_each(keys_side, (self.num,), self.smallest, 1.0))
        place = jnp.where(first[..., None], 0.5, uniform_each(keys_place, (self.num, 2)))
        corners = place * (jnp.array([[[height, width]]], jnp.float32) - sides[..., None])
        cut = jax.vmap(jax.vmap(_square, (None, 0, 0, None)), (0, 0, 0, None))(x, sides, corners, side)
        if self.flip:
            flip = (uniform_each(keys_flip, (self.num,)) < 0.5) & ~first
            cut = jnp.where(flip[..., None, None, None], cut[:, :, :, ::-1], cut)
        change = jnp.where(first[..., None], 0.0, self.colour * normal_each(keys_colour, (self.num, 2)))
        brightness, contrast = (change[..., i, None, None, None] for i in range(2))
        middle = jnp.mean(cut, axis=(2, 3, 4), keepdims=True)
        cut = middle + jnp.exp(contrast) * (cut - middle) + brightness
        noise = self.noise * normal_each(keys_noise, (self.num, side, side, channels))
        return cut + jnp.where(first[..., None, None, None], 0.0, noise)


def _square(x: jax.Array, size: jax.Array, corner: jax.Array, side: int) -> jax.Array:
    """The square of x f32[H, W, C] with that side and upper left corner, f32[2], in pixels, resized linearly, with a
    wider filter where it shrinks: f32[side, side, C]."""
    scale = jnp.full(2, side / size)
    shape = (side, side, x.shape[2])
    return jax.image.scale_and_translate(x, shape, (0, 1), scale, -corner * scale, "linear", antialias=True)


def spherical(u: jax.Array, v: jax.Array) -> jax.Array:
    """theta^2 / 2 of the angle theta between unit vectors f32[..., D], f32[...]: about |u - v|^2 / 2 where they are
    near, with a gradient that does not vanish where they are opposite."""
    # By both norms: arcsin and arccos have no gradient at one end.
    apart, along = (jnp.sqrt(jnp.sum(w**2, axis=-1) + 1e-12) for w in (u - v, u + v))
    return 2 * jnp.arctan2(apart, along) ** 2
