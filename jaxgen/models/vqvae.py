"""VQ-VAE, arXiv:1711.00937, and with several maps of codes VQ-VAE-2, arXiv:1906.00446.

    loss = |x - decoder(q)|^2 + |sg(z) - q|^2 + beta |z - sg(q)|^2,  q the code nearest to z = encoder(x)      (eq. 3)

Each term is a mean over its elements; the second is absent unless codes are learnt by gradient. Good samples need a
prior over codes, a second model trained on them: see `jaxgen.runs.pretrained`.
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
    """x: f32[B, *shape] in [-1, 1]. With several maps, the metrics of a codebook carry the size of its map."""

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
        """The loss; `Seen.rows` are the codes found at each level."""
        rebuilt, found = self._rebuild(params, state.extra["codes"], batch["x"])
        mse, codes = jnp.mean((batch["x"] - rebuilt) ** 2), self._code_loss(found)
        return mse + codes, Seen({"mse": mse, "code_loss": codes}, rows=found)

    def train_step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Metrics]:
        key_loss, key_codes = jax.random.split(key)
        new, seen = self._step(state, key_loss, batch)
        running = state.extra["codes"]
        params, ema, running, used = self._update_codebooks(key_codes, new.params, new.ema, running, seen.rows)
        return new.replace(params=params, ema=ema, extra={"codes": running}), {**seen.metrics, **used}
