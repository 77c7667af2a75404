"""Cases that are no experiment: the smallest network, where the cost of launching a step shows, and nanoGPT's
setting for a CPU on text that is always at hand."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from jaxgen.codecs import Identity
from jaxgen.core import Batch, LossModel, PyTree
from jaxgen.data import Text, Toy2D
from jaxgen.experiment import Experiment
from jaxgen.models.gpt import GPT
from jaxgen.nets.gpt import TokenTransformer
from jaxgen.nets.mlp import MLP
from jaxgen.nets.transformer import Transformer
from jaxgen.optim import Adam


@dataclass(frozen=True, kw_only=True)
class Regression(LossModel):
    """Squared error of a network that is to give sin(3 x) for x: f32[B, 2]."""

    network: MLP = field(default_factory=MLP)

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        return {"network": self.network.init(key, batch["x"], batch["x"].shape[1:])["params"]}

    def loss(self, params, state, key, batch):
        x = batch["x"]
        predicted = self.network.apply({"params": params["network"]}, x, x.shape[1:])
        return jnp.mean((predicted - jnp.sin(3 * x)) ** 2), {}


def case(width: int, batch_size: int) -> Experiment:
    return Experiment(
        model=Regression(network=MLP(hidden=(width, width)), optimizer=Adam(lr=1e-3)), codec=Identity(), data=Toy2D(),
        batch_size=batch_size, steps_per_call=100, log_every=100, sample_every=1000, save_every=1000,
    )  # fmt: skip


# The wide one's matrix products take longer than a launch on two cores: 13 MFLOP a step, against 1.6.
CASES = {
    "mlp3": case(64, 64),
    "mlp3-wide": case(128, 128),
    # `gpt shakespeare_char_cpu` but for the rate and the corpus, whose bytes are 256 where Shakespeare's characters
    # are 65.
    "gpt-cpu": Experiment(
        model=GPT(
            network=TokenTransformer(window=64, body=Transformer(width=128, depth=4, heads=4, causal=True, bias=False)),
            optimizer=Adam(lr=1e-3, b2=0.99, weight_decay=0.1, clip=1.0, warmup=100, decay_steps=2000, final=0.1),
        ),
        codec=Identity(), data=Text(tokenizer="bytes"), batch_size=12, steps=2000, steps_per_call=50, log_every=50,
        sample_every=500, save_every=500,
    ),
}  # fmt: skip
