"""Averages of parameters over training with power-function profiles, arXiv:2312.02696, section 3 and appendix C.

At step T the parameters theta_t of step t have the weight p(t) = (gamma + 1) t^gamma / T^(gamma + 1), eq. 108. The
length of an average is p's standard deviation relative to T (sigma_rel). From snapshots of running averages of a few
lengths any other is reconstructed: the combination of their profiles that is nearest to its own.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LONGEST = 0.28
"""Length below which gamma is positive; that of a plain mean of all steps is 0.289."""
PARALLEL = 1e-13
"""Singular values, relative to the largest, of directions in which the profiles do not differ in float64."""


class Profile(NamedTuple):
    """What a running average of a length, as of step T, is an average of."""

    step: int
    length: float


def exponent(length: float) -> float:
    """gamma of a length in (0, 0.289): the largest root of eq. 126, sigma_rel^2 (g + 2)^2 (g + 3) = g + 1."""
    w = float(length) ** -2
    return float(np.roots([1.0, 7.0, 16.0 - w, 12.0 - w]).real.max())


def length_of(gamma: float) -> float:
    """The inverse of `exponent`: eq. 123."""
    return ((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) ** 0.5


def newcomer(length: float, step: jax.Array) -> jax.Array:
    """The weight 1 - beta of the parameters of step t >= 1 in the running average, eq. 127, f32[]; 1 at the first.

    beta = (1 - 1 / t)^(gamma + 1) makes the weight of each step, at any later one, the integral of the profile over it.
    """
    t = step.astype(jnp.float32)
    return -jnp.expm1((exponent(length) + 1) * jnp.log1p(-1 / t))


def inner(a: Sequence[Profile], b: Sequence[Profile]) -> np.ndarray:
    """Inner products of profiles, f64[len(a), len(b)], eq. 151: the integral of p_a p_b over training."""
    ta, tb = np.array([p.step for p in a], np.float64)[:, None], np.array([p.step for p in b], np.float64)[None]
    ga, gb = (np.array([exponent(p.length) for p in some]) for some in (a, b))
    ga, gb = ga[:, None], gb[None]
    # min^(ga + gb + 1) / (ta^(ga + 1) tb^(gb + 1)), in logarithms: powers of large steps overflow.
    log = (ga + gb + 1) * np.log(np.minimum(ta, tb)) - (ga + 1) * np.log(ta) - (gb + 1) * np.log(tb)
    return (ga + 1) * (gb + 1) / (ga + gb + 1) * np.exp(log)


def coefficients(have: Sequence[Profile], want: Sequence[Profile]) -> tuple[np.ndarray, np.ndarray]:
    """Weights f64[len(have), len(want)], each column of sum one, by which averages of the profiles `have` combine to
    those nearest to `want`, algorithm 3; and the distance f64[len(want)] of each from the wanted one, relative to its
    norm."""
    gram, products = inner(have, have), inner(have, want)
    norms = np.array([inner([p], [p])[0, 0] for p in want])
    size = np.sqrt(np.diag(gram))[:, None]
    sides = np.concatenate([products, np.ones_like(size)], axis=1)
    solved = np.linalg.lstsq(gram / (size * size.T), sides / size, rcond=PARALLEL)[0] / size
    free, towards = solved[:, :-1], solved[:, -1:]
    # By a Lagrange multiplier: an average of equal parameters is to be these.
    weights = free + towards * ((1 - free.sum(axis=0, keepdims=True)) / towards.sum())
    missed = norms - 2 * np.sum(weights * products, axis=0) + np.einsum("iw,ij,jw->w", weights, gram, weights)
    return weights, np.sqrt(np.maximum(missed, 0) / norms)
