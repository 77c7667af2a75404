"""What all diffusion models share: a network that is told x_t and t, a schedule, a loss over times, samplers, guidance.

x_t = alpha_t x_0 + sigma_t eps (`ops.schedules`). A family says which times it trains at (`draw_times`), what the
network is to answer (`target`), how that gives x_0 (`x0_of`) and how errors are weighted (`weight`). y: class.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen.core.keys import coin_each, fold_each, normal_each, one_key, split_each, uniform_each
from jaxgen.core.model import GenerativeModel, LossModel
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.shared import check_classes, check_labels, check_shape, class_grid, concrete, one_hot
from jaxgen.nets.unet import UNet
from jaxgen.ops import diffusion as ops
from jaxgen.ops.diffusion import Denoise, Denoised, Kind, mean_each
from jaxgen.ops.guidance import Guidance, split_batch
from jaxgen.ops.samplers import DDIM, Sampler
from jaxgen.ops.schedules import Schedule

Inputs = dict[str, jax.Array]
"""What a network is told beside x_t and t, by argument: `y`, `context`; `image` is laid beside x_t as channels."""
NULLABLE = ("y", "context")


@dataclass(frozen=True, kw_only=True)
class Diffusion(LossModel):
    """x: f32[B, *shape]. cond: i32[B] in [0, num_classes) when num_classes > 0, or a dict with it as `label` and, to
    guide each sample by its own scale, `guidance`: f32[B]. With class_dropout, label -1 is the null class."""

    network: nn.Module = field(default_factory=UNet)
    """(x_t, t, C, y, context, train) -> an answer with C channels."""
    schedule: Schedule
    sampler: Sampler = DDIM()
    guidance: Guidance = Guidance()
    kind: Kind = "eps"
    """What the network answers."""
    shape: tuple[int, ...] = (32, 32, 3)
    num_classes: int = 0
    class_dropout: float = 0.0
    """Fraction of training examples whose condition is dropped, so that there is something to guide away from."""
    ema_decay: float = 0.9999
    evaluate_times: int = 20
    """Times at which `evaluate` measures the error."""
    bound_steps: int = 0
    """Steps of the process whose variational bound `evaluate` gives; none when 0."""
    ode_steps: int = 0
    """Steps of the probability-flow ODE whose bits/dim `evaluate` gives; none when 0."""
    ode_probes: int = 1
    """Random signs for each example by which the flow's divergence is estimated there; from 2 on `evaluate` gives their
    standard error too."""

    # --- what a family may say otherwise ---

    def draw_times(self, keys: jax.Array, state: TrainState) -> tuple[jax.Array, jax.Array]:
        """A time to train at for each of keys, [B], and weights that make up for not drawing them evenly, f32[B]."""
        raise NotImplementedError

    def times_to_evaluate(self) -> np.ndarray:
        """`evaluate_times` times, evenly over what `draw_times` draws."""
        raise NotImplementedError

    def scale_in(self, alpha: jax.Array, sigma: jax.Array) -> jax.Array | float:
        """What x_t is multiplied by before the network sees it."""
        return 1.0

    def target(self, x0: jax.Array, eps: jax.Array, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
        """The right answer."""
        return ops.join(self.kind, x0, eps, alpha, sigma)

    def x0_of(self, answer: jax.Array, x: jax.Array, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
        """E[x_0 | x_t] by an answer."""
        return ops.split(self.kind, answer, x, alpha, sigma)[0]

    def weight(self, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
        """Weight of the answer's squared error, f32[B, 1, ...]."""
        return jnp.ones_like(sigma)

    @property
    def outputs(self) -> int:
        """Channels that the network gives."""
        return self.shape[-1]

    # --- checks ---

    def check(self, batch: Batch) -> None:
        check_shape(self.shape, batch)
        check_classes(self.num_classes, batch)
        self.network.check(self.shape)
        self.sampler.table(self.schedule)
        self._check_guidance()
        if self.ode_probes < 1:
            raise UserError(f"model.ode_probes is {self.ode_probes}, at least 1 is expected")
        # Grids that `evaluate` alone asks for, refused here, before any training.
        if self.bound_steps:
            self.schedule.grid(self.bound_steps)
        if self.ode_steps:
            self.schedule.path(self.ode_steps + 1)

    def _check_guidance(self) -> None:
        if self.guidance.scale != 1 and not (self.class_dropout and self.num_classes):
            raise UserError(
                f"guidance.scale is {self.guidance.scale}, num_classes {self.num_classes} and class_dropout "
                f"{self.class_dropout}: without examples of no class there is nothing to guide away from; train with "
                "classes and --model.class-dropout 0.1, or leave the scale at 1"
            )

    def check_cond(self, cond: PyTree) -> None:
        self._check_guidance()
        if isinstance(cond, dict) and "guidance" in cond and not (self.class_dropout and self.num_classes):
            raise UserError("a guidance scale was given to a model trained without class_dropout: leave it out")
        self.check_labels(cond)

    def check_labels(self, cond: PyTree) -> None:
        """Raises UserError for labels that are not the model's."""
        labels = label_of(cond)
        if self.class_dropout and labels is not None and concrete(labels):
            labels = np.where(np.asarray(labels) == -1, 0, labels)
        check_labels(self.num_classes, labels)

    # --- the network ---

    def inputs(self, cond: PyTree) -> Inputs:
        """What a condition tells the network."""
        return {"y": one_hot(label_of(cond), self.num_classes)} if self.num_classes else {}

    def answer(
        self, params: PyTree, x: jax.Array, t: jax.Array, inputs: Inputs, dropout: jax.Array | None = None
    ) -> jax.Array:
        """The network's answer f32[B, ..., outputs] at x_t, t: [B]. `dropout` is a key, given while training."""
        x = self.scale_in(*self.schedule.at(t, x.ndim)) * x
        inputs = dict(inputs)
        if "image" in inputs:
            x = jnp.concatenate([x, inputs.pop("image")], axis=-1)
        rngs = None if dropout is None else {"dropout": dropout}
        told = self.schedule.network_time(t)
        return self.network.apply(
            {"params": params["network"]}, x, told, self.outputs, **inputs, train=dropout is not None, rngs=rngs
        )

    def denoised(self, answer: jax.Array, x: jax.Array, t: jax.Array) -> Denoised:
        """An answer as what it says of the data."""
        return Denoised(self.x0_of(answer, x, *self.schedule.at(t, x.ndim)))

    def denoiser(self, params: PyTree, cond: PyTree = None, guided: bool = True) -> Denoise:
        """(x_t, t) -> Denoised under a condition; guided as the condition, or else `guidance`, says."""
        inputs = self.inputs(cond)

        def plain(x: jax.Array, t: jax.Array) -> Denoised:
            return self.denoised(self.answer(params, x, t, inputs), x, t)

        scale = guidance_scale(cond, self.guidance)
        if not guided or scale is None:
            return plain
        null = {k: jnp.zeros_like(v) if k in NULLABLE else v for k, v in inputs.items()}
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), inputs, null)

        def free(x: jax.Array, t: jax.Array) -> Denoised:
            """Classifier-free guidance in one pass over twice the batch."""
            x2, t2 = jnp.concatenate([x, x]), jnp.concatenate([t, t])
            good, worse = split_batch(self.denoised(self.answer(params, x2, t2, both), x2, t2))
            w = jnp.broadcast_to(jnp.asarray(scale, jnp.float32), t.shape)
            x0 = self.guidance.combine(good.x0, worse.x0, w, *self.schedule.at(t, x.ndim))
            return good._replace(x0=x0)

        return free

    # --- training ---

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        inputs = self.inputs(self.condition(batch))
        x, t = batch["x"], jnp.ones(len(batch["x"]))
        if "image" in inputs:
            x = jnp.concatenate([x, inputs.pop("image")], axis=-1)
        return {"network": self.network.init(key, x, t, self.outputs, **inputs)["params"]}

    def condition(self, batch: Batch) -> PyTree:
        """The condition of a batch of data."""
        return batch.get("cond")

    def drop(self, keys: jax.Array, inputs: Inputs) -> Inputs:
        """The inputs with the condition of a fraction `class_dropout` of examples set to the null one, zeros."""
        if not self.class_dropout:
            return inputs

        keep = coin_each(keys, 1 - self.class_dropout)

        def one(name: str, value: jax.Array) -> jax.Array:
            return jnp.where(keep.reshape((-1,) + (1,) * (value.ndim - 1)), value, 0) if name in NULLABLE else value

        return {name: one(name, value) for name, value in inputs.items()}

    def errors(
        self, params: PyTree, x0: jax.Array, t: jax.Array, eps: jax.Array, inputs: Inputs, dropout: jax.Array | None
    ) -> jax.Array:
        """The weighted squared error of each example at its time, f32[B]."""
        alpha, sigma = self.schedule.at(t, x0.ndim)
        answer = self.answer(params, alpha * x0 + sigma * eps, t, inputs, dropout)
        return mean_each(self.weight(alpha, sigma) * (self.target(x0, eps, alpha, sigma) - answer) ** 2)

    def times_and_errors(
        self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Times, the weights that make up for how they were drawn, and `errors` at them, [B] each."""
        keys_t, keys_eps, keys_class, keys_dropout = split_each(keys, 4)
        t, importance = self.draw_times(keys_t, state)
        eps = normal_each(keys_eps, self.shape)
        inputs = self.drop(keys_class, self.inputs(self.condition(batch)))
        return t, importance, self.errors(params, batch["x"], t, eps, inputs, one_key(keys_dropout))

    def loss(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
        _, importance, errors = self.times_and_errors(params, state, keys, batch)
        return jnp.mean(importance * errors), {}

    # --- samples and what is made like them ---

    def _sample(self, state: TrainState, keys: jax.Array, cond: PyTree, **options: Any) -> jax.Array:
        denoise = self.denoiser(state.sampling_params, cond)
        return self.sampler(denoise, self.schedule, keys, self.shape, **options)

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """Samples f32[len(keys), *shape] by `sampler`."""
        return self._sample(state, keys, cond)

    def inpaint(
        self,
        state: TrainState,
        keys: jax.Array,
        image: jax.Array,
        mask: jax.Array,
        cond: PyTree = None,
        resample: int = 1,
    ) -> jax.Array:
        """Images that equal `image`, f32[B, *shape], where `mask` (bool[B, *shape], or 1 in place of any axis) is true,
        the rest drawn to go with it. More `resample` makes the parts fit better, at as many times the cost."""
        return self._sample(state, keys, cond, image=image, mask=mask, resample=resample)

    def vary(
        self, state: TrainState, keys: jax.Array, image: jax.Array, strength: float, cond: PyTree = None
    ) -> jax.Array:
        """Images like `image`, f32[B, *shape]: noised part of the way, sampled back. strength 1 keeps nothing of it."""
        return self._sample(state, keys, cond, image=image, strength=strength)

    def interpolate(
        self, state: TrainState, keys: jax.Array, others: jax.Array, weight: jax.Array, cond: PyTree = None
    ) -> jax.Array:
        """Between the samples of keys[i] (weight 0) and others[i] (weight 1), f32[B, *shape]; weight: f32[B].

        Along the arc between the two starting noises, on which each point is a standard normal draw. A sampler that
        draws noise on the way uses that of keys[i].
        """
        ends = [normal_each(fold_each(k, 0), self.shape) for k in (keys, others)]
        angle = jnp.reshape(weight, (-1,) + (1,) * len(self.shape)) * (math.pi / 2)
        return self._sample(state, keys, cond, noise=jnp.cos(angle) * ends[0] + jnp.sin(angle) * ends[1])

    def to_noise(
        self, state: TrainState, keys: jax.Array, image: jax.Array, cond: PyTree = None, steps: int = 100
    ) -> ops.Noised:
        """Images f32[B, *shape] as noise by the probability-flow ODE, with their log density. A deterministic sampler
        gets the images back from the noise divided by schedule.start."""
        denoise = self.denoiser(state.sampling_params, cond, guided=False)
        return ops.to_noise(denoise, self.schedule, image, keys, steps, self.ode_probes)

    def sample_cond(self, num: int, batch: Batch) -> PyTree:
        return class_grid(num, self.num_classes) if self.num_classes else None

    # --- numbers ---

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """`mse`, f32[B]: the loss over `evaluate_times` times with one noise each (of eps: `eps_mse`, ...). With
        `bound_steps`, `bits_per_dim` and its parts at the prior and the decoder; with `ode_steps`, `ode_bits_per_dim`,
        and `ode_probe_stderr`, the error that the probes leave in that of one example.
        """
        params, x0 = state.sampling_params, batch["x"]
        cond = self.condition(batch)
        inputs = self.inputs(cond)

        def error(total: jax.Array, row: tuple[jax.Array, jax.Array]):
            i, t = row
            eps = normal_each(fold_each(keys, i), self.shape)
            return total + self.errors(params, x0, jnp.full(keys.shape, t), eps, inputs, None), None

        rows = (jnp.arange(self.evaluate_times), jnp.asarray(self.times_to_evaluate()))
        total, _ = jax.lax.scan(error, jnp.zeros(keys.shape), rows)
        numbers = {self.error_name: total / self.evaluate_times}
        denoise = self.denoiser(params, cond, guided=False)
        if self.bound_steps:
            prior, terms = self.bound(denoise, x0, fold_each(keys, self.evaluate_times))
            numbers["bits_per_dim"] = prior + jnp.sum(terms, axis=0)
            numbers |= {"prior_bits_per_dim": prior, "decoder_bits_per_dim": terms[-1]}
        if self.ode_steps:
            keys_u, keys_ode = (fold_each(keys, self.evaluate_times + i) for i in (1, 2))
            # Even over the width of a level of 8 bits.
            u = uniform_each(keys_u, self.shape, -1 / 255, 1 / 255)
            size = math.prod(self.shape)
            noised = ops.to_noise(denoise, self.schedule, x0 + u, keys_ode, self.ode_steps, self.ode_probes)
            numbers["ode_bits_per_dim"] = ops.bits_per_dim(noised.log_prob, size)
            if self.ode_probes > 1:
                numbers["ode_probe_stderr"] = noised.stderr / (size * math.log(2))
        return numbers

    @property
    def error_name(self) -> str:
        """`loss` where the error is weighted or has further parts."""
        return f"{self.kind}_mse"

    def bound(self, denoise: Denoise, x0: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The variational bound by parts, see `ops.variational_bound`; x0_hat is clipped as the sampler clips it."""

        def clipped(x: jax.Array, t: jax.Array) -> Denoised:
            answer, clip = denoise(x, t), self.sampler.clip
            return answer._replace(x0=jnp.clip(answer.x0, -clip, clip)) if clip else answer

        large = getattr(self.sampler, "large", False)
        return ops.variational_bound(clipped, self.schedule, x0, keys, self.bound_steps, large)

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """The way from noise to samples as a film."""
        keys = keys[:16]
        return {"trajectory.gif": self._sample(state, keys, self.sample_cond(len(keys), batch), frames=24)}


def label_of(cond: PyTree) -> jax.Array | None:
    """The labels of a condition, which may be nothing else."""
    return cond.get("label") if isinstance(cond, dict) else cond


def guidance_scale(cond: PyTree, guidance: Guidance) -> jax.Array | float | None:
    """The scale that a condition carries, else the configured one; None for 1, which needs no second answer."""
    if isinstance(cond, dict) and "guidance" in cond:
        return cond["guidance"]
    return None if guidance.scale == 1 else guidance.scale


@dataclass(frozen=True, kw_only=True)
class Autoguided(GenerativeModel):
    """A model guided by a worse one of the same data and schedule, arXiv:2406.02507. For sampling alone.

    The scale is model.guidance.scale, or `guidance` of the condition; its state is made by `join`.
    """

    model: Diffusion
    guide: Diffusion

    def join(self, state: TrainState, guide: TrainState) -> TrainState:
        """One state of the model's and the guide's."""
        return state.replace(opt_state={}, extra={**state.extra, "guide": guide.sampling_params})

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        model = self.model
        good = model.denoiser(state.sampling_params, cond, guided=False)
        worse = self.guide.denoiser(state.extra["guide"], cond, guided=False)
        scale = guidance_scale(cond, model.guidance)

        def denoise(x: jax.Array, t: jax.Array) -> Denoised:
            answer = good(x, t)
            w = jnp.broadcast_to(jnp.asarray(scale, jnp.float32), t.shape)
            x0 = model.guidance.combine(answer.x0, worse(x, t).x0, w, *model.schedule.at(t, x.ndim))
            return answer._replace(x0=x0)

        return model.sampler(good if scale is None else denoise, model.schedule, keys, model.shape)

    def check_cond(self, cond: PyTree) -> None:
        self.model.check_labels(cond)

    def sample_cond(self, num: int, batch: Batch) -> PyTree:
        return self.model.sample_cond(num, batch)
