"""Generative adversarial networks: plain, DCGAN, conditional, Wasserstein, gradient penalties, spectral normalization.

x data, z ~ N(0, 1) latent, G(z, y) the generator, f(x, y) the critic's logit, y class. A training step takes `n_critic`
steps of the critic, each on a part of the batch and as many new fakes, and then one step of the generator. This is
algorithm 1 of arXiv:1406.2661, arXiv:1701.07875 or arXiv:1704.00028, depending on the fields that are set.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxgen.core.capabilities import LatentSpace
from jaxgen.core.gradients import Seen, in_turns
from jaxgen.core.keys import fold_each, normal_each, one_key, split_each
from jaxgen.core.ranges import Count, Depth, NonNegative, OptionalSize, Shape, Size
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.metrics.ppl import Interpolate, slerp, slerp_unit
from jaxgen.models.adversarial import AdversarialModel
from jaxgen.models.shared import ClassConditionalModel, check_classes, check_shape, in_pairs
from jaxgen.nets.apply import apply, apply_mutable
from jaxgen.nets.gan import MLPCritic, MLPGenerator
from jaxgen.ops import gan as ops
from jaxgen.ops.gaussian import off_shell
from jaxgen.optim import trained, with_frozen

# Streams of a key: the noise on examples of a critic's step, and the two latents of a path.
REAL, FAKE = range(2)
PATH_ENDS = range(2)


@dataclass(frozen=True, kw_only=True)
class GAN(ClassConditionalModel, AdversarialModel):
    """x: f32[B, *shape], in [-1, 1] when the generator ends in tanh; cond: i32[B] when num_classes > 0.

    B counts the examples of a whole training step: each step of the critic sees B / n_critic of them, and the
    generator's step makes as many fakes. `loss` is the critic's; it need not fall while both networks improve.
    """

    generator: nn.Module = field(default_factory=MLPGenerator)
    """(z, shape, y, train) -> x."""
    critic: nn.Module = field(default_factory=MLPCritic)
    """(x, y, train) -> logits f32[B]."""
    shape: Shape = (28, 28, 1)
    latent: Size = 100
    num_classes: OptionalSize = 0
    """Classes of a conditional GAN; 0 for none. Fakes get the labels of the real examples."""
    n_critic: Depth = 1
    """Critic steps for each generator step; must divide the batch size."""
    clip_weights: NonNegative = 0.0
    """Bound that the critic's weights are clipped to after each of its steps, 0.01 in arXiv:1701.07875; 0 for none."""
    gradient_penalty: NonNegative = 0.0
    """lambda of arXiv:1704.00028, on points between real and fake examples."""
    r1: NonNegative = 0.0
    """gamma of the gradient penalty on real examples, arXiv:1801.04406."""
    r2: NonNegative = 0.0
    """gamma of the gradient penalty on fakes."""
    penalty_every: Count = 1
    """The penalties are computed at every such critic step, with their weight multiplied by as much."""
    instance_noise: NonNegative = 0.0
    """Standard deviation, at the first step, of the noise added to the critic's inputs (arXiv:1610.04490)."""
    instance_noise_steps: Count = 10_000
    """Steps over which that noise fades linearly to zero."""

    latent_ways: ClassVar[tuple[str, ...]] = ("z", "z_unit")
    """The `metrics.ppl.INTERPOLATIONS` that interpolate between this model's latents."""

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
        """Fakes x, normalized by the statistics of this batch, and the new running averages."""
        rngs = {"dropout": one_key(keys)}
        variables = {"params": params, **stats}
        return apply_mutable(self.generator, variables, z, self.shape, y, True, mutable=["batch_stats"], rngs=rngs)

    def _noised(self, keys: jax.Array, x: jax.Array, step: jax.Array) -> jax.Array:
        if not self.instance_noise:
            return x
        return x + ops.fading(self.instance_noise, self.instance_noise_steps, step) * normal_each(keys, self.shape)

    @property
    def _penalized(self) -> bool:
        return bool(self.gradient_penalty or self.r1 or self.r2)

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        key_gen, key_critic = jax.random.split(key)
        x, y = batch["x"], self._one_hot(batch.get("cond"))
        gen = self.generator.init(key_gen, jnp.zeros((x.shape[0], self.latent)), self.shape, y)
        critic = self.critic.init(key_critic, x, y)
        if self._penalized and "batch_stats" in critic:
            raise UserError(
                "gradient penalties need each example's own gradient, which batch normalization mixes: choose a "
                "critic without it"
            )
        return self._start(gen, critic)

    # --- training ---

    def _penalty(
        self,
        critic: Callable[[jax.Array], jax.Array],
        keys: jax.Array,
        step: jax.Array,
        real: jax.Array,
        fake: jax.Array,
    ) -> jax.Array:
        """The gradient penalties, f32[], every `penalty_every`-th step. keys: for the points between real and fake."""

        def penalty() -> jax.Array:
            total = jnp.zeros(())
            if self.gradient_penalty:
                total += self.gradient_penalty * ops.gradient_penalty(critic, ops.between(keys, real, fake))
            if self.r1:
                total += self.r1 * ops.zero_centred(critic, real)
            if self.r2:
                total += self.r2 * ops.zero_centred(critic, fake)
            return total

        return ops.lazy(penalty, step, self.penalty_every)

    def _critic_loss(
        self, params: PyTree, state: TrainState, step: jax.Array, keys: jax.Array, batch: Batch
    ) -> tuple[jax.Array, Seen]:
        """The critic's loss at its own `step`, on `batch` and as many fakes. `Seen.extra` is the critic's extra."""
        keys_z, keys_gen, keys_noise, keys_real, keys_fake, keys_penalty = split_each(keys, 6)
        y = self._one_hot(batch.get("cond"))
        z = normal_each(keys_z, (self.latent,))
        fake, _ = self._generate(state.params["gen"], state.extra["gen"], z, y, keys_gen)
        real = self._noised(fold_each(keys_noise, REAL), batch["x"], state.step)
        fake = self._noised(fold_each(keys_noise, FAKE), fake, state.step)
        on_real, extra = self._critic_logits(params, state.extra["critic"], "real", real, y, keys=keys_real)
        on_fake, extra = self._critic_logits(params, extra, "fake", fake, y, keys=keys_fake)
        metrics = {"real_logit": jnp.mean(on_real), "fake_logit": jnp.mean(on_fake)}
        total = self.objective.critic(on_real, on_fake)
        if self._penalized:
            keys_between, keys_dropout = split_each(keys_penalty, 2)

            def critic(x: jax.Array) -> jax.Array:
                return self._critic_logits(params, extra, "fake", x, y, keys=keys_dropout)[0]

            metrics["penalty"] = self._penalty(critic, keys_between, step, real, fake)
            total += metrics["penalty"]
        return total, Seen(metrics, extra=extra)

    def _critic_step(self, state: TrainState, key: jax.Array, i: jax.Array, part: Batch) -> tuple[PyTree, Metrics]:
        """One critic step on `part`, the i-th of this batch: the critic's parameters, optimizer state and extra."""

        def loss(params: PyTree, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Seen]:
            return self._critic_loss(params, state, state.step * self.n_critic + i, keys, batch)

        key, num = jax.random.fold_in(key, i), len(part["x"])
        (value, seen), grads = self._gradient(loss, state.params["critic"], key, num, part, "critic")
        params, opt_state = self._critic_descent(state, grads)
        if self.clip_weights:
            part = ops.clip_weights(trained(params, self.trainable, "critic"), self.clip_weights)
            params = with_frozen(part, params)
        metrics = {"loss": value, **seen.metrics, "critic_grad_norm": optax.tree.norm(grads)}
        return (params, opt_state, seen.extra), metrics

    def _generator_loss(
        self, params: PyTree, state: TrainState, keys: jax.Array, cond: jax.Array | None
    ) -> tuple[jax.Array, Seen]:
        """The generator's loss on one fake for each key. `Seen.extra` has what changes of the state's."""
        keys_z, keys_gen, keys_critic, keys_noise = split_each(keys, 4)
        y = self._one_hot(cond)
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
        """One generator step on `size` fakes: the new state, and the loss with the norm of its gradient."""

        def loss(params: PyTree, keys: jax.Array, cond: jax.Array | None) -> tuple[jax.Array, Seen]:
            return self._generator_loss(params, state, keys, cond)

        (_, seen), grads = self._gradient(loss, state.params["gen"], key, size, cond, "gen")
        state = self._generator_descent(state.replace(extra={**state.extra, **seen.extra}), grads)
        return state, {**seen.metrics, "generator_grad_norm": optax.tree.norm(grads)}

    def train_step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Metrics]:
        """`n_critic` steps of the critic in a scan, then one of the generator. `loss` is the critic's loss, averaged
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
        """G(z, y) with running averages: f32[B, *shape]. z: f32[B, latent], y one-hot."""
        variables = {"params": state.sampling_params["gen"], **state.extra["gen"]}
        return apply(self.generator, variables, z, self.shape, y)

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """G(z, y), z ~ N(0, 1): f32[len(keys), *shape]. cond: i32[len(keys)] for a conditional GAN."""
        return self.decode(state, normal_each(keys, (self.latent,)), self._one_hot(cond))

    def latent_space(self, state: TrainState, cond: PyTree = None) -> LatentSpace:
        """z of samples."""
        y = self._one_hot(cond)
        return LatentSpace(
            lambda keys: normal_each(keys, (self.latent,)), lambda z: self.decode(state, z, y), off_shell
        )  # fmt: skip

    def latent_path(
        self, state: TrainState, keys: jax.Array, cond: PyTree = None, way: str = "z"
    ) -> tuple[Callable[[jax.Array], jax.Array], jax.Array, jax.Array, Interpolate]:
        """For perceptual path length, (generate, a, b, interpolate): images of latents f32[2 B, ...], of which i and
        B + i belong to keys[i]; the ends of a path for each key, f32[B, ...] each; points on it, by `way`, one of
        `latent_ways`."""
        y = self._one_hot(cond)
        twice = None if y is None else jnp.concatenate([y, y])
        first, second = (normal_each(fold_each(keys, end), (self.latent,)) for end in PATH_ENDS)
        return lambda z: self.decode(state, z, twice), first, second, slerp_unit if way == "z_unit" else slerp

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """For images only: walks between latents and, of a conditional GAN, a grid with one latent in each row and one
        class in each column."""
        if len(self.shape) != 3:
            return {}
        z = normal_each(keys[:12], (self.latent,))
        first, second = in_pairs(len(z))
        rows = len(first)
        # Along an ellipse: the straight line between two independent normals passes nearer to 0 than normals lie.
        angle = jnp.linspace(0, jnp.pi / 2, 11)[None, :, None]
        walks = jnp.cos(angle) * z[first, None] + jnp.sin(angle) * z[second, None]
        labels = jnp.repeat(jnp.arange(rows) % max(1, self.num_classes), 11)

        def show(z: jax.Array, cond: jax.Array) -> jax.Array:
            x = self.decode(state, z.reshape(-1, self.latent), self._one_hot(cond))
            return x.reshape(rows, -1, *self.shape)

        shown = {"interpolation.png": show(walks, labels)}
        if self.num_classes:
            columns = min(10, self.num_classes)
            classes = jnp.tile(jnp.arange(columns), rows)
            shown["classes.png"] = show(jnp.repeat(z[first], columns, axis=0), classes)
        return shown
