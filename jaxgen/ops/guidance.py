"""Guidance: a denoiser pushed away from a worse one.

x0 = x0_worse + w (x0_good - x0_worse), where worse is the same network without the condition (classifier-free,
arXiv:2207.12598 with w = 1 + its w) or a smaller or less trained one (autoguidance, arXiv:2406.02507, eq. 3). x_0, eps,
v and the score are linear in each other at a given x_t, so it does not matter which of them is pushed.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxgen.errors import UserError
from jaxgen.ops.diffusion import Denoised
from jaxgen.ops.schedules import expand


@dataclass(frozen=True)
class Guidance:
    """How samples are guided; a scale for each sample can be given with its condition instead."""

    scale: float = 1.0
    """w: 1 is the condition alone, 0 no condition."""
    interval: tuple[float, ...] = ()
    """Lowest and highest noise-to-signal ratio sigma / alpha at which w acts, arXiv:2404.07724; all when empty."""
    rescale: float = 0.0
    """phi of arXiv:2305.08891, section 3.4: how far the guided x0's standard deviation over an image goes back to the
    good one's."""

    def __post_init__(self):
        if len(self.interval) not in (0, 2) or self.interval != tuple(sorted(self.interval)):
            raise UserError(f"guidance interval is {self.interval}: lowest and highest sigma / alpha are expected")

    def combine(
        self, good: jax.Array, worse: jax.Array, scale: jax.Array, alpha: jax.Array, sigma: jax.Array
    ) -> jax.Array:
        """The guided x0, f32[B, ...]. scale: f32[B]; alpha, sigma: f32[B, 1, ...]."""
        scale = expand(scale, good.ndim)
        if self.interval:
            low, high = self.interval
            scale = jnp.where((sigma >= low * alpha) & (sigma <= high * alpha), scale, 1.0)
        guided = worse + scale * (good - worse)
        if self.rescale:
            axes = tuple(range(1, good.ndim))
            ratio = jnp.std(good, axis=axes, keepdims=True) / (jnp.std(guided, axis=axes, keepdims=True) + 1e-8)
            guided *= 1 + self.rescale * (ratio - 1)
        return guided


def split_batch(both: Denoised) -> tuple[Denoised, Denoised]:
    """The halves of one pass over conditioned examples and then unconditioned ones."""
    half = both.x0.shape[0] // 2
    return jax.tree.map(lambda a: a[:half], both), jax.tree.map(lambda a: a[half:], both)
