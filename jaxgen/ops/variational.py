"""Approximate posteriors q(z | x): a diagonal Gaussian, which planar or radial flows move on, arXiv:1505.05770.

z0 ~ N(mu, diag exp(logvar)), z_k = f_k(z_{k-1}), log q(z_K) = log q(z0) - sum_k log |det df_k/dz|, eq. 7 there. All
parameters are numbers of an encoder: f32[B, ...], a row for each example. All in f32.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxgen.core.ranges import Depth
from jaxgen.ops.gaussian import log_normal

Moved = tuple[jax.Array, jax.Array]
"""z: f32[B, D] and log |det dz'/dz|: f32[B]."""
TINY = 1e-12
"""Added to squared lengths, of which the gradient of the root at 0 is infinite."""


def least_slope(a: jax.Array) -> jax.Array:
    """1 + m(a) = log(1 + (e - 1) e^a) > 0. Appendix A.1 has no factor e - 1. With it m(0) = 0, so that u_hat does not
    grow as 1 / |w| where w goes to 0."""
    return jnp.maximum(jax.nn.softplus(a + math.log(math.e - 1)), 1e-30)


# --- planar ------------------------------------------------------------------------------------------------------


def planar_direction(u: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
    """u_hat: f32[B, D], of which w . u_hat = m(w . u) > -1, so that the planar flow is invertible (appendix A.1), and
    1 + m(w . u): f32[B], which the rounded product of w and u_hat would make negative for large w and u."""
    along = jnp.sum(w * u, axis=-1, keepdims=True)
    slope = least_slope(along)
    return u + (slope - 1 - along) * w / (jnp.sum(w**2, axis=-1, keepdims=True) + TINY), slope[:, 0]


def planar(z: jax.Array, u_hat: jax.Array, slope: jax.Array, w: jax.Array, b: jax.Array) -> Moved:
    """z + u_hat tanh(w . z + b), and log |1 + w . u_hat (1 - tanh^2)|: eqs. 10 to 12. z, u_hat, w: f32[B, D]; slope,
    which is 1 + w . u_hat > 0, and b: f32[B]."""
    h = jnp.tanh(jnp.sum(w * z, axis=-1) + b)
    return z + u_hat * h[:, None], jnp.log(h**2 + slope * (1 - h**2))


def planar_inverse(
    z: jax.Array, u_hat: jax.Array, slope: jax.Array, w: jax.Array, b: jax.Array, steps: int = 60
) -> jax.Array:
    """The f32[B, D] that `planar` moves to z. Its product a with w solves a + w . u_hat tanh(a + b) = w . z, whose left
    side rises with a, by `steps` bisections of an interval that holds it."""
    slope, target = slope - 1, jnp.sum(w * z, axis=-1)

    def halve(ends: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], None]:
        low, high = ends
        middle = (low + high) / 2
        above = middle + slope * jnp.tanh(middle + b) > target
        return (jnp.where(above, low, middle), jnp.where(above, middle, high)), None

    reach = jnp.abs(slope)
    (low, high), _ = jax.lax.scan(halve, (target - reach, target + reach), length=steps)
    return z - u_hat * jnp.tanh((low + high) / 2 + b)[:, None]


# --- radial ------------------------------------------------------------------------------------------------------


def radial_strength(beta: jax.Array, alpha: jax.Array) -> jax.Array:
    """beta_hat = -alpha + log(1 + e^beta) > -alpha, so that the radial flow is invertible: appendix A.2."""
    return jax.nn.softplus(beta) - alpha


def radial(z: jax.Array, centre: jax.Array, alpha: jax.Array, beta_hat: jax.Array) -> Moved:
    """z + beta_hat h (z - centre) where h = 1 / (alpha + r), r = |z - centre|, and log of its determinant
    (1 + beta_hat h)^(D - 1) (1 + beta_hat alpha h^2): eq. 14. z, centre: f32[B, D]; alpha > 0, beta_hat: f32[B]."""
    off = z - centre
    h = 1 / (alpha + jnp.sqrt(jnp.sum(off**2, axis=-1) + TINY))
    logdet = (z.shape[-1] - 1) * jnp.log1p(beta_hat * h) + jnp.log1p(beta_hat * alpha * h**2)
    return z + (beta_hat * h)[:, None] * off, logdet


def radial_inverse(z: jax.Array, centre: jax.Array, alpha: jax.Array, beta_hat: jax.Array) -> jax.Array:
    """The f32[B, D] that `radial` moves to z. Its r is the positive root of r^2 + (alpha + beta_hat - R) r = alpha R,
    where R = |z - centre|."""
    off = z - centre
    after = jnp.sqrt(jnp.sum(off**2, axis=-1) + TINY)
    half = (after - alpha - beta_hat) / 2
    before = half + jnp.sqrt(half**2 + alpha * after)
    return centre + (before / after)[:, None] * off


# --- posteriors --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Posterior:
    """A diagonal Gaussian, and what moves its draws. Parameters beside mu and logvar are f32[B, outputs(D)]."""

    @property
    def moves(self) -> bool:
        """Whether draws are moved; the Gaussian's KL is in closed form otherwise."""
        return True

    def outputs(self, size: int) -> int:
        """Number of parameters for z of `size` dimensions."""
        raise NotImplementedError

    def __call__(self, z: jax.Array, params: jax.Array) -> Moved:
        """z_K of z_0, f32[B, D] each, and log |det dz_K/dz_0|."""
        raise NotImplementedError

    def inverse(self, z: jax.Array, params: jax.Array) -> jax.Array:
        """z_0 of z_K."""
        raise NotImplementedError

    def log_prob(self, z: jax.Array, mu: jax.Array, logvar: jax.Array, params: jax.Array) -> jax.Array:
        """log q(z_K) in nats, f32[B]."""
        start = self.inverse(z, params)
        return log_normal(start, mu, logvar) - self(start, params)[1]


@dataclass(frozen=True)
class Diagonal(Posterior):
    """The Gaussian as it is."""

    @property
    def moves(self) -> bool:
        return False

    def outputs(self, size: int) -> int:
        return 0

    def __call__(self, z: jax.Array, params: jax.Array) -> Moved:
        return z, jnp.zeros(z.shape[:1])

    def inverse(self, z: jax.Array, params: jax.Array) -> jax.Array:
        return z


@dataclass(frozen=True)
class Steps(Posterior):
    """`length` steps of one kind."""

    length: Depth = 10

    def _width(self, size: int) -> int:
        """Parameters of a step."""
        raise NotImplementedError

    def _step(self, z: jax.Array, params: jax.Array) -> Moved:
        """One step, by f32[B, width]."""
        raise NotImplementedError

    def _step_back(self, z: jax.Array, params: jax.Array) -> jax.Array:
        raise NotImplementedError

    def outputs(self, size: int) -> int:
        return self.length * self._width(size)

    def _each(self, params: jax.Array) -> jax.Array:
        """f32[length, B, width]"""
        return jnp.swapaxes(params.reshape(params.shape[0], self.length, -1), 0, 1)

    def __call__(self, z: jax.Array, params: jax.Array) -> Moved:
        def one(carry: Moved, params: jax.Array) -> tuple[Moved, None]:
            z, total = carry
            z, logdet = self._step(z, params)
            return (z, total + logdet), None

        return jax.lax.scan(one, (z, jnp.zeros(z.shape[:1])), self._each(params))[0]

    def inverse(self, z: jax.Array, params: jax.Array) -> jax.Array:
        def one(z: jax.Array, params: jax.Array) -> tuple[jax.Array, None]:
            return self._step_back(z, params), None

        return jax.lax.scan(one, z, self._each(params), reverse=True)[0]


@dataclass(frozen=True)
class Planar(Steps):
    """Planar flows, eq. 10: each contracts or expands space at a right angle to a plane."""

    def _width(self, size: int) -> int:
        return 2 * size + 1

    def _split(self, params: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """u_hat, 1 + w . u_hat, w and b."""
        u, w, b = jnp.split(params, [params.shape[-1] // 2, params.shape[-1] - 1], axis=-1)
        return *planar_direction(u, w), w, b[:, 0]

    def _step(self, z: jax.Array, params: jax.Array) -> Moved:
        return planar(z, *self._split(params))

    def _step_back(self, z: jax.Array, params: jax.Array) -> jax.Array:
        return planar_inverse(z, *self._split(params))


@dataclass(frozen=True)
class Radial(Steps):
    """Radial flows, eq. 14: each contracts or expands space around a point. alpha = softplus of a parameter."""

    def _width(self, size: int) -> int:
        return size + 2

    def _split(self, params: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The centre, alpha and beta_hat."""
        centre, alpha, beta = jnp.split(params, [params.shape[-1] - 2, params.shape[-1] - 1], axis=-1)
        # Zero parameters leave z where it is.
        alpha = jax.nn.softplus(alpha[:, 0])
        return centre, alpha, radial_strength(beta[:, 0], alpha)

    def _step(self, z: jax.Array, params: jax.Array) -> Moved:
        return radial(z, *self._split(params))

    def _step_back(self, z: jax.Array, params: jax.Array) -> jax.Array:
        return radial_inverse(z, *self._split(params))
