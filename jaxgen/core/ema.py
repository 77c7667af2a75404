"""Averages of parameters over training, by which samples are drawn: of one decay, or of power-function profiles."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import Gt, Le

from jaxgen.core.ranges import Decay
from jaxgen.core.types import PyTree, TrainState
from jaxgen.ops.power_ema import LONGEST, newcomer

Length = Annotated[float, Gt(0), Le(LONGEST)]
"""Standard deviation of a power-function profile, relative to the time trained (sigma_rel of arXiv:2312.02696)."""
AVERAGES = "averages"
"""The entry of `opt_state` with the running averages that no samples are drawn by. Only training needs them."""


@dataclass(frozen=True, kw_only=True)
class Averaging:
    """The fields by which a model averages its parameters, and the averages' start and update."""

    ema_decay: Decay = 0.0
    """Decay of the exponential moving average of the parameters, which draws the samples; 0 keeps none."""
    ema_lengths: tuple[Length, ...] = ()
    """Instead of `ema_decay`: lengths of power-function averages (arXiv:2312.02696, section 3), each the standard
    deviation of its profile relative to the steps trained, such as 0.05 0.1. The first draws the samples. Snapshots of
    all are kept, from which `jaxgen ema` reconstructs any other length."""

    def first_averages(self, params: PyTree, itself: bool = False) -> tuple[PyTree | None, dict[str, Any]]:
        """The state's `ema` at step 0, None without one, and the entries of its `opt_state`. params: are averaged.
        itself: whether the optimizer averages, so that there is an `ema` in any case."""
        # Copies: donating one buffer under two names is an error.
        ema = jax.tree.map(jnp.copy, params) if self.ema_lengths or self.ema_decay or itself else None
        others = {f"{length:g}": jax.tree.map(jnp.copy, params) for length in self.ema_lengths[1:]}
        return ema, {AVERAGES: others} if others else {}

    def next_averages(
        self, state: TrainState, params: PyTree, itself: bool = False
    ) -> tuple[PyTree | None, dict[str, Any]]:
        """What `first_averages` began, after the step from `state` to `params`. With `itself` these are the optimizer's
        own average, which is the `ema` where the model averages no further."""
        if not (self.ema_lengths or self.ema_decay):
            return (params if itself else None), {}
        if not self.ema_lengths:
            return update_ema(state.ema, params, self.ema_decay, state.step), {}
        first, *others = self.ema_lengths
        ema = update_power_ema(state.ema, params, first, state.step)
        kept: Mapping[str, PyTree] = state.opt_state.get(AVERAGES, {})
        changed = {f"{n:g}": update_power_ema(kept[f"{n:g}"], params, n, state.step) for n in others}
        return ema, {AVERAGES: changed} if changed else {}

    def running_averages(self, state: TrainState) -> dict[float, PyTree]:
        """The power-function averages of a state by their lengths; empty without."""
        if not self.ema_lengths:
            return {}
        first, *others = self.ema_lengths
        return {first: state.ema, **{n: state.opt_state[AVERAGES][f"{n:g}"] for n in others}}


def update_ema(ema: PyTree, params: PyTree, decay: float, step: jax.Array) -> PyTree:
    """decay_t * ema + (1 - decay_t) * params, in f32, decay_t = min(decay, (1 + t) / (10 + t)).

    The ramp keeps a short run's average from being its random initialisation.
    """
    step = step.astype(jnp.float32)
    ramped = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda e, p: e + (1 - ramped) * (p - e), ema, params)


def update_power_ema(ema: PyTree, params: PyTree, length: float, step: jax.Array) -> PyTree:
    """beta_t * ema + (1 - beta_t) * params, in f32, t = step + 1: `ops.power_ema.newcomer`. step: taken before."""
    weight = newcomer(length, step + 1)
    return jax.tree.map(lambda e, p: e + weight * (p - e), ema, params)
