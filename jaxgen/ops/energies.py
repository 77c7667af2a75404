"""The four energies of the plane of table 1 of arXiv:1505.05770, p(z) = exp(-U(z)) / Z.

z: f[..., 2] of NumPy (float64, as the truth) or of jax. U2 to U4 do not depend on how far z_1 is from 0, so that no Z
is finite: beyond |z_1| = 4, the frame of the paper's pictures, a wall is added here.
"""

import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

Energy = Literal["u1", "u2", "u3", "u4"]
WALL, STEEPNESS = 4.0, 0.4
REACH, SIDE = 6.5, 652
"""Beyond REACH there is less than exp(-18) of any of the four; points along each side of the grid, 0.02 apart."""


def energy(name: Energy, z: Any) -> Any:
    """U(z) in nats, f[...]."""
    xp = jnp if isinstance(z, jax.Array) else np
    first, second = z[..., 0], z[..., 1]
    wall = 0.5 * (xp.maximum(xp.abs(first) - WALL, 0.0) / STEEPNESS) ** 2
    w1 = xp.sin(2 * math.pi * first / 4)

    def bump(off: Any, width: float) -> Any:
        return -0.5 * (off / width) ** 2

    if name == "u1":
        # The root's gradient at 0 is infinite.
        off = xp.sqrt(first**2 + second**2 + 1e-12) - 2
        return wall - bump(off, 0.4) - xp.logaddexp(bump(first - 2, 0.6), bump(first + 2, 0.6))
    if name == "u2":
        return wall - bump(second - w1, 0.4)
    if name == "u3":
        w2 = 3 * xp.exp(bump(first - 1, 0.6))
        return wall - xp.logaddexp(bump(second - w1, 0.35), bump(second - w1 + w2, 0.35))
    w3 = 3 / (1 + xp.exp(-(first - 1) / 0.3))
    return wall - xp.logaddexp(bump(second - w1, 0.4), bump(second - w1 + w3, 0.35))


def grid() -> np.ndarray:
    """The middles of squares that cover [-REACH, REACH]^2, f64[SIDE, SIDE, 2]."""
    side = ((np.arange(SIDE) + 0.5) / SIDE * 2 - 1) * REACH
    return np.stack(np.meshgrid(side, side), axis=-1)


@functools.lru_cache
def log_normalizer(name: Energy) -> float:
    """log Z by the midpoint rule on `grid`, which for functions as smooth as these is exact to f32."""
    return float(np.logaddexp.reduce(-energy(name, grid()), axis=None) + 2 * math.log(2 * REACH / SIDE))
