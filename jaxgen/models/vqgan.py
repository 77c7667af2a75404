"""VQGAN, arXiv:2012.09841, and ViT-VQGAN, arXiv:2110.04627: an autoencoder of codes trained against a patch critic. The
network decides which of the two it is: `nets.vqvae`, `nets.vit`.

G the network, x data, x' = G(x) its reconstruction from codes, D(x) the critic's logits:

    loss of G = w2 |x - x'|^2 - wp log p(x) + wl LPIPS(x, x') + codes + wg lambda E[-D(x')]

lambda: see `models.patch_autoencoder`.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.ranges import NonNegative
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.models.patch_autoencoder import PatchAutoencoder
from jaxgen.models.quantized import Quantized, Weights
from jaxgen.nets.vit import ViTCoder
from jaxgen.ops.likelihood import Gaussian, Likelihood
from jaxgen.ops.quantize import Codebook, Quantizer


@dataclass(frozen=True, kw_only=True)
class VQGAN(Quantized, PatchAutoencoder):
    """x: f32[B, *shape] in [-1, 1]. `loss` is the generator's; it need not fall while both networks improve, but `mse`
    falls as the codes improve."""

    generator: nn.Module = field(default_factory=ViTCoder)
    """Encoder and decoder: `nets.vit`, `nets.vqvae`."""
    codebook: Quantizer = Codebook(size=8192, dim=32, cosine=True, decay=0.0)
    l2_weight: NonNegative = 1.0
    """w2, weight of the mean squared error."""
    likelihood: Likelihood = Gaussian(learned=False)
    """p(x | the network's output), whose mean is x'; the paper's is LogitLaplace."""
    likelihood_weight: NonNegative = 0.0
    """wp, weight of -log p(x) in nats per element."""

    @property
    def coder(self) -> nn.Module:
        return self.generator

    @property
    def last(self) -> tuple[str, ...]:
        return "network", *self.coder.last

    def weights(self, state: TrainState) -> Weights:
        return state.sampling_params["gen"]

    @property
    def out_shape(self) -> tuple[int, ...]:
        return (*self.shape[:2], self.shape[2] * self.likelihood.num_params)

    def image(self, out: jax.Array) -> jax.Array:
        return self.likelihood.mean(out)

    def check(self, batch: Batch) -> None:
        super().check(batch)
        self.check_game()

    # --- training ---

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        key_gen, key_critic = jax.random.split(key)
        weights, running = self._begin(key_gen, batch["x"])
        state = self._begin_game(key_critic, weights, batch["x"])
        return state.replace(extra={**state.extra, "codes": running})

    def pixel_loss(self, extra: PyTree, out: jax.Array, x: jax.Array) -> tuple[jax.Array, Metrics]:
        """The first three terms, of the network's output f32[B, *out_shape]. extra: the state's, which holds LPIPS."""
        rebuilt = self.image(out)
        metrics = {"mse": jnp.mean((x - rebuilt) ** 2)}
        loss = self.l2_weight * metrics["mse"]
        if self.likelihood_weight:
            metrics["nll"] = -jnp.mean(self.likelihood.log_prob(out, x))
            loss += self.likelihood_weight * metrics["nll"]
        perceptual, distance = self.perceptual_loss(extra, x, rebuilt)
        return loss + perceptual, {**metrics, **distance}

    def answer(self, weights: Weights, state: TrainState, keys: jax.Array, batch: Batch) -> Any:
        """((the network's output, the codebook loss), the codes found)."""
        out, found = self._rebuild(weights, state.extra["codes"], batch["x"])
        return (out, self._code_loss(found)), found

    def own_metrics(self, own: jax.Array) -> Metrics:
        return {"code_loss": own}

    def finish(self, state: TrainState, key: jax.Array, rows: PyTree) -> tuple[TrainState, Metrics]:
        """The codebooks after the codes found."""
        averaged = state.ema and state.ema["gen"]
        weights, averaged, running, used = self._update_codebooks(
            key, state.params["gen"], averaged, state.extra["codes"], rows
        )  # fmt: skip
        state = state.replace(
            params={**state.params, "gen": weights},
            ema=averaged and {"gen": averaged},
            extra={**state.extra, "codes": running},
        )
        return state, used
