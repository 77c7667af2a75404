"""Alignment of a diffusion transformer's tokens to features of a frozen network of clean pictures: REPA,
arXiv:2410.06940.

h_t: f32[B, N, C] the tokens after block n at x_t; y: f32[B, N, D] what the frozen network says of each patch of the
picture. The loss of diffusion gains lambda times

    -1/N sum_n cos(y_n, mlp(h_t)_n)                                                                            (eq. 8)

so that it reaches the blocks up to n alone. The mlp is not used in sampling. `runs.aligned` brings y beside x.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.ranges import Depth, NonNegative, Size
from jaxgen.core.types import Batch, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.nets.apply import apply
from jaxgen.nets.dense import Dense
from jaxgen.nets.dit import DiT
from jaxgen.ops.quantize import unit


@runtime_checkable
class MapsFeatures(Protocol):
    """Tells what is where in a picture, for other networks to be aligned to."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, C) of the pictures that its network sees."""
        ...

    def feature_map(self, state: TrainState, x: jax.Array) -> jax.Array:
        """Features f32[B, h, w, D] of the parts of pictures f32[B, *shape] in [-1, 1]. Raises UserError for a network
        that has no map of them."""
        ...


class Projector(nn.Module):
    """f32[B, N, C] -> f32[B, N, features]: three dense layers with SiLU between, as in appendix D."""

    hidden: int
    features: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        h = nn.silu(Dense(self.hidden, name="in")(tokens))
        h = nn.silu(Dense(self.hidden, name="middle")(h))
        return Dense(self.features, name="out")(h)


@dataclass(frozen=True)
class Alignment:
    """Settings of alignment, which needs a codec that brings features: `jaxgen.runs.aligned`."""

    weight: NonNegative = 0.0
    """lambda; 0 for none. 0.5 in the paper."""
    block: Depth = 2
    """n, whose output is aligned: 8 of 24 or 28 in the paper."""
    hidden: Size = 256
    """Channels of the mlp."""

    def check(self, network: Any, batch: Batch) -> None:
        """Raises UserError for a network without such tokens, and for data without features."""
        if not self.weight:
            return
        if not isinstance(network, DiT) or len(batch["x"].shape) != 4:
            raise UserError(
                f"model.align.weight is {self.weight}: tokens of a DiT for pictures are aligned, the network is a "
                f"{type(network).__name__}"
            )
        if self.block > network.depth:
            raise UserError(f"model.align.block is {self.block} of {network.depth} blocks: choose an earlier one")
        if "features" not in batch or len(batch["features"].shape) != 4:
            raise UserError(
                f"model.align.weight is {self.weight}, but nothing is there to be aligned to: give the experiment the "
                "codec jaxgen.runs.aligned.Aligned, which names a frozen run"
            )

    def init(self, key: jax.Array, width: int, features: jax.Array) -> PyTree:
        """Parameters of the mlp. width: C; features: f32[B, h, w, D]."""
        return Projector(self.hidden, features.shape[-1]).init(key, jnp.zeros((1, 1, width)))["params"]

    def loss(self, params: PyTree, tokens: jax.Array, grid: tuple[int, int], features: jax.Array) -> jax.Array:
        """lambda times eq. 8 of each example, f32[B]. params: of the mlp; tokens: f32[B, N, C] of a grid of so many
        rows and columns, to which features, f32[B, h, w, D], are interpolated where they have another."""
        batch, *size, channels = features.shape
        if tuple(size) != grid:
            features = jax.image.resize(features, (batch, *grid, channels), "linear")
        y = jax.lax.stop_gradient(features.reshape(batch, -1, channels).astype(jnp.float32))
        found = apply(Projector(self.hidden, channels), {"params": params}, tokens).astype(jnp.float32)
        return -self.weight * jnp.mean(jnp.sum(unit(y) * unit(found), axis=-1), axis=1)
