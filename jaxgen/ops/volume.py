"""Volume rendering of rays (section 4 of arXiv:2003.08934), with step functions along each ray (arXiv:2111.12077).

Each of B rays has N intervals with the increasing edges t: f32[B, N+1] in units of length; delta are their widths, and
s in [0, 1] are the same edges as fractions of the way from near to far. sigma: f32[B, N] are densities, tau = sigma
delta optical depths, T transmittances, and w = T (1 - exp(-tau)) weights. All in f32: in bf16, a transmittance of 0.999
is 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core.keys import uniform_each

MAX_TAU = 1e3  # opaque, as exp(-1000) is 0; sums of such depths stay finite
FLOOR = 1e-5  # least weight of an interval in resampling: a region that looks empty may hold something
PADDING = 0.01  # the same for cones, alpha of arXiv:2103.13415


class Rendered(NamedTuple):
    """The rendering of rays. rgb: f32[B, 3]. depth: f32[B], the mean distance at which the ray is stopped, in units of
    t. opacity: f32[B] in [0, 1]."""

    rgb: jax.Array
    depth: jax.Array
    opacity: jax.Array


def stratified(rays: int, num: int, keys: jax.Array | None = None) -> jax.Array:
    """Edges s: f32[rays, num + 1] of `num` intervals from 0 to 1. They are evenly spaced or, with a key for each ray,
    each moved at random by up to half a width."""
    place = jnp.arange(num + 1, dtype=jnp.float32)[None]
    if keys is not None:
        place = place + uniform_each(keys, (num + 1,), -0.5, 0.5)
    return jnp.broadcast_to(jnp.clip(place, 0, num) / num, (rays, num + 1))


def distances(s: jax.Array, near: jax.Array, far: jax.Array, disparity: bool = False) -> jax.Array:
    """Distances t for the fractions s: f32[B, N] of rays from near to far, f32[B] each. Linear in t, or with
    `disparity` in 1 / t, for unbounded scenes."""
    near, far = near[:, None], far[:, None]
    return 1 / ((1 - s) / near + s / far) if disparity else near + (far - near) * s


def weights(sigma: jax.Array, delta: jax.Array) -> jax.Array:
    """w: f32[B, N], the fraction of the light that comes from each interval, eq. 3 of arXiv:2003.08934. The weights are
    non-negative and sum to at most one."""
    tau = jnp.minimum(sigma.astype(jnp.float32) * delta, MAX_TAU)
    # log T is a cumulative sum of tau, which is accurate where a product of 1 - alpha would round to one.
    log_t = -jnp.cumsum(jnp.pad(tau, ((0, 0), (1, 0)))[:, :-1], axis=-1)
    return -jnp.expm1(-tau) * jnp.exp(log_t)


def composite(w: jax.Array, rgb: jax.Array, t: jax.Array, background: jax.Array) -> Rendered:
    """Renders intervals with weights w: f32[B, N] and colours rgb: f32[B, N, 3] in front of a background
    f32[B or 1, 3]. t: f32[B, N+1]."""
    opacity = jnp.sum(w, axis=-1)
    seen = jnp.sum(w[..., None] * rgb, axis=1) + (1 - opacity)[:, None] * background
    middle = (t[:, 1:] + t[:, :-1]) / 2
    # The depth of a ray that meets nothing is its end.
    met = opacity > 1e-3
    depth = jnp.where(met, jnp.sum(w * middle, axis=-1) / jnp.where(met, opacity, 1.0), t[:, -1])
    return Rendered(seen, depth, opacity)


def resample(s: jax.Array, w: jax.Array, num: int, keys: jax.Array | None = None) -> jax.Array:
    """f32[B, num] increasing positions in [s_0, s_N], distributed like the step function w on the edges s: section 5.2
    of arXiv:2003.08934. The cdf is inverted at evenly spaced quantiles or, with a key for each ray, at stratified
    random ones."""
    pdf = w + FLOOR
    pdf = pdf / jnp.sum(pdf, axis=-1, keepdims=True)
    cdf = jnp.pad(jnp.minimum(jnp.cumsum(pdf, axis=-1), 1.0), ((0, 0), (1, 0)))
    cdf = cdf.at[:, -1].set(1.0)
    offset = 0.5 if keys is None else uniform_each(keys, (num,))
    u = jnp.broadcast_to((jnp.arange(num, dtype=jnp.float32)[None] + offset) / num, (len(s), num))
    above = jnp.clip(_search(cdf, u, "right"), 1, s.shape[-1] - 1)

    def at(a: jax.Array, index: jax.Array) -> jax.Array:
        return jnp.take_along_axis(a, index, axis=-1)

    low, high = at(cdf, above - 1), at(cdf, above)
    part = jnp.clip((u - low) / jnp.maximum(high - low, 1e-12), 0, 1)
    start = at(s, above - 1)
    return jax.lax.stop_gradient(start + part * (at(s, above) - start))


def blurred(w: jax.Array) -> jax.Array:
    """Widens weights before resampling: a maximum over neighbouring pairs, then a mean over neighbouring pairs, and a
    floor under all, eq. 18 of arXiv:2103.13415."""
    w = jnp.pad(w, ((0, 0), (1, 1)), mode="edge")
    larger = jnp.maximum(w[:, :-1], w[:, 1:])
    return (larger[:, :-1] + larger[:, 1:]) / 2 + PADDING


def interlevel(s: jax.Array, w: jax.Array, s_prop: jax.Array, w_prop: jax.Array) -> jax.Array:
    """Loss f32[B] of a proposal: how far the weights w on the edges s exceed the upper bound given by the proposal's
    weights w_prop on the edges s_prop, eq. 13 of arXiv:2111.12077. Only the proposal receives a gradient."""
    s, w = jax.lax.stop_gradient((s, w))
    total = jnp.pad(jnp.cumsum(w_prop, axis=-1), ((0, 0), (1, 0)))
    last = s_prop.shape[-1] - 1
    first = jnp.clip(_search(s_prop, s[:, :-1], "right") - 1, 0, last)
    end = jnp.clip(_search(s_prop, s[:, 1:], "left"), 0, last)
    bound = jnp.take_along_axis(total, end, axis=-1) - jnp.take_along_axis(total, first, axis=-1)
    return jnp.sum(jnp.maximum(w - bound, 0) ** 2 / (w + 1e-7), axis=-1)


def distortion(s: jax.Array, w: jax.Array) -> jax.Array:
    """Loss f32[B]: the mean distance between two points drawn from a ray's weights, eq. 15 of arXiv:2111.12077, in
    O(N). It is small where the weight is concentrated."""
    middle, width = (s[:, 1:] + s[:, :-1]) / 2, s[:, 1:] - s[:, :-1]
    # Sums over the intervals before each; the factor 2 is for the pairs in the other order.
    before, moment = (jnp.cumsum(a, axis=-1) - a for a in (w, w * middle))
    between = 2 * jnp.sum(w * (middle * before - moment), axis=-1)
    return between + jnp.sum(w**2 * width, axis=-1) / 3


def _search(edges: jax.Array, values: jax.Array, side: str) -> jax.Array:
    """i32[B, M]: for each of values f32[B, M], how many of edges f32[B, N] in its row are below it, or not above it if
    `side` is "right"."""

    # All comparisons at once: N is about a hundred, and a binary search would gather seven times.
    def one(row: jax.Array, value: jax.Array) -> jax.Array:
        return jnp.searchsorted(row, value, side=side, method="compare_all")

    return jax.vmap(one)(edges, values)
