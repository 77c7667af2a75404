"""VQ-VAE, arXiv:1711.00937, and with several maps of codes VQ-VAE-2, arXiv:1906.00446.

    loss = |x - decoder(q)|^2 + |sg(z) - q|^2 + beta |z - sg(q)|^2,  q the code nearest to z = encoder(x)      (eq. 3)

each term averaged over what it is of; the second stands only where codes are learnt by gradient. Samples need a prior
over codes: `jaxgen.pretrained` makes codes the data of another model.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.gradients import Seen
from jaxgen.core.model import LossModel
from jaxgen.core.types import Batch, Metrics, TrainState
from jaxgen.models.quantized import Quantized, Weights
from jaxgen.nets.vqvae import VQNetwork


@dataclass(frozen=True, kw_only=True)
class VQVAE(Quantized, LossModel):
    """x: f32[B, *shape] in [-1, 1]. Metrics of codebooks are named by the size of their map where there are several."""

    network: nn.Module = field(default_factory=VQNetwork)
    """Encoder and decoder: `nets.vqvae`, `nets.vit`."""

    @property
    def coder(self) -> nn.Module:
        return self.network

    def weights(self, state: TrainState) -> Weights:
        return state.sampling_params

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        params, running = self._begin(key, batch["x"])
        return self._start(params, {"codes": running})

    def seen(self, params: Weights, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Seen]:
        """Its rows are what was found."""
        rebuilt, found = self._rebuild(params, state.extra["codes"], batch["x"])
        mse, codes = jnp.mean((batch["x"] - rebuilt) ** 2), self._code_loss(found)
        return mse + codes, Seen({"mse": mse, "code_loss": codes}, rows=found)

    def train_step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Metrics]:
        key_loss, key_codes = jax.random.split(key)
        new, seen = self._step(state, key_loss, batch)
        params, ema, running, used = self._use(key_codes, new.params, new.ema, state.extra["codes"], seen.rows)
        return new.replace(params=params, ema=ema, extra={"codes": running}), {**seen.metrics, **used}
