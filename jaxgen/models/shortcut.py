"""Shortcut models, arXiv:2410.12557: a network told how far a step goes, which learns long steps from two short ones.

u(z_t, t, d) is the velocity with which one step of d is right: s of the paper, whose time runs the other way. Most
examples have d = 0, and learn flow matching. The target of the others is the mean of two steps of d / 2 by the averaged
weights (eq. 4), for d from 1 down to 2 / finest by halves, and t a multiple of d. Steps of 1 / finest count as d = 0.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxgen.core.keys import integer_each, normal_each, split_each, uniform_each
from jaxgen.core.ranges import Size, Steps
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.models.flow_map import FlowMap
from jaxgen.ops import flow_maps
from jaxgen.ops.diffusion import mean_each
from jaxgen.ops.samplers import Leaps
from jaxgen.ops.schedules import expand


@dataclass(frozen=True, kw_only=True)
class Shortcut(FlowMap):
    """x: f32[B, *shape], of about unit scale. Samplers take 1, 2, 4 ... `finest` steps."""

    finest: Steps = 128
    """Steps of the finest sampler, a power of two."""
    every: Size = 4
    """One of so many examples learns a long step; the others learn flow matching."""

    def problem(self) -> str | None:
        if self.finest < 2 or self.finest & (self.finest - 1):
            return f"finest is {self.finest}: a power of two from 2 on is expected"
        if self.schedule.shift != 1:
            return f"schedule.shift is {self.schedule.shift}: steps of a shortcut model are equally long, 1 is expected"
        steps = self.sampler.steps if isinstance(self.sampler, Leaps) else 1
        if steps & (steps - 1) or steps > self.finest:
            return f"sampler.steps is {steps}: a power of two is expected, {self.finest} (finest) at most"
        return super().problem()

    @property
    def neighbours(self) -> int:
        return self.every

    def times_told(self, t, sampling=False):
        return {"span": self._told(super().times_told(t, sampling)["span"])}

    def _told(self, span: jax.Array) -> jax.Array:
        """The span that the network is told, 0 for that of the finest sampler."""
        return jnp.where(span * self.finest < 1.5, 0.0, span)

    def loss(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
        keys_t, keys_span, keys_place, keys_eps, keys_class, keys_dropout = split_each(keys, 6)
        rows = slice(None, None, self.every)
        halvings = integer_each(keys_span[rows], 0, self.finest.bit_length() - 1)
        long = 2.0**-halvings
        place = jnp.floor(uniform_each(keys_place[rows], ()) / long)
        t = self.draw_times(keys_t, state)[0].at[rows].set(long * (1 + place))
        span = jnp.zeros_like(t).at[rows].set(long)

        x0, eps = batch["x"], normal_each(keys_eps, batch["x"].shape[1:])
        alpha, sigma = self.schedule.at(t, x0.ndim)
        z = alpha * x0 + sigma * eps
        cond = self.drop(keys_class, self.condition(batch))
        averaged = jax.lax.stop_gradient(params if state.ema is None else state.ema)
        some = jax.tree.map(lambda a: a[rows], (cond, z, t, span))
        target = (eps - x0).at[rows].set(self._halves(averaged, *some))
        inputs, key_network = self.inputs_in_training(params, cond, keys_dropout)
        u = self.average_velocity(params, inputs, key_network)(z, t, span)
        error = mean_each((u - target) ** 2)
        return jnp.mean(error), {"consistency_mse": jnp.mean(error[rows])}

    def _halves(self, params: PyTree, cond: PyTree, z: jax.Array, t: jax.Array, span: jax.Array) -> jax.Array:
        """The target of examples of long steps. With `target_guidance`, the shortest steps are guided, and so is all
        that is learnt from them."""
        plain = self.average_velocity(params, self.inputs(params, cond))

        def step(z: jax.Array, t: jax.Array, half: jax.Array) -> jax.Array:
            told = self._told(half)
            u = plain(z, t, told)
            if self.target_guidance == 1:
                return u
            good, null = self.pair(params, cond, z, t)
            return jnp.where(expand(told, z.ndim) == 0, null + self.target_guidance * (good - null), u)

        return flow_maps.two_halves(step, z, t, span)
