"""Noise schedules: how much data and how much noise x_t contains.

x_t = alpha_t x_0 + sigma_t eps with eps ~ N(0, 1). logsnr_t = log(alpha_t^2 / sigma_t^2) falls as t grows. There are
three kinds: variance preserving in T discrete steps (alpha^2 + sigma^2 = 1), variance exploding (alpha = 1), and the
straight line between data and noise (alpha = 1 - t, sigma = t). Tables are computed in float64 NumPy and used in f32:
in bf16, 1 - beta_0 rounds to one.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Gt, Lt

from jaxgen.core.ranges import NonNegative, OptionalSteps, Positive, Steps
from jaxgen.errors import UserError

KARRAS_RHO = 7.0


def expand(values: jax.Array, ndim: int) -> jax.Array:
    """Reshapes f32[B] to f32[B, 1, ...] with `ndim` axes.

    Without it, f32[B] would broadcast along the last axis of an image batch instead of the first.
    """
    return jnp.asarray(values, jnp.float32).reshape((-1,) + (1,) * (ndim - 1))


def numpy_of(array: Any) -> Any:
    """NumPy for its arrays and for numbers, so that tables stay float64; jax's NumPy for jax's arrays."""
    return jnp if isinstance(array, jax.Array) else np


class Grid(NamedTuple):
    """The levels a sampler visits, from noise to data, float64. The last level, alpha = 1 and sigma = 0, has no t."""

    t: np.ndarray
    """[N] times at which the network is evaluated."""
    alpha: np.ndarray
    """[N + 1]"""
    sigma: np.ndarray
    """[N + 1]"""


@dataclass(frozen=True)
class Schedule:
    """The interface of a schedule: alpha and sigma at a time, and the times at which to sample."""

    def levels(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """alpha_t and sigma_t, float64 with the shape of t."""
        raise NotImplementedError

    def at(self, t: jax.Array, ndim: int) -> tuple[jax.Array, jax.Array]:
        """alpha_t and sigma_t of each example, f32[B, 1, ...] with `ndim` axes. t: [B]."""
        raise NotImplementedError

    def times(self, steps: int) -> np.ndarray:
        """[steps] decreasing times, all with sigma > 0. Raises UserError for an impossible number of steps."""
        raise NotImplementedError

    def network_time(self, t: jax.Array) -> jax.Array:
        """The network's time input, f32[B], for t: [B]."""
        raise NotImplementedError

    @property
    def start(self) -> float:
        """Standard deviation of x at the noisiest time, where sampling starts."""
        return 1.0

    @property
    def continuous(self) -> bool:
        """Whether time is continuous, so that t can take any value between two times."""
        return False

    def logsnr(self, t: np.ndarray) -> np.ndarray:
        """log(alpha_t^2 / sigma_t^2), float64."""
        alpha, sigma = self.levels(t)
        with np.errstate(divide="ignore"):
            return 2 * (np.log(alpha) - np.log(sigma))

    def path(self, points: int) -> np.ndarray:
        """[points] decreasing times from noise to nearly data, for solving an ODE in either direction."""
        return self.times(points)

    def of_angle(self, angle: Any) -> Any:
        """The times at which sigma / alpha = tan(angle), of NumPy's or jax's angles in [0, pi / 2]; the nearest where
        the schedule has none. A schedule in discrete time gives times between two steps."""
        raise NotImplementedError

    @property
    def angles(self) -> tuple[float, float]:
        """arctan(sigma / alpha) of the least noisy and of the noisiest time of `path`."""
        high, low = np.arctan2(*reversed(self.levels(self.path(2))))
        return float(low), float(high)

    def grid(self, steps: int) -> Grid:
        """The `times` and their levels, followed by the level of the data."""
        times = self.times(steps)
        alpha, sigma = self.levels(times)
        return Grid(times, np.append(alpha, 1.0), np.append(sigma, 0.0))


# --- discrete time ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Discrete(Schedule):
    """A schedule in discrete time: t = 0 .. T - 1, with increasing noise. Between two steps, at times that are no
    integers, log(sigma / alpha) is linear."""

    num_steps: Steps = 1000

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """alpha and sigma of all times, float64[T]."""
        raise NotImplementedError

    def of_ratio(self, ratio: Any) -> tuple[Any, Any]:
        """(alpha, sigma) where sigma / alpha is this, of NumPy's or jax's arrays."""
        raise NotImplementedError

    def _log_ratio(self) -> np.ndarray:
        """log(sigma / alpha) of all times, float64[T], increasing."""
        alpha, sigma = self.table()
        return np.log(sigma) - np.log(alpha)

    def levels(self, t):
        if np.issubdtype(np.asarray(t).dtype, np.integer):
            return tuple(table[np.asarray(t)] for table in self.table())
        return self.of_ratio(np.exp(np.interp(t, np.arange(self.num_steps), self._log_ratio())))

    def at(self, t, ndim):
        if jnp.issubdtype(t.dtype, jnp.integer):
            return tuple(expand(jnp.asarray(table, jnp.float32)[t], ndim) for table in self.table())
        table = jnp.asarray(self._log_ratio(), jnp.float32)
        ratio = expand(jnp.exp(jnp.interp(t, jnp.arange(self.num_steps, dtype=jnp.float32), table)), ndim)
        return self.of_ratio(ratio)

    def of_angle(self, angle):
        xp = numpy_of(angle)
        # 1e-12: an angle of pi / 2 has a cosine of 0 or, rounded, below.
        log_ratio = xp.log(xp.sin(angle) + 1e-12) - xp.log(xp.abs(xp.cos(angle)) + 1e-12)
        return xp.interp(log_ratio, xp.asarray(self._log_ratio()), xp.arange(float(self.num_steps)))

    def times(self, steps):
        """Evenly spaced over the T times, including both ends; all T times for steps = 0."""
        most = self.num_steps
        steps = steps or most
        if not 1 <= steps <= most:
            raise UserError(f"{steps} sampler steps requested from a schedule of {most}: choose 1 to {most}")
        return np.round(np.linspace(most - 1, 0, steps)).astype(int)

    def network_time(self, t):
        """t rescaled to 0 .. 1000 for any T."""
        return t * (1000 / self.num_steps)


@dataclass(frozen=True)
class VariancePreserving(Discrete):
    """alpha_t^2 = abar_t = prod_{s <= t} (1 - beta_s), sigma_t^2 = 1 - abar_t. Before the first step, abar is 1."""

    def abar(self) -> np.ndarray:
        """abar_t, float64[T], decreasing from nearly 1."""
        raise NotImplementedError

    def table(self):
        abar = self.abar()
        return np.sqrt(abar), np.sqrt(1 - abar)

    def of_ratio(self, ratio):
        alpha = 1 / (1 + ratio**2) ** 0.5
        return alpha, ratio * alpha


def abar_of(f: np.ndarray, beta_max: float = 0.999) -> np.ndarray:
    """abar_t = f_t / f_0 for t = 1 .. T, from f: [T + 1], with every beta clipped to `beta_max`."""
    return np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], beta_max))


@dataclass(frozen=True)
class Linear(VariancePreserving):
    """beta_t linear in t, section 4 of arXiv:2006.11239. `beta_start` and `beta_end` are for T = 1000; they are scaled
    by 1000 / T, so that fewer steps reach the same noise level."""

    beta_start: Annotated[float, Gt(0), Lt(1)] = 1e-4
    beta_end: Annotated[float, Gt(0), Lt(1)] = 0.02

    def abar(self) -> np.ndarray:
        scale = 1000 / self.num_steps
        beta = np.linspace(self.beta_start * scale, self.beta_end * scale, self.num_steps)
        if beta.max() >= 1:
            raise UserError(f"a linear schedule of {self.num_steps} steps has beta = {beta.max():.2f} >= 1: use more")
        return np.cumprod(1 - beta)


@dataclass(frozen=True)
class ScaledLinear(VariancePreserving):
    """sqrt(beta_t) linear in t: latent diffusion, arXiv:2112.10752. The values are Stable Diffusion's; they are for T
    = 1000 and scaled as in `Linear`."""

    beta_start: Annotated[float, Gt(0), Lt(1)] = 0.00085
    beta_end: Annotated[float, Gt(0), Lt(1)] = 0.012
    spacing: Literal["leading", "ends", "karras"] = "leading"
    """Which times samplers visit. leading: every T // steps-th from `offset` on; as in diffusers, the last of these is
    far from noise with a single step, or more than half of T: choose ends then. ends: evenly spaced, with both ends.
    karras: evenly spaced in (sigma / alpha)^(1/7), with both ends (eq. 5 of arXiv:2206.00364); the network is told the
    nearest step."""
    offset: OptionalSteps = 1
    """The first time of `leading`, or the latest with which all times exist."""
    end: Literal["data", "first"] = "data"
    """What the last step leads to. first: the level of time 0, taken for data (diffusers' set_alpha_to_one=False)."""

    def abar(self) -> np.ndarray:
        beta = np.linspace(self.beta_start**0.5, self.beta_end**0.5, self.num_steps) ** 2 * (1000 / self.num_steps)
        if beta.max() >= 1:
            raise UserError(f"a schedule of {self.num_steps} steps has beta = {beta.max():.2f} >= 1: use more")
        return np.cumprod(1 - beta)

    def times(self, steps):
        even = super().times(steps)  # which checks `steps`
        if steps in (0, self.num_steps) or self.spacing == "ends":
            return even
        if self.spacing == "leading":
            each = self.num_steps // steps
            last = (steps - 1) * each
            return np.arange(steps)[::-1] * each + min(self.offset, self.num_steps - 1 - last)
        log_ratio = self._log_ratio()
        noisiest, least = np.exp(log_ratio[[-1, 0]] / KARRAS_RHO)
        even = KARRAS_RHO * np.log(np.linspace(noisiest, least, steps))
        return np.interp(even, log_ratio, np.arange(self.num_steps))

    def path(self, points):
        return super().times(points)

    def grid(self, steps):
        grid = super().grid(steps)
        if self.end == "first" and grid.t[-1] > 0:
            for level, table in zip(grid[1:], self.table()):
                level[-1] = table[0]
        return grid

    def network_time(self, t):
        return super().network_time(jnp.round(t))


@dataclass(frozen=True)
class Cosine(VariancePreserving):
    """f(t) = cos^2((t / T + s) / (1 + s) pi / 2), beta at most 0.999: eq. 17 of arXiv:2102.09672."""

    s: NonNegative = 0.008

    def abar(self) -> np.ndarray:
        t = np.arange(self.num_steps + 1) / self.num_steps
        return abar_of(np.cos((t + self.s) / (1 + self.s) * math.pi / 2) ** 2)


@dataclass(frozen=True)
class Sigmoid(VariancePreserving):
    """f falls from 1 to 0 like a sigmoid of slope 1 / tau between `low` and `high`, with beta at most 0.999: section
    3.1 of arXiv:2301.10972."""

    low: float = -3.0
    high: float = 3.0
    tau: Positive = 1.0

    def problem(self) -> str | None:
        return None if self.low < self.high else f"low is {self.low:g}, high {self.high:g}: low < high is expected"

    def abar(self) -> np.ndarray:
        t = np.arange(self.num_steps + 1) / self.num_steps
        s = 1 / (1 + np.exp(-(self.low + t * (self.high - self.low)) / self.tau))
        return abar_of((s[-1] - s) / (s[-1] - s[0]))


@dataclass(frozen=True)
class Geometric(Discrete):
    """alpha = 1, sigma_t geometric from `sigma_min` to `sigma_max`: the noise levels of arXiv:1907.05600, section 4."""

    num_steps: Steps = 232
    sigma_min: Positive = 0.01
    sigma_max: Positive = 50.0

    def problem(self) -> str | None:
        return _rising(self.sigma_min, self.sigma_max)

    def table(self):
        return np.ones(self.num_steps), np.geomspace(self.sigma_min, self.sigma_max, self.num_steps)

    def of_ratio(self, ratio):
        return ratio / ratio, ratio

    @property
    def start(self):
        return float(self.table()[1][-1])


# --- continuous time ----------------------------------------------------------------------------------------------


def _rising(sigma_min: float, sigma_max: float) -> str | None:
    if sigma_min < sigma_max:
        return None
    return f"sigma_min is {sigma_min:g}, sigma_max {sigma_max:g}: sigma_min < sigma_max is expected"


def check_steps(steps: int) -> None:
    if steps < 1:
        raise UserError(f"{steps} sampler steps requested from a schedule in continuous time: choose 1 or more")


@dataclass(frozen=True)
class Karras(Schedule):
    """alpha = 1 and sigma = t. Sampling times are evenly spaced in sigma^(1 / rho): eq. 5 of arXiv:2206.00364."""

    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0
    rho: Positive = KARRAS_RHO

    def problem(self) -> str | None:
        return _rising(self.sigma_min, self.sigma_max)

    def levels(self, t):
        t = np.asarray(t, np.float64)
        return np.ones_like(t), t

    def at(self, t, ndim):
        t = expand(t, ndim)
        return jnp.ones_like(t), t

    def times(self, steps):
        check_steps(steps)
        ends = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return np.linspace(*ends, steps) ** self.rho

    def of_angle(self, angle):
        xp = numpy_of(angle)
        most = math.atan(self.sigma_max)
        return xp.tan(xp.clip(angle, math.atan(self.sigma_min), most))

    def network_time(self, t):
        """c_noise = log(sigma) / 4, table 1."""
        return jnp.log(t) / 4

    @property
    def start(self):
        return self.sigma_max

    @property
    def continuous(self):
        return True


@dataclass(frozen=True)
class Straight(Schedule):
    """alpha = 1 - t and sigma = t for t in [0, 1], with noise at t = 1: rectified flow, eq. 1 of arXiv:2209.03003."""

    shift: Positive = 1.0
    """Sampling times are shift t / (1 + (shift - 1) t) for evenly spaced t: eq. 23 of arXiv:2403.03206."""
    time_scale: Positive = 1000.0
    """What the network is told for t = 1: less where its answer is differentiated in t, which 1000 makes too steep."""

    def levels(self, t):
        t = np.asarray(t, np.float64)
        return 1 - t, t

    def at(self, t, ndim):
        t = expand(t, ndim)
        return 1 - t, t

    def _shifted(self, t: np.ndarray) -> np.ndarray:
        return self.shift * t / (1 + (self.shift - 1) * t)

    def times(self, steps):
        check_steps(steps)
        return self._shifted(1 - np.arange(steps) / steps)

    def path(self, points):
        # Stop before t = 0, where eps = (x - alpha x0) / sigma is 0 / 0.
        return self._shifted(np.linspace(1, 1e-4, points))

    def of_angle(self, angle):
        xp = numpy_of(angle)
        sine = xp.sin(angle)
        return sine / (sine + xp.cos(angle))

    def network_time(self, t):
        """t rescaled to 0 .. time_scale."""
        return self.time_scale * t

    @property
    def continuous(self):
        return True
