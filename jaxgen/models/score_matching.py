"""Denoising score matching at many noise levels, and annealed Langevin sampling: NCSN (arXiv:1907.05600).

x_t = x_0 + sigma_t eps, sigma_t geometric; score s(x, t) of p(x_t). The loss is eq. 6 with lambda = sigma^2:
E sigma^2 |s + eps / sigma|^2 / 2. The network predicts -sigma s (arXiv:2006.09011, technique 3), whose target is eps,
so the loss is half its squared error. Its input is x_t / sqrt(sigma_data^2 + sigma_t^2), of about unit scale.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.keys import integer_each
from jaxgen.core.ranges import Positive
from jaxgen.models.diffusion import Diffusion
from jaxgen.ops.diffusion import convert
from jaxgen.ops.samplers import AnnealedLangevin, Sampler
from jaxgen.ops.schedules import Geometric


@dataclass(frozen=True, kw_only=True)
class ScoreMatching(Diffusion):
    """x: f32[B, *shape] of standard deviation about `sigma_data`."""

    schedule: Geometric = Geometric()
    sampler: Sampler = AnnealedLangevin()
    sigma_data: Positive = 0.5

    def draw_times(self, keys, state):
        return integer_each(keys, 0, self.schedule.num_steps), jnp.ones(keys.shape)

    def times_to_evaluate(self):
        return np.round(np.linspace(0, self.schedule.num_steps - 1, self.evaluate_times)).astype(int)

    def scale_in(self, alpha, sigma):
        return (sigma**2 + self.sigma_data**2) ** -0.5

    def weight(self, alpha, sigma):
        return jnp.full_like(sigma, 0.5)

    @property
    def error_name(self) -> str:
        return "loss"

    def score(self, params, x: jax.Array, t: jax.Array, cond=None) -> jax.Array:
        """The gradient of log p(x_t), f32 of x's shape, at noise levels t: i32[B]."""
        alpha, sigma = self.schedule.at(t, x.ndim)
        x0 = self.denoiser(params, cond)(x, t).x0
        return convert(x0, x, alpha, sigma, "x0", "score")
