"""MeanFlow, arXiv:2505.13447: one-step generation, trained from scratch.

With span = t - r, d(span u)/dt = v along the ODE (eq. 6): the target of u(z_t, t, span) is v - span du/dt, where v is
eps - x_0 of an example, and du/dt a product with the network's Jacobian. Most examples have span 0, and learn flow
matching. With guidance in the target (section 4.2 and appendix B.1), v is replaced by omega v + kappa u(z_t, t, 0 | c)
+ (1 - omega - kappa) u(z_t, t, 0), which has the scale omega / (1 - kappa).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxgen.core.keys import coin_each, normal_each, split_each
from jaxgen.core.ranges import Decay, Fraction, NonNegative
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.models.conditions import where_each
from jaxgen.models.flow_map import FlowMap
from jaxgen.ops import flow_maps
from jaxgen.ops.diffusion import mean_each


@dataclass(frozen=True, kw_only=True)
class MeanFlow(FlowMap):
    """x: f32[B, *shape], of about unit scale."""

    logit_std: NonNegative = 1.0
    """logit t and logit r ~ N(logit_mean, logit_std^2), the larger of which is t; both are uniform when 0."""
    logit_mean: float = -0.4
    spans: Fraction = 0.25
    """Fraction of examples with r < t; the others have r = t."""
    power: NonNegative = 1.0
    """p of the weight 1 / (squared error + 0.001)^p, eq. 22; 0 for the plain squared error."""
    mix: Decay = 0.0
    """kappa, with `target_guidance`: the share of the network's own velocity in its target."""

    def loss(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
        """The metric `loss` is the squared error without its weights, with which it would hardly change."""
        keys_t, keys_r, keys_span, keys_eps, keys_class, keys_dropout = split_each(keys, 6)
        first, second = self.draw_times(keys_t, state)[0], self.draw_times(keys_r, state)[0]
        t = jnp.maximum(first, second)
        span = jnp.where(coin_each(keys_span, self.spans), jnp.abs(first - second), 0.0)
        x0, eps = batch["x"], normal_each(keys_eps, batch["x"].shape[1:])
        alpha, sigma = self.schedule.at(t, x0.ndim)
        z, v = alpha * x0 + sigma * eps, eps - x0
        cond = self.condition(batch)
        if self.class_dropout:
            keep = self.keeps(keys_class)
            if self.target_guidance != 1:
                v = where_each(keep, self._guided(params, cond, z, t, v), v)
            cond = self.kept_where(keep, cond)
        inputs, key_network = self.inputs_in_training(params, cond, keys_dropout)
        u, target = flow_maps.mean_flow(self.average_velocity(params, inputs, key_network), z, t, span, v)
        error = mean_each((u - target) ** 2)
        whole = error * u[0].size
        return jnp.mean(flow_maps.adaptive(whole, self.power) * whole), {"loss": jnp.mean(error)}

    def _guided(self, params: PyTree, cond: PyTree, z: jax.Array, t: jax.Array, v: jax.Array) -> jax.Array:
        """The velocity that guidance makes of v: eqs. 19 and 20."""
        told, null = jax.lax.stop_gradient(self.pair(params, cond, z, t))
        omega = self.target_guidance * (1 - self.mix)
        return omega * v + self.mix * told + (1 - omega - self.mix) * null
