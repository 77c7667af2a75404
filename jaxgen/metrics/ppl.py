"""Perceptual path length, section 4.1 of arXiv:1812.04948: how fast an image changes along a path between latents.

    l = E[ d(G(p(t)), G(p(t + eps))) / eps^2 ],  p(t) = lerp(w_1, w_2; t) in W or slerp(z_1, z_2; t) in Z   (eq. 2, 3)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.metrics.collect import Collect, Rows

INTERPOLATIONS = {
    "w": "lerp in w",
    "z": "slerp in z, lengths from end to end linear",
    "z_unit": "slerp in z, unit vectors times sqrt(D)",
}
"""Descriptions of the interpolations between latents, as stored with results, by the suffix of the metric's name."""

Interpolate = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""From the ends a and b, f32[B, ...], and t: f32[B] to the points of the paths at t."""


def lerp(a: jax.Array, b: jax.Array, t: jax.Array) -> jax.Array:
    """a + t (b - a) of f32[B, ...] at t: f32[B]."""
    return a + t.reshape(-1, *[1] * (a.ndim - 1)) * (b - a)


def slerp_unit(a: jax.Array, b: jax.Array, t: jax.Array) -> jax.Array:
    """StyleGAN's slerp between the directions of a and b, f32[B, D], on the sphere of radius sqrt(D): f32[B, D].

    sqrt(D) is the length to which StyleGAN's input normalization scales latents.
    """
    radius = a.shape[1] ** 0.5
    a, b = (radius * v / jnp.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    return slerp(a, b, t)


def slerp(a: jax.Array, b: jax.Array, t: jax.Array) -> jax.Array:
    """Spherical interpolation between the directions of a and b, f32[B, D], with linear length: f32[B, D]."""
    t = t[:, None]
    size_a, size_b = (jnp.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    a, b = a / size_a, b / size_b
    cosine = jnp.clip(jnp.sum(a * b, axis=1, keepdims=True), -1, 1)
    across = b - cosine * a
    across = across / jnp.maximum(jnp.linalg.norm(across, axis=1, keepdims=True), 1e-12)
    angle = t * jnp.arccos(cosine)
    return (size_a + t * (size_b - size_a)) * (jnp.cos(angle) * a + jnp.sin(angle) * across)


class LatentPath(NamedTuple):
    """Paths between the latents a and b, [B, ...] each."""

    a: jax.Array
    b: jax.Array
    interpolate: Interpolate = lerp


def path_lengths(
    generate: Callable[[jax.Array], jax.Array],
    distance: Callable[[jax.Array, jax.Array], jax.Array],
    path: LatentPath,
    t: jax.Array,
    eps: float = 1e-4,
) -> jax.Array:
    """The squared speed of the image at t along each path: f32[B].

    generate: from latents [2 B, ...] to images, with the same noise in both halves. distance: from two batches of
    images to f32[B], without rounding the images. t: f32[B], uniform in [0, 1) for the whole path, 0 for its start.
    """
    a, b, interpolate = path
    both = jnp.concatenate([interpolate(a, b, t), interpolate(a, b, t + eps)])
    return distance(*jnp.split(generate(both), 2)) / eps**2


@dataclass(frozen=True, kw_only=True, eq=False)
class PPL(Collect):
    """The mean of the path lengths without the lowest and the highest `trim` percent, as in the paper's code."""

    trim: float = 1.0

    def compute(self, state: Rows) -> dict[str, float]:
        values = self.rows(state)[:, 0].astype(np.float64)
        low = np.percentile(values, self.trim, method="lower")
        high = np.percentile(values, 100 - self.trim, method="higher")
        return {"ppl": float(values[(values >= low) & (values <= high)].mean()), "num": len(values)}
