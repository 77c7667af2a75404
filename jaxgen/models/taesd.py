"""A tiny autoencoder as a first stage: pictures to latents of a published diffusion model and back, `nets.taesd`.

x data, z = encoder(x), x' = decoder(z). Its weights are published ones (`jaxgen weights import-taesd`), which training
goes on from by |x - x'|^2. z has neither noise nor a density: a sample is a decoded draw from N(0, 1).
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxgen.codecs import Pixels, to_levels
from jaxgen.core.codec import Codec
from jaxgen.core.keys import normal_each
from jaxgen.core.model import LossModel
from jaxgen.core.ranges import OptionalSize, Shape
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.metrics.image import psnr
from jaxgen.models.shared import check_shape
from jaxgen.nets.apply import apply
from jaxgen.nets.taesd import FACTOR, TinyAutoencoder
from jaxgen.ops.tiles import tiled


@dataclass(frozen=True, kw_only=True)
class TAESD(LossModel):
    """x: f32[B, *shape] in [0, 1]."""

    network: TinyAutoencoder = TinyAutoencoder()
    shape: Shape = (64, 64, 3)
    """Sides divide by 8; the weights are of no size."""
    tile: OptionalSize = 0
    """Side, in latents, of the tiles in which larger maps are encoded and decoded as a first stage; 0 for whole."""

    def natural_codec(self) -> Codec:
        return Pixels(low=0.0)

    def check(self, batch: Batch) -> None:
        check_shape(self.shape, batch)
        self.network.check(self.shape)

    def encode(self, params: PyTree, x: jax.Array) -> jax.Array:
        """z: f32[B, H/8, W/8, latent]."""
        return apply(self.network, {"params": params["network"]}, x, method="encode")

    def decode(self, params: PyTree, z: jax.Array) -> jax.Array:
        """x: f32[B, *shape], which may leave [0, 1] a little."""
        return apply(self.network, {"params": params["network"]}, z, method="decode")

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        return {"network": self.network.init(key, batch["x"][:1])["params"]}

    def loss(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
        mse = jnp.mean((batch["x"] - self.decode(params, self.encode(params, batch["x"]))) ** 2)
        return mse, {"mse": mse}

    draws_latents: ClassVar[bool] = False

    @property
    def latent_shape(self) -> tuple[int, ...]:
        height, width, _ = self.shape
        return height // FACTOR, width // FACTOR, self.network.latent

    def to_latent(self, state: TrainState, x: jax.Array, key: jax.Array) -> jax.Array:
        """z of x. `key` is not used."""
        return tiled(partial(self.encode, state.sampling_params), x, self.tile, FACTOR)

    def from_latent(self, state: TrainState, z: jax.Array) -> jax.Array:
        return tiled(partial(self.decode, state.sampling_params), z, self.tile)

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """Decoded draws from N(0, 1), f32[len(keys), *shape]: textures, as the prior is for a second stage to learn."""
        z = normal_each(keys, self.latent_shape)
        return self.from_latent(state, z)

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """Errors of reconstructions, f32[B] each: `mse` per element in model space, `psnr` in dB of 8-bit images."""
        x, params = batch["x"], state.sampling_params
        rebuilt = self.decode(params, self.encode(params, x))
        mse = jnp.mean((x - rebuilt) ** 2, axis=(1, 2, 3))
        return {"mse": mse, "psnr": psnr(to_levels(rebuilt), to_levels(x))}

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Reconstructions below their originals."""
        x, params = batch["x"][:10], state.sampling_params
        return {"reconstruction.png": jnp.stack([x, self.decode(params, self.encode(params, x))])}
