"""Denoising diffusion in discrete time: DDPM (arXiv:2006.11239) and improved DDPM (arXiv:2102.09672).

The loss is one of three. simple: E |eps - eps_theta(x_t, t)|^2 (eq. 14 of the first), or the squared error of another
prediction, with min-SNR weights (arXiv:2303.09556) on request. hybrid: L_simple + lambda L_vlb (eq. 16 of the second),
which also learns the variance of the reverse step. vlb: the variational bound alone. T: the schedule's steps.
"""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.gradients import Seen
from jaxgen.core.keys import integer_each
from jaxgen.core.ranges import NonNegative
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.models.diffusion import Diffusion
from jaxgen.ops import diffusion as ops
from jaxgen.ops.diffusion import Denoised, mean_each
from jaxgen.ops.samplers import Ancestral, Sampler
from jaxgen.ops.schedules import Discrete, Linear, expand


@dataclass(frozen=True, kw_only=True)
class DDPM(Diffusion):
    """x: f32[B, H, W, C] in [-1, 1]."""

    schedule: Discrete = Linear()
    sampler: Sampler = Ancestral()
    objective: Literal["simple", "hybrid", "vlb"] = "simple"
    """hybrid and vlb learn the variance: the network outputs twice the channels."""
    vlb_weight: NonNegative = 1e-3
    """lambda of the hybrid loss, with L_vlb in bits per dimension."""
    min_snr: NonNegative = 0.0
    """gamma of arXiv:2303.09556: the error of x_0 is weighted by min(snr, gamma); 0 leaves the error unweighted."""
    importance: bool = False
    """Draw times in proportion to the root mean square of their last `HISTORY` losses: eq. 18 of arXiv:2102.09672."""

    HISTORY = 10

    @property
    def learns_variance(self) -> bool:
        return self.objective != "simple"

    @property
    def outputs(self) -> int:
        return self.shape[-1] * (2 if self.learns_variance else 1)

    @property
    def error_name(self) -> str:
        return "loss" if self.learns_variance or self.min_snr else super().error_name

    # --- times ---

    def init_extra(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        if not self.importance:
            return {}
        steps = self.schedule.num_steps
        return {"history": jnp.zeros((steps, self.HISTORY)), "seen": jnp.zeros(steps, jnp.int32)}

    def time_probabilities(self, extra: dict[str, PyTree]) -> jax.Array:
        """p_t proportional to sqrt(E L_t^2), f32[T]; uniform until each time has been drawn `HISTORY` times."""
        # A uniform share of a thousandth bounds the weights 1 / p_t.
        p = jnp.sqrt(jnp.mean(extra["history"] ** 2, axis=1)) + 1e-12
        p = 0.999 * p / jnp.sum(p) + 0.001 / len(p)
        return jnp.where(jnp.all(extra["seen"] >= self.HISTORY), p, 1 / len(p))

    def draw_times(self, keys, state):
        if not self.importance:
            return integer_each(keys, 0, self.schedule.num_steps), jnp.ones(keys.shape)
        p = self.time_probabilities(state.extra)
        t = jax.vmap(lambda key: jax.random.choice(key, len(p), p=p))(keys).astype(jnp.int32)
        return t, 1 / (p[t] * len(p))

    def times_to_evaluate(self):
        return np.round(np.linspace(0, self.schedule.num_steps - 1, self.evaluate_times)).astype(int)

    # --- the prediction and its error ---

    def weight(self, alpha, sigma):
        """min-SNR, eq. 4 of arXiv:2303.09556: min(snr, gamma) for x_0, so min(snr, gamma) / snr for eps."""
        if not self.min_snr:
            return jnp.ones_like(sigma)
        return jnp.minimum((alpha / sigma) ** 2, self.min_snr) / ops.error_scale(self.kind, alpha, sigma)

    def denoised(self, answer, x, t):
        if not self.learns_variance:
            return super().denoised(answer, x, t)
        answer, raw = jnp.split(answer, 2, axis=-1)
        return super().denoised(answer, x, t)._replace(fraction=(raw + 1) / 2)

    def errors(self, params, x0, t, eps, inputs, dropout):
        if not self.learns_variance:
            return super().errors(params, x0, t, eps, inputs, dropout)
        alpha, sigma = self.schedule.at(t, x0.ndim)
        x = alpha * x0 + sigma * eps
        answer, more = self.answer_in_training(params, x, t, inputs, dropout)
        denoised = self.denoised(answer, x, t)
        if self.objective == "vlb":
            return self._vlb(x0, x, t, denoised) + more
        answer = jnp.split(answer, 2, axis=-1)[0]
        simple = mean_each(self.weight(alpha, sigma) * (self.target(x0, eps, alpha, sigma) - answer) ** 2)
        # L_vlb must train the variance alone.
        fixed_mean = denoised._replace(x0=jax.lax.stop_gradient(denoised.x0))
        return simple + self.vlb_weight * self._vlb(x0, x, t, fixed_mean) + more

    def _vlb(self, x0: jax.Array, x: jax.Array, t: jax.Array, denoised: Denoised) -> jax.Array:
        """T times the bound's term at t, f32[B] in bits per dimension: its mean over t is the bound minus the prior."""
        grid = self.schedule.grid(0)
        a, b, _ = ops.posterior(grid.alpha[:-1], grid.sigma[:-1], grid.alpha[1:], grid.sigma[1:])
        # The grid runs from noise to data, t the other way.
        tables = [table[::-1] for table in (a, b, *ops.log_variances(grid))]
        a, b, low, high = (expand(jnp.asarray(table, jnp.float32)[t], x0.ndim) for table in tables)
        step = ops.ReverseStep(a, b, low, high, fixed=low, last=(t == 0).reshape(low.shape))
        term = ops.bound_term(x0, x, denoised, step)
        return self.schedule.num_steps * term / math.log(2)

    # --- the history of the loss ---

    def seen(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Seen]:
        """The loss; with `importance`, `Seen.rows` are the times and the errors at them."""
        if not self.importance:
            return super().seen(params, state, keys, batch)
        t, importance, errors = self.times_and_errors(params, state, keys, batch)
        return jnp.mean(importance * errors), Seen({}, rows=(t, errors))

    def train_step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Metrics]:
        state, seen = self._step(state, key, batch)
        if not self.importance:
            return state, seen.metrics
        metrics, (t, errors) = seen.metrics, seen.rows
        history, times_seen = state.extra["history"], state.extra["seen"]
        # Example i is the rank[i]-th with its time in this batch. Each error replaces the oldest of its time.
        same = t[:, None] == t[None]
        rank = jnp.sum(same & (jnp.arange(len(t))[:, None] > jnp.arange(len(t))[None]), axis=1)
        # Of a time with more errors than its history keeps, the last: no place is written to twice.
        place = jnp.where(rank >= jnp.sum(same, axis=1) - self.HISTORY, t, len(history))
        history = history.at[place, (times_seen[t] + rank) % self.HISTORY].set(errors, mode="drop")
        return state.replace(extra={**state.extra, "history": history, "seen": times_seen.at[t].add(1)}), metrics
