"""What models share that are taught to sample in few steps, by a diffusion model or by data alone.

A student is a `Diffusion` whose network has learnt something else than E[x_0 | x_t]. Its parameters have the tree of
that model's, so that they can start from the teacher's, and it is sampled like it. The teacher comes with every batch
(`runs.distilled`), frozen; its guidance is distilled too. All losses are in the coordinates of `ops.trigflow`, in which
teacher and student may have different schedules and predict different quantities.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import struct

from jaxgen.core.codec import static
from jaxgen.core.keys import fold_each, normal_each, one_key, split_each
from jaxgen.core.model import LossModel
from jaxgen.core.ranges import Decay, Steps
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.ddpm import DDPM
from jaxgen.models.diffusion import Diffusion
from jaxgen.ops.diffusion import Denoised
from jaxgen.ops.guidance import Guidance
from jaxgen.ops.samplers import Sampler
from jaxgen.ops.trigflow import Flow, flow_of

TEACHER = "teacher"
"""The teacher's entry in a batch, and in `extra` within a step: no checkpoint holds it."""
FIXED = ("guidance", "negative", "negative_mask", "negative_embedding")
"""Entries of a condition that a guided sampler takes: a student's guidance is what its teacher's was."""


@struct.dataclass
class Teacher:
    """A frozen diffusion model."""

    params: PyTree
    model: Any = static(None)

    def for_each(self, count: int) -> "Teacher":
        """The teacher of `count` examples: every array has that leading axis, as all arrays of a batch."""
        return jax.tree.map(lambda a: jnp.broadcast_to(a[None], (count, *a.shape)), self)

    @property
    def one(self) -> "Teacher":
        """What `for_each` was called of."""
        return jax.tree.map(lambda a: a[0], self)

    def flow(self, cond: PyTree, guidance: Guidance) -> Flow:
        """F of the probability-flow ODE under conditions, guided, with x_0hat clipped as in the teacher's sampler."""
        model: Diffusion = replace(self.model, guidance=guidance)
        denoise, clip = model.denoiser(self.params, cond), model.sampler.clip

        def clipped(x: jax.Array, t: jax.Array) -> Denoised:
            x0 = denoise(x, t).x0
            return Denoised(jnp.clip(x0, -clip, clip) if clip else x0)

        return flow_of(clipped, model.schedule)


def student_of(teacher: Diffusion) -> Diffusion:
    """The model of a student whose network is that of `teacher`. Where the prediction of x_0 in the network's output
    is ill-conditioned at some noise level, as of eps, the output is taken for F of `ops.trigflow` instead."""
    changed: dict[str, Any] = {"guidance": Guidance()}
    if type(teacher).x0_of is Diffusion.x0_of and teacher.kind not in ("v", "velocity", "trig"):
        changed["kind"] = "trig"
    if isinstance(teacher, DDPM):
        changed |= {"objective": "simple", "importance": False}
    return replace(teacher, **changed)


@dataclass(frozen=True, kw_only=True)
class Student(LossModel):
    """x and cond: as of `model`. A family writes `terms`."""

    model: Diffusion
    """Network, schedule, quantity predicted, conditions. Its sampler, optimizer, EMA and guidance are not used."""
    sampler: Sampler
    guidance: Guidance = Guidance()
    """By which the teacher is guided. Samples of the student cost one pass a step and have this guidance built in."""
    start: Literal["teacher", "random"] = "teacher"
    """The parameters at step 0, where there is a teacher."""
    ema_decay: Decay = 0.999
    evaluate_times: Steps = 8
    """Draws of times and noise that each held-out example is measured with."""

    needs_teacher: ClassVar[bool] = True

    def terms(
        self, params: PyTree, state: TrainState, keys: jax.Array, x: tuple[jax.Array, jax.Array], cond: PyTree,
        dropout: jax.Array | None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:  # fmt: skip
        """The loss of each example and numbers to log, f32[B] each. x: data and noise. keys [B]: for times."""
        raise NotImplementedError

    def learner(self, teacher: Diffusion) -> Diffusion:
        """The `model` of a student of this teacher, with its network and conditions."""
        return student_of(teacher)

    # --- what it has of its model ---

    @property
    def shape(self) -> tuple[int, ...]:
        return self.model.shape

    @property
    def num_classes(self) -> int:
        return self.model.num_classes

    @property
    def text(self) -> Any:
        return self.model.text

    @property
    def vocab(self) -> int:
        return self.model.vocab

    @property
    def sampling(self) -> Diffusion:
        """The diffusion model that samples are drawn by."""
        return replace(self.model, sampler=self.sampler, guidance=Guidance())

    def in_steps(self, steps: int) -> "Student":
        """A copy that samples in so many steps. Raises UserError where its sampler cannot."""
        changed = replace(self, sampler=replace(self.sampler, steps=steps))
        changed.sampler.table(self.model.schedule)
        return changed

    def fitted(self, shape: tuple[int, ...], num_classes: int) -> "Student":
        return replace(self, model=self.model.fitted(shape, num_classes))

    # --- checks ---

    def check(self, batch: Batch) -> None:
        self.sampling.check(batch)
        if taught := teacher_of(batch):
            self.check_teacher(taught.model)
        elif self.needs_teacher:
            raise UserError(
                f"{type(self).__name__} learns from a trained run: name it by a codec, jaxgen.runs.distilled.TaughtBy"
            )
        elif self.guidance.scale != 1:
            raise UserError(
                f"guidance.scale is {self.guidance.scale}, but no teacher is there to be guided: leave it 1"
            )

    def check_teacher(self, teacher: Diffusion) -> None:
        """Raises UserError for a teacher of other data or conditions, or that cannot be guided."""
        own = self.model
        for name in ("shape", "num_classes", "text"):
            if getattr(own, name) != getattr(teacher, name):
                raise UserError(
                    f"model.model.{name} is {getattr(own, name)}, the teacher's {getattr(teacher, name)}: set them "
                    "alike, or name the teacher with --codec.run alone, which does it"
                )
        if self.guidance.scale != 1 and not teacher.guidable:
            raise UserError(
                f"guidance.scale is {self.guidance.scale}, but the teacher was trained without class_dropout: pass "
                "--model.guidance.scale 1"
            )

    def check_cond(self, cond: PyTree) -> None:
        for name in FIXED:
            if isinstance(cond, dict) and name in cond:
                raise UserError(f"{name} was given, but the student's guidance was fixed in training: leave it out")
        self.sampling.check_cond(cond)

    # --- training ---

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        own, taught = self.model.init_params(key, batch), teacher_of(batch)
        if taught is None or self.start == "random":
            return own
        # Without what only the teacher's loss needed: a weighting by uncertainty, a projector.
        params = {name: part for name, part in taught.one.params.items() if name in own}
        return started(own, params, self.shape[-1])

    def flow(self, params: PyTree, cond: PyTree, dropout: jax.Array | None = None) -> Flow:
        """The student's F under conditions. dropout: a key, in training."""
        model, key_text = self.model, None
        if model.text and model.text.dropout and dropout is not None:
            key_text, dropout = jax.random.split(dropout)
        inputs = model.inputs(params, cond, key_text)
        return flow_of(lambda x, t: model.denoised(model.answer(params, x, t, inputs, dropout), x, t), model.schedule)

    def loss(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
        keys_t, keys_eps, keys_told, keys_dropout = split_each(keys, 4)
        eps = normal_each(keys_eps, batch["x"].shape[1:])
        cond = self.model.drop(keys_told, self.model.condition(batch))
        losses, numbers = self.terms(params, state, keys_t, (batch["x"], eps), cond, one_key(keys_dropout))
        return jnp.mean(losses), jax.tree.map(jnp.mean, numbers)

    def train_step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Metrics]:
        # The teacher leaves the batch, which may be cut into parts.
        rest = {name: value for name, value in batch.items() if name != TEACHER}
        new, seen = self._step(self._with_teacher(state, batch), key, rest)
        return new.replace(extra=state.extra), seen.metrics

    def _with_teacher(self, state: TrainState, batch: Batch) -> TrainState:
        taught = teacher_of(batch)
        return state if taught is None else state.replace(extra={**state.extra, TEACHER: taught.one})

    # --- use ---

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """Samples f32[len(keys), *shape] by `sampler`, one pass through the network a step."""
        return self.sampling.sample(state, keys, cond)

    def inpaint(
        self, state: TrainState, keys: jax.Array, x: jax.Array, mask: jax.Array, cond: PyTree = None, resample: int = 1
    ) -> jax.Array:
        return self.sampling.inpaint(state, keys, x, mask, cond, resample)

    def vary(self, state: TrainState, keys: jax.Array, x: jax.Array, strength: float, cond: PyTree = None) -> jax.Array:
        return self.sampling.vary(state, keys, x, strength, cond)

    def interpolate(
        self, state: TrainState, keys: jax.Array, others: jax.Array, weight: jax.Array, cond: PyTree = None
    ) -> jax.Array:
        return self.sampling.interpolate(state, keys, others, weight, cond)

    def sample_cond(self, num: int, batch: Batch) -> PyTree:
        return self.sampling.sample_cond(num, batch)

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """The numbers of `terms`, means of `evaluate_times` draws, f32[B] each."""
        params, cond = state.sampling_params, self.model.condition(batch)
        cond = self.model.drawn_told(fold_each(keys, self.evaluate_times), cond)
        state = self._with_teacher(state, batch)

        def measure(i: jax.Array) -> dict[str, jax.Array]:
            keys_t, keys_eps = split_each(fold_each(keys, i), 2)
            eps = normal_each(keys_eps, batch["x"].shape[1:])
            return self.terms(params, state, keys_t, (batch["x"], eps), cond, None)[1]

        return jax.tree.map(lambda a: jnp.mean(a, axis=0), jax.lax.map(measure, jnp.arange(self.evaluate_times)))


def teacher_of(batch: Batch) -> Teacher | None:
    """What came with a batch, `Teacher.for_each` of its examples."""
    return dict[str, Any](batch).get(TEACHER)


def started(own: PyTree, teacher: PyTree, channels: int) -> PyTree:
    """Copies of the teacher's parameters, without the outputs by which it learned a variance: of each pixel of a patch,
    the second of twice `channels`. Raises UserError where the networks differ."""

    def means(a: jax.Array, b: jax.Array) -> jax.Array:
        if a.shape == b.shape:
            return jnp.copy(b)
        return b.reshape(*b.shape[:-1], -1, 2 * channels)[..., :channels].reshape(a.shape)

    shapes = [jax.tree.map(jnp.shape, tree) for tree in (own, teacher)]
    if jax.tree.structure(own) != jax.tree.structure(teacher) or any(
        a != b and (a[:-1], 2 * a[-1]) != (b[:-1], b[-1])
        for a, b in zip(*(jax.tree.leaves(tree, is_leaf=lambda s: isinstance(s, tuple)) for tree in shapes))
    ):
        raise UserError(
            "the network of model.model has other parameters than the teacher's: name the teacher with --codec.run "
            "alone, which sets them alike, or pass --model.start random"
        )
    return jax.tree.map(means, own, teacher)
