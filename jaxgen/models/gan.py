"""Generative adversarial networks: plain, DCGAN, conditional, Wasserstein, with gradient penalties, spectrally normed.

x data, z ~ N(0, 1) latent, G(z, y) the generator, f(x, y) the critic's logit, y class. A step of training is `n_critic`
steps of the critic, each on its own part of the batch and fakes of its own, then one of the generator: algorithm 1 of
arXiv:1406.2661, of arXiv:1701.07875 and of arXiv:1704.00028, by the fields that are set.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxgen.core.gradients import Seen, in_turns
from jaxgen.core.keys import fold_each, normal_each, one_key, split_each
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.metrics.ppl import Interpolate, slerp, spherical
from jaxgen.models.adversarial import AdversarialModel
from jaxgen.models.shared import check_classes, check_labels, check_shape, class_grid, one_hot
from jaxgen.nets.gan import MLPCritic, MLPGenerator
from jaxgen.ops import gan as ops


@dataclass(frozen=True, kw_only=True)
class GAN(AdversarialModel):
    """x: f32[B, *shape], in [-1, 1] where the generator ends in tanh; cond: i32[B] when num_classes > 0.

    B counts all that a step sees: B / n_critic examples for each of the critic's steps, and as many for the
    generator's. `loss` is the critic's: no number here falls for as long as both networks get better.
    """

    generator: nn.Module = field(default_factory=MLPGenerator)
    """(z, shape, y, train) -> x."""
    critic: nn.Module = field(default_factory=MLPCritic)
    """(x, y, train) -> logits f32[B]."""
    shape: tuple[int, ...] = (28, 28, 1)
    latent: int = 100
    num_classes: int = 0
    """Classes of a conditional GAN; 0 for none. Fakes have the labels of the real examples beside them."""
    n_critic: int = 1
    """Steps of the critic for one of the generator; divides the batch size."""
    clip_weights: float = 0.0
    """Bound of each critic weight after each of its steps, 0.01 in arXiv:1701.07875; 0 for none."""
    gradient_penalty: float = 0.0
    """lambda of arXiv:1704.00028, on points between real and fake examples."""
    r1: float = 0.0
    """gamma of the gradient penalty on real examples, arXiv:1801.04406."""
    r2: float = 0.0
    """gamma of that on fakes."""
    penalty_every: int = 1
    """Steps of the critic from one with these three to the next; their weight grows by as much."""
    instance_noise: float = 0.0
    """Deviation of the noise on all that the critic sees, at the first step (arXiv:1610.04490)."""
    instance_noise_steps: int = 10_000
    """Steps at which it has faded linearly to nothing."""

    latent_ways: ClassVar[tuple[str, ...]] = ("z", "z_unit")
    """Of `metrics.ppl.WAYS`, those between this model's latents."""

    def __post_init__(self):
        for name in ("n_critic", "penalty_every"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name} is {getattr(self, name)}, at least 1 is expected")

    def check(self, batch: Batch) -> None:
        check_shape(self.shape, batch)
        check_classes(self.num_classes, batch)
        size = batch["x"].shape[0]
        if size % self.n_critic:
            raise UserError(
                f"the batch has {size} examples, a multiple of model.n_critic = {self.n_critic} is expected: the "
                f"critic's steps share it"
            )

    # --- the two networks ---

    def _generate(
        self, params: PyTree, stats: PyTree, z: jax.Array, y: jax.Array | None, keys: jax.Array
    ) -> tuple[jax.Array, PyTree]:
        """x and the new running averages, by the statistics of this batch."""
        rngs = {"dropout": one_key(keys)}
        x, new = self.generator.apply(
            {"params": params, **stats}, z, self.shape, y, True, mutable=["batch_stats"], rngs=rngs
        )
        return x, dict(new)

    def _noised(self, keys: jax.Array, x: jax.Array, step: jax.Array) -> jax.Array:
        if not self.instance_noise:
            return x
        return x + ops.fading(self.instance_noise, self.instance_noise_steps, step) * normal_each(keys, self.shape)

    @property
    def _penalized(self) -> bool:
        return bool(self.gradient_penalty or self.r1 or self.r2)

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        key_gen, key_critic = jax.random.split(key)
        x, y = batch["x"], one_hot(batch.get("cond"), self.num_classes)
        gen = self.generator.init(key_gen, jnp.zeros((x.shape[0], self.latent)), self.shape, y)
        critic = self.critic.init(key_critic, x, y)
        if self._penalized and "batch_stats" in critic:
            raise UserError(
                "gradient penalties are of each example's own gradient, which batch normalization mixes: choose a "
                "critic without it"
            )
        return self._start(gen, critic)

    # --- training ---

    def _penalty(
        self, params: PyTree, extra: PyTree, keys: jax.Array, step: jax.Array, real: jax.Array, fake: jax.Array, y
    ) -> jax.Array:
        keys_between, keys_dropout = split_each(keys, 2)

        def critic(x: jax.Array) -> jax.Array:
            return self._critic_logits(params, extra, "fake", x, y, keys=keys_dropout)[0]

        def penalty() -> jax.Array:
            total = jnp.zeros(())
            if self.gradient_penalty:
                total += self.gradient_penalty * ops.gradient_penalty(critic, ops.between(keys_between, real, fake))
            if self.r1:
                total += self.r1 * ops.zero_centred(critic, real)
            if self.r2:
                total += self.r2 * ops.zero_centred(critic, fake)
            return total

        return ops.lazy(penalty, step, self.penalty_every)

    def _critic_loss(
        self, params: PyTree, state: TrainState, step: jax.Array, keys: jax.Array, batch: Batch
    ) -> tuple[jax.Array, Seen]:
        """What the critic minimises at its own `step`, on `batch` and as many fakes. Its extra is the critic's."""
        keys_z, keys_gen, keys_noise, keys_real, keys_fake, keys_penalty = split_each(keys, 6)
        y = one_hot(batch.get("cond"), self.num_classes)
        z = normal_each(keys_z, (self.latent,))
        fake, _ = self._generate(state.params["gen"], state.extra["gen"], z, y, keys_gen)
        real = self._noised(fold_each(keys_noise, 0), batch["x"], state.step)
        fake = self._noised(fold_each(keys_noise, 1), fake, state.step)
        on_real, extra = self._critic_logits(params, state.extra["critic"], "real", real, y, keys=keys_real)
        on_fake, extra = self._critic_logits(params, extra, "fake", fake, y, keys=keys_fake)
        metrics = {"real_logit": jnp.mean(on_real), "fake_logit": jnp.mean(on_fake)}
        total = self.objective.critic(on_real, on_fake)
        if self._penalized:
            metrics["penalty"] = self._penalty(params, extra, keys_penalty, step, real, fake, y)
            total += metrics["penalty"]
        return total, Seen(metrics, extra=extra)

    def _critic_step(self, state: TrainState, key: jax.Array, i: jax.Array, part: Batch) -> tuple[PyTree, Metrics]:
        """One step of the critic on `part`, the i-th of this batch: its parameters, optimizer state and `extra`."""

        def loss(params: PyTree, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Seen]:
            return self._critic_loss(params, state, state.step * self.n_critic + i, keys, batch)

        key, num = jax.random.fold_in(key, i), len(part["x"])
        (value, seen), grads = self._gradient(loss, state.params["critic"], key, num, part)
        params, opt_state = self._critic_descent(state, grads)
        if self.clip_weights:
            params = ops.clip_weights(params, self.clip_weights)
        metrics = {"loss": value, **seen.metrics, "critic_grad_norm": optax.tree.norm(grads)}
        return (params, opt_state, seen.extra), metrics

    def _generator_loss(
        self, params: PyTree, state: TrainState, keys: jax.Array, cond: jax.Array | None
    ) -> tuple[jax.Array, Seen]:
        """What the generator minimises on a fake for each of keys. Its extra is what that changes of the state's."""
        keys_z, keys_gen, keys_critic, keys_noise = split_each(keys, 4)
        y = one_hot(cond, self.num_classes)
        x, gen = self._generate(params, state.extra["gen"], normal_each(keys_z, (self.latent,)), y, keys_gen)
        x = self._noised(keys_noise, x, state.step)
        logits, critic = self._critic_logits(
            state.params["critic"], state.extra["critic"], "generator", x, y, keys=keys_critic
        )  # fmt: skip
        value = self.objective.generator(logits)
        return value, Seen({"generator_loss": value}, extra={"gen": gen, "critic": critic})

    def _generator_step(
        self, state: TrainState, key: jax.Array, cond: jax.Array | None, size: int
    ) -> tuple[TrainState, Metrics]:
        """One step of the generator on `size` fakes: the new state, and the loss with its gradient's norm."""

        def loss(params: PyTree, keys: jax.Array, cond: jax.Array | None) -> tuple[jax.Array, Seen]:
            return self._generator_loss(params, state, keys, cond)

        (_, seen), grads = self._gradient(loss, state.params["gen"], key, size, cond)
        state = self._generator_descent(state.replace(extra={**state.extra, **seen.extra}), grads)
        return state, {**seen.metrics, "generator_grad_norm": optax.tree.norm(grads)}

    def train_step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Metrics]:
        """`n_critic` steps of the critic in a scan, one of the generator. `loss` is what the critic minimises, the mean
        over its steps: for minimax, minus the value of the game, plus penalties."""
        key_critic, key_gen = jax.random.split(key)
        parts = in_turns(dict(batch), self.n_critic)

        def body(state: TrainState, inputs: tuple[jax.Array, Batch]) -> tuple[TrainState, Metrics]:
            (params, opt_state, extra), metrics = self._critic_step(state, key_critic, *inputs)
            state = state.replace(
                params={**state.params, "critic": params},
                opt_state={**state.opt_state, "critic": opt_state},
                extra={**state.extra, "critic": extra},
            )
            return state, metrics

        state, critic_metrics = jax.lax.scan(body, state, (jnp.arange(self.n_critic), parts))
        cond = parts["cond"][-1] if self.num_classes else None
        state, metrics = self._generator_step(state, key_gen, cond, parts["x"].shape[1])
        metrics |= {name: jnp.mean(values) for name, values in critic_metrics.items()}
        return state.replace(step=state.step + 1), metrics

    # --- use ---

    def decode(self, state: TrainState, z: jax.Array, y: jax.Array | None = None) -> jax.Array:
        """G(z, y) by running averages: f32[B, *shape]. z: f32[B, latent], y one-hot."""
        return self.generator.apply({"params": state.sampling_params["gen"], **state.extra["gen"]}, z, self.shape, y)

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """G(z, y), z ~ N(0, 1): f32[len(keys), *shape]. cond: i32[len(keys)] for a conditional GAN."""
        return self.decode(state, normal_each(keys, (self.latent,)), one_hot(cond, self.num_classes))

    def latent_path(
        self, state: TrainState, keys: jax.Array, cond: PyTree = None, way: str = "z"
    ) -> tuple[Callable[[jax.Array], jax.Array], jax.Array, jax.Array, Interpolate]:
        """For perceptual path length: images of latents f32[2 B, ...], of which i and B + i are by keys[i]; two latents
        f32[B, ...] for each key; and the way from one to the other, one of `latent_ways`."""
        y = one_hot(cond, self.num_classes)
        twice = None if y is None else jnp.concatenate([y, y])
        first, second = (normal_each(fold_each(keys, i), (self.latent,)) for i in (0, 1))
        return lambda z: self.decode(state, z, twice), first, second, spherical if way == "z_unit" else slerp

    def check_cond(self, cond: PyTree) -> None:
        check_labels(self.num_classes, cond)

    def sample_cond(self, num: int, batch: Batch) -> PyTree:
        return class_grid(num, self.num_classes) if self.num_classes else None

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Of images, walks between latents; of a conditional GAN also one latent a row, one class a column."""
        if len(self.shape) != 3:
            return {}
        z = normal_each(keys[:12], (self.latent,))
        rows = min(6, len(z) // 2)
        # Along an ellipse: the line between two independent normals passes nearer to 0 than normals lie.
        angle = jnp.linspace(0, jnp.pi / 2, 11)[None, :, None]
        walks = jnp.cos(angle) * z[:rows, None] + jnp.sin(angle) * z[rows : 2 * rows, None]
        first = jnp.repeat(jnp.arange(rows) % max(1, self.num_classes), 11)

        def show(z: jax.Array, cond: jax.Array) -> jax.Array:
            x = self.decode(state, z.reshape(-1, self.latent), one_hot(cond, self.num_classes))
            return x.reshape(rows, -1, *self.shape)

        shown = {"interpolation.png": show(walks, first)}
        if self.num_classes:
            columns = min(10, self.num_classes)
            classes = jnp.tile(jnp.arange(columns), rows)
            shown["classes.png"] = show(jnp.repeat(z[:rows], columns, axis=0), classes)
        return shown
