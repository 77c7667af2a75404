"""Integers modulo K, as f32: sums, what networks see of them, and a distribution over them.

Modulo K, x + t for an integer t permutes the K values, and so do sums of vectors: K^D vectors have K^D images. The sums
of arXiv:1905.07376 are over all integers; those modulo K are of arXiv:1905.10347, section 4.1.
"""

import math

import jax
import jax.numpy as jnp

from jaxgen.ops.likelihood import soft_bound

BOUND = 7.0
"""Log scales of logistics are within +-BOUND of their start, smoothly."""
STRETCH = 8.0
"""Shifts are within +-sinh(STRETCH), 1,490 levels."""


def shifted(x: jax.Array | float, shift: jax.Array | float, levels: int) -> jax.Array:
    """(x + shift) mod levels, exact for integers x in [0, levels) and shift of any size. The gradient is that of the
    sum."""
    # A large shift plus x would not be exact in f32; its remainder is.
    return jnp.mod(x + jnp.mod(shift, levels), levels)


def stretched(x: jax.Array) -> jax.Array:
    """sinh x, bounded: levels of a network's output. At 0 a unit is a level, so that small outputs round to none; 6.9
    is half a turn of 256."""
    return jnp.sinh(soft_bound(x, STRETCH))


def features(x: jax.Array, levels: int) -> jax.Array:
    """What networks see of levels, f32[..., 3 C] of f32[..., C]: cosine and sine of 2 pi x / levels, by which
    neighbours modulo `levels` are near, and x on [-1, 1), by which black and white are far."""
    angle = (2 * math.pi / levels) * x
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle), x * (2 / levels) - 1], axis=-1)


# --- a mixture of logistics on the circle, and of frequencies ----------------------------------------------------


def outputs(components: int) -> int:
    """Parameters of a mixture of so many logistics and of frequencies: log weights, means and log scales."""
    return 3 * components + 1


def _split(params: jax.Array, levels: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """log weights f32[..., M + 1], that of frequencies first, means and log scales in levels, f32[..., M] each. For
    params 0, frequencies have half of the weight, and logistics are spread evenly."""
    number = (params.shape[-1] - 1) // 3
    weight, mean, log_scale = jnp.split(params, [number + 1, 2 * number + 1], axis=-1)
    ahead = jnp.zeros(number + 1).at[0].set(math.log(number))
    start = (jnp.arange(number) + 0.5) * (levels / number)
    along = (1,) * (mean.ndim - 1) + (-1,)
    mean = levels / 2 * mean + start.reshape(along)
    return (
        jax.nn.log_softmax(weight + ahead.reshape(along)),
        mean,
        soft_bound(log_scale, BOUND) + math.log(levels / 16),
    )


def _log_mass(low: jax.Array, high: jax.Array, width: jax.Array) -> jax.Array:
    """log(sigmoid(high) - sigmoid(low)) where high = low + width, without a difference of nearly equal numbers."""
    return jax.nn.log_sigmoid(high) + jax.nn.log_sigmoid(-low) + jnp.log(-jnp.expm1(-width))


def log_mixture(params: jax.Array, x: jax.Array, frequencies: jax.Array) -> jax.Array:
    """log P(x) of integers x: f32[...] in [0, K), f32[...]; params: f32[..., 3 M + 1]; frequencies: f32[K], logits.

    P(x) = w_0 softmax(frequencies)_x + sum_i w_i L_i(x). L_i is a discretized logistic (eq. 9 of arXiv:1905.07376) cut
    off half a turn from its mean on both sides: its masses of the K integers of one turn are divided by their sum,
    which is in closed form. The frequencies are for levels that are common everywhere, as a picture's ground: a
    logistic would have to be narrower than a level, and its mean exact to a fraction of one.
    """
    levels = len(frequencies)
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

    common = jax.nn.log_softmax(frequencies)[x.astype(jnp.int32)][..., None]
    logistics = mass(steps, 1) - mass(first, levels)
    common = jnp.broadcast_to(common, (*logistics.shape[:-1], 1))
    return jax.nn.logsumexp(weight + jnp.concatenate([common, logistics], axis=-1), axis=-1)


def draw_mixture(params: jax.Array, u_component: jax.Array, u: jax.Array, frequencies: jax.Array) -> jax.Array:
    """Integers in [0, K), f32[...], by inverse distribution functions at uniform u_component and u: f32[...] in
    [0, 1)."""
    levels = len(frequencies)
    weight, mean, log_scale = _split(params, levels)
    below = jnp.sum(jnp.cumsum(jnp.exp(weight), axis=-1) <= u_component[..., None], axis=-1, keepdims=True)
    chosen = jnp.clip(below - 1, 0, mean.shape[-1] - 1)
    mean, log_scale = (jnp.take_along_axis(a, chosen, axis=-1)[..., 0] for a in (mean, log_scale))
    centre = jnp.round(mean)
    first, scale = -(levels // 2), jnp.exp(log_scale)
    ends = [jax.nn.sigmoid((end - 0.5 - (mean - centre)) / scale) for end in (first, first + levels)]
    share = jnp.clip(ends[0] + u * (ends[1] - ends[0]), 1e-7, 1 - 1e-7)
    steps = jnp.round(mean - centre + scale * (jnp.log(share) - jnp.log1p(-share)))
    drawn = jnp.mod(centre + jnp.clip(steps, first, first + levels - 1), levels)
    ups = jnp.cumsum(jax.nn.softmax(frequencies))[:-1]
    common = jnp.searchsorted(ups, u, side="right").astype(drawn.dtype)
    return jnp.where(below[..., 0] == 0, common, drawn)
