"""Random backgrounds, in front of which an object has to be recognised by itself (section 3.3 of arXiv:2112.01455).

In front of one background, guidance may paint the object's surroundings instead of the object, or fog that looks right
before that colour.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxgen.core.keys import normal_each, split_each, uniform_each
from jaxgen.core.ranges import Depth, Fraction, NonNegative

KINDS = 3
DECAY = 1.5
"""Of the amplitudes of waves, the power of their frequency."""


@dataclass(frozen=True, kw_only=True)
class Backgrounds:
    """`__call__(keys, size, plain)` draws pictures f32[B, H, W, 3] in [0, 1], one for each of keys [B]: uniform noise,
    a chequerboard of two colours or smooth waves, a third each, blurred by a random width."""

    plain: Fraction = 0.0
    """Share of backgrounds that are the scene's own colour instead, as a network that has seen only such ones needs."""
    squares: Depth = 8
    """Of the chequerboard, along a side."""
    blur: NonNegative = 0.045
    """Largest standard deviation of the blur, in units of the picture's width; the smallest is 0."""

    def __call__(self, keys: jax.Array, size: tuple[int, int], plain: jax.Array) -> jax.Array:
        """plain: f32[3] in [0, 1]."""
        keys_kind, keys_noise, keys_board, keys_waves, keys_blur, keys_plain = split_each(keys, 6)
        kinds = jnp.stack([noise(keys_noise, size), board(keys_board, size, self.squares), waves(keys_waves, size)])
        kind = jnp.floor(uniform_each(keys_kind, ()) * KINDS).astype(jnp.int32)
        drawn = jnp.take_along_axis(kinds, kind[None, :, None, None, None], axis=0)[0]
        drawn = blurred(drawn, uniform_each(keys_blur, ()) * self.blur * size[1])
        own = uniform_each(keys_plain, ()) < self.plain
        return jnp.where(own[:, None, None, None], plain[None, None, None], drawn)


def noise(keys: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Independent uniform pixels, f32[B, H, W, 3]."""
    return uniform_each(keys, (*size, 3))


def board(keys: jax.Array, size: tuple[int, int], squares: int) -> jax.Array:
    """Chequerboards of `squares` fields along each side in two random colours, f32[B, H, W, 3]."""
    place = [jnp.arange(n) * squares // n for n in size]
    odd = (place[0][:, None] + place[1][None]) % 2
    colours = uniform_each(keys, (2, 3))
    return jnp.take(colours, odd, axis=1)


def waves(keys: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Gaussian fields whose amplitudes fall with frequency f as f^-1.5, squeezed into [0, 1], f32[B, H, W, 3]."""
    frequency = jnp.hypot(jnp.fft.fftfreq(size[0])[:, None], jnp.fft.rfftfreq(size[1])[None])
    amplitude = jnp.maximum(frequency, 1 / max(size)) ** -DECAY
    white = normal_each(keys, (*size, 3))
    field = jnp.fft.irfft2(
        jnp.fft.rfft2(white, axes=(1, 2)) * amplitude[None, :, :, None], s=size, axes=(1, 2)
    )  # fmt: skip
    deviation = jnp.std(field, axis=(1, 2), keepdims=True)
    return jax.nn.sigmoid(field / (deviation + 1e-6))


def blurred(x: jax.Array, width: jax.Array) -> jax.Array:
    """Pictures f32[B, H, W, C] blurred by a Gaussian of standard deviation width[i] pixels, f32[B]. Weights beyond the
    border are left out, and the others scaled to sum to one; width 0 changes nothing."""

    def lines(n: int) -> jax.Array:
        """f32[B, n, n]: the weight of each pixel of a line (columns) in each blurred one (rows)."""
        apart = jnp.arange(n)[:, None] - jnp.arange(n)[None]
        return jax.nn.softmax(-((apart[None] / jnp.maximum(width, 1e-3)[:, None, None]) ** 2) / 2, axis=-1)

    return jnp.einsum("bij,bkl,bjlc->bikc", lines(x.shape[1]), lines(x.shape[2]), x)
