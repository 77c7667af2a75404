"""What a model answers, and the steps of training that families with one loss share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from jaxgen.core.codec import Codec
from jaxgen.core.ema import Averaging
from jaxgen.core.gradients import Seen, gradient
from jaxgen.core.ranges import Size
from jaxgen.core.types import Batch, Metrics, PyTree, RawBatch, TrainState
from jaxgen.errors import UserError
from jaxgen.optim import Adam, Optimizer, trained, with_frozen


@dataclass(frozen=True, kw_only=True)
class GenerativeModel:
    """The methods of a model. A batch is a dict with `x` in model space and, if the data has labels, `cond`."""

    adversarial: ClassVar[bool] = False
    """Whether networks are trained against each other, so that no metric has to fall while training goes well."""

    trainable: Any = None
    """The pattern of `optim.trained`, which an experiment sets as it computes: a field that no flag or file sets."""

    def natural_codec(self) -> Codec | None:
        """The codec for uint8 images that gives the model its expected range; None if [-1, 1] will do."""
        return None

    def fitted(self, shape: tuple[int, ...], num_classes: int) -> "GenerativeModel":
        """A copy for images of `shape` = (H, W, C) with so many classes, 0 for none; what depends on these follows.

        Raises UserError for a family that is not of such images, or knows no classes.
        """
        own = {f.name for f in fields(self)}
        name = type(self).__name__
        if len(getattr(self, "shape", ())) not in (0, 3):
            raise UserError(f"{name} of shape {self.shape} is not of images: choose another preset")  # pyright: ignore[reportAttributeAccessIssue]
        if num_classes and "num_classes" not in own:
            raise UserError(f"{name} knows no classes: leave --classes and --data.label out")
        changed: dict[str, Any] = {"shape": shape, "num_classes": num_classes}
        return replace(self, **{field: value for field, value in changed.items() if field in own})

    def captioned(self, window: int) -> "GenerativeModel":
        """A copy that is told texts of `window` tokens at most instead of classes. Raises UserError for a family or a
        network that draws no captions."""
        raise UserError(f"{type(self).__name__} draws no captions: leave --captions out, or train a diffusion model")

    def check(self, batch: Batch | RawBatch) -> None:
        """Raises UserError if the model cannot take data of these shapes. `batch` may hold ShapeDtypeStructs."""

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """The state at step 0. `batch` is real data: some models start from its statistics."""
        raise NotImplementedError

    def train_step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Metrics]:
        """One step of training and its metrics, each f32[]."""
        raise NotImplementedError

    def restarted(self, state: TrainState) -> TrainState:
        """`state` with its optimizers at step 0, as after its parameters were replaced."""
        raise NotImplementedError

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> PyTree:
        """One sample for each of `keys`, leading axis len(keys); sample i depends on keys[i] and cond[i] alone."""
        raise NotImplementedError

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """Numbers for held-out data, each f32[B], example i by keys[i]; f32[B, 2] if the number is a ratio of two sums
        over the data. Empty if the family has none."""
        return {}

    @property
    def neighbours(self) -> int:
        """How many examples in a row stay in one part, of a loss that treats them differently by their place."""
        return 1

    def diverged(self, metrics: Mapping[str, np.ndarray]) -> str | None:
        """Advice to the user if finite training metrics, f32[K] by name, show that training has gone wrong; training
        then stops with it. None while training goes well."""
        return None

    def check_cond(self, cond: PyTree) -> None:
        """Raises UserError for a condition that `sample` cannot take."""

    def sample_cond(self, num: int, batch: Batch | RawBatch) -> PyTree:
        """Conditions for `num` samples, leading axis `num`; None for an unconditional model. batch: raw examples."""
        return None

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Pictures of the family beside samples, by file name, in model space.

        `name.png`: [rows, cols, *x]; `name.gif`: [frames, n, *x]. `batch` is held-out data, at least len(keys) of it.
        """
        return {}


@dataclass(frozen=True, kw_only=True)
class LossModel(Averaging, GenerativeModel):
    """`init` and `train_step` for a family with one loss, which writes `init_params`, `loss` and `sample`."""

    optimizer: Optimizer = Adam()
    accumulate: Size = 1
    """Number of equal parts of a batch whose gradients are computed in turn: less memory, the same step."""

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        raise NotImplementedError

    def init_extra(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        return {}

    def loss(
        self, params: dict[str, PyTree], state: TrainState, keys: jax.Array, batch: Batch
    ) -> tuple[jax.Array, Metrics]:
        """The scalar to minimise and metrics to log, all means over the batch. Example i draws by keys[i] alone.

        params: what is differentiated. state: gives `step` and `extra`.
        """
        raise NotImplementedError

    def seen(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Seen]:
        """`loss` with its metrics. A family whose step needs more of it (`rows`, `extra`) overrides this instead."""
        loss, metrics = self.loss(params, state, keys, batch)
        return loss, Seen(metrics)

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        key_params, key_extra = jax.random.split(key)
        return self._start(self.init_params(key_params, batch), self.init_extra(key_extra, batch))

    def _start(self, params: dict[str, PyTree], extra: dict[str, PyTree]) -> TrainState:
        """The state at step 0."""
        ema, averages = self.first_averages(params, self.optimizer.averages)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state={"all": self.optimizer.start(params, self.trainable), **averages},
            ema=ema,
            extra=extra,
        )

    def restarted(self, state: TrainState) -> TrainState:
        return state.replace(opt_state={**state.opt_state, "all": self.optimizer.start(state.params, self.trainable)})

    def train_step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Metrics]:
        state, seen = self._step(state, key, batch)
        return state, seen.metrics

    def _step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Seen]:
        """The state after a step, `extra` unchanged, and what the loss returned beside its value."""

        def loss(part: PyTree, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Seen]:
            return self.seen(with_frozen(part, state.params), state, keys, batch)

        num, part = len(jax.tree.leaves(batch)[0]), trained(state.params, self.trainable)
        (value, seen), grads = gradient(loss, part, key, num, dict(batch), self.accumulate, self.neighbours)
        metrics = {"loss": value, **seen.metrics, "grad_norm": optax.tree.norm(grads)}
        return self._descent(state, grads), seen._replace(metrics=metrics)

    def _descent(self, state: TrainState, grads: PyTree) -> TrainState:
        """The state after a step along `grads`."""
        params, opt_state = self.optimizer.step(grads, state.opt_state["all"], state.params, self.trainable)
        used = self.optimizer.evaluated(opt_state, params, self.trainable)
        ema, averages = self.next_averages(state, used, self.optimizer.averages)
        return state.replace(step=state.step + 1, params=params, opt_state={"all": opt_state, **averages}, ema=ema)


def with_field(module: PyTree, field: str, value: Any) -> PyTree:
    """A copy of a model or network in which every part that has `field` holds `value` there: `dtype`, the compute type
    of a Linen module, or `remat`."""
    own = {f.name: getattr(module, f.name) for f in fields(module) if f.name != "parent"}
    changed = {name: with_field(part, field, value) for name, part in own.items() if is_dataclass(part)}
    if field in own:
        changed[field] = value
    return replace(module, **changed) if changed else module


def with_networks(model: PyTree, change: Callable[[str, Any], Any]) -> PyTree:
    """A copy of a model in which each network, also of the models within, is change(field, network)."""
    parts = {f.name: getattr(model, f.name) for f in fields(model)}
    changed = {
        name: change(name, part) if isinstance(part, nn.Module) else with_networks(part, change)
        for name, part in parts.items()
        if isinstance(part, nn.Module | GenerativeModel)
    }
    return replace(model, **changed)


def count_params(params: PyTree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
