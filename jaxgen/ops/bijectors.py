"""The invertible maps that flows are built from. They hold no parameters themselves.

x is data and z is noise; "forward" goes from x to z, "inverse" back. Each map takes `inverse` and returns
(y, log |dy/dx|) for that direction, so that log p(x) = log p(z) + logdet of the forward direction. All in f32.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.ranges import Depth, NonNegative, Positive
from jaxgen.ops.likelihood import soft_bound

# --- elementwise maps whose parameters are a network's output ----------------------------------------------------


@dataclass(frozen=True)
class Transform:
    """An increasing map of each element. x: f32[..., C]; params: f32[..., C * num_params], with the parameters of one
    element adjacent. Zero parameters give the identity. Returns (y, log dy/dx), both f32[..., C]."""

    @property
    def num_params(self) -> int:
        raise NotImplementedError

    def __call__(self, x: jax.Array, params: jax.Array, inverse: bool = False) -> tuple[jax.Array, jax.Array]:
        raise NotImplementedError

    def _each(self, x: jax.Array, params: jax.Array) -> jax.Array:
        """f32[..., C, num_params]"""
        return params.astype(jnp.float32).reshape(*x.shape, self.num_params)


@dataclass(frozen=True)
class Affine(Transform):
    """z = (x + shift) e^s, with s bounded smoothly to +-bound: eq. 7 of arXiv:1605.08803 with the shift applied first,
    and eq. 4 of arXiv:1705.07057 with mu = -shift and alpha = -s."""

    bound: Positive = 3.0

    @property
    def num_params(self) -> int:
        return 2

    def __call__(self, x: jax.Array, params: jax.Array, inverse: bool = False) -> tuple[jax.Array, jax.Array]:
        params = self._each(x, params)
        shift, s = params[..., 0], soft_bound(params[..., 1], self.bound)
        if inverse:
            return x * jnp.exp(-s) - shift, -s
        return (x + shift) * jnp.exp(s), s


@dataclass(frozen=True)
class Spline(Transform):
    """A monotone rational-quadratic spline through bins + 1 knots on [-reach, reach] and the identity outside, section
    3.1 of arXiv:1906.04032.

    Slopes are bounded so that f32 still resolves neighbouring values: the inverse is within 1e-4 for any parameters.
    With the paper's settings (least and narrowest 1e-3, steepest 0) the inverse can be wrong by 0.1.
    """

    bins: Depth = 8
    reach: Positive = 4.0
    least: Positive = 0.03
    """Lower bound of each bin's share of the total height, and of the slope at a knot."""
    narrowest: Positive = 0.005
    """Lower bound of each bin's share of the total width. It can be less than `least`: peaks of a density need narrow
    bins, which cost the inverse less accuracy than low ones."""
    steepest: NonNegative = 16.0
    """Bound of a knot's slope, approximately, as a multiple of the mean slope of the flatter of the two bins beside it:
    a bin between two much steeper knots would be flat in its middle. 0 for no bound, as in the paper."""

    def problem(self) -> str | None:
        if any(least * self.bins >= 1 for least in (self.least, self.narrowest)):
            return (
                f"{self.bins} bins cannot each have at least {self.least} of the height and {self.narrowest} of the "
                "width: use fewer bins or smaller shares"
            )

    @property
    def num_params(self) -> int:
        return 3 * self.bins - 1

    def knots(self, params: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The knots' coordinates x_k and y_k and slopes, each f32[..., bins + 1], from params f32[..., num_params]."""
        widths, heights, slopes = jnp.split(params, (self.bins, 2 * self.bins), axis=-1)

        def shares(raw: jax.Array, least: float) -> jax.Array:
            return least + (1 - self.bins * least) * jax.nn.softmax(raw)

        def places(share: jax.Array) -> jax.Array:
            inner = self.reach * (2 * jnp.cumsum(share, axis=-1)[..., :-1] - 1)
            end = jnp.full_like(inner[..., :1], self.reach)
            return jnp.concatenate([-end, inner, end], axis=-1)

        widths, heights = shares(widths, self.narrowest), shares(heights, self.least)
        mean = heights / widths
        flatter = jnp.minimum(mean[..., :-1], mean[..., 1:])
        # Zero parameters give slope 1. Both ends have slope 1 too, as they meet the identity.
        if self.steepest:
            raw = jax.nn.softplus(slopes + math.log(math.e - 1))
            bounded = raw * (1 + 1 / self.steepest) / (1 + raw / (self.steepest * flatter))
            slopes = self.least + (1 - self.least) * bounded
        else:
            slopes = self.least + jax.nn.softplus(slopes + math.log(math.expm1(1 - self.least)))
        one = jnp.ones_like(mean[..., :1])
        return places(widths), places(heights), jnp.concatenate([one, slopes, one], axis=-1)

    def __call__(self, x: jax.Array, params: jax.Array, inverse: bool = False) -> tuple[jax.Array, jax.Array]:
        xs, ys, slopes = self.knots(self._each(x, params))
        inside = jnp.abs(x) < self.reach
        # Replace points outside by one inside: the value is discarded, but its gradient must be finite.
        given = jnp.where(inside, x, 0.0)
        k = jnp.sum(given[..., None] >= (ys if inverse else xs)[..., 1:-1], axis=-1, keepdims=True)

        def left_and_right(a: jax.Array) -> tuple[jax.Array, jax.Array]:
            left, right = (jnp.take_along_axis(a, i, axis=-1)[..., 0] for i in (k, k + 1))
            return left, right

        x0, x1 = left_and_right(xs)
        y0, y1 = left_and_right(ys)
        d0, d1 = left_and_right(slopes)
        width, height = x1 - x0, y1 - y0
        s = height / width
        bend = d0 + d1 - 2 * s
        if inverse:  # eqs. 6 to 8: the root that stays exact as a goes to 0
            rise = given - y0
            a, b, c = height * (s - d0) + rise * bend, height * d0 - rise * bend, -s * rise
            root = jnp.sqrt(jnp.maximum(b**2 - 4 * a * c, 1e-30))
            xi = jnp.clip(-2 * c / (b + root), 0.0, 1.0)
        else:
            xi = (given - x0) / width
        both = xi * (1 - xi)
        denominator = s + bend * both
        # eq. 5
        slope = s**2 * (d1 * xi**2 + 2 * s * both + d0 * (1 - xi) ** 2) / denominator**2
        y = x0 + xi * width if inverse else y0 + height * (s * xi**2 + d0 * both) / denominator  # eq. 4
        log_slope = jnp.where(inside, jnp.log(slope), 0.0)
        return jnp.where(inside, y, x), -log_slope if inverse else log_slope


def logit(x: jax.Array, alpha: float, inverse: bool = False) -> tuple[jax.Array, jax.Array]:
    """log(s / (1 - s)) of s = alpha + (1 - 2 alpha) x for x in [0, 1], so that the modelled variable is not bounded:
    section 4.1 of arXiv:1605.08803. Returns (y, log |dy/dx|), elementwise."""
    scale = math.log1p(-2 * alpha)
    if inverse:
        return (jax.nn.sigmoid(x) - alpha) / (1 - 2 * alpha), jax.nn.log_sigmoid(x) + jax.nn.log_sigmoid(-x) - scale
    s = alpha + (1 - 2 * alpha) * x
    log_s, log_rest = jnp.log(s), jnp.log1p(-s)
    return log_s - log_rest, scale - log_s - log_rest


# --- rearrangements ----------------------------------------------------------------------------------------------


def checkerboard(height: int, width: int, odd: bool = False) -> np.ndarray:
    """bool[1, H, W, 1], True where row + column is even, or where it is odd if `odd`."""
    return (np.add.outer(np.arange(height), np.arange(width)) % 2 == odd)[None, :, :, None]


# --- LU-decomposed matrices --------------------------------------------------------------------------------------


def lu_matrix(parts: jax.Array, log_s: jax.Array) -> tuple[jax.Array, jax.Array]:
    """L: f32[C, C] with ones on its diagonal, and U: f32[C, C] with e^log_s on its diagonal. Their other elements are
    the two triangles of `parts`. W = L U has log |det W| = sum(log_s), section 3.2 of arXiv:1807.03039."""
    return jnp.tril(parts, -1) + jnp.eye(len(log_s)), jnp.triu(parts, 1) + jnp.diag(jnp.exp(log_s))


def lu_rotation(key: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """(parts, log_s) of a random orthogonal matrix.

    The P L U decomposition of a rotation has a permutation P and signs, which cannot be trained by gradient. Permuting
    the rows by P and flipping columns until the diagonal of U is positive leaves the matrix orthogonal; then it is L U.
    """
    rotation = jnp.linalg.qr(jax.random.normal(key, (size, size)))[0]
    _, lower, upper = jax.scipy.linalg.lu(rotation)
    diagonal = jnp.diagonal(upper)
    upper = upper * jnp.sign(diagonal)[None]
    return jnp.tril(lower, -1) + jnp.triu(upper, 1), jnp.log(jnp.abs(diagonal))


def lu_inverse(lower: jax.Array, upper: jax.Array) -> jax.Array:
    """(L U)^-1."""
    solve = jax.scipy.linalg.solve_triangular
    return solve(upper, solve(lower, jnp.eye(len(lower)), lower=True, unit_diagonal=True))


# --- autoregressive maps -----------------------------------------------------------------------------------------


def autoregressive_mask(degrees_in: np.ndarray, degrees_out: np.ndarray, strict: bool = False) -> np.ndarray:
    """f32[I, O]: 1 where output o may depend on input i, that is degree_out >= degree_in, or > if `strict` (the last
    layer). Eqs. 12 and 13 of arXiv:1502.03509."""
    see = np.greater if strict else np.greater_equal
    return see.outer(degrees_out, degrees_in).T.astype(np.float32)


FARTHEST = 1e15
"""Bound of elements while `fixed_point` iterates."""


def fixed_point(
    update: Callable[[jax.Array], jax.Array], start: jax.Array, tolerance: float, limit: int
) -> tuple[jax.Array, jax.Array]:
    """Solves x = update(x) by iteration: x: f32[B, D], and the number of passes that each row took, i32[B].

    If element d of `update` depends only on elements before d, the first k elements are exact after pass k from any
    start (Jacobi iteration, arXiv:2002.03629), so `limit` = D passes always suffice for solutions within `FARTHEST`. A
    row stops changing once none of its elements moves by more than tolerance (1 + |x|), so it does not depend on the
    other rows.
    """

    def unfinished(carry: tuple[jax.Array, ...]) -> jax.Array:
        _, active, _, i = carry
        return jnp.any(active) & (i < limit)

    def one_pass(carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        x, active, passes, i = carry
        # Elements that are not yet exact can grow by a factor a pass. Infinite ones would be NaN times a masked weight.
        new = jnp.clip(update(x), -FARTHEST, FARTHEST)
        moves = jnp.any(~(jnp.abs(new - x) <= tolerance * (1 + jnp.abs(new))), axis=-1)
        return jnp.where(active[:, None], new, x), active & moves, passes + active, i + 1

    rows = start.shape[:1]
    carry = (start, jnp.ones(rows, bool), jnp.zeros(rows, jnp.int32), jnp.zeros((), jnp.int32))
    x, _, passes, _ = jax.lax.while_loop(unfinished, one_pass, carry)
    return x, passes


def one_by_one(update: Callable[[jax.Array], jax.Array], start: jax.Array) -> jax.Array:
    """Solves x = update(x) in D passes, which set one element each: the definition of an autoregressive sampler. x:
    f32[B, D]."""

    def set_element(d: jax.Array, x: jax.Array) -> jax.Array:
        return x.at[:, d].set(update(x)[:, d])

    return jax.lax.fori_loop(0, start.shape[-1], set_element, start)
