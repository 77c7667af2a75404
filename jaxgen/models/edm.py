"""EDM, arXiv:2206.00364: a preconditioned denoiser trained over a log-normal range of noise levels.

x_t = x_0 + sigma eps; D(x; sigma) = c_skip x + c_out F(c_in x; c_noise), with the coefficients of table 1, which give
F's input and target unit variance. With lambda = 1 / c_out^2 the loss lambda(sigma) |D - x_0|^2 is F's squared error.
EDM2 (arXiv:2312.02696) divides it by a learnt exp(u(sigma)): see `uncertainty`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import norm

from jaxgen.core.keys import normal_each
from jaxgen.core.ranges import OptionalSize, Positive
from jaxgen.core.types import PyTree
from jaxgen.models.diffusion import Diffusion
from jaxgen.nets.apply import apply
from jaxgen.nets.magnitude import Uncertainty
from jaxgen.ops.samplers import Heun, Sampler
from jaxgen.ops.schedules import Karras


@dataclass(frozen=True, kw_only=True)
class EDM(Diffusion):
    """x: f32[B, *shape] of standard deviation `sigma_data`."""

    schedule: Karras = Karras()
    sampler: Sampler = Heun(clip=0.0)
    sigma_data: Positive = 0.5
    log_sigma_mean: float = -1.2
    """P_mean: log sigma ~ N(P_mean, P_std^2) in training."""
    log_sigma_std: Positive = 1.2
    uncertainty: OptionalSize = 0
    """Fourier features of the learnt u(sigma) by which noise levels are weighted, as 128: the loss is lambda / exp(u)
    |D - x_0|^2 + u, eq. 21 of arXiv:2312.02696, least where exp(u) is the expected error at that level. 0 for none."""

    def problem(self) -> str | None:
        if self.kind != "eps":
            return f"kind is {self.kind}: the network's target is F of table 1 whatever it is, leave it"
        if self.uncertainty and self.align.weight:
            return "uncertainty weights errors, and align.weight adds what is none: set one of them to 0"
        return None

    def init_told(self, key, cond):
        params, key = super().init_told(key, cond)
        if not self.uncertainty:
            return params, key
        key, key_u = jax.random.split(key)
        return {**params, "uncertainty": Uncertainty(self.uncertainty).init(key_u, jnp.zeros(1))["params"]}, key

    def log_error(self, params: PyTree, sigma: jax.Array) -> jax.Array:
        """u(sigma), the logarithm of the error that is expected at noise levels sigma: f32[B]."""
        variables, c_noise = {"params": params["uncertainty"]}, self.schedule.network_time(sigma)
        return apply(Uncertainty(self.uncertainty), variables, c_noise)

    def loss(self, params, state, keys, batch):
        if not self.uncertainty:
            return super().loss(params, state, keys, batch)
        sigma, importance, errors = self.times_and_errors(params, state, keys, batch)
        u = self.log_error(params, sigma)
        return jnp.mean(importance * (errors * jnp.exp(-u) + u)), {self.error_name: jnp.mean(errors)}

    def draw_times(self, keys, state):
        return jnp.exp(self.log_sigma_mean + self.log_sigma_std * normal_each(keys, ())), jnp.ones(keys.shape)

    def times_to_evaluate(self):
        n = self.evaluate_times
        log_sigma = norm.ppf((np.arange(n) + 0.5) / n, self.log_sigma_mean, self.log_sigma_std)
        return np.exp(log_sigma).astype(np.float32)

    def scale_in(self, alpha, sigma):
        return (sigma**2 + self.sigma_data**2) ** -0.5

    def _skip_and_out(self, sigma: jax.Array) -> tuple[jax.Array, jax.Array]:
        total = sigma**2 + self.sigma_data**2
        return self.sigma_data**2 / total, sigma * self.sigma_data / jnp.sqrt(total)

    def target(self, x0, eps, alpha, sigma):
        skip, out = self._skip_and_out(sigma)
        return (x0 - skip * (x0 + sigma * eps)) / out

    def x0_of(self, answer, x, alpha, sigma):
        skip, out = self._skip_and_out(sigma)
        return skip * x + out * answer

    @property
    def error_name(self):
        return "weighted_mse"
