"""What two networks that play against each other share: their state, the critic's passes, the two descents."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.traverse_util import flatten_dict

from jaxgen.core.gradients import gradient
from jaxgen.core.keys import one_key
from jaxgen.core.model import GenerativeModel, update_ema
from jaxgen.core.types import PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.ops.gan import NonSaturating, Objective
from jaxgen.optim import Adam, Optimizer

PASSES = ("real", "fake", "generator")


@dataclass(frozen=True, kw_only=True)
class AdversarialModel(GenerativeModel):
    """A generator and a critic. Batch statistics are of one pass each: the critic's on real examples, on fakes and
    within the generator's step have running averages of their own, and so have the generator's; samples use these."""

    generator: nn.Module
    critic: nn.Module
    objective: Objective = NonSaturating()
    optimizer: Optimizer = Adam(lr=2e-4, b1=0.5)
    """The generator's."""
    critic_optimizer: Optimizer = Adam(lr=2e-4, b1=0.5)
    """The critic's, whose schedule counts the critic's steps."""
    ema_decay: float = 0.0
    """Decay of the averaged generator, which samples; 0 keeps none."""
    accumulate: int = 1
    """Equal parts of a step's batch whose gradients are computed one after another: less memory, the same step. Not for
    networks with batch normalization."""

    adversarial: ClassVar[bool] = True

    def _start(self, gen: PyTree, critic: PyTree) -> TrainState:
        """The state at step 0 of both networks' variables."""
        gen, critic = dict(gen), dict(critic)
        if self.accumulate > 1 and any("var" in path for path in flatten_dict({"gen": gen, "critic": critic})):
            raise UserError(
                f"model.accumulate is {self.accumulate}, but batch normalization mixes the examples of a batch, which "
                "parts of it would change: leave it at 1, or choose networks without"
            )
        params = {"gen": gen.pop("params"), "critic": critic.pop("params")}
        spectral = {"spectral": critic.pop("spectral")} if "spectral" in critic else {}
        # A copy each: donating one buffer under two names is an error.
        passes = {which: jax.tree.map(jnp.copy, critic) for which in PASSES}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state={
                "gen": self.optimizer.tx.init(params["gen"]),
                "critic": self.critic_optimizer.tx.init(params["critic"]),
            },
            # Of the generator alone, as nothing samples from an averaged critic.
            ema={"gen": jax.tree.map(jnp.copy, params["gen"])} if self.ema_decay else None,
            extra={"gen": gen, "critic": {**passes, "spectral": spectral}},
        )

    @property
    def block(self) -> int:
        """Neighbours in a batch that the critic sees together."""
        return getattr(self.critic, "group", 1)

    def _gradient(self, loss: Callable, params: PyTree, key: jax.Array, num: int, batch: PyTree):
        """`gradients.gradient` in `accumulate` parts, which leave the critic's groups of examples together."""
        return gradient(loss, params, key, num, batch, self.accumulate, self.block)

    def _critic_logits(
        self, params: PyTree, extra: PyTree, which: str, *args: jax.Array | None, keys: jax.Array | None = None
    ) -> tuple[jax.Array, PyTree]:
        """The critic's logits of `args` in training, and `extra` with the running averages of that pass. Spectral
        vectors move on with the pass on real examples, which each step of the critic makes once."""
        spectral = extra["spectral"]
        mutable = ["batch_stats", "spectral"] if which == "real" else ["batch_stats"]
        rngs = {} if keys is None else {"dropout": one_key(keys)}
        variables = {"params": params, **extra[which], **spectral}
        logits, new = self.critic.apply(variables, *args, True, mutable=mutable, rngs=rngs)
        new = dict(new)
        if "spectral" in new:
            spectral = {"spectral": new.pop("spectral")}
        return logits, {**extra, which: new, "spectral": spectral}

    def _critic_descent(self, state: TrainState, grads: PyTree) -> tuple[PyTree, PyTree]:
        """The critic's parameters and optimizer state after a step."""
        old = state.params["critic"]
        updates, opt_state = self.critic_optimizer.tx.update(grads, state.opt_state["critic"], old)
        return optax.apply_updates(old, updates), opt_state

    def _generator_descent(self, state: TrainState, grads: PyTree) -> TrainState:
        """The state after a step of the generator, its average included."""
        updates, opt_state = self.optimizer.tx.update(grads, state.opt_state["gen"], state.params["gen"])
        gen = optax.apply_updates(state.params["gen"], updates)
        return state.replace(
            params={**state.params, "gen": gen},
            opt_state={**state.opt_state, "gen": opt_state},
            ema=update_ema(state.ema, {"gen": gen}, self.ema_decay, state.step) if self.ema_decay else None,
        )
