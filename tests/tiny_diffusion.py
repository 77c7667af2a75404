"""A diffusion model of a linear network, for tests of what is told to it and what is done with its answers, and one of
a small U-Net."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen.models.ddpm import DDPM
from jaxgen.nets.unet import UNet, time_embedding
from jaxgen.ops.samplers import DDIM
from jaxgen.ops.schedules import Linear

CALLS: list[tuple[int, ...]] = []


class Tiny(nn.Module):
    """A linear map of x, time and class at each position; notes the shape it was traced with."""

    def check(self, shape):
        """Takes any shape."""

    @nn.compact
    def __call__(self, x, t, out, y=None, context=None, train=False):
        CALLS.append(x.shape)
        everywhere = (-1, *[1] * (x.ndim - 2), out)
        h = nn.Dense(out, name="x")(x) + nn.Dense(out, name="t")(time_embedding(t, 8)).reshape(everywhere)
        return h if y is None else h + nn.Dense(out, use_bias=False, name="y")(y).reshape(everywhere)


MODEL = DDPM(
    network=Tiny(), schedule=Linear(100), sampler=DDIM(5, clip=0.0), shape=(4, 2), num_classes=3, class_dropout=0.5,
    ema_decay=0.0,
)  # fmt: skip
IMAGES = DDPM(
    network=UNet(width=8, mults=(1, 2), blocks=1, attention=()), schedule=Linear(100), shape=(4, 4, 1), num_classes=3,
    ema_decay=0.0,
)  # fmt: skip
BATCH = {"x": jnp.zeros((6, 4, 2)), "cond": jnp.array([0, 1, 2, 0, 1, 2])}


def state_of(model, batch=BATCH, seed=0):
    """A state of random parameters, as layers that start at zero would hide what they are told."""
    state = jax.jit(model.init)(jax.random.key(0), batch)
    rng = np.random.default_rng(seed)
    random = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape) * 0.3, jnp.float32), state.params)
    return state.replace(params=random)


LABELS, NULL = jnp.array([0, 1, 2]), jnp.full(3, -1, jnp.int32)
