"""Autoencoder that samples from a density fitted to its latents afterwards: the RAE of arXiv:1903.12436.

x data, z = encoder(x). The loss of an example is |x - decoder(z)|^2 + latent_penalty |z|^2 / 2 (eq. 11 there; weight
decay in the optimizer regularizes the decoder). A sample is a decoded draw from a Gaussian mixture fitted to latents.
"""

import math
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.gradients import Seen
from jaxgen.core.model import LossModel
from jaxgen.core.ranges import Depth, NonNegative, Samples, Shape, Size
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.shared import check_shape, in_pairs
from jaxgen.nets.apply import apply
from jaxgen.nets.mlp import MLP
from jaxgen.ops.gaussian import Mixture, fit_mixture


@dataclass(frozen=True, kw_only=True)
class Autoencoder(LossModel):
    """x: f32[B, *shape]."""

    encoder: nn.Module = field(default_factory=MLP)
    """(x, (latent,)) -> z."""
    decoder: nn.Module = field(default_factory=MLP)
    """(z, shape) -> x."""
    shape: Shape = (28, 28, 1)
    latent: Size = 16
    latent_penalty: NonNegative = 1e-3
    """Weight of |z|^2 / 2, which keeps the latents in a region that the mixture can cover."""
    components: Depth = 10
    """Components of the Gaussian mixture."""
    memory: Samples = 4096
    """How many of the most recent training latents the mixture is fitted to."""

    def check(self, batch: Batch) -> None:
        check_shape(self.shape, batch)
        if self.memory <= self.components:
            raise UserError(f"model.memory is {self.memory}: more than the {self.components} components are needed")

    def encode(self, params: PyTree, x: jax.Array) -> jax.Array:
        """z: f32[B, latent]."""
        return apply(self.encoder, {"params": params["encoder"]}, x, (self.latent,))

    def decode(self, params: PyTree, z: jax.Array) -> jax.Array:
        """x: f32[B, *shape]."""
        return apply(self.decoder, {"params": params["decoder"]}, z, self.shape)

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        key_encoder, key_decoder = jax.random.split(key)
        z = jnp.zeros((len(batch["x"]), self.latent))
        return {
            "encoder": self.encoder.init(key_encoder, batch["x"], (self.latent,))["params"],
            "decoder": self.decoder.init(key_decoder, z, self.shape)["params"],
        }

    def init_extra(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        # NaN marks a row not yet written.
        return {"latents": jnp.full((self.memory, self.latent), jnp.nan)}

    def seen(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Seen]:
        """The loss; `Seen.rows` are the latents."""
        z = self.encode(params, batch["x"])
        error = jnp.mean(_squared_error(batch["x"], self.decode(params, z)))
        size = jnp.mean(jnp.sum(z**2, axis=-1))
        metrics = {"mse": error / math.prod(self.shape), "z_squared": size}
        return error + 0.5 * self.latent_penalty * size, Seen(metrics, rows=z)

    def train_step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Metrics]:
        """One step of the optimizer; the latents of the batch enter the ring of recent ones."""
        new, seen = self._step(state, key, batch)
        z = seen.rows[: self.memory]
        place = (state.step * len(z) + jnp.arange(len(z))) % self.memory
        return new.replace(extra={"latents": state.extra["latents"].at[place].set(z)}), seen.metrics

    def density(self, state: TrainState) -> Mixture:
        """The mixture fitted to the recent latents by expectation maximisation; it depends on the state alone."""
        latents = state.extra["latents"]
        # Unwritten rows repeat written ones, so that the shape is fixed while the ring fills. An empty ring is N(0, 1).
        count = jnp.sum(~jnp.isnan(latents[:, 0]))
        filled = latents[jnp.arange(self.memory) % jnp.maximum(count, 1)]
        start = jax.random.normal(jax.random.key(0), latents.shape)
        return fit_mixture(jnp.where(count > 0, filled, start), self.components, jax.random.key(1))

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """Decoded draws from the mixture, f32[len(keys), *shape]."""
        return self.decode(state.sampling_params, self.density(state).sample(keys))

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """`mse`, f32[B]: mean squared error per element in model space."""
        params = state.sampling_params
        rebuilt = self.decode(params, self.encode(params, batch["x"]))
        return {"mse": _squared_error(batch["x"], rebuilt) / math.prod(self.shape)}

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Reconstructions below their originals, interpolations between pairs."""
        params, x = state.sampling_params, batch["x"][:20]
        z = self.encode(params, x)
        first, second = in_pairs(len(x))
        weight = jnp.linspace(0, 1, 11)[None, :, None]
        between = (1 - weight) * z[first, None] + weight * z[second, None]
        shown = self.decode(params, between.reshape(-1, self.latent)).reshape(-1, 11, *self.shape)
        return {
            "reconstruction.png": jnp.stack([x[:10], self.decode(params, z[:10])]),
            "interpolation.png": shown,
        }


def _squared_error(x: jax.Array, y: jax.Array) -> jax.Array:
    """|x - y|^2 of each example, f32[B]."""
    return jnp.sum((x - y) ** 2, axis=tuple(range(1, x.ndim)))
