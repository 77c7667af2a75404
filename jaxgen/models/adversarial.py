"""What adversarial models share: the state of two networks, the critic's forward passes, both optimizer steps."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.traverse_util import flatten_dict

from jaxgen.core.ema import Averaging
from jaxgen.core.gradients import Seen, gradient, once
from jaxgen.core.keys import fold_each, one_key
from jaxgen.core.model import GenerativeModel
from jaxgen.core.ranges import Size
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.nets.apply import apply_mutable
from jaxgen.ops.gan import NonSaturating, Objective
from jaxgen.optim import Adam, Optimizer, trained, with_frozen

PASSES = ("real", "fake", "generator")
Make = Callable[[PyTree, TrainState, jax.Array, Batch], tuple[Any, Any]]
"""(the generator's parameters, state, keys, batch) -> (fakes, whatever else the losses need)."""
Made = Callable[[PyTree, jax.Array, Batch], tuple[Any, Any]]
"""The same of the state before a step."""
Loss = Callable[[TrainState, Made, PyTree, jax.Array, Batch], tuple[jax.Array, Seen]]
"""(state, fakes, parameters, keys, batch) -> (loss, what was seen)."""


@dataclass(frozen=True, kw_only=True)
class AdversarialModel(Averaging, GenerativeModel):
    """A generator and a critic. Running averages of batch statistics are kept apart: the critic has one set for real
    examples, one for fakes and one for the generator's step; the generator has its own set, which sampling uses."""

    generator: nn.Module
    critic: nn.Module
    objective: Objective = NonSaturating()
    optimizer: Optimizer = Adam(lr=2e-4, b1=0.5)
    """The generator's optimizer."""
    critic_optimizer: Optimizer = Adam(lr=2e-4, b1=0.5)
    """The critic's optimizer; its schedule counts the critic's steps."""
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
        # Of the generator alone: nothing uses an averaged critic.
        ema, averages = self.first_averages({"gen": params["gen"]}, self.optimizer.averages)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state={**self._optimizers(params), **averages},
            ema=ema,
            extra={"gen": gen, "critic": {**passes, "spectral": spectral}},
        )

    def _optimizers(self, params: dict[str, PyTree]) -> dict[str, PyTree]:
        return {
            "gen": self.optimizer.start(params["gen"], self.trainable, "gen"),
            "critic": self.critic_optimizer.start(params["critic"], self.trainable, "critic"),
        }

    def restarted(self, state: TrainState) -> TrainState:
        return state.replace(opt_state={**state.opt_state, **self._optimizers(state.params)})

    @property
    def neighbours(self) -> int:
        """How many neighbours in a batch the critic sees together, as for a minibatch standard deviation."""
        return getattr(self.critic, "group", 1)

    def _gradient(self, loss: Callable, params: PyTree, key: jax.Array, num: int, batch: PyTree, within: str = ""):
        """`gradients.gradient` in `accumulate` parts, which keep each of the critic's groups of examples together.
        within: the network that `params` are of, gen or critic, whose frozen arrays are then left out."""
        part = trained(params, self.trainable, within) if within else params

        def of_part(part: PyTree, *args: PyTree) -> tuple[jax.Array, PyTree]:
            return loss(with_frozen(part, params), *args)

        return gradient(of_part, part, key, num, batch, self.accumulate, self.neighbours)

    def _shared(self, make: Make, state: TrainState, key: jax.Array, batch: Batch) -> Made:
        """`make` of the state before the step, computed once for all losses where the batch is in one part."""
        if self.accumulate > 1:
            return lambda params, keys, batch: make(params, state, keys, batch)
        keys = fold_each(key, jnp.arange(len(batch["x"])))
        shared = once(lambda params: make(params, state, keys, batch), state.params["gen"])
        return lambda params, keys, batch: shared(params)

    def _take_turns(
        self, state: TrainState, key: jax.Array, batch: Batch, make: Make, critic_loss: Loss, generator_loss: Loss
    ) -> tuple[TrainState, Metrics]:
        """One step of the critic, then one of the generator against the updated critic, on the same fakes. `Seen.extra`
        is the critic's extra; of the generator's loss, a dict of what of the state's changes."""
        batch, num = dict(batch), len(batch["x"])
        fakes = self._shared(make, state, key, batch)
        loss = partial(critic_loss, state, fakes)
        (critic_value, judged), critic_grads = self._gradient(loss, state.params["critic"], key, num, batch, "critic")
        critic, critic_opt = self._critic_descent(state, critic_grads)
        state = state.replace(
            params={**state.params, "critic": critic},
            opt_state={**state.opt_state, "critic": critic_opt},
            extra={**state.extra, "critic": judged.extra},
        )
        loss = partial(generator_loss, state, fakes)
        (value, made), grads = self._gradient(loss, state.params["gen"], key, num, batch, "gen")
        state = self._generator_descent(state.replace(extra={**state.extra, **made.extra}), grads)
        norms = {"generator_grad_norm": optax.tree.norm(grads), "critic_grad_norm": optax.tree.norm(critic_grads)}
        metrics = {"loss": value, "critic_loss": critic_value, **judged.metrics, **made.metrics, **norms}
        return state.replace(step=state.step + 1), metrics

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
        used = self.optimizer.evaluated(opt_state, gen, self.trainable, "gen")
        ema, averages = self.next_averages(state, {"gen": used}, self.optimizer.averages)
        return state.replace(
            params={**state.params, "gen": gen}, opt_state={**state.opt_state, "gen": opt_state, **averages}, ema=ema
        )
