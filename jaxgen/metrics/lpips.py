"""Learned perceptual image patch similarity, arXiv:1801.03924, version 0.1.

    d(x, y) = sum_l mean_hw w_l . (f_l(x) - f_l(y))^2                                             (eq. 1)

where f_l is the l-th output of a trunk, scaled to unit length at each pixel, and w_l are the published heads.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.errors import UserError
from jaxgen.metrics.collect import Mean, Rows
from jaxgen.metrics.inputs import check_pair
from jaxgen.nets import alexnet, vgg
from jaxgen.weights.store import Weights

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's mean and standard deviation in [-1, 1]
EPSILON = 1e-10  # as in the published code, added to the length and not to its square
TRUNKS = {"lpips_alex": ("alexnet", alexnet.AlexNet(), alexnet.SMALLEST),
          "lpips_vgg": ("vgg16", vgg.VGG16(), vgg.SMALLEST)}  # fmt: skip


def _unit(f: jax.Array) -> jax.Array:
    """f scaled to length 1 over channels. 0 stays 0, with gradient 0, where a plain root would give NaN."""
    square = jnp.sum(f**2, axis=-1, keepdims=True)
    length = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    return f / (length + EPSILON)


def distance(trunk: Any, params: Any, heads: dict[str, jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
    """d(x, y): f32[B] of x, y: f32[B, H, W, 3] in [-1, 1], differentiable.

    trunk: a module that returns the list of outputs f_l, with its `params`. heads: `lin0` to `lin4`, f32[C] each.
    """
    both = jnp.concatenate([x, y])
    both = (both - jnp.asarray(SHIFT)[None, None, None]) / jnp.asarray(SCALE)[None, None, None]
    total = jnp.zeros(x.shape[0])
    for i, f in enumerate(trunk.apply({"params": params}, both)):
        a, b = jnp.split(_unit(f), 2)
        total += jnp.mean(jnp.sum((a - b) ** 2 * heads[f"lin{i}"][None, None, None], axis=-1), axis=(1, 2))
    return total


class LPIPS:
    """LPIPS between images, from the weights of the trunk (kind alexnet or vgg16) and of its heads."""

    def __init__(self, trunk: Weights, heads: Weights):
        """Raises UserError if the heads are not those of the trunk."""
        if heads.kind not in TRUNKS or TRUNKS[heads.kind][0] != trunk.kind:
            pairs = ", ".join(f"{name} with {kind}" for name, (kind, *_) in TRUNKS.items())
            raise UserError(f"heads {heads.kind} do not fit the trunk {trunk.kind}: use {pairs}")
        _, network, self.smallest = TRUNKS[heads.kind]
        self.name = heads.kind
        self.provenance = {"trunk": trunk.provenance, "heads": heads.provenance}
        self.params = jax.device_put((trunk.params, heads.params))
        self._distance = jax.jit(lambda params, x, y: distance(network, params[0], params[1], _signed(x), _signed(y)))

    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """d(x, y): f32[B] of x, y: uint8[B, H, W, 1 or 3]. Raises UserError for other or too small images."""
        return self._distance(self.params, *check_pair(x, y, self.smallest))


def _signed(x: jax.Array) -> jax.Array:
    """uint8 to f32 in [-1, 1]."""
    return x.astype(jnp.float32) / 127.5 - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class MeanLPIPS(Mean):
    """Mean LPIPS over pairs of images; `update(state, (x, y), mask)`."""

    metric: LPIPS
    name: str = "lpips"

    def update(self, state: Rows, pair: tuple[jax.Array, jax.Array], mask: jax.Array | None = None) -> Rows:
        return super().update(state, self.metric(*pair), mask)
