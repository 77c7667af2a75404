"""Samplers as tables and one scan.

Each row of a table evaluates the network once, for x0_hat at the current x, and updates

    x <- a x0_hat + b x + c noise + d x0_saved + e x_saved + sum_k past_k eps_hat_k,

where x0_saved and x_saved come from the latest earlier row with `save`, and eps_hat_k from the k-th latest. Multistep
methods use x0_saved or eps_hat_k, two-stage methods x0_saved and x_saved. A sampler is therefore a set of coefficients,
which are computed in float64 NumPy. alpha, sigma: the level of x; primed: the next level. x0_hat is the network's
prediction, and eps_hat = (x - alpha x0_hat) / sigma.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.keys import fold_each, normal_each
from jaxgen.core.ranges import Fraction, NonNegative, OptionalSteps, Positive, Steps
from jaxgen.errors import UserError
from jaxgen.ops.diffusion import Denoise, log_variances, posterior, step_variance
from jaxgen.ops.sampler_table import Table, rows_from
from jaxgen.ops.schedules import Grid, Schedule

ROUNDING = 0.25
"""How much more than the strength asked for a sampler of few steps may take away of an image, if it leaves none."""
START = 0  # stream of a sample's key: the noise that x starts from; the rows of a table follow from 1 on


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """What sampling starts from, and which part of an image it keeps. Raises UserError for a strength outside (0, 1],
    or for a mask or a strength below 1 without an image."""

    noise: jax.Array | None = None
    """The standard normal noise to start from, f32[B, *shape]; drawn from the samples' keys if None."""
    image: jax.Array | None = None
    """f32[B, *shape] in model space, used with `strength` or `mask`."""
    strength: float = 1.0
    """Below 1, sampling skips the first 1 - strength of the steps and starts from the image with noise of that level
    (arXiv:2108.01073)."""
    mask: jax.Array | None = None
    """bool[B, *shape] (any axis may be 1), true where the image is kept: after each row that region is replaced by the
    image with noise of the row's level."""
    resample: int = 1
    """With a mask, how often each step is taken, with noise added in between (algorithm 1 of arXiv:2201.09865)."""

    def __post_init__(self):
        if not 0 < self.strength <= 1:
            raise UserError(f"strength is {self.strength}: choose above 0 (the image itself) up to 1 (pure noise)")
        if self.image is None and (self.mask is not None or self.strength < 1):
            raise UserError("a mask or a strength below 1 was given without an image: pass both")


FROM_NOISE = Start()


def deterministic(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """(a, b) of the update x' = alpha' x0_hat + sigma' eps_hat, eq. 12 of arXiv:2010.02502 with its sigma = 0."""
    b = grid.sigma[1:] / grid.sigma[:-1]
    return grid.alpha[1:] - b * grid.alpha[:-1], b


@dataclass(frozen=True)
class Sampler:
    """A method that goes from noise to data. The schedule chooses the times of the steps."""

    steps: OptionalSteps = 0
    """Number of steps; 0 for all times of a schedule in discrete time."""
    clip: NonNegative = 1.0
    """x0_hat is kept in [-clip, clip]; 0 leaves it alone."""

    def table(self, schedule: Schedule) -> Table:
        """The rows for a schedule. Raises UserError if the sampler does not support the schedule."""
        raise NotImplementedError

    def _table(
        self, schedule: Schedule, grid: Grid, a: np.ndarray, b: np.ndarray, c: np.ndarray | float = 0.0, **more: Any
    ) -> Table:
        """A row for each step of the grid."""
        c = np.broadcast_to(c, a.shape)
        # Whatever level the grid ends in, its x is taken for data.
        level = np.append(grid.alpha[1:-1], 1.0), np.append(grid.sigma[1:-1], 0.0)
        return Table(grid.t, a, b, c, *level, schedule.start, **more)

    def evaluations(self, schedule: Schedule) -> int:
        """Network evaluations for a sample. The two evaluations of classifier-free guidance count as one."""
        return len(self.table(schedule).t)

    def __call__(
        self,
        denoise: Denoise,
        schedule: Schedule,
        keys: jax.Array,
        shape: tuple[int, ...],
        start: Start = FROM_NOISE,
        frames: int = 0,
    ) -> jax.Array:
        """One sample for each of `keys`, f32[B, *shape].

        frames: if above 0, return that many states along the way, [frames, B, *shape], instead; at most one a row. The
        last of them is the sample.
        """
        table, image, mask = self.table(schedule), start.image, start.mask
        # Count steps, not rows, so that all samplers with the same number of steps start from the same level. A step
        # starts at each row that saves. 1e-9 is subtracted as 0.7 * 10 is more than 7 in floating point.
        starts = np.arange(len(table.t)) if table.save is None else np.flatnonzero(table.save)
        taken = max(1, math.ceil(start.strength * len(starts) - 1e-9))
        if taken == len(starts) and taken - start.strength * taken > ROUNDING * taken:
            raise UserError(
                f"strength is {start.strength}, but a sampler of {taken} step{'s' * (taken > 1)} would begin at pure "
                "noise, with nothing of the image: choose more steps, or strength 1"
            )
        first = starts[len(starts) - taken]
        rows, again = rows_from(table, first, start.resample if mask is not None else 1)
        count = len(rows["t"])
        frames = min(frames, count)
        # Each frame is overwritten until the last of the rows that share its slot.
        rows["slot"] = np.arange(count) * max(1, frames) // count
        # Row i of the loop folds i + 1 into the keys, as the initial noise uses fold 0.
        rows["index"] = np.arange(1, count + 1)
        random, two_stage = bool(np.any(rows["c"])) or again, table.save is not None
        learns, depth = table.low is not None, 0 if table.past is None else table.past.shape[1]

        def known(x: jax.Array, index: jax.Array | int, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
            """x with the image at this level where the mask keeps it."""
            assert image is not None and mask is not None
            there = alpha * image + sigma * normal_each(fold_each(keys, count + 1 + index), shape)
            return jnp.where(mask, there, x)

        def step(carry, row):
            x, film, past, *saved = carry
            t = jnp.full(keys.shape, row["t"])
            predicted = denoise(x, t)
            x0 = jnp.clip(predicted.x0, -self.clip, self.clip) if self.clip else predicted.x0
            new = row["a"] * x0 + row["b"] * x
            if two_stage:
                # At the first row there is no earlier prediction to extrapolate from.
                before = jnp.where(row["index"] == 1, x0, saved[0])
                new += row["d"] * before + row["e"] * saved[1]
                saved = [jnp.where(row["save"], now, old) for now, old in zip((x0, x), saved)]
            if depth:
                alpha, sigma = schedule.at(t, x.ndim)
                eps = (x - alpha * x0) / sigma
                # Before the first row, predictions are taken to have been the same as there.
                past = jnp.where(row["index"] == 1, eps[None], past)
                new += jnp.tensordot(row["past"], past, 1)
                past = jnp.where(row["save"], jnp.concatenate([eps[None], past[:-1]]), past)
            if random:
                scale = row["c"]
                if learns and predicted.fraction is not None:
                    logvar = row["low"] + predicted.fraction * (row["high"] - row["low"])
                    scale = jnp.where(scale > 0, jnp.exp(0.5 * logvar), 0.0)
                if again:
                    new = row["gain"] * new
                    scale = jnp.sqrt((row["gain"] * scale) ** 2 + row["renoise"] ** 2)
                new += scale * normal_each(fold_each(keys, row["index"]), shape)
            if mask is not None:
                new = known(new, row["index"], row["alpha"], row["sigma"])
            return (new, film.at[row["slot"]].set(new) if frames else film, past, *saved), None

        z = normal_each(fold_each(keys, START), shape) if start.noise is None else start.noise
        if first:
            assert image is not None
            x = table.alpha[first - 1] * image + table.sigma[first - 1] * z
        else:
            x = table.start * z
        saved = (jnp.zeros_like(x), jnp.zeros_like(x)) if two_stage else ()
        carry = (x, jnp.zeros((frames, *x.shape)), jnp.zeros((depth, *x.shape)), *saved)
        (x, film, *_), _ = jax.lax.scan(step, carry, jax.tree.map(jnp.asarray, rows))
        return film if frames else jnp.asarray(x)


# --- steps of the reverse process ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ancestral(Sampler):
    """Samples the posterior given x0_hat: algorithm 2 of arXiv:2006.11239. With fewer steps than the schedule, this is
    the respaced process of arXiv:2102.09672. A learned variance is used if the network predicts one."""

    large: bool = False
    """Use the variance beta_t, which is optimal for x_0 ~ N(0, 1), instead of the posterior variance, which is optimal
    for x_0 a single point. Section 3.2."""

    def table(self, schedule):
        grid = schedule.grid(self.steps)
        levels = grid.alpha[:-1], grid.sigma[:-1], grid.alpha[1:], grid.sigma[1:]
        a, b, variance = posterior(*levels)
        if self.large:
            variance = np.where(grid.sigma[1:] > 0, step_variance(*levels), 0.0)
        low, high = log_variances(grid)
        return self._table(schedule, grid, a, b, np.sqrt(variance), low=low, high=high)


@dataclass(frozen=True)
class DDIM(Sampler):
    """Eq. 12 of arXiv:2010.02502 with the sigma of eq. 16 scaled by eta: 0 is deterministic, 1 is ancestral.

    eps_hat is computed from x and x0_hat, so that it stays consistent with a clipped x0_hat.
    """

    steps: Steps = 50
    eta: Fraction = 0.0

    def table(self, schedule):
        grid = schedule.grid(self.steps)
        _, _, variance = posterior(grid.alpha[:-1], grid.sigma[:-1], grid.alpha[1:], grid.sigma[1:])
        noise = self.eta * np.sqrt(variance)
        b = np.sqrt(np.maximum(grid.sigma[1:] ** 2 - noise**2, 0)) / grid.sigma[:-1]
        return self._table(schedule, grid, grid.alpha[1:] - b * grid.alpha[:-1], b, noise)


# --- solvers of the probability-flow ODE --------------------------------------------------------------------------


@dataclass(frozen=True)
class Churn(Sampler):
    """Adds noise before each step, which raises sigma to (1 + gamma) sigma: algorithm 2 of arXiv:2206.00364."""

    steps: Steps = 18
    churn: NonNegative = 0.0
    """S_churn: gamma = min(churn / steps, sqrt 2 - 1). Above 0 only for schedules in continuous time with alpha = 1."""
    churn_min: NonNegative = 0.0
    """S_tmin and S_tmax: the range of sigma in which noise is added."""
    churn_max: NonNegative = 1e9
    churn_noise: NonNegative = 1.0
    """S_noise: standard deviation of the noise, relative to that which keeps the marginal distribution."""

    def problem(self) -> str | None:
        if self.churn_min <= self.churn_max:
            return None
        return f"churn_min is {self.churn_min:g}, churn_max {self.churn_max:g}: churn_min <= churn_max is expected"

    def _churned(self, schedule: Schedule) -> tuple[Grid, np.ndarray, float]:
        """The grid with every t and sigma but the last raised; the standard deviation of the noise that raises the
        level after each step, float64[N], 0 for the last; and the standard deviation of x at the start."""
        grid = schedule.grid(self.steps)
        if not self.churn:
            return grid, np.zeros(len(grid.t)), schedule.start
        if not schedule.continuous or np.any(grid.alpha != 1):
            raise UserError(f"churn is {self.churn}, but {type(schedule).__name__} cannot raise sigma: use 0")
        sigma = grid.sigma[:-1]
        there = (sigma >= self.churn_min) & (sigma <= self.churn_max)
        raised = sigma * (1 + np.where(there, min(self.churn / len(sigma), math.sqrt(2) - 1), 0.0))
        added = np.sqrt(raised**2 - sigma**2) * self.churn_noise
        return (
            Grid(raised, grid.alpha, np.append(raised, 0.0)),
            np.append(added[1:], 0.0),
            math.sqrt(schedule.start**2 + added[0] ** 2),
        )


def to_levels(grid: Grid, unchurned: Grid) -> tuple[np.ndarray, np.ndarray]:
    """(a, b) of `deterministic` from each level of `grid` to the next of `unchurned`."""
    b = unchurned.sigma[1:] / grid.sigma[:-1]
    return unchurned.alpha[1:] - b * grid.alpha[:-1], b


@dataclass(frozen=True)
class Leaps(Sampler):
    """Steps of a flow map (`models.flow_map`), which knows where the ODE leads over any span of time and not only where
    it heads: x' = x - (t - t') u(x, t, t - t'), eq. 12 of arXiv:2505.13447, for as few steps as one. As u stands for a
    velocity in x0_hat, this is a deterministic step."""

    steps: Steps = 1
    clip: NonNegative = 0.0

    def table(self, schedule):
        grid = schedule.grid(self.steps)
        return self._table(schedule, grid, *deterministic(grid))

    def span(self, schedule: Schedule, t: jax.Array) -> jax.Array:
        """How far the step goes that begins at the time t of the table: t - t', f32[B]. t: f32[B]."""
        times = schedule.grid(self.steps).t
        spans = jnp.asarray(times - np.append(times[1:], 0.0), jnp.float32)
        return spans[jnp.argmin(jnp.abs(t[:, None] - jnp.asarray(times, jnp.float32)[None]), axis=1)]


@dataclass(frozen=True)
class Euler(Churn):
    """x' = alpha' x0_hat + sigma' eps_hat: Euler's method in increments of alpha and sigma, which is DDIM."""

    steps: Steps = 50

    def table(self, schedule):
        grid, added, start = self._churned(schedule)
        plain = schedule.grid(self.steps)
        a, b = to_levels(grid, plain)
        return Table(grid.t, a, b, added, grid.alpha[1:], grid.sigma[1:], start)


@dataclass(frozen=True)
class Heun(Churn):
    """Heun's method with 2 steps - 1 evaluations, algorithms 1 and 2 of arXiv:2206.00364.

    x' = x + (alpha' - alpha) (x0 + x0_2) / 2 + (sigma' - sigma) (eps + eps_2) / 2, where x0_2 and eps_2 are predicted
    at the x' of an Euler step. This is the paper's method for alpha = 1, and of second order on every schedule. The
    last step is an Euler step.
    """

    def table(self, schedule):
        grid, added, start = self._churned(schedule)
        plain = schedule.grid(self.steps)
        n = len(grid.t)
        a, b = to_levels(grid, plain)
        alpha, sigma = grid.alpha[:-1], grid.sigma[:-1]  # level at the start of a step
        alpha2, sigma2 = plain.alpha[1:], plain.sigma[1:]  # level at its end
        # Rows alternate: an Euler step that saves, then a correction that starts from what was saved.
        even, odd = np.arange(n) * 2, np.arange(n - 1) * 2 + 1
        table = {name: np.zeros(2 * n - 1) for name in ("t", "a", "b", "c", "d", "e", "alpha", "sigma")}
        table["t"] = table["t"].astype(grid.t.dtype)
        table["t"][even], table["t"][odd] = grid.t, plain.t[1:]
        table["a"][even], table["b"][even] = a, b
        half_a, half_s = (alpha2 - alpha)[:-1] / 2, (sigma2 - sigma)[:-1] / 2
        # eps + eps_2 = (x_saved - alpha x0_saved) / sigma + (x - alpha' x0) / sigma'
        table["a"][odd] = half_a - half_s * alpha2[:-1] / sigma2[:-1]
        table["b"][odd] = half_s / sigma2[:-1]
        table["d"][odd] = half_a - half_s * alpha[:-1] / sigma[:-1]
        table["e"][odd] = 1 + half_s / sigma[:-1]
        table["c"][odd], table["c"][-1] = added[:-1], 0.0
        table["alpha"][even], table["sigma"][even] = alpha2, sigma2
        table["alpha"][odd], table["sigma"][odd] = alpha2[:-1], grid.sigma[1:-1]
        return Table(**table, save=np.arange(2 * n - 1) % 2 == 0, start=start)


@dataclass(frozen=True)
class DPMSolverPP(Sampler):
    """DPM-Solver++(2M), algorithm 2 of arXiv:2211.01095; the first and last step are of first order.

    h = lambda' - lambda, lambda = log(alpha / sigma), r = h_before / h, D = (1 + 1 / 2 r) x0_hat - (1 / 2 r) x0_before:
    x' = (sigma' / sigma) x + (alpha' - alpha sigma' / sigma) D.
    """

    steps: Steps = 20

    def table(self, schedule):
        grid = schedule.grid(self.steps)
        a, b = deterministic(grid)
        with np.errstate(divide="ignore"):
            h = np.diff(np.log(grid.alpha) - np.log(grid.sigma))
        extra = np.zeros(len(a))
        inner = slice(1, -1)
        extra[inner] = h[inner] / (2 * h[: len(a) - 2]) if len(a) > 2 else 0.0
        save = np.ones(len(a), bool)
        return self._table(schedule, grid, a * (1 + extra), b, d=-a * extra, save=save)


# --- Langevin -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AnnealedLangevin(Sampler):
    """Algorithm 1 of arXiv:1907.05600: at each level, `each` steps x <- x + (s / 2) score + sqrt(s) z with s = step
    sigma^2. At the end, x is replaced by x0_hat (section 3.3 of arXiv:2006.09011). For schedules with alpha = 1.

    The second paper writes x + a score + sqrt(2 a) z, so s = 2 a.
    """

    clip: NonNegative = 0.0
    each: Steps = 5
    step: Positive = 0.124
    """s / sigma^2, in (0, 4): x diverges beyond. The second paper's value for CIFAR-10 is 2 x 6.2e-6 / 0.01^2."""

    def table(self, schedule):
        grid = schedule.grid(self.steps)
        if np.any(grid.alpha != 1):
            raise UserError(f"annealed Langevin sampling needs alpha = 1, not {type(schedule).__name__}: use DDIM")
        sigma = grid.sigma[:-1]
        size = self.step
        if not 0 < size < 4:
            raise UserError(f"a Langevin step of {size} sigma^2 does not converge: choose between 0 and 4")
        # score = (x0_hat - x) / sigma^2
        which = np.append(np.repeat(np.arange(len(sigma)), self.each), len(sigma) - 1)
        a, b = np.full(len(which), size / 2), np.full(len(which), 1 - size / 2)
        c = math.sqrt(size) * sigma[which]
        a[-1], b[-1], c[-1] = 1, 0, 0
        level = np.append(sigma[which][:-1], 0.0)
        return Table(grid.t[which], a, b, c, np.ones(len(which)), level, schedule.start)
