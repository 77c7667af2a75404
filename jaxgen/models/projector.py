"""Projection of a picture to a style, by gradient descent: appendix D of arXiv:1912.04958.

w starts at its mean and explores with fading noise. The noise maps are optimized too; a penalty on correlations of
neighbouring pixels at every scale keeps them from carrying the picture.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxgen.core.keys import fold_each, normal_each
from jaxgen.core.ranges import NonNegative, Steps

Noise = tuple[jax.Array, ...]


# Streams of a key: the noise maps at the start, and the exploration of w.
MAPS, WANDER = range(2)


class StyleSpace(NamedTuple):
    """Where `project` searches."""

    generate: Callable[[jax.Array, Noise], jax.Array]
    """(w f32[B, style], noise) -> images f32[B, *shape]."""
    mean: jax.Array
    """Mean of w, f32[style]."""
    deviation: jax.Array
    """Root mean square of |w - mean|, f32[]."""
    noise_sizes: list[tuple[int, int]]
    """(height, width) of each noise map."""


class Projection(NamedTuple):
    """w: f32[B, style]; noise: f32[B, h, w, 1] for each layer; distance: f32[steps, B], before each step, at w with the
    step's exploration noise."""

    w: jax.Array
    noise: Noise
    distance: jax.Array


@dataclass(frozen=True, kw_only=True)
class Projector:
    """Settings of the search, those of the paper but for `steps`."""

    steps: Steps = 500
    """1000 in the paper."""
    lr: NonNegative = 0.1
    """Adam's rate. It rises linearly over the first twentieth of the steps and falls to 0 by a cosine over the last
    quarter."""
    wander: NonNegative = 0.05
    """Standard deviation of the noise on w at the start, in units of `StyleSpace.deviation`. It is 0 in the last
    quarter."""
    plain_noise: NonNegative = 1e5
    """Weight of the penalty on structure in the noise maps."""


def pixel_distance(x: jax.Array, y: jax.Array) -> jax.Array:
    """f32[B] of two f32[B, H, W, C]: mean squared differences, summed over an image pyramid of halvings."""
    difference, total = x - y, jnp.zeros(x.shape[0])
    while True:
        total += jnp.mean(difference**2, axis=(1, 2, 3))
        if min(difference.shape[1:3]) < 4:
            return total
        difference = nn.avg_pool(difference, (2, 2), (2, 2))


def structure(noise: Noise) -> jax.Array:
    """f32[B]: squared mean products of neighbouring pixels, summed over maps and their halvings to 8 pixels (eq. 6)."""
    total = jnp.zeros(noise[0].shape[0])
    for level in noise:
        while True:
            for axis in (1, 2):
                total += jnp.mean(level * jnp.roll(level, 1, axis), axis=(1, 2, 3)) ** 2
            if min(level.shape[1:3]) <= 8:
                break
            # Twice the mean of four pixels keeps unit variance.
            level = 2 * nn.avg_pool(level, (2, 2), (2, 2))
    return total


def project(
    space: StyleSpace,
    keys: jax.Array,
    x: jax.Array,
    settings: Projector = Projector(),
    distance: Callable[[jax.Array, jax.Array], jax.Array] = pixel_distance,
) -> Projection:
    """The w and noise that bring space.generate(w, noise) nearest to x: f32[B, *shape], with a key for each example.

    distance: a differentiable function of two batches of images, f32[B]; LPIPS where its weights are available.
    """
    steps = settings.steps

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        t = jnp.asarray(count) / steps
        fall = 0.5 - 0.5 * jnp.cos(jnp.pi * jnp.minimum(1.0, (1 - t) / 0.25))
        return settings.lr * fall * jnp.minimum(1.0, t / 0.05)

    def loss(sought: tuple[jax.Array, Noise], wander: jax.Array) -> tuple[jax.Array, jax.Array]:
        w, noise = sought
        far = distance(space.generate(w + wander, noise), x)
        return jnp.sum(far + settings.plain_noise * structure(noise)), far

    def normalized(level: jax.Array) -> jax.Array:
        level = level - jnp.mean(level, axis=(1, 2, 3), keepdims=True)
        return level * jax.lax.rsqrt(jnp.mean(level**2, axis=(1, 2, 3), keepdims=True) + 1e-8)

    tx = optax.adam(schedule)
    w = jnp.broadcast_to(space.mean[None], (x.shape[0], space.mean.shape[0]))
    keys_maps, keys_wander = fold_each(keys, MAPS), fold_each(keys, WANDER)
    maps = tuple(normal_each(fold_each(keys_maps, i), (*size, 1)) for i, size in enumerate(space.noise_sizes))

    def body(carry, step: jax.Array):
        (w, noise), opt_state = carry
        scale = settings.wander * space.deviation * jnp.maximum(0.0, 1 - step / (0.75 * steps)) ** 2
        wander = scale * normal_each(fold_each(keys_wander, step), space.mean.shape)
        grads, far = jax.grad(loss, has_aux=True)((w, noise), wander)
        updates, opt_state = tx.update(grads, opt_state)
        w, noise = jax.tree.map(jnp.add, (w, noise), updates)
        return ((w, tuple(normalized(level) for level in noise)), opt_state), far

    start = ((w, maps), tx.init((w, maps)))
    ((w, maps), _), far = jax.lax.scan(body, start, jnp.arange(steps))
    return Projection(w, maps, far)
