"""The flow map of Gaussian data, which is known, as a network: for tests of what learns or uses one."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen import core
from jaxgen.ops.schedules import Straight, expand

MEAN, STD = jnp.array([0.7, -1.2]), jnp.array([0.5, 1.4])


def keys():
    return core.sample_keys(0, 64)


def level(t, ndim=2):
    """Mean and standard deviation of z_t of Gaussian data, f32[B, 2]."""
    t = expand(t, ndim)
    return (1 - t) * MEAN[None], jnp.sqrt((1 - t) ** 2 * STD[None] ** 2 + t**2)


def carried(z, t, s):
    """Where the ODE leads from z at t until s: it keeps the number of standard deviations."""
    (mean, std), (mean_s, std_s) = level(t), level(s)
    return mean_s + std_s / std * (z - mean)


def velocity(z, t):
    """E[eps - x_0 | z_t = z]."""
    mean, std = level(t)
    slope = (expand(t, 2) - (1 - expand(t, 2)) * STD[None] ** 2) / std
    return -MEAN[None] + slope / std * (z - mean)


def average(z, t, span):
    """The exact average velocity."""
    short = expand(span, 2) < 1e-6
    moved = (z - carried(z, t, t - span)) / jnp.where(short, 1.0, expand(span, 2))
    return jnp.where(short, velocity(z, t), moved)


def drawn(num, seed=0):
    """z_t, t and spans up to t."""
    rng = np.random.default_rng(seed)
    t = jnp.asarray(rng.uniform(0.05, 1, num))
    mean, std = level(t)
    return mean + std * jnp.asarray(rng.normal(size=(num, 2))), t, t * jnp.asarray(rng.uniform(0.1, 1, num))


class Exact(nn.Module):
    """The exact average velocity times a gain that is 1 at first."""

    right: bool = True

    def check(self, shape):
        """Takes any shape."""

    @nn.compact
    def __call__(self, x, t, out, y=None, context=None, context_mask=None, train=False, span=None):
        gain = self.param("gain", nn.initializers.ones, ())
        assert span is not None
        return gain * average(x, t, span if self.right else jnp.zeros_like(t))


def exact(kind, right=True, **fields):
    return kind(shape=(2,), network=Exact(right), schedule=Straight(time_scale=1.0), **fields)


STATE = core.TrainState(
    step=jnp.zeros((), jnp.int32), params={"network": {"gain": jnp.float32(1)}}, opt_state={}, ema=None, extra={}
)
