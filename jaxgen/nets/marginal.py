"""A flow behind the Gaussianization of pixels' marginal distribution."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.scipy.special import ndtr, ndtri
from jax.scipy.stats import norm

from jaxgen.core.ranges import Size
from jaxgen.nets.flows import Context, Mapped, sum_each

LEAST = 1e-5
"""The least mass of a level, so that f32 still tells points within it apart."""
EDGE = 1e-7
"""How near F comes to 0 and 1, where z would be infinite."""


class Marginal(nn.Module):
    """`flow` of z = Phi^-1(F(x)), where F is the distribution function of each channel's pixels, linear within each of
    2^bits levels: the marginal Gaussianization of section 3.1 of arXiv:2003.01941.

    x: f32[B, H, W, C] in [-1/2, 1/2), as `Flow` gives it. F starts as that of the batch of initialization and is
    trained. Why: in most images one level is far more frequent than others. Within it x is uniform over 2^-bits, which
    couplings must otherwise learn to stretch by hundreds, at some pixels only; here it fills most of a Gaussian.
    """

    flow: nn.Module
    bits: Size = 8

    @nn.compact
    def __call__(self, x: jax.Array, context: Context = None, inverse: bool = False) -> Mapped:
        levels, channels = 2**self.bits, x.shape[-1]

        def level_of(x: jax.Array) -> jax.Array:
            return jnp.clip(jnp.floor((x + 0.5) * levels), 0, levels - 1).astype(jnp.int32)

        def log_slope(here: jax.Array, z: jax.Array) -> jax.Array:
            return sum_each(math.log(levels) + jnp.log(here) - norm.logpdf(z))

        def start(_: jax.Array) -> jax.Array:
            counts = jnp.ones((channels, levels)).at[jnp.arange(channels), level_of(x)].add(1.0)
            return jnp.log(counts / jnp.mean(counts, axis=-1, keepdims=True))

        mass = LEAST + (1 - levels * LEAST) * jax.nn.softmax(self.param("log_mass", start))
        below = jnp.concatenate([jnp.zeros((channels, 1)), jnp.cumsum(mass, axis=-1)[:, :-1]], axis=-1)
        channel = jnp.arange(channels)
        if inverse:
            z, logdet = self.flow(x, context, True)
            under = ndtr(z)
            search = partial(jnp.searchsorted, side="right")
            level = jax.vmap(search, in_axes=(0, -1), out_axes=-1)(below[:, 1:], under)
            here = mass[channel, level]
            inside = jnp.clip((under - below[channel, level]) / here, 0, 0.9999)
            return (level + inside) / levels - 0.5, logdet - log_slope(here, z)
        level = level_of(x)
        here = mass[channel, level]
        z = ndtri(jnp.clip(below[channel, level] + ((x + 0.5) * levels - level) * here, EDGE, 1 - EDGE))
        y, logdet = self.flow(z, context, False)
        return y, logdet + log_slope(here, z)
