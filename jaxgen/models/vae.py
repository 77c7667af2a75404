"""Variational autoencoder, arXiv:1312.6114: plain, beta-VAE, conditional, with an importance-weighted bound.

x data, z latent, q(z|x) a `Posterior`, prior p(z) = N(0, 1), p(x|z) a `Likelihood`, y class.
ELBO(x) = E_q log p(x|z) - KL(q(z|x) || p(z)) <= log p(x); the loss is -E_q log p(x|z) + beta KL. The KL of a Gaussian
N(mu, exp(logvar)) is in closed form. With flows, arXiv:1505.05770, z0 of that Gaussian is moved to z, and the KL is the
mean of log q(z|x) - log p(z) over draws: eq. 15 there.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.codecs import Binarize
from jaxgen.core.capabilities import LatentSpace
from jaxgen.core.codec import Codec
from jaxgen.core.keys import fold_each, normal_each
from jaxgen.core.model import LossModel
from jaxgen.core.ranges import NonNegative, OptionalCount, OptionalSize, Shape, Size, Steps
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.shared import ClassConditionalModel, check_classes, check_shape, in_pairs
from jaxgen.nets.apply import apply
from jaxgen.nets.mlp import MLP
from jaxgen.ops.gaussian import kl_standard_normal, log_normal, off_shell
from jaxgen.ops.likelihood import Bernoulli, Likelihood, soft_bound
from jaxgen.ops.variational import Diagonal, Posterior

LOGVAR_BOUND = 10.0


@dataclass(frozen=True, kw_only=True)
class VAE(ClassConditionalModel, LossModel):
    """x: f32[B, *shape] in the range of `likelihood`; cond: i32[B] in [0, num_classes) when num_classes > 0."""

    encoder: nn.Module = field(default_factory=MLP)
    """(x, (2 * latent + outputs,), y) -> mu, log variance, and the parameters of what `posterior` does to draws."""
    decoder: nn.Module = field(default_factory=MLP)
    """(z, shape, y) -> parameters of `likelihood`."""
    likelihood: Likelihood = Bernoulli()
    posterior: Posterior = Diagonal()
    """q(z | x): the Gaussian, or one that flows move."""
    shape: Shape = (28, 28, 1)
    latent: Size = 20
    num_classes: OptionalSize = 0
    """Classes of the conditional VAE, p(x | z, y); 0 for none."""
    beta: NonNegative = 1.0
    """Weight of the KL term, eq. 4 of the beta-VAE paper (Higgins et al., ICLR 2017)."""
    kl_warmup: OptionalCount = 0
    """Steps over which beta grows linearly from 0, arXiv:1602.02282."""
    free_bits: NonNegative = 0.0
    """Nats below which a latent dimension's KL, averaged over the batch, costs nothing: eq. 15 of arXiv:1606.04934."""
    importance_samples: Steps = 500
    """k of the bound that `evaluate` reports, eq. 8 of arXiv:1509.00519."""

    def natural_codec(self) -> Codec | None:
        return Binarize() if isinstance(self.likelihood, Bernoulli) else None

    def check(self, batch: Batch) -> None:
        check_shape(self.shape, batch)
        check_classes(self.num_classes, batch)
        if self.free_bits and self.accumulate > 1:
            raise UserError("free bits need the KL's mean over the whole batch: leave model.accumulate at 1")
        if self.free_bits and self.posterior.moves:
            raise UserError("free bits need the KL of each dimension, flows have none: leave model.free_bits at 0")

    # --- the two networks ---

    def _out_shape(self) -> tuple[int, ...]:
        return (*self.shape[:-1], self.shape[-1] * self.likelihood.num_params)

    @property
    def _encoded(self) -> tuple[int]:
        """Numbers that the encoder outputs."""
        return (2 * self.latent + self.posterior.outputs(self.latent),)

    def _encode(self, params: PyTree, x: jax.Array, y: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """mu and logvar of z0, f32[B, latent] each, and the flows' parameters, f32[B, outputs]."""
        h = apply(self.encoder, {"params": params["encoder"]}, x, self._encoded, y)
        mu, logvar, flows = jnp.split(h, [self.latent, 2 * self.latent], axis=-1)
        return mu, soft_bound(logvar, LOGVAR_BOUND), flows

    def encode(self, params: PyTree, x: jax.Array, y: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """mu and logvar of q(z | x), each f32[B, latent]; logvar smoothly within +-10. Flows move mu as they move a
        draw; logvar is that of z0."""
        mu, logvar, flows = self._encode(params, x, y)
        return self.posterior(mu, flows)[0], logvar

    def decode(self, params: PyTree, z: jax.Array, y: jax.Array | None = None) -> jax.Array:
        """Likelihood parameters for z: f32[B, latent]."""
        return apply(self.decoder, {"params": params["decoder"]}, z, self._out_shape(), y)

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        key_encoder, key_decoder = jax.random.split(key)
        y, z = self._one_hot(batch.get("cond")), jnp.zeros((len(batch["x"]), self.latent))
        return {
            "encoder": self.encoder.init(key_encoder, batch["x"], self._encoded, y)["params"],
            "decoder": self.decoder.init(key_decoder, z, self._out_shape(), y)["params"],
        }

    def _log_likelihood(self, params: PyTree, x: jax.Array, z: jax.Array, y: jax.Array | None) -> jax.Array:
        """log p(x | z), f32[B]."""
        log_prob = self.likelihood.log_prob(self.decode(params, z, y), x)
        return jnp.sum(log_prob, axis=tuple(range(1, log_prob.ndim)))

    # --- training ---

    def loss(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
        y = self._one_hot(batch.get("cond"))
        mu, logvar, flows = self._encode(params, batch["x"], y)
        start = mu + jnp.exp(0.5 * logvar) * normal_each(keys, (self.latent,))
        z, logdet = self.posterior(start, flows)
        reconstruction = -jnp.mean(self._log_likelihood(params, batch["x"], z, y))
        kl_each = jnp.mean(kl_standard_normal(mu, logvar), axis=0)
        kl = jnp.sum(kl_each)
        if self.posterior.moves:
            kl = jnp.mean(log_normal(start, mu, logvar) - logdet - log_normal(z))
        beta = self.beta * jnp.minimum(1.0, (state.step + 1) / max(1, self.kl_warmup))
        penalty = jnp.sum(jnp.maximum(kl_each, self.free_bits)) if self.free_bits else kl
        loss = reconstruction + beta * penalty
        return loss, {"nelbo": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}

    # --- use ---

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """Mean of p(x | z), z ~ N(0, 1): f32[len(keys), *shape]. cond: i32[len(keys)] for a conditional VAE."""
        return self._mean(state, normal_each(keys, (self.latent,)), self._one_hot(cond))

    def latent_space(self, state: TrainState, cond: PyTree = None) -> LatentSpace:
        """z of samples."""
        y = self._one_hot(cond)
        return LatentSpace(lambda keys: normal_each(keys, (self.latent,)), lambda z: self._mean(state, z, y), off_shell)

    def _mean(self, state: TrainState, z: jax.Array, y: jax.Array | None) -> jax.Array:
        return self.likelihood.mean(self.decode(state.sampling_params, z, y))

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """In nats, f32[B]: `nelbo` and its `kl`, which is in closed form without flows, and `iwae`, minus the k-sample
        bound on log p(x). With a discrete likelihood also `iwae_bits_per_dim`."""
        params, x, y = state.sampling_params, batch["x"], self._one_hot(batch.get("cond"))
        mu, logvar, flows = self._encode(params, x, y)

        def draw(carry: tuple[jax.Array, ...], i: jax.Array):
            """Draws one z for each x and adds to the log-sum of p(x, z) / q(z | x), and to the sums of log p(x | z) and
            of log q(z | x) / p(z)."""
            total, reconstruction, kl = carry
            start = mu + jnp.exp(0.5 * logvar) * normal_each(fold_each(keys, i), (self.latent,))
            z, logdet = self.posterior(start, flows)
            log_px = self._log_likelihood(params, x, z, y)
            log_ratio = log_normal(start, mu, logvar) - logdet - log_normal(z)
            return (jnp.logaddexp(total, log_px - log_ratio), reconstruction + log_px, kl + log_ratio), None

        zero = jnp.zeros(len(x))
        start, k = (zero - jnp.inf, zero, zero), self.importance_samples
        (total, reconstruction, kl), _ = jax.lax.scan(draw, start, jnp.arange(k))
        kl = kl / k if self.posterior.moves else jnp.sum(kl_standard_normal(mu, logvar), axis=-1)
        metrics = {"nelbo": kl - reconstruction / k, "iwae": jnp.log(k) - total, "kl": kl}
        if self.likelihood.discrete:
            metrics["iwae_bits_per_dim"] = metrics["iwae"] / (x[0].size * jnp.log(2))
        return metrics

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Reconstructions below their originals, traversals of the latents in use, interpolations between pairs."""
        x, y = batch["x"], self._one_hot(batch.get("cond"))
        mu, logvar = self.encode(state.sampling_params, x, y)
        shown = min(10, len(x))
        rebuilt = self._mean(state, mu, y)

        # Only dimensions that carry information are worth showing.
        used = jnp.argsort(-jnp.mean(kl_standard_normal(mu, logvar), axis=0))[: min(10, self.latent)]
        values = jnp.linspace(-3, 3, 11)
        moved = jax.vmap(lambda d: jax.vmap(lambda v: mu[0].at[d].set(v))(values))(used)

        first, second = in_pairs(len(x))
        weight = jnp.linspace(0, 1, 11)[None, :, None]
        between = (1 - weight) * mu[first, None] + weight * mu[second, None]

        def show(z: jax.Array, y: jax.Array | None) -> jax.Array:
            flat = None if y is None else jnp.repeat(y, z.shape[1], axis=0)
            return self._mean(state, z.reshape(-1, self.latent), flat).reshape(*z.shape[:2], *self.shape)

        told = None if y is None else jnp.repeat(y[:1], len(moved), axis=0)
        return {
            "reconstruction.png": jnp.stack([x[:shown], rebuilt[:shown]]),
            "traversal.png": show(moved, told),
            "interpolation.png": show(between, None if y is None else y[first]),
        }
