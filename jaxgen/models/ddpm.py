"""Denoising diffusion, arXiv:2006.11239: a network that predicts the noise in x_t, trained on its squared error.

x_t = alpha_t x_0 + sigma_t eps; loss E_{t, eps} |eps - eps_theta(x_t, t)|^2 (eq. 14). y: class.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from jaxgen.core import Batch, LossModel, Metrics, PyTree, TrainState, fold_each, normal_each
from jaxgen.models.shared import check_classes, check_labels, check_shape, class_grid, one_hot
from jaxgen.nets.unet import UNet
from jaxgen.ops.diffusion import Ancestral, Linear, Sampler, Schedule, q_sample


@dataclass(frozen=True, kw_only=True)
class DDPM(LossModel):
    """x: f32[B, H, W, C] in [-1, 1]; cond: i32[B] in [0, num_classes) when num_classes > 0."""

    network: UNet = field(default_factory=UNet)
    """(x_t, t on a scale of 0 to 1000, C, y) -> eps."""
    schedule: Schedule = Linear()
    sampler: Sampler = Ancestral()
    shape: tuple[int, ...] = (32, 32, 3)
    num_classes: int = 0
    ema_decay: float = 0.9999
    evaluate_times: int = 20
    """Times at which `evaluate` measures the error, evenly over the schedule."""

    def check(self, batch: Batch) -> None:
        check_shape(self.shape, batch)
        check_classes(self.num_classes, batch)
        self.network.check(self.shape)
        self.sampler.times(self.schedule.num_steps)

    def _condition(self, cond: PyTree) -> jax.Array | None:
        return one_hot(cond, self.num_classes)

    def predict(
        self, params: PyTree, x: jax.Array, t: jax.Array, y: jax.Array | None = None, dropout: jax.Array | None = None
    ) -> jax.Array:
        """eps_theta(x_t, t), f32 of x's shape; t: i32[B]. `dropout` is a key, given while training."""
        scaled = t * (1000 / self.schedule.num_steps)
        rngs = None if dropout is None else {"dropout": dropout}
        return self.network.apply(
            {"params": params["network"]}, x, scaled, self.shape[-1], y, train=dropout is not None, rngs=rngs
        )

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        t, y = jnp.zeros(len(batch["x"])), self._condition(batch.get("cond"))
        return {"network": self.network.init(key, batch["x"], t, self.shape[-1], y)["params"]}

    def loss(self, params: PyTree, state: TrainState, key: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
        key_t, key_eps, key_dropout = jax.random.split(key, 3)
        x0 = batch["x"]
        t = jax.random.randint(key_t, (len(x0),), 0, self.schedule.num_steps)
        eps = jax.random.normal(key_eps, x0.shape)
        x = q_sample(self.schedule.abar(), x0, t, eps)
        predicted = self.predict(params, x, t, self._condition(batch.get("cond")), key_dropout)
        return jnp.mean((eps - predicted) ** 2), {}

    def _sample(self, state: TrainState, keys: jax.Array, cond: PyTree, frames: int = 0) -> jax.Array:
        y = self._condition(cond)
        params = state.sampling_params
        return self.sampler(lambda x, t: self.predict(params, x, t, y), self.schedule, keys, self.shape, frames)

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """Samples f32[len(keys), *shape] by `sampler`. cond: i32[len(keys)] for a conditional model."""
        return self._sample(state, keys, cond)

    def check_cond(self, cond: PyTree) -> None:
        check_labels(self.num_classes, cond)

    def sample_cond(self, num: int, batch: Batch) -> PyTree:
        return class_grid(num, self.num_classes) if self.num_classes else None

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """`eps_mse`, f32[B]: the loss, averaged over `evaluate_times` times with one noise each."""
        x0, y = batch["x"], self._condition(batch.get("cond"))
        last = self.schedule.num_steps - 1

        def error(total: jax.Array, i: jax.Array):
            t = jnp.full(len(x0), jnp.round(i * last / max(1, self.evaluate_times - 1)).astype(jnp.int32))
            eps = normal_each(fold_each(keys, i), self.shape)
            predicted = self.predict(state.sampling_params, q_sample(self.schedule.abar(), x0, t, eps), t, y)
            return total + jnp.mean((eps - predicted) ** 2, axis=tuple(range(1, x0.ndim))), None

        total, _ = jax.lax.scan(error, jnp.zeros(len(x0)), jnp.arange(self.evaluate_times))
        return {"eps_mse": total / self.evaluate_times}

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """The way from noise to samples as a film."""
        keys = keys[:16]
        return {"trajectory.gif": self._sample(state, keys, self.sample_cond(len(keys), batch), frames=24)}
