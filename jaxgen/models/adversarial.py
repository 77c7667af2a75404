"""What adversarial models share: the state of two networks, the critic's forward passes, both optimizer steps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict

from jaxgen.core.gradients import gradient
from jaxgen.core.keys import one_key
from jaxgen.core.model import GenerativeModel, update_ema
from jaxgen.core.ranges import Decay, Size
from jaxgen.core.types import PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.nets.apply import apply_mutable
from jaxgen.ops.gan import NonSaturating, Objective
from jaxgen.optim import Adam, Optimizer, trained, with_frozen

PASSES = ("real", "fake", "generator")


@dataclass(frozen=True, kw_only=True)
class AdversarialModel(GenerativeModel):
    """A generator and a critic. Running averages of batch statistics are kept apart: the critic has one set for real
    examples, one for fakes and one for the generator's step; the generator has its own set, which sampling uses."""

    generator: nn.Module
    critic: nn.Module
    objective: Objective = NonSaturating()
    optimizer: Optimizer = Adam(lr=2e-4, b1=0.5)
    """The generator's optimizer."""
    critic_optimizer: Optimizer = Adam(lr=2e-4, b1=0.5)
    """The critic's optimizer; its schedule counts the critic's steps."""
    ema_decay: Decay = 0.0
    """Decay of the averaged generator, which draws the samples; 0 keeps none."""
    accumulate: Size = 1
    """Equal parts of a step's batch whose gradients are computed one after another: less memory, the same step. Not
    for networks with batch normalization."""

    adversarial: ClassVar[bool] = True

    def _start(self, gen: PyTree, critic: PyTree) -> TrainState:
        """The state at step 0, from the variables of both networks."""
        gen, critic = dict(gen), dict(critic)
        if self.accumulate > 1 and any("var" in path for path in flatten_dict({"gen": gen, "critic": critic})):
            raise UserError(
                f"model.accumulate is {self.accumulate}, but batch normalization mixes the examples of a batch, so "
                "parts of it would give another result: leave it at 1, or choose networks without"
            )
        params = {"gen": gen.pop("params"), "critic": critic.pop("params")}
        spectral = {"spectral": critic.pop("spectral")} if "spectral" in critic else {}
        # A copy for each: donating one buffer under two names is an error.
        passes = {which: jax.tree.map(jnp.copy, critic) for which in PASSES}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state={
                "gen": self.optimizer.start(params["gen"], self.trainable, "gen"),
                "critic": self.critic_optimizer.start(params["critic"], self.trainable, "critic"),
            },
            # Of the generator alone: nothing uses an averaged critic.
            ema={"gen": jax.tree.map(jnp.copy, params["gen"])} if self.ema_decay else None,
            extra={"gen": gen, "critic": {**passes, "spectral": spectral}},
        )

    @property
    def block(self) -> int:
        """How many neighbours in a batch the critic sees together, as for a minibatch standard deviation."""
        return getattr(self.critic, "group", 1)

    def _gradient(self, loss: Callable, params: PyTree, key: jax.Array, num: int, batch: PyTree, within: str = ""):
        """`gradients.gradient` in `accumulate` parts, which keep each of the critic's groups of examples together.
        within: the network that `params` are of, gen or critic, whose frozen arrays are then left out."""
        part = trained(params, self.trainable, within) if within else params

        def of_part(part: PyTree, *args: PyTree) -> tuple[jax.Array, PyTree]:
            return loss(with_frozen(part, params), *args)

        return gradient(of_part, part, key, num, batch, self.accumulate, self.block)

    def _critic_logits(
        self, params: PyTree, extra: PyTree, which: str, *args: jax.Array | None, keys: jax.Array | None = None
    ) -> tuple[jax.Array, PyTree]:
        """The critic's logits of `args` in training, and `extra` with the running averages of the pass `which`. The
        pass on real examples, one in each critic step, also updates the vectors of spectral normalization."""
        spectral = extra["spectral"]
        mutable = ["batch_stats", "spectral"] if which == "real" else ["batch_stats"]
        rngs = {} if keys is None else {"dropout": one_key(keys)}
        variables = {"params": params, **extra[which], **spectral}
        logits, new = apply_mutable(self.critic, variables, *args, True, mutable=mutable, rngs=rngs)
        if "spectral" in new:
            spectral = {"spectral": new.pop("spectral")}
        return logits, {**extra, which: new, "spectral": spectral}

    def _critic_descent(self, state: TrainState, grads: PyTree) -> tuple[PyTree, PyTree]:
        """The critic's parameters and optimizer state after a step along `grads`."""
        before = (state.opt_state["critic"], state.params["critic"])
        return self.critic_optimizer.step(grads, *before, self.trainable, "critic")

    def _generator_descent(self, state: TrainState, grads: PyTree) -> TrainState:
        """The state after the generator's step along `grads`, with the averaged generator updated."""
        before = (state.opt_state["gen"], state.params["gen"])
        gen, opt_state = self.optimizer.step(grads, *before, self.trainable, "gen")
        return state.replace(
            params={**state.params, "gen": gen},
            opt_state={**state.opt_state, "gen": opt_state},
            ema=update_ema(state.ema, {"gen": gen}, self.ema_decay, state.step) if self.ema_decay else None,
        )
