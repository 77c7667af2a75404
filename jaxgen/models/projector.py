"""The style of a given picture, found by gradient descent: appendix D of arXiv:1912.04958.

w starts at its mean and looks around by noise that fades; the noise maps are sought too, and kept from carrying the
picture by a penalty on what neighbouring pixels share at every scale.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxgen.core.keys import fold_each, normal_each

Noise = tuple[jax.Array, ...]


class Projection(NamedTuple):
    """w: f32[B, style]; noise: f32[B, h, w, 1] for each layer; distance: f32[steps, B] on the way."""

    w: jax.Array
    noise: Noise
    distance: jax.Array


@dataclass(frozen=True, kw_only=True)
class Projector:
    """Settings of the search, the paper's but for `steps`."""

    steps: int = 500
    """1000 in the paper."""
    lr: float = 0.1
    """Of Adam, after a rise over the first twentieth; a cosine takes it to 0 over the last quarter."""
    wander: float = 0.05
    """Deviation of the noise on w at the start, in deviations of w; none in the last quarter."""
    plain_noise: float = 1e5
    """Weight of the penalty on structure in the noise maps."""


def pixel_distance(x: jax.Array, y: jax.Array) -> jax.Array:
    """f32[B] of f32[B, H, W, C] twice: mean squared differences, added up over every size the images are halved to."""
    difference, total = x - y, jnp.zeros(x.shape[0])
    while True:
        total += jnp.mean(difference**2, axis=(1, 2, 3))
        if min(difference.shape[1:3]) < 4:
            return total
        difference = nn.avg_pool(difference, (2, 2), (2, 2))


def structure(noise: Noise) -> jax.Array:
    """f32[B]: squared mean products of neighbouring pixels, over maps and their halvings down to 8 pixels (eq. 6)."""
    total = jnp.zeros(noise[0].shape[0])
    for level in noise:
        while True:
            for axis in (1, 2):
                total += jnp.mean(level * jnp.roll(level, 1, axis), axis=(1, 2, 3)) ** 2
            if min(level.shape[1:3]) <= 8:
                break
            # Twice the mean of four keeps a deviation of one.
            level = 2 * nn.avg_pool(level, (2, 2), (2, 2))
    return total


def project(
    generate: Callable[[jax.Array, Noise], jax.Array],
    mean: jax.Array,
    deviation: jax.Array,
    sizes: list[tuple[int, int]],
    keys: jax.Array,
    x: jax.Array,
    settings: Projector = Projector(),
    distance: Callable[[jax.Array, jax.Array], jax.Array] = pixel_distance,
) -> Projection:
    """The w and noise with which generate(w, noise) is nearest to x: f32[B, *shape], each by its own key.

    mean: f32[style] of w; deviation: f32[], the root of the mean squared length of w from there. sizes: (h, w) of the
    noise maps. distance: differentiable, LPIPS where its weights are at hand.
    """
    steps = settings.steps

    def schedule(count: jax.Array) -> jax.Array:
        t = count / steps
        fall = 0.5 - 0.5 * jnp.cos(jnp.pi * jnp.minimum(1.0, (1 - t) / 0.25))
        return settings.lr * fall * jnp.minimum(1.0, t / 0.05)

    def loss(sought: tuple[jax.Array, Noise], wander: jax.Array) -> tuple[jax.Array, jax.Array]:
        w, noise = sought
        far = distance(generate(w + wander, noise), x)
        return jnp.sum(far + settings.plain_noise * structure(noise)), far

    def normalized(level: jax.Array) -> jax.Array:
        level = level - jnp.mean(level, axis=(1, 2, 3), keepdims=True)
        return level * jax.lax.rsqrt(jnp.mean(level**2, axis=(1, 2, 3), keepdims=True) + 1e-8)

    tx = optax.adam(schedule)
    w = jnp.broadcast_to(mean[None], (x.shape[0], mean.shape[0]))
    maps = tuple(normal_each(fold_each(fold_each(keys, 0), i), (*size, 1)) for i, size in enumerate(sizes))

    def body(carry, step: jax.Array):
        (w, noise), opt_state = carry
        scale = settings.wander * deviation * jnp.maximum(0.0, 1 - step / (0.75 * steps)) ** 2
        wander = scale * normal_each(fold_each(fold_each(keys, 1), step), mean.shape)
        grads, far = jax.grad(loss, has_aux=True)((w, noise), wander)
        updates, opt_state = tx.update(grads, opt_state)
        w, noise = optax.apply_updates((w, noise), updates)
        return ((w, tuple(normalized(level) for level in noise)), opt_state), far

    start = ((w, maps), tx.init((w, maps)))
    ((w, maps), _), far = jax.lax.scan(body, start, jnp.arange(steps))
    return Projection(w, maps, far)
