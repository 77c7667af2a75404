"""Normalizing flows: RealNVP (arXiv:1605.08803), Glow (arXiv:1807.03039), MAF (arXiv:1705.07057) and neural spline
flow (arXiv:1906.04032). The network in the field `flow` decides which.

z = f(x), p(z) = N(0, 1), log p(x) = log p(z) + log |det df/dx|. A flow of pixels models x = (level + u) / 2^bits with
u ~ q(u | level), and log P(level) >= E[log p(x) - log q(u | level)] - D bits log 2 in D dimensions: section 3.1 of
arXiv:1902.00275, and of arXiv:1511.01844 for uniform q.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Ge, Le, Lt
from flax import linen as nn
from jax.scipy.stats import norm

from jaxgen.codecs import Dequantize
from jaxgen.core.codec import Codec
from jaxgen.core.keys import fold_each, normal_each
from jaxgen.core.model import LossModel
from jaxgen.core.ranges import NonNegative, OptionalSize, Shape, Steps
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.shared import ClassConditionalModel, check_classes, check_shape, density_picture, in_pairs
from jaxgen.nets.apply import apply
from jaxgen.nets.flows import Identity, MultiScale, sum_each
from jaxgen.nets.marginal import Marginal
from jaxgen.ops.bijectors import logit

TEMPERATURES = (0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def log_standard(z: jax.Array) -> jax.Array:
    """log N(z; 0, 1) in nats: f32[B]."""
    return sum_each(norm.logpdf(z))


@dataclass(frozen=True, kw_only=True)
class Flow(ClassConditionalModel, LossModel):
    """x: f32[B, *shape], in [0, 1) when `bits` is set (codec Dequantize), else unbounded. cond: i32[B] in
    [0, num_classes) when num_classes > 0."""

    flow: nn.Module = field(default_factory=lambda: MultiScale(levels=2))
    """(x, context, inverse) -> (z of x's shape, logdet); context is the one-hot class."""
    dequantizer: nn.Module = field(default_factory=Identity)
    """A flow from noise to the Gaussian quantile of u, with the levels as its context: variational dequantization,
    section 3.1 of arXiv:1902.00275. The identity leaves u uniform."""
    shape: Shape = (28, 28, 1)
    bits: Annotated[int, Ge(0), Le(8)] = 8
    """Bits of a pixel level, equal to the codec's; 0 for continuous data."""
    logit_alpha: Annotated[float, Ge(0), Lt(0.5)] = 0.0
    """alpha of the logit applied to x first (`ops.bijectors.logit`); with 0, x is only centred."""
    num_classes: OptionalSize = 0
    """Classes of a conditional flow, p(x | y); 0 for none."""
    temperature: NonNegative = 1.0
    """Standard deviation of z in sampling."""
    importance_samples: Steps = 1
    """Draws of u over which `evaluate` averages its estimate of P(level); more draws tighten the bound."""

    def natural_codec(self) -> Codec | None:
        return Dequantize(bits=self.bits, noise=False) if self.bits else None

    def check(self, batch: Batch) -> None:
        check_shape(self.shape, batch)
        check_classes(self.num_classes, batch)
        if self.logit_alpha and not self.bits:
            raise UserError(f"model.logit_alpha is {self.logit_alpha} with bits 0: continuous data take 0")
        if isinstance(self.flow, Marginal) and (self.logit_alpha or not self.bits):
            raise UserError(
                f"model.flow is a Marginal, of pixel levels in [-1/2, 1/2): bits above 0 and logit_alpha 0 are "
                f"expected, {self.bits} and {self.logit_alpha} were given"
            )
        x = jax.ShapeDtypeStruct((2, *self.shape), jnp.float32)
        y = jax.ShapeDtypeStruct((2, self.num_classes), jnp.float32) if self.num_classes else None
        jax.eval_shape(self.flow.init, jax.random.key(0), x, y)  # raises for a shape that the network cannot take

    # --- both directions ---

    def encode(self, params: PyTree, x: jax.Array, y: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """(z: f32[B, *shape], log |det dz/dx|: f32[B]) of x in model space."""
        x, logdet = self._prepare(x)
        z, more = apply(self.flow, {"params": params["flow"]}, x, y)
        return z, logdet + more

    def decode(self, params: PyTree, z: jax.Array, y: jax.Array | None = None) -> jax.Array:
        """x: f32[B, *shape] of z, the inverse of `encode`."""
        x, _ = apply(self.flow, {"params": params["flow"]}, z, y, inverse=True)
        if self.logit_alpha:
            return logit(x, self.logit_alpha, inverse=True)[0]
        return x + 0.5 if self.bits else x

    def _prepare(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The network's input for x, and the log-determinant of this step, f32[B]."""
        if self.logit_alpha:
            x, log_slope = logit(x, self.logit_alpha)
            return x, sum_each(log_slope)
        return (x - 0.5 if self.bits else x), jnp.zeros(x.shape[:1])

    def log_prob(self, params: PyTree, x: jax.Array, y: jax.Array | None = None) -> jax.Array:
        """log p(x) in model space, in nats: f32[B]."""
        z, logdet = self.encode(params, x, y)
        return log_standard(z) + logdet

    def dequantize(self, params: PyTree, keys: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(x in [0, 1) with u drawn anew, log q(u | level) in nats: f32[B]), with one key for each example."""
        levels = jnp.floor(x * 2**self.bits)
        eps = normal_each(keys, self.shape)
        variables = {"params": params.get("dequantizer", {})}
        v, logdet = apply(self.dequantizer, variables, eps, levels / 2**self.bits - 0.5)
        # In f32, 255 + u is 256 for u within 2^-17 of one.
        u = jnp.minimum(norm.cdf(v), 1 - 2**-16)
        return (levels + u) / 2**self.bits, log_standard(eps) - logdet - log_standard(v)

    def bound(self, params: PyTree, keys: jax.Array, x: jax.Array, y: jax.Array | None = None) -> jax.Array:
        """log p(x) of continuous data, else the bound on log P(levels) from one draw of u, in nats: f32[B]."""
        if not self.bits:
            return self.log_prob(params, x, y)
        x, log_q = self.dequantize(params, keys, x)
        return self.log_prob(params, x, y) - log_q - math.prod(self.shape) * self.bits * math.log(2)

    # --- training ---

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        key_flow, key_dequantizer, key_eps, key_noise = jax.random.split(key, 4)
        x, y = batch["x"], self._one_hot(batch.get("cond"))
        params = {}
        if self.bits:
            eps = jax.random.normal(key_eps, x.shape)
            params = {"dequantizer": self.dequantizer.init(key_dequantizer, eps, x - 0.5).get("params", {})}
            x, _ = self.dequantize(params, fold_each(key_noise, jnp.arange(len(x))), x)
            params = {name: tree for name, tree in params.items() if tree}
        # ActNorm initialises its scale from this input.
        flow = self.flow.init(key_flow, self._prepare(x)[0], y).get("params", {})  # the identity has none
        return {"flow": flow, **params}

    def loss(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
        """Nats per dimension."""
        nll = -jnp.mean(self.bound(params, keys, batch["x"], self._one_hot(batch.get("cond"))))
        return nll / math.prod(self.shape), self._named(nll)

    def _named(self, nll: jax.Array) -> Metrics:
        if not self.bits:
            return {"nll": nll}
        return {"nll": nll, "bits_per_dim": nll / (math.prod(self.shape) * math.log(2))}

    # --- use ---

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """f32[len(keys), *shape], from z ~ N(0, temperature^2)."""
        z = self.temperature * normal_each(keys, self.shape)
        return self.decode(state.sampling_params, z, self._one_hot(cond))

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """`nll` in nats, f32[B]: -log p(x) of continuous data, or an upper bound on -log P(levels) of pixels. Pixels
        also have `bits_per_dim`."""
        params, x, y = state.sampling_params, batch["x"], self._one_hot(batch.get("cond"))
        draws = self.importance_samples if self.bits else 1

        def draw(total: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
            return jnp.logaddexp(total, self.bound(params, fold_each(keys, i), x, y)), None

        total, _ = jax.lax.scan(draw, jnp.full(keys.shape, -jnp.inf), jnp.arange(draws))
        return self._named(math.log(draws) - total)

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Points in the plane: the density, and held-out points beside their latents. Images: samples at several
        temperatures, and interpolations between pairs of held-out images."""
        params, x, y = state.sampling_params, batch["x"], self._one_hot(batch.get("cond"))
        if self.shape == (2,):
            latents = {"latents.png": jnp.stack([x, self.encode(params, x, y)[0]])}
            if self.num_classes:
                return latents
            return {"density.png": density_picture(lambda points: self.log_prob(params, points), x), **latents}
        keys = keys[: min(10, len(x))]
        y = y if y is None else y[: keys.shape[0]]
        eps = normal_each(keys, self.shape)
        rows = jax.lax.map(lambda t: self.decode(params, t * eps, y), jnp.asarray(TEMPERATURES))

        first, second = in_pairs(len(x))
        num = max(second) + 1
        z, _ = self.encode(params, x[:num], y if y is None else self._one_hot(batch["cond"][:num]))
        weight = jnp.linspace(0, 1, 11).reshape(-1, *(1,) * z.ndim)
        between = (1 - weight) * z[None, first] + weight * z[None, second]
        y = y if y is None else self._one_hot(batch["cond"][first])
        shown = jax.lax.map(lambda z: self.decode(params, z, y), between)
        return {"temperature.png": rows, "interpolation.png": jnp.swapaxes(shown, 0, 1)}
