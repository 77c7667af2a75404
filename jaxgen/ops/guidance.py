"""Guidance: the prediction of a denoiser, extrapolated away from that of a worse one.

x0 = x0_worse + w (x0_good - x0_worse). The worse prediction comes from the same network without the condition
(classifier-free guidance, arXiv:2207.12598, whose w is one less than ours) or from a smaller or less trained network
(autoguidance, eq. 3 of arXiv:2406.02507). x_0, eps, v and the score are linear in each other at a given x_t, so it does
not matter which of them is extrapolated.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxgen.core.ranges import Fraction, NonNegative
from jaxgen.ops.diffusion import Denoise, Denoised
from jaxgen.ops.schedules import Schedule, expand


@dataclass(frozen=True)
class Guidance:
    """The settings of guidance. Instead of `scale`, each sample can have a scale of its own in its condition."""

    scale: float = 1.0
    """w: 1 samples with the condition and no guidance, 0 without the condition."""
    interval: tuple[NonNegative, ...] = ()
    """Lowest and highest noise-to-signal ratio sigma / alpha at which guidance acts (arXiv:2404.07724); () for all."""
    rescale: Fraction = 0.0
    """phi in section 3.4 of arXiv:2305.08891: 1 gives the guided x0 the standard deviation (over an image) of the good
    x0, 0 leaves it alone."""

    def problem(self) -> str | None:
        if len(self.interval) not in (0, 2) or self.interval != tuple(sorted(self.interval)):
            return f"interval is {self.interval}: lowest and highest sigma / alpha are expected"

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
    """Splits the output of one pass over conditioned examples followed by unconditioned ones."""
    half = both.x0.shape[0] // 2
    return jax.tree.map(lambda a: a[:half], both), jax.tree.map(lambda a: a[half:], both)


def reconstructing(denoise: Denoise, schedule: Schedule, known: jax.Array, mask: jax.Array, weight: float) -> Denoise:
    """`denoise`, where the unknown part of x_0 is drawn towards what the known part goes with: reconstruction guidance,
    eq. 7 and 8 of arXiv:2204.03458. Without it that part is drawn as if the known one, which a sampler puts in its
    place, were but another noisy guess.

    x0^b <- x0^b - (weight alpha / 2) grad_{x_t^b} |known^a - x0^a(x_t)|^2. a: where mask, bool[B, ...], is true; b: the
    rest; known: f32[B, ...].
    """

    def guided(x: jax.Array, t: jax.Array) -> Denoised:
        def error(x: jax.Array) -> tuple[jax.Array, Denoised]:
            answer = denoise(x, t)
            return jnp.sum(jnp.where(mask, known - answer.x0, 0.0) ** 2), answer

        slope, answer = jax.grad(error, has_aux=True)(x)
        alpha, _ = schedule.at(t, x.ndim)
        return answer._replace(x0=jnp.where(mask, answer.x0, answer.x0 - weight * alpha / 2 * slope))

    return guided
