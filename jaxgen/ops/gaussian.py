"""Diagonal Gaussians, and a Gaussian mixture fitted by expectation maximisation.

mu, logvar: f32[..., d] mean and log variance; z: f32[..., d]. All results in nats.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct

from jaxgen.ops.quantize import kmeans_seeds


def log_normal(z: jax.Array, mu: jax.Array | float = 0.0, logvar: jax.Array | float = 0.0) -> jax.Array:
    """log N(z; mu, diag exp(logvar)), summed over the last axis: f32[...]."""
    return -0.5 * jnp.sum(math.log(2 * math.pi) + logvar + (z - mu) ** 2 * jnp.exp(-logvar), axis=-1)


def kl_standard_normal(mu: jax.Array, logvar: jax.Array) -> jax.Array:
    """KL(N(mu, exp(logvar)) || N(0, 1)) for each dimension, f32[..., d]. Appendix B of arXiv:1312.6114."""
    return 0.5 * (mu**2 + jnp.exp(logvar) - 1 - logvar)


def off_shell(z: jax.Array) -> jax.Array:
    """(|z| - sqrt(d))^2, f32[...]: -log p of the length of z ~ N(0, 1) in d dimensions, about and up to a constant.

    A penalty that keeps z where samples lie. |z|^2 / 2, -log p of z itself, is least at 0, where none of them lies.
    """
    return (jnp.sqrt(jnp.sum(z**2, axis=-1) + 1e-12) - z.shape[-1] ** 0.5) ** 2


@struct.dataclass
class Mixture:
    """sum_k w_k N(mean_k, chol_k chol_k'). log_weight: f32[K], mean: f32[K, d], chol: f32[K, d, d] lower."""

    log_weight: jax.Array
    mean: jax.Array
    chol: jax.Array

    def log_prob(self, z: jax.Array) -> jax.Array:
        """Log density in nats, f32[N], of z: f32[N, d]."""
        return jax.nn.logsumexp(_joint(self, z), axis=-1)

    def sample(self, keys: jax.Array) -> jax.Array:
        """One draw per key, f32[B, d]."""

        def one(key: jax.Array) -> jax.Array:
            key_k, key_eps = jax.random.split(key)
            k = jax.random.categorical(key_k, self.log_weight)
            return self.mean[k] + self.chol[k] @ jax.random.normal(key_eps, self.mean.shape[1:])

        return jax.vmap(one)(keys)


def _joint(mixture: Mixture, z: jax.Array) -> jax.Array:
    """log w_k + log N(z; mean_k, cov_k): f32[N, K]."""

    def component(log_weight: jax.Array, mean: jax.Array, chol: jax.Array) -> jax.Array:
        white = jax.scipy.linalg.solve_triangular(chol, (z - mean[None]).T, lower=True)
        log_det = jnp.sum(jnp.log(jnp.diagonal(chol)))
        return log_weight - 0.5 * jnp.sum(white**2, axis=0) - log_det - 0.5 * z.shape[1] * math.log(2 * math.pi)

    return jax.vmap(component)(mixture.log_weight, mixture.mean, mixture.chol).T


def fit_mixture(
    z: jax.Array, num_components: int, key: jax.Array, steps: int = 50, floor: float = 1e-3, starts: int = 4
) -> Mixture:
    """Fits a full-covariance mixture to z: f32[N, d] by expectation maximisation from k-means++ seeds.

    floor: this fraction of the data's mean variance is added to every covariance, so that no component collapses onto a
    point. starts: number of seedings. The fit of the highest likelihood is kept, as one may end in a local optimum.
    """
    fits = jax.lax.map(lambda key: _fit(z, num_components, key, steps, floor), jax.random.split(key, starts))
    likelihood = jax.lax.map(lambda mixture: jnp.mean(mixture.log_prob(z)), fits)
    return jax.tree.map(lambda leaf: leaf[jnp.argmax(likelihood)], fits)


def _fit(z: jax.Array, num_components: int, key: jax.Array, steps: int, floor: float) -> Mixture:
    """`fit_mixture` from one seeding."""
    dim = z.shape[1]
    overall = jnp.cov(z.T).reshape(dim, dim)
    ridge = (floor * jnp.trace(overall) / dim + 1e-8) * jnp.eye(dim)
    start = Mixture(
        log_weight=jnp.full((num_components,), -math.log(num_components)),
        mean=kmeans_seeds(key, z, num_components),
        chol=jnp.broadcast_to(jnp.linalg.cholesky(overall + ridge), (num_components, dim, dim)),
    )

    def update(mixture: Mixture, _) -> tuple[Mixture, None]:
        r = jax.nn.softmax(_joint(mixture, z), axis=-1)
        count = jnp.sum(r, axis=0) + 1e-6
        mean = (r.T @ z) / count[:, None]

        def covariance(weight: jax.Array, mean: jax.Array, count: jax.Array) -> jax.Array:
            centred = z - mean[None]
            return (centred * weight[:, None]).T @ centred / count + ridge

        cov = jax.vmap(covariance)(r.T, mean, count)
        return Mixture(jnp.log(count / jnp.sum(count)), mean, jnp.linalg.cholesky(cov)), None

    return jax.lax.scan(update, start, length=steps)[0]
