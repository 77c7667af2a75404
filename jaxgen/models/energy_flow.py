"""A flow fitted to an energy of the plane, section 6.1 of arXiv:1505.05770: min KL(q || p), p(z) = exp(-U(z)) / Z.

z0 ~ N(mu, diag exp(logvar)) is moved to z by planar or radial flows, whose parameters are the model's. The loss is
E_q[log q(z) + beta_t U(z)], eq. 20 there, where beta_t grows to 1. Data are not trained on; held-out points tell what
of p is missed by q.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxgen.core.keys import normal_each
from jaxgen.core.model import LossModel
from jaxgen.core.ranges import OptionalCount
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.models.shared import check_shape, density_picture
from jaxgen.ops.energies import Energy, energy, log_normalizer
from jaxgen.ops.gaussian import log_normal
from jaxgen.ops.variational import Planar, Posterior


@dataclass(frozen=True, kw_only=True)
class EnergyFlow(LossModel):
    """x: f32[B, 2], of which training uses the number alone."""

    shape: ClassVar[tuple[int, ...]] = (2,)

    energy: Energy = "u1"
    posterior: Posterior = Planar(32)
    """What moves draws of the Gaussian."""
    annealing: OptionalCount = 0
    """Steps over which beta grows linearly from 0.01 to 1: eq. 20 has 10,000."""

    def check(self, batch: Batch) -> None:
        check_shape(self.shape, batch)

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        flows = jax.random.normal(key, (self.posterior.outputs(2),))
        return {"posterior": {"mu": jnp.zeros(2), "logvar": jnp.zeros(2), "flows": flows}}

    def _parameters(self, params: PyTree, num: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """mu, logvar and the flows' parameters of each of `num` draws."""
        q = params["posterior"]
        mu, logvar, flows = (jnp.broadcast_to(q[name], (num, len(q[name]))) for name in ("mu", "logvar", "flows"))
        return mu, logvar, flows

    def _draw(self, params: PyTree, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        """z ~ q, f32[B, 2], and log q(z), f32[B]."""
        mu, logvar, flows = self._parameters(params, keys.shape[0])
        start = mu + jnp.exp(0.5 * logvar) * normal_each(keys, (2,))
        z, logdet = self.posterior(start, flows)
        return z, log_normal(start, mu, logvar) - logdet

    def log_prob(self, params: PyTree, z: jax.Array) -> jax.Array:
        """log q(z) in nats, f32[B]."""
        return self.posterior.log_prob(z, *self._parameters(params, len(z)))

    def loss(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
        """The metric `kl` is KL(q || p) in nats, whatever beta is."""
        z, log_q = self._draw(params, keys)
        u, log_q = jnp.mean(energy(self.energy, z)), jnp.mean(log_q)
        beta = jnp.minimum(1.0, 0.01 + state.step / self.annealing) if self.annealing else 1.0
        return log_q + beta * u, {"kl": log_q + u + log_normalizer(self.energy)}

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """f32[len(keys), 2]"""
        return self._draw(state.sampling_params, keys)[0]

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """In nats, f32[B]: `kl`, log q(z) / p(z) of a draw for each key, whose mean is KL(q || p), and `kl_reverse`,
        log p(x) / q(x) of the given points, whose mean is KL(p || q) where they are drawn from p."""
        z, log_q = self._draw(state.sampling_params, keys)
        log_z, x = log_normalizer(self.energy), batch["x"]
        log_p = -energy(self.energy, x) - log_z
        return {
            "kl": log_q + energy(self.energy, z) + log_z,
            "kl_reverse": log_p - self.log_prob(state.sampling_params, x),
        }

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """`density.png`: p, and q beside it."""
        p = density_picture(lambda z: -energy(self.energy, z), batch["x"])
        q = density_picture(lambda z: self.log_prob(state.sampling_params, z), batch["x"])
        return {"density.png": jnp.concatenate([p, jnp.full((len(p), 8, 3), 255, p.dtype), q], axis=1)}
