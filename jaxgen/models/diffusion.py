"""What all diffusion models share: a network of x_t and t, a schedule, a loss over times, samplers and guidance.

x_t = alpha_t x_0 + sigma_t eps (`ops.schedules`). A family defines the times of training (`draw_times`), the network's
target (`target`), how the network's output gives x_0 (`x0_of`), and the weight of its error (`weight`). y: class.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen.core.keys import fold_each, normal_each, one_key, split_each, uniform_each
from jaxgen.core.model import LossModel
from jaxgen.core.ranges import Decay, OptionalSteps, Shape, Steps
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.models.alignment import Alignment
from jaxgen.models.conditions import Conditioned, Inputs, guidance_scale, without
from jaxgen.models.shared import check_shape
from jaxgen.nets.apply import apply, apply_mutable
from jaxgen.nets.dit import HIDDEN
from jaxgen.nets.unet import UNet
from jaxgen.ops import diffusion as ops
from jaxgen.ops.diffusion import Denoise, Denoised, Kind, mean_each
from jaxgen.ops.guidance import split_batch
from jaxgen.ops.posterior import measured
from jaxgen.ops.samplers import DDIM, FROM_NOISE, START, Sampler, Start
from jaxgen.ops.schedules import Schedule

PROJECT = 1 << 20  # stream of the key of `init_params`: alignment's, which leaves the network as it would be without
STEER = 1 << 20  # stream of a sample's key, beyond those of a sampler's rows
STEERING = 0.5
"""Of `steer`: the most that a prediction moves in a step, as a root mean square over an image."""
BOUND, DEQUANTIZE, ODE = range(3)  # streams of an evaluation's key, after one for each of `evaluate_times`


@dataclass(frozen=True, kw_only=True)
class Diffusion(Conditioned, LossModel):
    """x: f32[B, *shape]. cond: see `models.conditions`."""

    network: nn.Module = field(default_factory=UNet)
    """(x_t, t, C, y, context, context_mask, train) -> an output with C channels."""
    schedule: Schedule
    sampler: Sampler = DDIM()
    kind: Kind = "eps"
    """The quantity that the network predicts."""
    shape: Shape = (32, 32, 3)
    ema_decay: Decay = 0.9999
    align: Alignment = Alignment()
    """Alignment of a DiT's tokens to features of a frozen run, by its codec `jaxgen.runs.aligned.Aligned`."""
    evaluate_times: Steps = 20
    """Number of times at which `evaluate` measures the error."""
    bound_steps: OptionalSteps = 0
    """Steps of the diffusion process whose variational bound `evaluate` reports; 0 for none."""
    ode_steps: OptionalSteps = 0
    """Steps of the probability-flow ODE whose bits/dim `evaluate` reports; 0 for none."""
    ode_probes: Steps = 1
    """Random-sign probes for each example that estimate the ODE's divergence; with 2 or more, `evaluate` also reports
    their standard error."""

    # --- what a family may override ---

    def draw_times(self, keys: jax.Array, state: TrainState) -> tuple[jax.Array, jax.Array]:
        """A training time for each key, [B], and its importance weight where times are not uniform, f32[B]."""
        raise NotImplementedError

    def times_to_evaluate(self) -> np.ndarray:
        """`evaluate_times` times, evenly spaced quantiles of the distribution of `draw_times`."""
        raise NotImplementedError

    def scale_in(self, alpha: jax.Array, sigma: jax.Array) -> jax.Array | float:
        """The factor that scales x_t before it enters the network."""
        return 1.0

    def target(self, x0: jax.Array, eps: jax.Array, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
        """The network's target."""
        return ops.join(self.kind, x0, eps, alpha, sigma)

    def x0_of(self, answer: jax.Array, x: jax.Array, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
        """E[x_0 | x_t] from the network's output."""
        return ops.split(self.kind, answer, x, alpha, sigma)[0]

    def weight(self, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
        """Weight of the output's squared error, f32[B, 1, ...]."""
        return jnp.ones_like(sigma)

    def times_told(self, t: jax.Array, sampling: bool = False) -> Inputs:
        """What the network is told of time beside t: [B]. sampling: for a row of `sampler` that begins at t."""
        return {}

    @property
    def outputs(self) -> int:
        """Output channels of the network."""
        return self.shape[-1]

    def init_told(self, key: jax.Array, cond: PyTree) -> tuple[dict[str, PyTree], jax.Array]:
        """Parameters of what reads a condition for the network, by the names that `inputs` finds them under, and a key
        for the network's own."""
        if not self.text:
            return {}, key
        key, key_text = jax.random.split(key)
        return {"text": self.init_text(key_text, cond)}, key

    def drawn_told(self, keys: jax.Array, cond: PyTree) -> PyTree:
        """The condition that samples of keys [B] are drawn under, where a part of it is drawn as well."""
        return cond

    # --- checks ---

    def check(self, batch: Batch) -> None:
        check_shape(self.shape, batch)
        self.check_conditions(batch)
        self.network.check(self.shape)
        self.align.check(self.network, batch)
        self.sampler.table(self.schedule)
        # `evaluate` alone asks for these grids: a bad one must be refused before training, not after.
        if self.bound_steps:
            self.schedule.grid(self.bound_steps)
        if self.ode_steps:
            self.schedule.path(self.ode_steps + 1)

    # --- the network ---

    def answer(
        self, params: PyTree, x: jax.Array, t: jax.Array, inputs: Inputs, dropout: jax.Array | None = None
    ) -> jax.Array:
        """The network's output f32[B, ..., outputs] at x_t, t: [B]. dropout: the key of dropout masks, given in
        training."""
        arguments, named = self._arguments(x, t, inputs, dropout)
        return apply(self.network, {"params": params["network"]}, *arguments, **named)

    def answer_in_training(
        self, params: PyTree, x: jax.Array, t: jax.Array, inputs: Inputs, dropout: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | float]:
        """`answer`, and what is added to the error of each example, f32[B]: the loss of alignment, where the inputs
        have the picture's `features`."""
        if "features" not in inputs:
            return self.answer(params, x, t, inputs, dropout), 0.0
        own = {name: value for name, value in inputs.items() if name != "features"}
        arguments, named = self._arguments(x, t, own, dropout)
        variables = {"params": params["network"]}
        answer, kept = apply_mutable(self.network, variables, *arguments, mutable=[HIDDEN], **named)
        tokens = kept[HIDDEN]["tokens"][0][self.align.block - 1]
        grid = self.network.grid(self.shape)
        return answer, self.align.loss(params["projector"], tokens, grid, inputs["features"])

    def _arguments(
        self, x: jax.Array, t: jax.Array, inputs: Inputs, dropout: jax.Array | None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the network is called with at x_t."""
        x = self.scale_in(*self.schedule.at(t, x.ndim)) * x
        inputs = dict(inputs)
        if "image" in inputs:
            x = jnp.concatenate([x, inputs.pop("image")], axis=-1)
        rngs = None if dropout is None else {"dropout": dropout}
        named = {**inputs, "train": dropout is not None, "rngs": rngs}
        return (x, self.schedule.network_time(t), self.outputs), named

    def denoised(self, answer: jax.Array, x: jax.Array, t: jax.Array) -> Denoised:
        """The prediction of x_0 in a network's output."""
        return Denoised(self.x0_of(answer, x, *self.schedule.at(t, x.ndim)))

    def denoiser(self, params: PyTree, cond: PyTree = None, guided: bool = True, sampling: bool = False) -> Denoise:
        """(x_t, t) -> Denoised under a condition, guided by the condition's scale or else that of `guidance`; or as the
        network is trained to answer, if not `guided`. sampling: t are those of the model's own sampler, whose steps a
        network may be told (`times_told`)."""
        inputs = self.inputs(params, cond)

        def plain(x: jax.Array, t: jax.Array) -> Denoised:
            return self.denoised(self.answer(params, x, t, inputs | self.times_told(t, sampling)), x, t)

        scale = guidance_scale(cond, self.guidance)
        if not guided or scale is None:
            return plain
        null = self.inputs(params, without(cond, self.empty))
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), inputs, null)

        def classifier_free(x: jax.Array, t: jax.Array) -> Denoised:
            """One pass over twice the batch, with and without the condition."""
            x2, t2 = jnp.concatenate([x, x]), jnp.concatenate([t, t])
            answer = self.answer(params, x2, t2, both | self.times_told(t2, sampling))
            good, worse = split_batch(self.denoised(answer, x2, t2))
            w = jnp.broadcast_to(jnp.asarray(scale, jnp.float32), t.shape)
            x0 = self.guidance.combine(good.x0, worse.x0, w, *self.schedule.at(t, x.ndim))
            return good._replace(x0=x0)

        return classifier_free

    # --- training ---

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        cond = self.condition(batch)
        params, key = self.init_told(key, cond)
        inputs = self.inputs(params, cond)
        x, t = batch["x"], jnp.ones(len(batch["x"]))
        if "image" in inputs:
            x = jnp.concatenate([x, inputs.pop("image")], axis=-1)
        told: dict[str, Any] = inputs | self.times_told(t)
        if self.align.weight:
            key_align = jax.random.fold_in(key, PROJECT)
            params["projector"] = self.align.init(key_align, self.network.width, batch["features"])
        return {"network": self.network.init(key, x, t, self.outputs, **told)["params"], **params}

    def errors(
        self, params: PyTree, x0: jax.Array, t: jax.Array, eps: jax.Array, inputs: Inputs, dropout: jax.Array | None
    ) -> jax.Array:
        """The weighted squared error of each example at its time, and the loss of alignment if asked, f32[B]."""
        alpha, sigma = self.schedule.at(t, x0.ndim)
        answer, more = self.answer_in_training(params, alpha * x0 + sigma * eps, t, inputs, dropout)
        return mean_each(self.weight(alpha, sigma) * (self.target(x0, eps, alpha, sigma) - answer) ** 2) + more

    def times_and_errors(
        self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Times, their importance weights and the `errors` at them, [B] each."""
        keys_t, keys_eps, keys_class, keys_dropout = split_each(keys, 4)
        t, importance = self.draw_times(keys_t, state)
        eps = normal_each(keys_eps, batch["x"].shape[1:])
        cond = self.drop(keys_class, self.condition(batch))
        inputs, key_network = self.inputs_in_training(params, cond, keys_dropout)
        if self.align.weight:
            inputs["features"] = batch["features"]
        return t, importance, self.errors(params, batch["x"], t, eps, inputs, key_network)

    def inputs_in_training(self, params: PyTree, cond: PyTree, keys_dropout: jax.Array) -> tuple[Inputs, jax.Array]:
        """The network's inputs under a condition, and the key of its dropout masks."""
        key_text, key_network = None, one_key(keys_dropout)
        if self.text and self.text.dropout:
            key_text, key_network = jax.random.split(key_network)
        return self.inputs(params, cond, key_text), key_network

    def loss(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
        _, importance, errors = self.times_and_errors(params, state, keys, batch)
        return jnp.mean(importance * errors), {}

    # --- sampling and editing ---

    def _sample(
        self, state: TrainState, keys: jax.Array, cond: PyTree, start: Start = FROM_NOISE, frames: int = 0
    ) -> jax.Array:
        denoise = self.denoiser(state.sampling_params, self.drawn_told(keys, cond), sampling=True)
        return self.sampler(denoise, self.schedule, keys, self.shape, start, frames)

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """Samples f32[len(keys), *shape] by `sampler`."""
        return self._sample(state, keys, cond)

    def inpaint(
        self,
        state: TrainState,
        keys: jax.Array,
        x: jax.Array,
        mask: jax.Array,
        cond: PyTree = None,
        resample: int = 1,
    ) -> jax.Array:
        """Images that equal x, f32[B, *shape], where `mask` (bool[B, *shape], any axis may be 1) is true, with the rest
        sampled to match. A larger `resample` makes the parts fit better and multiplies the cost."""
        return self._sample(state, keys, cond, Start(image=x, mask=mask, resample=resample))

    def vary(self, state: TrainState, keys: jax.Array, x: jax.Array, strength: float, cond: PyTree = None) -> jax.Array:
        """Images like x, f32[B, *shape]: x is partly noised and denoised again. strength 0 is x, 1 has none of it."""
        if strength == 0:
            return x
        return self._sample(state, keys, cond, Start(image=x, strength=strength))

    def interpolate(
        self, state: TrainState, keys: jax.Array, others: jax.Array, weight: jax.Array, cond: PyTree = None
    ) -> jax.Array:
        """Between the samples of keys[i] (weight 0) and others[i] (weight 1), f32[B, *shape]; weight: f32[B].

        The starting noise moves along an arc between the two, on which each point is a standard normal draw. Further
        noise of a stochastic sampler comes from keys[i].
        """
        ends = [normal_each(fold_each(k, START), self.shape) for k in (keys, others)]
        angle = jnp.reshape(weight, (-1,) + (1,) * len(self.shape)) * (math.pi / 2)
        return self._sample(state, keys, cond, Start(noise=jnp.cos(angle) * ends[0] + jnp.sin(angle) * ends[1]))

    def steer(
        self,
        state: TrainState,
        keys: jax.Array,
        loss: Callable[[jax.Array, jax.Array], jax.Array],
        cond: PyTree = None,
        frames: int = 0,
    ) -> jax.Array:
        """Samples of p(x_0) exp(-loss(x_0)), about: the score gains -grad loss(x_0hat(x_t)) (arXiv:2209.14687, eq. 16),
        so x_0hat moves by -sigma^2 / alpha times that gradient with respect to x_t, by `STEERING` at most, as a root
        mean square: where alpha vanishes, x_0hat of a trained network does not change with x_t as the true one does.

        loss(x_0hat, keys): f32[B]. frames: that many x_t on the way, [frames, B, *shape], instead of samples."""
        denoise = self.denoiser(state.sampling_params, self.drawn_told(keys, cond))
        clip = self.sampler.clip

        def clipped(x0: jax.Array) -> jax.Array:
            return jnp.clip(x0, -clip, clip) if clip else x0

        def steered(x: jax.Array, t: jax.Array) -> Denoised:
            step = jax.lax.bitcast_convert_type(t.astype(jnp.float32), jnp.int32)
            keys_loss = jax.vmap(jax.random.fold_in)(fold_each(keys, STEER), step)

            def total(x: jax.Array) -> tuple[jax.Array, Denoised]:
                answer = denoise(x, t)
                return jnp.sum(loss(clipped(answer.x0), keys_loss)), answer

            slope, answer = jax.grad(total, has_aux=True)(x)
            alpha, sigma = self.schedule.at(t, x.ndim)
            way = -(sigma**2) * slope
            size = jnp.sqrt(jnp.mean(way**2, axis=tuple(range(1, x.ndim)), keepdims=True) + 1e-12)
            # The bound before the quotient, which is infinite at a level without data.
            return answer._replace(x0=answer.x0 + way * jnp.minimum(1 / jnp.maximum(alpha, 1e-6), STEERING / size))

        return self.sampler(steered, self.schedule, keys, self.shape, FROM_NOISE, frames)

    def restore(
        self,
        state: TrainState,
        keys: jax.Array,
        y: jax.Array,
        measure: Callable[[jax.Array], jax.Array],
        std: jax.Array | float,
        cond: PyTree = None,
        iterations: int = 3,
    ) -> jax.Array:
        """Samples f32[B, *shape] of p(x_0 | y), y = measure(x_0) + std noise with a linear measure: see
        `ops.posterior`. y: f32[B, ...] in model space."""
        denoise = self.denoiser(state.sampling_params, self.drawn_told(keys, cond))
        denoise = measured(denoise, self.schedule, measure, y, std, iterations)
        return self.sampler(denoise, self.schedule, keys, self.shape)

    def to_noise(
        self, state: TrainState, keys: jax.Array, image: jax.Array, cond: PyTree = None, steps: int = 100
    ) -> ops.Noised:
        """Encodes images f32[B, *shape] as noise by the probability-flow ODE; also gives their log density. From the
        noise divided by schedule.start, a deterministic sampler restores the images."""
        denoise = self.denoiser(state.sampling_params, self.drawn_told(keys, cond), guided=False)
        return ops.to_noise(denoise, self.schedule, image, keys, steps, self.ode_probes)

    # --- numbers ---

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """The loss averaged over `evaluate_times` times with one noise each, f32[B], as `error_name`. With
        `bound_steps`, also `bits_per_dim` and its prior and decoder terms. With `ode_steps`, also `ode_bits_per_dim`
        and, from 2 probes on, `ode_probe_stderr`, its standard error for one example.
        """
        params, x0 = state.sampling_params, batch["x"]
        cond = self.condition(batch)
        inputs = self.inputs(params, cond)

        def error(total: jax.Array, row: tuple[jax.Array, jax.Array]):
            i, t = row
            eps = normal_each(fold_each(keys, i), x0.shape[1:])
            return total + self.errors(params, x0, jnp.full(keys.shape, t), eps, inputs, None), None

        rows = (jnp.arange(self.evaluate_times), jnp.asarray(self.times_to_evaluate()))
        total, _ = jax.lax.scan(error, jnp.zeros(keys.shape), rows)
        numbers = {self.error_name: total / self.evaluate_times}
        denoise = self.denoiser(params, cond, guided=False)
        if self.bound_steps:
            prior, terms = self.bound(denoise, x0, fold_each(keys, self.evaluate_times + BOUND))
            numbers["bits_per_dim"] = prior + jnp.sum(terms, axis=0)
            numbers |= {"prior_bits_per_dim": prior, "decoder_bits_per_dim": terms[-1]}
        if self.ode_steps:
            keys_u, keys_ode = (fold_each(keys, self.evaluate_times + stream) for stream in (DEQUANTIZE, ODE))
            # Dequantization: uniform noise as wide as a level of 8 bits.
            u = uniform_each(keys_u, self.shape, -1 / 255, 1 / 255)
            size = math.prod(self.shape)
            noised = ops.to_noise(denoise, self.schedule, x0 + u, keys_ode, self.ode_steps, self.ode_probes)
            numbers["ode_bits_per_dim"] = ops.bits_per_dim(noised.log_prob, size)
            if self.ode_probes > 1:
                numbers["ode_probe_stderr"] = noised.stderr / (size * math.log(2))
        return numbers

    @property
    def error_name(self) -> str:
        """The metric's name, such as eps_mse; `loss` where the error is weighted or has further terms."""
        return f"{self.kind}_mse"

    def bound(self, denoise: Denoise, x0: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The terms of the variational bound, see `ops.variational_bound`. x_0 is clipped as in the sampler."""

        def clipped(x: jax.Array, t: jax.Array) -> Denoised:
            answer, clip = denoise(x, t), self.sampler.clip
            return answer._replace(x0=jnp.clip(answer.x0, -clip, clip)) if clip else answer

        large = getattr(self.sampler, "large", False)
        return ops.variational_bound(clipped, self.schedule, x0, keys, self.bound_steps, large)

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """A film of sampling, from noise to samples."""
        keys = keys[:16]
        return {"trajectory.gif": self._sample(state, keys, self.sample_cond(len(keys), batch), frames=24)}
