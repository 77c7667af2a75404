"""Radiance fields: (x, d, var) -> sigma: f32[...], rgb: f32[..., 3] in [0, 1].

x: f32[..., 3], positions in [-1, 1]^3; d: f32[..., 3], unit viewing directions; var: f32[..., 3] or None, variances of
the part of a pixel's cone around x. sigma >= 0 is the density per unit length of the scene.
"""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import Ge, Le
from flax import linen as nn

from jaxgen.core.ranges import Depth, OptionalDepth, Size
from jaxgen.nets.dense import Dense
from jaxgen.ops.encodings import frequencies, integrated_frequencies


class NeRFMLP(nn.Module):
    """The network of arXiv:2003.08934, figure 7: density depends on position, colour on position and direction."""

    depth: Depth = 8
    width: Size = 256
    skip: OptionalDepth = 5
    """The layer to whose output the encoded position is concatenated again; 0 for none."""
    position_frequencies: Annotated[int, Ge(0), Le(64)] = 10
    """Frequencies of the encoding of positions."""
    direction_frequencies: Annotated[int, Ge(0), Le(64)] = 4
    view_dependent: bool = True
    """Whether the colour of a point depends on the direction that it is seen from."""
    shift: float = -1.0
    """Added before the softplus that gives the density. A ReLU instead could start at 0 over the whole scene, and would
    then stay there."""
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, d: jax.Array, var: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        position = encode_position(x, var, self.position_frequencies)
        h = position
        for layer in range(1, self.depth + 1):
            h = nn.relu(Dense(self.width, dtype=self.dtype)(h))
            if layer == self.skip and layer < self.depth:
                h = jnp.concatenate([h, position.astype(h.dtype)], axis=-1)
        raw = Dense(1, dtype=self.dtype, name="density")(h)[..., 0]
        sigma = nn.softplus(raw.astype(jnp.float32) + self.shift)
        h = Dense(self.width, dtype=self.dtype, name="feature")(h)
        return sigma, Colour((self.width // 2,), self.direction_frequencies, self.dtype)(
            h, d if self.view_dependent else None
        )


class Colour(nn.Module):
    """Colours f32[..., 3] in [0, 1] from features [..., F] and directions f32[..., 3], or from features alone."""

    hidden: tuple[Size, ...] = (128,)
    frequencies: Annotated[int, Ge(0), Le(64)] = 4
    dtype: Any = None

    @nn.compact
    def __call__(self, features: jax.Array, d: jax.Array | None) -> jax.Array:
        h = features
        if d is not None:
            direction = jnp.concatenate([d, frequencies(d, self.frequencies)], axis=-1)
            h = jnp.concatenate([features, direction.astype(features.dtype)], axis=-1)
        for width in self.hidden:
            h = nn.relu(Dense(width, dtype=self.dtype)(h))
        return nn.sigmoid(Dense(3, dtype=self.dtype)(h).astype(jnp.float32))


class ProposalMLP(nn.Module):
    """A density alone, which proposes where to sample (arXiv:2111.12077, section 3); the colour is black."""

    depth: Depth = 4
    width: Size = 256
    frequencies: Annotated[int, Ge(0), Le(64)] = 10
    shift: float = -1.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, d: jax.Array, var: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        h = encode_position(x, var, self.frequencies)
        for _ in range(self.depth):
            h = nn.relu(Dense(self.width, dtype=self.dtype)(h))
        raw = Dense(1, dtype=self.dtype)(h)[..., 0]
        return nn.softplus(raw.astype(jnp.float32) + self.shift), jnp.zeros(x.shape)


def encode_position(x: jax.Array, var: jax.Array | None, num: int) -> jax.Array:
    """x and its encoding at `num` frequencies, f32[..., 3 + 6 * num]; the integrated encoding if var is given."""
    waves = frequencies(x, num) if var is None else integrated_frequencies(x, var, num)
    return jnp.concatenate([x, waves], axis=-1)
