"""Flow matching along straight lines: rectified flow (arXiv:2209.03003, arXiv:2210.02747).

x_t = (1 - t) x_0 + t eps, t in [0, 1]. The network predicts the velocity eps - x_0; the loss is its squared error
(eq. 1 of the first). Times are uniform or logit-normal (section 3.1 of arXiv:2403.03206).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit, ndtri

from jaxgen.core.keys import normal_each, uniform_each
from jaxgen.core.ranges import NonNegative
from jaxgen.models.diffusion import Diffusion
from jaxgen.ops.diffusion import Kind
from jaxgen.ops.samplers import Euler, Sampler
from jaxgen.ops.schedules import Straight


@dataclass(frozen=True, kw_only=True)
class FlowMatching(Diffusion):
    """x: f32[B, *shape], of about unit scale."""

    schedule: Straight = Straight()
    sampler: Sampler = Euler(clip=0.0)
    kind: Kind = "velocity"
    logit_std: NonNegative = 0.0
    """logit t ~ N(logit_mean, logit_std^2) in training; t is uniform when 0."""
    logit_mean: float = 0.0

    def problem(self) -> str | None:
        if self.kind in ("eps", "score"):
            return f"kind is {self.kind}, which tells nothing of data where all is noise: choose velocity, v or x0"
        return None

    def draw_times(self, keys, state):
        if not self.logit_std:
            return uniform_each(keys, ()), jnp.ones(keys.shape)
        return jax.nn.sigmoid(self.logit_mean + self.logit_std * normal_each(keys, ())), jnp.ones(keys.shape)

    def times_to_evaluate(self):
        t = (np.arange(self.evaluate_times) + 0.5) / self.evaluate_times
        return (expit(self.logit_mean + self.logit_std * ndtri(t)) if self.logit_std else t).astype(np.float32)
