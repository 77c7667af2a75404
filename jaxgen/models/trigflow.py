"""TrigFlow (arXiv:2410.11081, section 3): diffusion by x_t = cos(t) x_0 + sin(t) eps, t from 0 to pi / 2.

The network predicts cos(t) eps - sin(t) x_0, the velocity of the probability-flow ODE; the loss is its squared error.
log tan(t) is normal in training. Sampled in many steps it is what v prediction is; its time and prediction are those
that consistency training of continuous time is stable with (`models.consistency`).
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from scipy.stats import norm

from jaxgen.core.keys import normal_each
from jaxgen.core.ranges import Positive
from jaxgen.models.diffusion import Diffusion
from jaxgen.ops.diffusion import Kind
from jaxgen.ops.samplers import Heun, Sampler
from jaxgen.ops.trigflow import Trig


@dataclass(frozen=True, kw_only=True)
class TrigFlow(Diffusion):
    """x: f32[B, *shape], of about unit scale."""

    schedule: Trig = Trig()
    sampler: Sampler = Heun(clip=0.0)
    kind: Kind = "trig"
    log_tan_mean: float = -0.3
    """Of log tan(t): the P_mean of -1 of the paper for data of a standard deviation of 0.5."""
    log_tan_std: Positive = 1.4
    """P_std."""

    def draw_times(self, keys, state):
        tan = jnp.exp(self.log_tan_mean + self.log_tan_std * normal_each(keys, ()))
        return jnp.arctan(tan), jnp.ones(keys.shape)

    def times_to_evaluate(self):
        n = self.evaluate_times
        log_tan = norm.ppf((np.arange(n) + 0.5) / n, self.log_tan_mean, self.log_tan_std)
        return np.arctan(np.exp(log_tan)).astype(np.float32)
