"""An image classifier, whose features and classes other models are scored by where no published network is at hand.

p(y | x) = softmax(W h(x)), h the features; the loss is -log p(y | x), with x shifted at random by a few pixels.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.keys import fold_each
from jaxgen.core.model import LossModel
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.models.shared import check_classes, check_labels, check_shape, class_grid
from jaxgen.nets.conv import ConvEncoder


class FeatureHead(nn.Module):
    """x f32[B, H, W, C] -> features f32[B, num_features] of mean 0 and variance 1 each, so that distances between them
    have a scale, and logits f32[B, num_classes]."""

    trunk: nn.Module = field(default_factory=ConvEncoder)
    """(x, (num_features,)) -> f32[B, num_features]."""
    num_features: int = 128
    num_classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        features = nn.LayerNorm(use_bias=False, use_scale=False)(self.trunk(x, (self.num_features,)))
        return features, nn.Dense(self.num_classes, name="classes")(nn.relu(features))


@dataclass(frozen=True, kw_only=True)
class Classifier(LossModel):
    """x: f32[B, *shape] in [-1, 1]; cond: i32[B] in [0, num_classes)."""

    trunk: nn.Module = field(default_factory=ConvEncoder)
    shape: tuple[int, ...] = (28, 28, 1)
    num_classes: int = 10
    num_features: int = 128
    shift: int = 2
    """Pixels by which training images are moved at most, along each axis; the border is repeated."""
    ascent_steps: int = 64
    """Gradient steps of `sample`."""

    def check(self, batch: Batch) -> None:
        check_shape(self.shape, batch)
        check_classes(self.num_classes, batch)

    @property
    def _network(self) -> FeatureHead:
        return FeatureHead(self.trunk, self.num_features, self.num_classes)

    def classify(self, params: PyTree, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Features f32[B, num_features] and logits f32[B, num_classes]."""
        return self._network.apply({"params": params["network"]}, x)

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        return {"network": self._network.init(key, batch["x"])["params"]}

    def _shifted(self, keys: jax.Array, x: jax.Array) -> jax.Array:
        if not self.shift:
            return x
        around = jnp.pad(x, ((0, 0), (self.shift, self.shift), (self.shift, self.shift), (0, 0)), mode="edge")
        corners = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, 2 * self.shift + 1))(keys)
        return jax.vmap(lambda a, at: jax.lax.dynamic_slice(a, (at[0], at[1], 0), self.shape))(around, corners)

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
        """What the network takes for each class of cond, i32[len(keys)]: ascent on the logit of the class from noise,
        section 2 of arXiv:1312.6034, as f32[len(keys), *shape]. A look inside, not a generative model."""

        def total(u: jax.Array) -> jax.Array:
            """Over images that do not meet, so that its gradient is each one's own."""
            _, logits = self.classify(state.sampling_params, jnp.tanh(u))
            return jnp.sum(jnp.take_along_axis(logits, cond[:, None], axis=1)) - 1e-3 * jnp.sum(u**2)

        def climb(u: jax.Array, _) -> tuple[jax.Array, None]:
            grad = jax.grad(total)(u)
            size = jnp.sqrt(jnp.sum(grad**2, axis=(1, 2, 3), keepdims=True) + 1e-12)
            return u + grad / size, None

        # The input's gradient, so the start is small noise: fold 0 is all the randomness there is.
        start = 0.1 * jax.vmap(lambda key: jax.random.normal(key, self.shape))(fold_each(keys, 0))
        return jnp.tanh(jax.lax.scan(climb, start, length=self.ascent_steps)[0])

    def check_cond(self, cond: PyTree) -> None:
        check_labels(self.num_classes, cond)

    def sample_cond(self, num: int, batch: Batch) -> PyTree:
        return class_grid(num, self.num_classes)


def _log_prob(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """log p(y | x), f32[B]."""
    return jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]
