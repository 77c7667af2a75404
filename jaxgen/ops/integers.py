"""Integers modulo K, as f32: rounding with a gradient, angles for networks, and a distribution over them.

Modulo K, x + t for an integer t permutes the K values, and so do sums of vectors: K^D vectors have K^D images. The sums
of arXiv:1905.07376 are over all integers; those modulo K are of arXiv:1905.10347, section 4.1.
"""

import math

import jax
import jax.numpy as jnp

from jaxgen.ops.likelihood import soft_bound

BOUND = 7.0
"""Log scales of logistics are within +-BOUND of their start, smoothly."""


def round_through(x: jax.Array) -> jax.Array:
    """The nearest integers, with the gradient of x: the straight-through estimator, section 3.2 of arXiv:1905.07376."""
    return x + jax.lax.stop_gradient(jnp.round(x) - x)


def shifted(x: jax.Array | float, shift: jax.Array | float, levels: int) -> jax.Array:
    """(x + shift) mod levels, exact for integers x in [0, levels) and shift of any size. The gradient is that of the
    sum."""
    # A large shift plus x would not be exact in f32; its remainder is.
    return jnp.mod(x + jnp.mod(shift, levels), levels)


def on_circle(x: jax.Array, levels: int) -> jax.Array:
    """Cosine and sine of 2 pi x / levels, f32[..., 2 C] of f32[..., C]: neighbours modulo `levels` are near."""
    angle = (2 * math.pi / levels) * x
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


# --- a mixture of logistics on the circle ------------------------------------------------------------------------


def outputs(components: int) -> int:
    """Parameters of a mixture of so many components: log weights, means and log scales."""
    return 3 * components


def _split(params: jax.Array, levels: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """log weights, means and log scales in levels, f32[..., M] each. For params 0, components are spread evenly."""
    weight, mean, log_scale = jnp.split(params, 3, axis=-1)
    number = weight.shape[-1]
    start = (jnp.arange(number) + 0.5) * (levels / number)
    mean = levels / 2 * mean + start.reshape((1,) * (mean.ndim - 1) + (-1,))
    return jax.nn.log_softmax(weight), mean, soft_bound(log_scale, BOUND) + math.log(levels / 16)


def _log_mass(low: jax.Array, high: jax.Array, width: jax.Array) -> jax.Array:
    """log(sigmoid(high) - sigmoid(low)) where high = low + width, without a difference of nearly equal numbers."""
    return jax.nn.log_sigmoid(high) + jax.nn.log_sigmoid(-low) + jnp.log(-jnp.expm1(-width))


def log_mixture(params: jax.Array, x: jax.Array, levels: int) -> jax.Array:
    """log P(x) of integers x: f32[...] in [0, levels), f32[...]; params: f32[..., 3 M].

    A component is a discretized logistic (eq. 9 of arXiv:1905.07376) cut off half a turn from its mean on both sides:
    its masses of the `levels` integers of one turn are divided by their sum, which is in closed form.
    """
    weight, mean, log_scale = _split(params, levels)
    centre = jax.lax.stop_gradient(jnp.round(mean))
    first = -(levels // 2)
    # How far x is from the centre along the circle: an integer of [first, first + levels).
    steps = jnp.mod(x[..., None] - centre - first, levels) + first
    off, inverse = mean - centre, jnp.exp(-log_scale)

    def mass(low: jax.Array | float, number: int) -> jax.Array:
        """The log mass of `number` integers from `low` on."""
        start = (low - 0.5 - off) * inverse
        return _log_mass(start, start + number * inverse, number * inverse)

    return jax.nn.logsumexp(weight + mass(steps, 1) - mass(first, levels), axis=-1)


def draw_mixture(params: jax.Array, u_component: jax.Array, u: jax.Array, levels: int) -> jax.Array:
    """Integers in [0, levels), f32[...], by inverse distribution functions at uniform u_component and u: f32[...] in
    [0, 1)."""
    weight, mean, log_scale = _split(params, levels)
    below = jnp.sum(jnp.cumsum(jnp.exp(weight), axis=-1) <= u_component[..., None], axis=-1, keepdims=True)
    chosen = jnp.minimum(below, weight.shape[-1] - 1)
    mean, log_scale = (jnp.take_along_axis(a, chosen, axis=-1)[..., 0] for a in (mean, log_scale))
    centre = jnp.round(mean)
    first, scale = -(levels // 2), jnp.exp(log_scale)
    ends = [jax.nn.sigmoid((end - 0.5 - (mean - centre)) / scale) for end in (first, first + levels)]
    share = jnp.clip(ends[0] + u * (ends[1] - ends[0]), 1e-7, 1 - 1e-7)
    steps = jnp.round(mean - centre + scale * (jnp.log(share) - jnp.log1p(-share)))
    return jnp.mod(centre + jnp.clip(steps, first, first + levels - 1), levels)
