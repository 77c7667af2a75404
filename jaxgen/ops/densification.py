"""Splats made where pictures lack detail, and unseen ones removed, among a fixed number of slots (arXiv:2308.04079,
section 5.2).

A slot without a splat has an opacity of sigmoid(EMPTY), which is never drawn and gets no gradient. A splat whose place
in pictures has a large gradient is copied where it is small, and cut in two where it is large. A copy and its original
then have an opacity of 1 - sqrt(1 - o) each, so that they hide at their centre what one did (arXiv:2404.06109).
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core.ranges import NonNegative, OptionalCount, PositiveFraction
from jaxgen.ops.splatting import rotation

EMPTY = -20.0
"""The logit of the opacity of a slot without a splat."""
SMALLER = 1.6
"""By what the scales of a splat that is cut in two are divided."""

Params = dict[str, jax.Array]
"""N slots by name: mean, log_scale, quaternion, opacity (a logit f32[N]) and the harmonics sh0 and sh."""


@dataclass(frozen=True, kw_only=True)
class Densification:
    """When slots are filled and emptied, and which."""

    every: OptionalCount = 100
    """Steps between two times; 0 for never."""
    start: OptionalCount = 500
    """Steps before the first time."""
    stop: OptionalCount = 15_000
    """The step from which on it is over."""
    gradient: NonNegative = 2e-4
    """Mean length of the loss's gradient in a splat's place, in halves of the picture's sides, above which it becomes
    two."""
    small: NonNegative = 0.01
    """Largest scale, in units of the scene's extent, of a splat that is copied rather than cut."""
    large: NonNegative = 0.1
    """Scale, in the same units, above which a splat is removed."""
    faint: PositiveFraction = 0.005
    """Opacity below which a splat is removed."""
    reset_every: OptionalCount = 3000
    """Steps between two times at which all become almost transparent, so that those that nothing needs vanish; 0 for
    never."""
    reset_to: PositiveFraction = 0.01
    """Highest opacity after a reset."""

    def problem(self) -> str | None:
        if self.reset_every and self.reset_to <= self.faint:
            return f"reset_to is {self.reset_to}, faint {self.faint}: all would be removed; set reset_to above faint"

    def due(self, step: jax.Array, every: int) -> jax.Array:
        """Whether something that is done every so many steps is to be done after the step of this number."""
        if not every:
            return jnp.zeros((), bool)
        return ((step + 1) % every == 0) & (step >= self.start) & (step + 1 < self.stop)


class Densified(NamedTuple):
    """New slots; `fresh`, bool[N], are those that now hold another splat or none; `lacking`, f32[], how many splats
    should have become two but found no empty slot."""

    params: Params
    fresh: jax.Array
    lacking: jax.Array


def is_splat(logit: jax.Array) -> jax.Array:
    """bool[N]: which slots have a splat, by the logits of their opacities."""
    return logit > EMPTY / 2


def densified(params: Params, gradient: jax.Array, key: jax.Array, rules: Densification, extent: float) -> Densified:
    """The slots after splats of mean screen-space gradients f32[N] were removed, copied and cut in two. Where there are
    fewer empty slots than wanted, those of largest gradients come first."""
    logit, size = params["opacity"], jnp.max(params["log_scale"], axis=-1)
    number = len(logit)
    keep = is_splat(logit) & (jax.nn.sigmoid(logit) >= rules.faint) & (size <= jnp.log(rules.large * extent))
    wanted = keep & (gradient > rules.gradient)
    count = jnp.minimum(jnp.sum(wanted), jnp.sum(~keep))
    used = jnp.arange(number) < count
    parent = jnp.argsort(jnp.where(wanted, -gradient, jnp.inf))
    slot = jnp.where(used, jnp.argsort(keep, stable=True), number)  # a slot of this number is left out
    chosen = jnp.zeros(number, bool).at[jnp.where(used, parent, number)].set(True, mode="drop")
    cut = size > jnp.log(rules.small * extent)

    halved = _logit(1 - jnp.sqrt(1 - jnp.minimum(jax.nn.sigmoid(logit), 0.9999)))
    axes, scale = rotation(params["quaternion"]), jnp.exp(params["log_scale"])
    keys = jax.random.split(key)
    shifts = [_turned(axes, scale * jax.random.normal(k, scale.shape)) * cut[:, None] for k in keys]
    two = {
        **params,
        "log_scale": params["log_scale"] - jnp.where(cut, jnp.log(SMALLER), 0.0)[:, None],
        "opacity": jnp.where(cut, logit, halved),
    }
    first, second = ({**two, "mean": params["mean"] + shift} for shift in shifts)

    def placed(old: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
        mine = chosen.reshape(-1, *[1] * (old.ndim - 1))
        return jnp.where(mine, first, old).at[slot].set(second[parent], mode="drop")

    kept = {**params, "opacity": jnp.where(keep, logit, EMPTY)}
    filled = jnp.zeros(number, bool).at[slot].set(True, mode="drop")
    new = {name: placed(kept[name], first[name], second[name]) for name in params}
    lacking = (jnp.sum(wanted) - count).astype(jnp.float32)
    return Densified(new, filled | ~keep | (chosen & cut), lacking)


def _turned(axes: tuple[jax.Array, ...], x: jax.Array) -> jax.Array:
    """R x of rotations by rows and x: f32[N, 3]."""
    return jnp.stack([jnp.sum(row * x, axis=-1) for row in axes], axis=-1)


def _logit(p: jax.Array) -> jax.Array:
    return jnp.log(p) - jnp.log1p(-p)
