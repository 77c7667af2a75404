"""What models of a flow map share: networks that know how far the ODE of flow matching leads, not only where it heads.

z_t = (1 - t) x_0 + t eps. The network u(z_t, t, span) is the average velocity over the times from t - span to t, so
that z_{t - span} = z_t - span u. A family defines the loss that u learns from. With span 0, u is the velocity of flow
matching, and whatever that can do a flow map can: any sampler of the ODE, likelihoods, editing. The sampler `Leaps`
takes as few steps as one.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from jaxgen.core.ranges import NonNegative
from jaxgen.core.types import Batch, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.conditions import Inputs, without
from jaxgen.models.flow_matching import FlowMatching
from jaxgen.ops.flow_maps import AverageVelocity
from jaxgen.ops.samplers import Heun, Leaps, Sampler
from jaxgen.ops.schedules import Straight


@dataclass(frozen=True, kw_only=True)
class FlowMap(FlowMatching):
    """x: f32[B, *shape], of about unit scale. The network is told `span` beside t: `TimeMLP`, `UNet` or `DiT`."""

    schedule: Straight = Straight(time_scale=10.0)
    sampler: Sampler = Leaps()
    target_guidance: NonNegative = 1.0
    """Scale of classifier-free guidance that the network learns, and then gives without a second pass: 1 for none. That
    of `guidance` comes on top. `Shortcut` learns it for steps longer than the finest."""

    def problem(self) -> str | None:
        if self.kind != "velocity":
            return f"kind is {self.kind}: what a flow map learns is a velocity, leave it"
        if self.target_guidance != 1 and not self.guidable:
            return "target_guidance needs a model trained with classes or texts and on examples without: class_dropout"
        if self.align.weight:
            return f"align.weight is {self.align.weight}: the loss of a flow map has no alignment, 0 is expected"
        return None

    def check(self, batch: Batch) -> None:
        """Raises UserError also for a network that cannot be told of spans."""
        if "span" not in inspect.signature(type(self.network).__call__).parameters:
            raise UserError(
                f"a {type(self.network).__name__} is not told how far a step goes: choose a TimeMLP, UNet or DiT"
            )
        super().check(batch)

    def times_told(self, t: jax.Array, sampling: bool = False) -> Inputs:
        if sampling and isinstance(self.sampler, Leaps):
            return {"span": self.sampler.span(self.schedule, t)}
        return {"span": jnp.zeros_like(t)}

    def answer(
        self, params: PyTree, x: jax.Array, t: jax.Array, inputs: Inputs, dropout: jax.Array | None = None
    ) -> jax.Array:
        """u, f32[B, *shape], over `span` of the inputs, f32[B], or the velocity at t without."""
        span = (self.times_told(t) | inputs)["span"]
        return super().answer(params, x, t, {**inputs, "span": self.schedule.network_time(span)}, dropout)

    @property
    def of_the_ode(self) -> "FlowMap":
        """The model with a sampler that asks for velocities. What corrects E[x_0 | x_t] on the way needs one: where a
        leap leads is no such mean."""
        return replace(self, sampler=Heun(clip=0.0)) if isinstance(self.sampler, Leaps) else self

    def steer(
        self, state: TrainState, keys: jax.Array, loss: Callable[[jax.Array, jax.Array], jax.Array],
        cond: PyTree = None, frames: int = 0,
    ) -> jax.Array:  # fmt: skip
        """As `Diffusion.steer`, by Heun's method where the sampler is `Leaps`."""
        return super(FlowMap, self.of_the_ode).steer(state, keys, loss, cond, frames)

    def restore(
        self, state: TrainState, keys: jax.Array, y: jax.Array, measure: Callable[[jax.Array], jax.Array],
        std: jax.Array | float, cond: PyTree = None, iterations: int = 3,
    ) -> jax.Array:  # fmt: skip
        """As `Diffusion.restore`, by Heun's method where the sampler is `Leaps`."""
        return super(FlowMap, self.of_the_ode).restore(state, keys, y, measure, std, cond, iterations)

    def average_velocity(self, params: PyTree, inputs: Inputs, dropout: jax.Array | None = None) -> AverageVelocity:
        """u(z, t, span) under the inputs of a condition."""
        return lambda z, t, span: self.answer(params, z, t, {**inputs, "span": span}, dropout)

    def pair(self, params: PyTree, cond: PyTree, z: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The network's velocities at z and t with the condition and without, in one pass."""
        both = [self.inputs(params, c) for c in (cond, without(cond, self.empty))]
        told = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *both)
        found = self.answer(params, jnp.concatenate([z, z]), jnp.concatenate([t, t]), told)
        return found[: len(z)], found[len(z) :]
