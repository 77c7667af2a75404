"""Progressive distillation (arXiv:2202.00512): a student of N / 2 steps is taught by two steps of a teacher of N.

Algorithm 2 there. The levels of `sampler.of` steps are halved again and again until `sampler.steps` are left, in one
run: in phase k, of `phase` training steps, one step of the student, over 2^(k + 1) levels of the finest grid, is to
lead where two DDIM steps of its teacher lead. The first teacher is the run that the codec names; as a phase ends, the
student (its average where there is one) becomes the teacher, and goes on from there with a new optimizer.

The loss is the squared error of F (`ops.trigflow`), which is that of v, or of x_0 weighted by SNR + 1 (section 4).
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.ranges import Count
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.models.student import TEACHER, Student, Teacher
from jaxgen.ops.diffusion import mean_each
from jaxgen.ops.few_steps import Halved
from jaxgen.ops.guidance import Guidance
from jaxgen.ops.trigflow import flow_between, noised, stepped

BEFORE, PHASE = "before", "phase"


@dataclass(frozen=True, kw_only=True)
class Progressive(Student):
    """The student at the end takes `sampler.steps` steps; before, samples by so few are of no use. That of more steps
    is in the checkpoint of `trained_for`."""

    sampler: Halved = Halved()
    phase: Count = 1000
    """Training steps of each halving; optimizer.decay_steps counts from the start of a phase."""

    def problem(self) -> str | None:
        halvings = math.log2(self.sampler.of / self.sampler.steps)
        if halvings < 1 or halvings != round(halvings):
            return (
                f"sampler.steps is {self.sampler.steps}, sampler.of {self.sampler.of}: a number that is halved once or "
                "more is expected, as 16 to 1"
            )

    @property
    def phases(self) -> int:
        return round(math.log2(self.sampler.of / self.sampler.steps))

    def trained_for(self, steps: int) -> int | None:
        """The training step at which the student of so many sampling steps is done; None for a number it never has."""
        k = math.log2(self.sampler.of / steps)
        return self.phase * round(k) if k == round(k) and 1 <= k <= self.phases else None

    # --- phases ---

    def init_extra(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        return {PHASE: jnp.zeros((), jnp.int32)}

    def _start(self, params: dict[str, PyTree], extra: dict[str, PyTree]) -> TrainState:
        # The teacher of all phases but the first, which no step of that one reads.
        return super()._start(params, {**extra, BEFORE: jax.tree.map(jnp.copy, params)})

    def _promoted(self, state: TrainState) -> TrainState:
        """The state as a phase begins: the student is the teacher, and starts from it."""
        params = state.sampling_params
        extra = {**state.extra, PHASE: self._phase(state.step)}
        return self._start(params, extra).replace(step=state.step)

    def _phase(self, step: jax.Array) -> jax.Array:
        return jnp.minimum(step // self.phase, self.phases - 1).astype(jnp.int32)

    def train_step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Metrics]:
        due = self._phase(state.step) > state.extra[PHASE]
        return super().train_step(jax.lax.cond(due, self._promoted, lambda s: s, state), key, batch)

    # --- the loss ---

    def angles(self) -> np.ndarray:
        """Levels of the finest grid from noise to data, float64[of + 1]: arctan(sigma / alpha)."""
        grid = self.model.schedule.grid(self.sampler.of)
        return np.arctan2(grid.sigma, grid.alpha)

    def terms(self, params, state, keys, x, cond, dropout):
        phase, table = state.extra[PHASE], jnp.asarray(self.angles(), jnp.float32)
        each = 2**phase  # of the finest steps, in one of the teacher's
        count = self.sampler.of // (2 * each)
        first = jax.vmap(lambda key: jax.random.randint(key, (), 0, count))(keys) * 2 * each
        t, middle, s = (table[first + i * each] for i in range(3))
        at, _ = noised(*x, t)
        own = Teacher(state.extra[BEFORE], self.sampling).flow(cond, Guidance())
        taught = state.extra[TEACHER].flow(cond, self.guidance)

        def teacher(x: jax.Array, t: jax.Array) -> jax.Array:
            return jax.lax.cond(phase == 0, taught, own, x, t)

        def step(x: jax.Array, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            return stepped(teacher, x, *ends), None

        end, _ = jax.lax.scan(step, at, (jnp.stack([t, middle]), jnp.stack([middle, s])))
        target = flow_between(at, end, t - s)
        error = mean_each((self.flow(params, cond, dropout)(at, t) - target) ** 2)
        return error, {"step_mse": error}
