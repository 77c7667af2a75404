"""An image classifier whose features and classes score other models where no published network is available.

p(y | x) = softmax(W h(x)), h the features; the loss is -log p(y | x), with x shifted at random by a few pixels.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.keys import fold_each, normal_each
from jaxgen.core.model import LossModel
from jaxgen.core.ranges import OptionalSize, Shape, Size, Steps
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.shared import ClassConditionalModel, ascend, check_classes, check_shape
from jaxgen.nets.apply import apply, apply_mutable
from jaxgen.nets.conv import ConvEncoder
from jaxgen.nets.lora import adapted_like

START = 0  # stream of a sample's key: the noise that ascent starts from


class FeatureHead(nn.Module):
    """x f32[B, H, W, C], or clips f32[B, F, H, W, C] -> features f32[B, num_features] and logits f32[B, num_classes].
    The features of each example have mean 0 and variance 1, which fixes the scale of distances between examples."""

    trunk: nn.Module = field(default_factory=ConvEncoder)
    """(x, (num_features,)) -> f32[B, num_features]."""
    num_features: int = 128
    num_classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        features = nn.LayerNorm(use_bias=False, use_scale=False)(self.trunk(x, (self.num_features,)))
        return features, nn.Dense(self.num_classes, name="classes")(nn.relu(features))


@dataclass(frozen=True, kw_only=True)
class Classifier(ClassConditionalModel, LossModel):
    """x: f32[B, *shape] in [-1, 1]; cond: i32[B] in [0, num_classes)."""

    trunk: nn.Module = field(default_factory=ConvEncoder)
    shape: Shape = (28, 28, 1)
    num_classes: Size = 10
    num_features: Size = 128
    shift: OptionalSize = 2
    """Largest random shift of training images along each axis, in pixels; edge pixels are repeated."""
    ascent_steps: Steps = 64
    """Gradient steps of `sample`."""

    def check(self, batch: Batch) -> None:
        check_shape(self.shape, batch)
        check_classes(self.num_classes, batch)

    @property
    def _network(self) -> FeatureHead:
        return adapted_like(self.trunk, FeatureHead(self.trunk, self.num_features, self.num_classes))

    def classify(self, params: PyTree, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Features f32[B, num_features] and logits f32[B, num_classes]."""
        return apply(self._network, {"params": params["network"]}, x)

    def feature_map(self, state: TrainState, x: jax.Array) -> jax.Array:
        """The smallest map that a layer of the trunk gives, f32[B, h, w, D]."""
        _, kept = apply_mutable(
            self._network, {"params": state.sampling_params["network"]}, x, mutable=["intermediates"],
            capture_intermediates=lambda _, method: method == "__call__",
        )  # fmt: skip
        maps = [a for a in jax.tree.leaves(kept) if a.ndim == 4]
        if not maps:
            raise UserError(f"a {type(self.trunk).__name__} has no map of features: name a run with convolutions")
        return min(maps, key=lambda a: a.shape[1] * a.shape[2]).astype(jnp.float32)

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        return {"network": self._network.init(key, batch["x"])["params"]}

    def _shifted(self, keys: jax.Array, x: jax.Array) -> jax.Array:
        if not self.shift:
            return x
        # All frames of a clip are shifted alike.
        before = [0] * (len(self.shape) - 3)
        sides = [(0, 0), *zip(before, before), (self.shift, self.shift), (self.shift, self.shift), (0, 0)]
        around = jnp.pad(x, sides, mode="edge")
        corners = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, 2 * self.shift + 1))(keys)
        return jax.vmap(lambda a, at: jax.lax.dynamic_slice(a, (*before, at[0], at[1], 0), self.shape))(around, corners)

    def loss(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
        _, logits = self.classify(params, self._shifted(keys, batch["x"]))
        accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == batch["cond"])
        return -jnp.mean(_log_prob(logits, batch["cond"])), {"accuracy": accuracy}

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """`accuracy` and `nll` in nats, each f32[B]."""
        _, logits = self.classify(state.sampling_params, batch["x"])
        correct = jnp.argmax(logits, axis=-1) == batch["cond"]
        return {"accuracy": correct.astype(jnp.float32), "nll": -_log_prob(logits, batch["cond"])}

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """Images f32[len(keys), *shape] that maximise the logit of each class of cond, i32[len(keys)], by gradient
        ascent from noise: section 2 of arXiv:1312.6034. They show what the network has learnt, not the data."""

        def total(u: jax.Array) -> jax.Array:
            """A sum over images, each of which gets its own gradient, as no term sees two of them."""
            _, logits = self.classify(state.sampling_params, jnp.tanh(u))
            return jnp.sum(jnp.take_along_axis(logits, cond[:, None], axis=1)) - 1e-3 * jnp.sum(u**2)

        start = 0.1 * normal_each(fold_each(keys, START), self.shape)
        return jnp.tanh(ascend(total, start, self.ascent_steps))


def _log_prob(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """log p(y | x), f32[B]."""
    return jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]
