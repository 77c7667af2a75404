"""The Gaussian diffusion process: its posterior, the forms of a prediction, the variational bound and the flow ODE.

x_t = alpha_t x_0 + sigma_t eps with eps ~ N(0, 1); see `ops.schedules`. A network predicts x0_hat = E[x_0 | x_t] in one
of these forms: noise eps, data x0, v = alpha eps - sigma x_0 (appendix D of arXiv:2202.00512), score = -eps / sigma,
velocity = eps - x_0 (arXiv:2209.03003), or trig = v / sqrt(alpha^2 + sigma^2) (arXiv:2410.11081), which is v where the
schedule preserves variance. Each form is linear in x_0 and eps, and so is x_t, so that a prediction and x_t together
give both x_0 and eps.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.keys import fold_each, normal_each
from jaxgen.ops.schedules import Grid, Schedule

Kind = Literal["eps", "x0", "v", "score", "velocity", "trig"]


class Denoised(NamedTuple):
    """A prediction of the data x_0 behind x_t."""

    x0: jax.Array
    """E[x_0 | x_t], f32[B, ...]."""
    fraction: jax.Array | None = None
    """Where the log variance of the reverse step lies between its bounds, f32[B, ...]: 0 for the posterior variance, 1
    for beta. None where the variance is not learned. Eq. 15 of arXiv:2102.09672."""


Denoise = Callable[[jax.Array, jax.Array], Denoised]
"""(x_t: f32[B, ...], t: [B]) -> Denoised."""


def q_sample(schedule: Schedule, x0: jax.Array, t: jax.Array, eps: jax.Array) -> jax.Array:
    """x_t given x_0: alpha_t x_0 + sigma_t eps, eq. 4 of arXiv:2006.11239. x0, eps: f32[B, ...]; t: [B]."""
    alpha, sigma = schedule.at(t, x0.ndim)
    return alpha * x0 + sigma * eps


def posterior(alpha, sigma, alpha_prev, sigma_prev):
    """(a, b, variance) of q(x_prev | x_t, x_0) = N(a x_0 + b x_t, variance), for NumPy or JAX arrays.

    Eqs. 6 and 7 of arXiv:2006.11239 for any two levels of any schedule: x_t = ratio x_prev + sqrt(step) eps.
    """
    ratio = alpha / alpha_prev
    step = step_variance(alpha, sigma, alpha_prev, sigma_prev)
    return alpha_prev * step / sigma**2, ratio * sigma_prev**2 / sigma**2, step * sigma_prev**2 / sigma**2


def step_variance(alpha, sigma, alpha_prev, sigma_prev):
    """Variance of q(x_t | x_prev): beta_t for a variance-preserving schedule."""
    return sigma**2 - (alpha / alpha_prev * sigma_prev) ** 2


# --- forms of a prediction ----------------------------------------------------------------------------------------


def _in_terms(kind: Kind, alpha, sigma):
    """(p, r) with value = p x_0 + r eps."""
    match kind:
        case "eps":
            return 0.0, 1.0
        case "x0":
            return 1.0, 0.0
        case "v":
            return -sigma, alpha
        case "score":
            return 0.0, -1 / sigma
        case "velocity":
            return -1.0, 1.0
        case "trig":
            scale = (alpha**2 + sigma**2) ** -0.5
            return -sigma * scale, alpha * scale
    raise ValueError(f"unknown form of a prediction {kind!r}: eps, x0, v, score, velocity or trig is expected")


def split(kind: Kind, value, x, alpha, sigma):
    """(x_0, eps) from a prediction `value` of the form `kind` at x = alpha x_0 + sigma eps.

    alpha, sigma: numbers, or arrays that broadcast with x, such as f32[B, 1, 1, 1].
    """
    p, r = _in_terms(kind, alpha, sigma)
    det = alpha * r - sigma * p
    return (r * x - sigma * value) / det, (alpha * value - p * x) / det


def join(kind: Kind, x0, eps, alpha, sigma):
    """x_0 and eps as a prediction of the form `kind`: the inverse of `split`."""
    p, r = _in_terms(kind, alpha, sigma)
    return p * x0 + r * eps


def convert(value, x, alpha, sigma, source: Kind, target: Kind):
    """The prediction `value` of the form `source`, converted to the form `target`."""
    return join(target, *split(source, value, x, alpha, sigma), alpha, sigma)


def error_scale(kind: Kind, alpha, sigma):
    """The ratio |error of the prediction|^2 / |error of x_0|^2 at a given x_t."""
    p, r = _in_terms(kind, alpha, sigma)
    return ((alpha * r - sigma * p) / sigma) ** 2


# --- the variational bound ----------------------------------------------------------------------------------------


def log_variances(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bound of the log variance of each reverse step, float64[N] each: of the posterior and of the
    forward step.

    The posterior variance of the last step is 0; its logarithm is replaced by that of the step before, as in
    arXiv:2102.09672.
    """
    levels = grid.alpha[:-1], grid.sigma[:-1], grid.alpha[1:], grid.sigma[1:]
    high = step_variance(*levels)
    low = posterior(*levels)[2]
    low[-1] = low[-2] if len(low) > 1 else high[-1]
    return np.log(low), np.log(high)


def gaussian_kl(mean, logvar, mean2, logvar2):
    """KL(N(mean, exp(logvar)) || N(mean2, exp(logvar2))), elementwise, in nats."""
    return 0.5 * (logvar2 - logvar - 1 + jnp.exp(logvar - logvar2) + (mean - mean2) ** 2 * jnp.exp(-logvar2))


def discretized_gaussian(x: jax.Array, mean: jax.Array, logvar: jax.Array, levels: int = 256) -> jax.Array:
    """log P of x in [-1, 1], one of `levels` equal steps: a normal distribution's mass between the midpoints to both
    neighbours; the two end levels include the tails. Eq. 13 of arXiv:2006.11239."""
    half = 1 / (levels - 1)
    inv = jnp.exp(-0.5 * logvar)
    low = jnp.where(x < -1 + half, -jnp.inf, (x - half - mean) * inv)
    high = jnp.where(x > 1 - half, jnp.inf, (x + half - mean) * inv)
    # f32 resolves the lower tail of the cdf but not the upper: mirror intervals that lie above the mean.
    mirror = low > 0
    low, high = jnp.where(mirror, -high, low), jnp.where(mirror, -low, high)
    log_high, log_low = jax.scipy.special.log_ndtr(high), jax.scipy.special.log_ndtr(low)
    apart = jnp.minimum(log_low - log_high, -1e-7)
    return log_high + jnp.log(-jnp.expm1(apart))


def mean_each(x: jax.Array) -> jax.Array:
    """Mean over all axes but the first."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))


class ReverseStep(NamedTuple):
    """The coefficients of one reverse step, of the shape [] or [B, 1, ...] each."""

    a: jax.Array
    """a and b: from `posterior`, the mean is a x_0 + b x_t."""
    b: jax.Array
    low: jax.Array
    """low and high: from `log_variances`."""
    high: jax.Array
    fixed: jax.Array
    """The log variance if none is learned."""
    last: jax.Array
    """bool: whether the step leads to the data."""


def bound_term(x0: jax.Array, x: jax.Array, denoised: Denoised, step: ReverseStep) -> jax.Array:
    """One term of the variational bound for each example, f32[B], in nats per dimension, from x = x_t: f32[B, ...].

    KL(q(x_prev | x_t, x_0) || p(x_prev | x_t)), or -log P(x_0 | x_t) at the last step: eq. 5 of arXiv:2006.11239.
    """
    logvar = step.fixed if denoised.fraction is None else step.low + denoised.fraction * (step.high - step.low)
    mean = step.a * denoised.x0 + step.b * x
    kl = gaussian_kl(step.a * x0 + step.b * x, step.low, mean, logvar)
    decoder = -discretized_gaussian(x0, mean, jnp.broadcast_to(logvar, mean.shape))
    return mean_each(jnp.where(step.last, decoder, kl))


def variational_bound(
    denoise: Denoise, schedule: Schedule, x0: jax.Array, keys: jax.Array, steps: int = 0, large: bool = False
) -> tuple[jax.Array, jax.Array]:
    """The bound -log p(x_0) <= prior + sum of terms, in bits per dimension: (prior: f32[B], terms: f32[N, B]).

    x0: f32[B, ...], 8-bit in [-1, 1]. terms[i] is estimated from one x_t at step i, counted from noise to data; the
    last term is the decoder's. prior is KL(q(x_T | x_0) || N(0, start^2)). steps: number of steps of the respaced
    process; 0 for all. large: where no variance is learned, use beta instead of the posterior variance.
    """
    grid = schedule.grid(steps)
    alpha, sigma = grid.alpha[:-1], grid.sigma[:-1]
    low, high = log_variances(grid)
    fixed = np.append(high[:-1], low[-1]) if large else low
    a, b, _ = posterior(alpha, sigma, grid.alpha[1:], grid.sigma[1:])
    table = np.stack([alpha, sigma, a, b, low, high, fixed], axis=1).astype(np.float32)
    last = np.arange(len(alpha)) == len(alpha) - 1

    def one(carry, row):
        index, t, (alpha, sigma, a, b, low, high, fixed), last = row
        x = alpha * x0 + sigma * normal_each(fold_each(keys, index), x0.shape[1:])
        step = ReverseStep(a, b, low, high, fixed, last)
        return carry, bound_term(x0, x, denoise(x, jnp.full(keys.shape, t)), step)

    rows = (jnp.arange(len(alpha)), jnp.asarray(grid.t.copy()), jnp.asarray(table), jnp.asarray(last))
    _, terms = jax.lax.scan(one, None, rows)
    start = 2 * math.log(schedule.start)
    prior = mean_each(gaussian_kl(alpha[0] * x0, 2 * math.log(sigma[0]), 0.0, start))
    return prior / math.log(2), terms / math.log(2)


# --- the probability-flow ODE -------------------------------------------------------------------------------------


PULLBACK_BATCH = 16  # vector-Jacobian products computed at once: more need more memory, fewer take longer


class Noised(NamedTuple):
    """x: f32[B, ...], the noise that data flows to; log_prob: f32[B], the data's log density in nats; stderr: f32[B],
    the standard error of log_prob due to random probes: 0 without probes, NaN with one probe an example."""

    x: jax.Array
    log_prob: jax.Array
    stderr: jax.Array


def to_noise(
    denoise: Denoise, schedule: Schedule, x: jax.Array, keys: jax.Array, steps: int = 100, probes: int = 1
) -> Noised:
    """Maps data to noise along the probability-flow ODE, and computes its log density.

    Heun's method with `steps` steps of two evaluations. log p(x_0) = log N(x_T; 0, start^2) + the integral of the
    flow's divergence (eq. 39 of arXiv:2011.13456). The divergence is estimated with `probes` random sign vectors for
    each example (Hutchinson), or computed exactly for probes = 0, with one vector-Jacobian product for each dimension.
    x is treated as a sample of the least noisy level.
    """
    path = schedule.path(steps + 1)[::-1]
    levels = np.stack(schedule.levels(path), axis=1)
    pairs = np.concatenate([levels[:-1], levels[1:]], axis=1).astype(np.float32)
    rows = (np.stack([path[:-1], path[1:]], axis=1), pairs)
    size = math.prod(x.shape[1:])

    def signs(i: jax.Array) -> jax.Array:
        draw = jax.vmap(lambda key: jax.random.rademacher(key, x.shape[1:], jnp.float32))
        return draw(fold_each(keys, i))

    if probes:
        vectors = jax.vmap(signs)(jnp.arange(probes))
    else:
        vectors = jnp.broadcast_to(jnp.eye(size).reshape(size, 1, *x.shape[1:]), (size, *x.shape))

    def stage(x, t, alpha, sigma, d_alpha, d_sigma):
        """The increment, and its divergence by each probe, f32[P, B]."""

        def increment(x: jax.Array) -> jax.Array:
            """x_0 d_alpha + eps d_sigma: eq. 1 of arXiv:2206.00364 in increments of alpha and sigma, not of time."""
            x0 = denoise(x, jnp.full(keys.shape, t)).x0
            return d_alpha * x0 + d_sigma * (x - alpha * x0) / sigma

        moved, pull = jax.vjp(increment, x)
        axes = tuple(range(1, x.ndim))
        traces = jax.lax.map(lambda v: jnp.sum(v * pull(v)[0], axis=axes), vectors, batch_size=PULLBACK_BATCH)
        return moved, traces if probes else jnp.sum(traces, axis=0, keepdims=True)

    def step(carry, row):
        x, total = carry
        (t, t2), (alpha, sigma, alpha2, sigma2) = row
        change = alpha2 - alpha, sigma2 - sigma
        moved, trace = stage(x, t, alpha, sigma, *change)
        moved2, trace2 = stage(x + moved, t2, alpha2, sigma2, *change)
        return (x + (moved + moved2) / 2, total + (trace + trace2) / 2), None

    # A probe keeps its signs over all steps, so that its sum is one unbiased draw of the whole integral.
    start = (x, jnp.zeros((max(1, probes), *keys.shape)))
    (x, totals), _ = jax.lax.scan(step, start, jax.tree.map(jnp.asarray, rows))
    log_prior = -0.5 * jnp.sum(x**2, axis=tuple(range(1, x.ndim))) / schedule.start**2
    log_prior -= size * (0.5 * math.log(2 * math.pi) + math.log(schedule.start))
    stderr = jnp.std(totals, axis=0, ddof=1) / math.sqrt(probes) if probes else jnp.zeros(keys.shape)
    return Noised(x, log_prior + jnp.mean(totals, axis=0), stderr)


def bits_per_dim(log_prob: jax.Array, size: int, levels: int = 256) -> jax.Array:
    """Bits per dimension, f32[B], of a log density in nats of x in [-1, 1], taken as constant over the width of a
    level. size: number of dimensions."""
    return -(log_prob / size + math.log(2 / (levels - 1))) / math.log(2)
