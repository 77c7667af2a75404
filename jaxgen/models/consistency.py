"""Consistency models: a network maps any point of a path of the probability-flow ODE to where the path ends.

f(x_t, t) = cos(t) x_t - sin(t) F_theta(x_t, t), see `ops.trigflow`; f(x, 0) = x by construction. Two ways to learn it:

- In continuous time, sCM (arXiv:2410.11081): F follows the tangent g = cos(t) df / dt, algorithm 1 there,

      E e^w(t) |F_theta(x_t, t) - F_theta-(x_t, t) - g / (|g| + c)|^2 - w(t),

  with w learned, theta- without gradient. dx / dt in df / dt is cos(t) eps - sin(t) x_0 in consistency training (sCT),
  which needs no teacher, and the teacher's F in distillation (sCD).
- In discrete time by a teacher, LCM (arXiv:2310.04378, eq. 14): f(x_t, t) follows f(x_s, s), s the next of N levels, by
  one DDIM step of the guided teacher from t to s.

A sample is f of pure noise; in more steps, noise of a lower level is added and f applied again (`ops.few_steps`).
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.keys import integer_each, normal_each
from jaxgen.core.ranges import NonNegative, OptionalCount, Positive, Steps
from jaxgen.core.types import Batch, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.diffusion import Diffusion
from jaxgen.models.student import TEACHER, Student
from jaxgen.models.trigflow import TrigFlow
from jaxgen.nets.apply import apply
from jaxgen.nets.unet import ZERO, time_embedding
from jaxgen.ops.diffusion import mean_each
from jaxgen.ops.few_steps import Renoised
from jaxgen.ops.samplers import Sampler
from jaxgen.ops.schedules import ScaledLinear
from jaxgen.ops.trigflow import noised, normalised, stepped, tangent

WEIGHT = "weighting"
"""The network of w(t) among the parameters."""
TAKEN = ("network", "shape", "num_classes", "class_dropout", "text", "empty")
"""What a student in continuous time has of its teacher's model."""
SHOWN = (1, 2, 4)
"""Steps of the samples in pictures."""


class LogWeight(nn.Module):
    """w(t) of angles t: f32[B], f32[B], zero at initialization: a linear map of sinusoids, as in arXiv:2312.02696."""

    @nn.compact
    def __call__(self, t: jax.Array) -> jax.Array:
        return nn.Dense(1, kernel_init=ZERO, name="out")(time_embedding(32 * t, 32))[:, 0]


@dataclass(frozen=True, kw_only=True)
class ConsistencyModel(Student):
    """What the two have in common."""

    sampler: Sampler = Renoised()

    def in_steps(self, steps: int) -> "Student":
        if isinstance(self.sampler, Renoised) and steps != self.sampler.steps:
            return replace(self, sampler=replace(self.sampler, steps=steps, angles=()))
        return super().in_steps(steps)

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """A row of samples in one step, of the same noise in two, and in four."""
        if len(self.shape) != 3:
            return {}
        keys = keys[:10]
        cond = self.sample_cond(len(keys), batch)
        return {"steps.png": jnp.stack([self.in_steps(n).sample(state, keys, cond) for n in SHOWN])}


@dataclass(frozen=True, kw_only=True)
class Consistency(ConsistencyModel):
    """sCM: by distillation of the run that the codec names, or by data alone. x: f32[B, *shape] of about unit scale."""

    model: Diffusion = field(default_factory=TrigFlow)
    log_tan_mean: float = -0.3
    """P_mean: log tan(t) ~ N(P_mean, P_std^2) in training."""
    log_tan_std: Positive = 1.4
    warmup: OptionalCount = 10_000
    """Steps of tangent warm-up, H: before, a part of the loss is that of diffusion."""
    normalise: NonNegative = 0.1
    """c of tangent normalisation."""
    needs_teacher: ClassVar[bool] = False

    def learner(self, teacher: Diffusion) -> Diffusion:
        """`TrigFlow` by the teacher's network: other times turn the network's sinusoids too fast for a stable
        derivative. Warm-up accustoms the network to the time that it is told. A family whose network sees more than
        x_t, t and conditions stays what it is."""
        if any(getattr(type(teacher), name) is not getattr(Diffusion, name) for name in ("inputs", "answer", "drop")):
            return super().learner(teacher)
        return TrigFlow(**{name: getattr(teacher, name) for name in TAKEN})

    def check(self, batch: Batch) -> None:
        super().check(batch)
        if isinstance(self.model.schedule, ScaledLinear):
            raise UserError("a network of the schedule ScaledLinear is told whole steps, and has no derivative in t: "
                            "use LCM, or another schedule")  # fmt: skip

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        key, key_weight = jax.random.split(key)
        return {**super().init_params(key, batch), WEIGHT: LogWeight().init(key_weight, jnp.ones(1))["params"]}

    def terms(self, params, state, keys, x, cond, dropout):
        low, high = self.model.schedule.angles
        t = jnp.arctan(jnp.exp(self.log_tan_mean + self.log_tan_std * normal_each(keys, ())))
        t = jnp.clip(t, low, high)
        at, velocity = noised(*x, t)
        if TEACHER in state.extra:
            velocity = state.extra[TEACHER].flow(cond, self.guidance)(at, t)
        warm = jnp.minimum(1.0, (state.step + 1) / self.warmup) if self.warmup else 1.0
        value, g = tangent(self.flow(params, cond, dropout), at, t, velocity, warm)
        g = jax.lax.stop_gradient(g)
        target = jax.lax.stop_gradient(value) + normalised(g, self.normalise)
        log_weight = apply(LogWeight(), {"params": params[WEIGHT]}, t)
        losses = jnp.exp(log_weight) * mean_each((value - target) ** 2) - log_weight
        return losses, {"tangent": mean_each(g**2)}


@dataclass(frozen=True, kw_only=True)
class LCM(ConsistencyModel):
    """Latent consistency distillation, of latents or of pixels."""

    sampler: Sampler = Renoised(steps=4)
    levels: Steps = 50
    """N, evenly spaced in arctan(sigma / alpha), as the steps of a cosine schedule are. Of a teacher of T steps this is
    the paper's skipping of T / N of them at a time."""
    huber: NonNegative = 5.4e-4
    """c of the pseudo-Huber distance sqrt(|d|^2 + c^2) - c, |d| the root mean square (arXiv:2310.14189, eq. 8)."""

    def terms(self, params, state, keys, x, cond, dropout):
        low, high = self.model.schedule.angles
        n = integer_each(keys, 1, self.levels + 1)
        t, s = (high * m.astype(jnp.float32) / self.levels for m in (n, n - 1))
        at, _ = noised(*x, t)
        flow, zero = self.flow(params, cond, dropout), jnp.zeros_like(t)
        before = stepped(state.extra[TEACHER].flow(cond, self.guidance), at, t, s)
        there = stepped(self.flow(jax.lax.stop_gradient(params), cond, dropout), before, jnp.maximum(s, low), zero)
        # Where a path has ended, f is the identity.
        target = jnp.where((s <= low).reshape(-1, *[1] * (at.ndim - 1)), before, there)
        gap = mean_each((stepped(flow, at, t, zero) - target) ** 2)
        return jnp.sqrt(gap + max(self.huber, 1e-6) ** 2) - self.huber, {"gap": gap}
