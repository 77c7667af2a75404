"""The autoencoder of latent diffusion, arXiv:2112.10752, appendix G: a weak KL to the prior, and a critic of patches.

x data, q(z|x) = N(mean, exp(logvar)), z ~ q, x' = decoder(z), N values of x, D the critic's logits:

    loss = d(x, x') + wl LPIPS(x, x') + wk KL(q(z|x) || N(0, 1)) / N + wg lambda E[-D(x')]

d is the mean absolute or squared error; lambda: see `models.patch_autoencoder`. The published code sums over the values
of x what is a mean here, which is the same loss N times. Latents are `scale` z.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from jaxgen.core.keys import normal_each
from jaxgen.core.ranges import NonNegative, OptionalSize, Positive
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.metrics.image import psnr
from jaxgen.models.patch_autoencoder import PatchAutoencoder
from jaxgen.models.shared import check_shape, to_8_bit
from jaxgen.nets.apply import apply
from jaxgen.nets.autoencoder_kl import KLCoder, split_moments
from jaxgen.ops.gaussian import kl_standard_normal
from jaxgen.ops.tiles import tiled


@dataclass(frozen=True, kw_only=True)
class AutoencoderKL(PatchAutoencoder):
    """x: f32[B, *shape] in [-1, 1]. `loss` is the generator's; it need not fall while both networks improve, but `mse`
    falls."""

    generator: KLCoder = KLCoder()
    """Encoder and decoder."""
    distance: Literal["l1", "l2"] = "l1"
    """d: mean absolute or squared error."""
    kl_weight: NonNegative = 1e-6
    """wk."""
    gan_weight: NonNegative = 0.5
    """wg, weight of the adversarial loss; 0 for none."""
    scale: Positive = 1.0
    """Of latents, whose deviation it makes about 1; 0.18215 is Stable Diffusion's. A second stage measures it anew."""
    tile: OptionalSize = 0
    """Side, in latents, of the tiles in which larger maps are encoded and decoded as a first stage; 0 for whole."""

    draws_latents: ClassVar[bool] = True

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return self.generator.latent_shape(self.shape)

    @property
    def last(self) -> tuple[str, ...]:
        return "network", *self.generator.last

    def check(self, batch: Batch) -> None:
        check_shape(self.shape, batch)
        self.generator.check(self.shape)
        self.check_game()

    def moments(self, weights: PyTree, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and logvar of q(z|x), f32[B, h, w, latent] each."""
        return apply(self.generator, {"params": weights["network"]}, x, method="encode")

    def decode(self, weights: PyTree, z: jax.Array) -> jax.Array:
        """Images f32[B, *shape] of z."""
        return apply(self.generator, {"params": weights["network"]}, z, method="decode")

    # --- training ---

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        key_gen, key_critic = jax.random.split(key)
        weights = {"network": self.generator.init(key_gen, batch["x"][:1])["params"]}
        return self._begin_game(key_critic, weights, batch["x"])

    def answer(self, weights: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> Any:
        """((x', wk KL / N), KL in nats per dimension of z, f32[B])."""
        mean, logvar = self.moments(weights, batch["x"])
        z = mean + jnp.exp(0.5 * logvar) * normal_each(keys, mean.shape[1:])
        kl = kl_standard_normal(mean, logvar)
        own = self.kl_weight * jnp.sum(kl) / batch["x"].size
        return (self.decode(weights, z), own), jnp.mean(kl, axis=(1, 2, 3))

    def pixel_loss(self, extra: PyTree, out: jax.Array, x: jax.Array) -> tuple[jax.Array, Metrics]:
        metrics = {"mse": jnp.mean((x - out) ** 2), "mae": jnp.mean(jnp.abs(x - out))}
        perceptual, distance = self.perceptual_loss(extra, x, out)
        return metrics["mae" if self.distance == "l1" else "mse"] + perceptual, {**metrics, **distance}

    def finish(self, state: TrainState, key: jax.Array, rows: PyTree) -> tuple[TrainState, Metrics]:
        return state, {"kl": jnp.mean(rows)}

    # --- as a first stage ---

    def to_latent(self, state: TrainState, x: jax.Array, key: jax.Array) -> jax.Array:
        """`scale` z, f32[B, h, w, latent], of x, where z is drawn from q(z|x) by key."""

        def moments(x: jax.Array) -> jax.Array:
            return apply(self.generator, {"params": state.sampling_params["gen"]["network"]}, x, method="moments")

        mean, logvar = split_moments(tiled(moments, x, self.tile, self.generator.factor))
        return self.scale * (mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape))

    def from_latent(self, state: TrainState, z: jax.Array) -> jax.Array:
        """Images f32[B, *shape] of `scale` z."""
        return tiled(lambda z: self.decode(state.sampling_params["gen"], z), z / self.scale, self.tile)

    # --- use ---

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """Decoded draws from N(0, 1) / scale, f32[len(keys), *shape]: textures, as the prior is for a second stage to
        learn."""
        return self.from_latent(state, normal_each(keys, self.latent_shape))

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """f32[B] each: errors of the decoded mean, `mse` per element in model space and `psnr` in dB of 8-bit images;
        `kl` in nats per dimension of z."""
        x, weights = batch["x"], state.sampling_params["gen"]
        mean, logvar = self.moments(weights, x)
        rebuilt = self.decode(weights, mean)
        mse = jnp.mean((x - rebuilt) ** 2, axis=(1, 2, 3))
        kl = jnp.mean(kl_standard_normal(mean, logvar), axis=(1, 2, 3))
        return {"mse": mse, "psnr": psnr(to_8_bit(rebuilt), to_8_bit(x)), "kl": kl}

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Decoded means below their originals."""
        x, weights = batch["x"][:10], state.sampling_params["gen"]
        return {"reconstruction.png": jnp.stack([x, self.decode(weights, self.moments(weights, x)[0])])}
