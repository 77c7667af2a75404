"""Linear maps by which pictures lose something: what a posterior is given, y = A(x) + std noise.

x: f32[B, H, W, C] in [-1, 1]. Each map's weights sum to one, so that y is a picture in [-1, 1] as well. An adjoint
comes from `jax.linear_transpose`.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.ranges import Positive, Size
from jaxgen.errors import UserError

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey picture: ITU-R BT.601, as Pillow has them."""


class Degrade(Protocol):
    def __call__(self, x: jax.Array) -> jax.Array:
        """A(x), linear in x."""
        ...

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UserError for pictures of a shape (H, W, C) that cannot lose this."""
        ...


@dataclass(frozen=True)
class Noisy:
    """Nothing but noise."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return x

    def check(self, shape: tuple[int, ...]) -> None:
        pass


@dataclass(frozen=True)
class Grey:
    """Colours: f32[B, H, W, 1] is left, by `LUMA`."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.einsum("bhwc,c->bhw", x, jnp.asarray(LUMA, x.dtype), precision="highest")[..., None]

    def check(self, shape: tuple[int, ...]) -> None:
        if shape[-1] != 3:
            raise UserError(f"pictures of shape {shape} have no colours to lose: 3 channels are expected")


@dataclass(frozen=True)
class Small:
    """Resolution: f32[B, H / factor, W / factor, C], means over squares."""

    factor: Size = 4

    def __call__(self, x: jax.Array) -> jax.Array:
        height, width = x.shape[1] // self.factor, x.shape[2] // self.factor
        return jnp.mean(x.reshape(-1, height, self.factor, width, self.factor, x.shape[3]), axis=(2, 4))

    def check(self, shape: tuple[int, ...]) -> None:
        if self.factor < 2 or shape[0] % self.factor or shape[1] % self.factor:
            raise UserError(f"pictures of shape {shape} do not shrink by {self.factor}: choose a divisor of both sides")


@dataclass(frozen=True)
class Blurred:
    """Sharpness: a Gaussian of deviation `width` pixels, cut off at three of them, over pictures mirrored at edges."""

    width: Positive = 1.5

    def __call__(self, x: jax.Array) -> jax.Array:
        for axis in (1, 2):
            matrix = jnp.asarray(self.matrix(x.shape[axis]), x.dtype)
            x = jnp.moveaxis(jnp.tensordot(x, matrix, (axis, 1), precision="highest"), -1, axis)
        return x

    def matrix(self, size: int) -> np.ndarray:
        """float64[size, size]: the weight of each pixel of a line (columns) in each blurred one (rows)."""
        reach = min(math.ceil(3 * self.width), size - 1)
        offsets = np.arange(-reach, reach + 1)
        weights = np.exp(-0.5 * (offsets / self.width) ** 2)
        found = np.zeros((size, size))
        for row in range(size):
            at = np.abs(row + offsets)
            np.add.at(found[row], np.where(at < size, at, 2 * (size - 1) - at), weights / weights.sum())
        return found

    def check(self, shape: tuple[int, ...]) -> None:
        pass
