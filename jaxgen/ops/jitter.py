"""Random jitter of paired images, section 6.2 of arXiv:1611.07004."""

import jax
import jax.numpy as jnp

from jaxgen.core.keys import coin_each, integer_each, split_each


def jitter(keys: jax.Array, images: tuple[jax.Array, ...], scale: float, mirror: bool) -> tuple[jax.Array, ...]:
    """Enlarges each of `images`, f32[B, H, W, C], by `scale` (bilinear), crops a random window of the old size and, if
    `mirror`, flips it left to right with probability 1/2. All images of an example share its window and flip, which
    are drawn with its key."""
    _, height, width, _ = images[0].shape
    large = (round(height * scale), round(width * scale))
    keys_top, keys_left, keys_coin = split_each(keys, 3)
    top = integer_each(keys_top, 0, large[0] - height + 1)
    left = integer_each(keys_left, 0, large[1] - width + 1)
    coin = coin_each(keys_coin, 0.5 if mirror else 0.0)

    def one(image: jax.Array, top: jax.Array, left: jax.Array, coin: jax.Array) -> jax.Array:
        enlarged = jax.image.resize(image, (*large, image.shape[-1]), "linear")
        crop = jax.lax.dynamic_slice(enlarged, (top, left, 0), image.shape)
        return jnp.where(coin, crop[:, ::-1], crop)

    return tuple(jax.vmap(one)(image, top, left, coin) for image in images)
