"""Fields of density and colour: (x, d, var) -> sigma f32[...], rgb f32[..., 3] in [0, 1].

x: f32[..., 3] places in [-1, 1]^3, d: f32[..., 3] directions of length one that they are looked at along, var: the
variances f32[..., 3] of what a pixel sees there, or None. sigma is not negative, per unit of the scene's length.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.nets.dense import Dense
from jaxgen.ops.encodings import frequencies, integrated_frequencies


class NeRFMLP(nn.Module):
    """The network of arXiv:2003.08934, figure 7: density of the place alone, colour of place and direction."""

    depth: int = 8
    width: int = 256
    skip: int = 5
    """The layer to whose activation the encoded place is given once more; 0 for none."""
    position_frequencies: int = 10
    """Apart from those of directions: a layer made for one number and given the other does not fit."""
    direction_frequencies: int = 4
    shift: float = -1.0
    """Added before the softplus that makes a density. A ReLU that is 0 all over a scene at the start would stay so."""
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, d: jax.Array, var: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        place = encoded(x, var, self.position_frequencies)
        h = place
        for layer in range(1, self.depth + 1):
            h = nn.relu(Dense(self.width, dtype=self.dtype)(h))
            if layer == self.skip and layer < self.depth:
                h = jnp.concatenate([h, place.astype(h.dtype)], axis=-1)
        raw = Dense(1, dtype=self.dtype, name="density")(h)[..., 0]
        sigma = nn.softplus(raw.astype(jnp.float32) + self.shift)
        h = Dense(self.width, dtype=self.dtype, name="feature")(h)
        return sigma, Colour((self.width // 2,), self.direction_frequencies, self.dtype)(h, d)


class Colour(nn.Module):
    """Features [..., F] and directions f32[..., 3] to colours f32[..., 3] in [0, 1]."""

    hidden: tuple[int, ...] = (128,)
    frequencies: int = 4
    dtype: Any = None

    @nn.compact
    def __call__(self, features: jax.Array, d: jax.Array) -> jax.Array:
        direction = jnp.concatenate([d, frequencies(d, self.frequencies)], axis=-1)
        h = jnp.concatenate([features, direction.astype(features.dtype)], axis=-1)
        for width in self.hidden:
            h = nn.relu(Dense(width, dtype=self.dtype)(h))
        return nn.sigmoid(Dense(3, dtype=self.dtype)(h).astype(jnp.float32))


class ProposalMLP(nn.Module):
    """Densities alone, to find out where samples are wanted (arXiv:2111.12077, section 3); the colour is black."""

    depth: int = 4
    width: int = 256
    frequencies: int = 10
    shift: float = -1.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, d: jax.Array, var: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        h = encoded(x, var, self.frequencies)
        for _ in range(self.depth):
            h = nn.relu(Dense(self.width, dtype=self.dtype)(h))
        raw = Dense(1, dtype=self.dtype)(h)[..., 0]
        return nn.softplus(raw.astype(jnp.float32) + self.shift), jnp.zeros(x.shape)


def encoded(x: jax.Array, var: jax.Array | None, num: int) -> jax.Array:
    """A place, and its frequencies: f32[..., 3 + 6 * num]; integrated where there are variances."""
    waves = frequencies(x, num) if var is None else integrated_frequencies(x, var, num)
    return jnp.concatenate([x, waves], axis=-1)
