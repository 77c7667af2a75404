"""Random jitter of images that belong together, section 6.2 of arXiv:1611.07004."""

import jax
import jax.numpy as jnp


def jitter(key: jax.Array, images: tuple[jax.Array, ...], scale: float, mirror: bool) -> tuple[jax.Array, ...]:
    """Each of `images`, f32[B, H, W, C], enlarged `scale` times (bilinear), cropped back to its size at a random place
    and mirrored by a coin: the same for all images of an example, another for each example."""
    batch, height, width, _ = images[0].shape
    large = (round(height * scale), round(width * scale))
    key_top, key_left, key_coin = jax.random.split(key, 3)
    top = jax.random.randint(key_top, (batch,), 0, large[0] - height + 1)
    left = jax.random.randint(key_left, (batch,), 0, large[1] - width + 1)
    coin = jax.random.bernoulli(key_coin, 0.5 if mirror else 0.0, (batch,))

    def one(image: jax.Array, top: jax.Array, left: jax.Array, coin: jax.Array) -> jax.Array:
        enlarged = jax.image.resize(image, (*large, image.shape[-1]), "linear")
        crop = jax.lax.dynamic_slice(enlarged, (top, left, 0), image.shape)
        return jnp.where(coin, crop[:, ::-1], crop)

    return tuple(jax.vmap(one)(image, top, left, coin) for image in images)
