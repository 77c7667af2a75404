"""Autoencoder with a density fitted to its latents afterwards, for sampling: the RAE of arXiv:1903.12436.

x data, z = encoder(x), loss |x - decoder(z)|^2 + latent_penalty |z|^2 / 2 per example (eq. 11 there, with weight
decay in the optimizer as the decoder's regularizer). Samples decode draws from a Gaussian mixture of the latents.
"""

import math
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.gradients import Seen
from jaxgen.core.model import LossModel
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.shared import check_shape
from jaxgen.nets.mlp import MLP
from jaxgen.ops.gaussian import Mixture, fit_mixture


@dataclass(frozen=True, kw_only=True)
class Autoencoder(LossModel):
    """x: f32[B, *shape]."""

    encoder: nn.Module = field(default_factory=MLP)
    """(x, (latent,)) -> z."""
    decoder: nn.Module = field(default_factory=MLP)
    """(z, shape) -> x."""
    shape: tuple[int, ...] = (28, 28, 1)
    latent: int = 16
    latent_penalty: float = 1e-3
    """Keeps the latents in a region that a density can cover."""
    components: int = 10
    """Components of the mixture that samples are drawn from."""
    memory: int = 4096
    """Latents of the most recent examples kept for the mixture."""

    def check(self, batch: Batch) -> None:
        check_shape(self.shape, batch)
        if self.memory <= self.components:
            raise UserError(f"model.memory is {self.memory}: more than the {self.components} components are needed")

    def encode(self, params: PyTree, x: jax.Array) -> jax.Array:
        """z: f32[B, latent]."""
        return self.encoder.apply({"params": params["encoder"]}, x, (self.latent,))

    def decode(self, params: PyTree, z: jax.Array) -> jax.Array:
        """x: f32[B, *shape]."""
        return self.decoder.apply({"params": params["decoder"]}, z, self.shape)

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        key_encoder, key_decoder = jax.random.split(key)
        z = jnp.zeros((len(batch["x"]), self.latent))
        return {
            "encoder": self.encoder.init(key_encoder, batch["x"], (self.latent,))["params"],
            "decoder": self.decoder.init(key_decoder, z, self.shape)["params"],
        }

    def init_extra(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        # NaN marks a place not yet written.
        return {"latents": jnp.full((self.memory, self.latent), jnp.nan)}

    def seen(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Seen]:
        """Its rows are the latents."""
        z = self.encode(params, batch["x"])
        error = jnp.mean(_squared_error(batch["x"], self.decode(params, z)))
        size = jnp.mean(jnp.sum(z**2, axis=-1))
        metrics = {"mse": error / math.prod(self.shape), "z_squared": size}
        return error + 0.5 * self.latent_penalty * size, Seen(metrics, rows=z)

    def train_step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Metrics]:
        """The usual step, and the batch's latents into the ring of the most recent ones."""
        new, seen = self._step(state, key, batch)
        z = seen.rows[: self.memory]
        place = (state.step * len(z) + jnp.arange(len(z))) % self.memory
        return new.replace(extra={"latents": state.extra["latents"].at[place].set(z)}), seen.metrics

    def density(self, state: TrainState) -> Mixture:
        """The mixture of the latents seen last, by expectation maximisation: a function of the state alone."""
        latents = state.extra["latents"]
        # Unwritten places repeat written ones, so that shapes stay fixed while the ring fills; before any, N(0, 1).
        count = jnp.sum(~jnp.isnan(latents[:, 0]))
        filled = latents[jnp.arange(self.memory) % jnp.maximum(count, 1)]
        start = jax.random.normal(jax.random.key(0), latents.shape)
        return fit_mixture(jnp.where(count > 0, filled, start), self.components, jax.random.key(1))

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """Decoded draws from the mixture, f32[len(keys), *shape]."""
        return self.decode(state.sampling_params, self.density(state).sample(keys))

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """`mse`, f32[B], per element in model space."""
        params = state.sampling_params
        rebuilt = self.decode(params, self.encode(params, batch["x"]))
        return {"mse": _squared_error(batch["x"], rebuilt) / math.prod(self.shape)}

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Reconstructions under their originals, interpolations between pairs."""
        params, x = state.sampling_params, batch["x"][:20]
        z = self.encode(params, x)
        pairs = min(6, len(x) // 2)
        weight = jnp.linspace(0, 1, 11)[None, :, None]
        between = (1 - weight) * z[:pairs, None] + weight * z[pairs : 2 * pairs, None]
        shown = self.decode(params, between.reshape(-1, self.latent)).reshape(pairs, 11, *self.shape)
        return {
            "reconstruction.png": jnp.stack([x[:10], self.decode(params, z[:10])]),
            "interpolation.png": shown,
        }


def _squared_error(x: jax.Array, y: jax.Array) -> jax.Array:
    """Summed over all axes but the first: f32[B]."""
    return jnp.sum((x - y) ** 2, axis=tuple(range(1, x.ndim)))
