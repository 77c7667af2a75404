"""Perceptual path length, section 4.1 of arXiv:1812.04948: how fast a picture changes along a path between latents.

    l = E[ d(G(p(t)), G(p(t + eps))) / eps^2 ],  p(t) = lerp(w_1, w_2; t) in W or slerp(z_1, z_2; t) in Z   (eq. 2, 3)
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.metrics.collect import Collect, Rows

WAYS = {
    "w": "lerp in w",
    "z": "slerp in z, lengths from end to end linear",
    "z_unit": "slerp in z, unit vectors times sqrt(D)",
}
"""Paths between latents, by what a metric's name ends in, as provenance tells them."""

Interpolate = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def lerp(a: jax.Array, b: jax.Array, t: jax.Array) -> jax.Array:
    """a + t (b - a) of f32[B, ...] at t: f32[B]."""
    return a + t.reshape(-1, *[1] * (a.ndim - 1)) * (b - a)


def spherical(a: jax.Array, b: jax.Array, t: jax.Array) -> jax.Array:
    """From a to b, f32[B, D], along the great circle of radius sqrt(D) between their directions: f32[B, D]. StyleGAN's
    slerp of unit vectors, at the length that its input normalization gives them."""
    radius = a.shape[1] ** 0.5
    a, b = (radius * v / jnp.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    return slerp(a, b, t)


def slerp(a: jax.Array, b: jax.Array, t: jax.Array) -> jax.Array:
    """From a to b, f32[B, D], along the great circle between their directions, length going linearly: f32[B, D]."""
    t = t[:, None]
    size_a, size_b = (jnp.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    a, b = a / size_a, b / size_b
    cosine = jnp.clip(jnp.sum(a * b, axis=1, keepdims=True), -1, 1)
    across = b - cosine * a
    across = across / jnp.maximum(jnp.linalg.norm(across, axis=1, keepdims=True), 1e-12)
    angle = t * jnp.arccos(cosine)
    return (size_a + t * (size_b - size_a)) * (jnp.cos(angle) * a + jnp.sin(angle) * across)


def path_lengths(
    generate: Callable[[jax.Array], jax.Array],
    distance: Callable[[jax.Array, jax.Array], jax.Array],
    a: jax.Array,
    b: jax.Array,
    t: jax.Array,
    eps: float = 1e-4,
    interpolate: Interpolate = lerp,
) -> jax.Array:
    """The path's squared speed at t for each pair of latents: f32[B].

    generate: latents [B, ...] to images, the same noise at both ends. distance: two batches of images to f32[B], which
    must not round them to bytes. t: f32[B], uniform in [0, 1) for the whole path, 0 for its end points.
    """
    both = jnp.concatenate([interpolate(a, b, t), interpolate(a, b, t + eps)])
    return distance(*jnp.split(generate(both), 2)) / eps**2


@dataclass(frozen=True, kw_only=True, eq=False)
class PPL(Collect):
    """Mean of path lengths without their lowest and highest percent, as the paper's code has it."""

    trim: float = 1.0

    def compute(self, state: Rows) -> dict[str, float]:
        values = self.rows(state)[:, 0].astype(np.float64)
        low = np.percentile(values, self.trim, method="lower")
        high = np.percentile(values, 100 - self.trim, method="higher")
        return {"ppl": float(values[(values >= low) & (values <= high)].mean()), "num": len(values)}
