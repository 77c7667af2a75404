"""Quantizers whose codes are implicit, a grid or the corners of a cube: FSQ, arXiv:2309.15505, and LFQ of MAGVIT-v2,
arXiv:2310.05737. No code is learnt, restarted or looked up.

z: f32[..., D] outputs of an encoder; q: f32[..., D] in [-1, 1] its code; indices: i32[...] in [0, K).
"""

import math
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Le, MinLen

from jaxgen.core.ranges import NonNegative, Positive, Size
from jaxgen.ops.quantize import Found, Quantizer

MOST = 1 << 18
"""Codes at most: as many as MAGVIT-v2 has."""


@dataclass(frozen=True)
class FSQ(Quantizer):
    """Each of D numbers is bounded and rounded to one of `levels[i]` values, evenly spaced: K is their product. The
    digits of an index to these bases, the first one lowest, are the values."""

    levels: Annotated[tuple[Annotated[int, Ge(2), Le(1024)], ...], MinLen(1)] = (8, 5, 5, 5)
    """Table 1 recommends (8, 6, 5) in the place of 2^8 codes, (8, 5, 5, 5) of 2^10, (7, 5, 5, 5, 5) of 2^12, (8, 8, 8,
    6, 5) of 2^14 and (8, 8, 8, 5, 5, 5) of 2^16; of fewer than 5 levels little is gained."""

    def problem(self) -> str | None:
        return f"levels make {self.size:,} codes: {MOST:,} at most" if self.size > MOST else None

    @property
    def size(self) -> int:
        return math.prod(self.levels)

    @property
    def dim(self) -> int:
        return len(self.levels)

    @property
    def _half(self) -> np.ndarray:
        """Of each number, the steps from 0 to its lowest value, i64[D]."""
        return np.asarray(self.levels) // 2

    @property
    def _bases(self) -> np.ndarray:
        """Of each number, what a step adds to the index, i64[D]."""
        return np.cumprod([1, *self.levels[:-1]])

    def compared(self, z: jax.Array) -> jax.Array:
        """z bounded by a tanh to (-1, 1), so that rounding gives each level, and f(0) near 0: appendix A.1. Of an even
        number of levels, one more is below 0 than above."""
        levels = np.asarray(self.levels)
        scale, offset = (levels - 1) * (1 - 1e-3) / 2, np.where(levels % 2, 0.0, 0.5)
        shift = np.tan(offset / scale)
        rows = [_row(a, z.ndim) for a in (shift, scale, offset, self._half)]
        shift, scale, offset, half = rows
        return (jnp.tanh(z.astype(jnp.float32) + shift) * scale - offset) / half

    def near(self, codes: jax.Array, z: jax.Array) -> Found:
        half, levels, bases = (_row(a, z.ndim) for a in (self._half, self.levels, self._bases))
        digits = jnp.clip(jnp.round(z * half) + half, 0, levels - 1)
        return Found(z, digits / half - 1, jnp.sum(digits * bases, axis=-1).astype(jnp.int32))

    def vectors(self, indices: jax.Array) -> jax.Array:
        digits = indices[..., None] // self._bases.reshape((1,) * indices.ndim + (-1,))
        digits = digits % np.asarray(self.levels).reshape((1,) * indices.ndim + (-1,))
        return digits / _row(self._half, digits.ndim) - 1


@dataclass(frozen=True)
class LFQ(Quantizer):
    """The sign of each of `bits` numbers, 1 or -1 (0 is -1): K = 2^bits, and bit i of an index is set where number i is
    positive.

    The loss is beta |z - sg(q)|^2 + entropy (E[H(p(z))] - diversity H(E[p(z)])), eq. 5: each vector is sure of its
    code, and all codes are used. p(z)_k is proportional to exp(-|z - c_k|^2 / temperature), so that bits are
    independent given z, each 1 with probability sigmoid(4 z_i / temperature). The mean is over a batch, or its part if
    gradients are accumulated.
    """

    bits: Annotated[int, Ge(1), Le(18)] = 10
    commitment: NonNegative = 0.25
    """beta, of the mean over numbers."""
    entropy: NonNegative = 0.1
    """Weight of the entropies, in nats."""
    diversity: NonNegative = 1.0
    temperature: Positive = 1.0
    group: Annotated[Size, Le(12)] = 10
    """Bits whose distribution over a batch is computed as one, of 2^group probabilities a vector. Of more bits the
    entropy of each group is added, which bounds that of all from above."""

    @property
    def size(self) -> int:
        return 1 << self.bits

    @property
    def dim(self) -> int:
        return self.bits

    def near(self, codes: jax.Array, z: jax.Array) -> Found:
        bits = z > 0
        indices = jnp.sum(bits * (1 << np.arange(self.bits)).reshape((1,) * (z.ndim - 1) + (-1,)), axis=-1)
        return Found(z, jnp.where(bits, 1.0, -1.0), indices.astype(jnp.int32))

    def vectors(self, indices: jax.Array) -> jax.Array:
        bits = indices[..., None] >> np.arange(self.bits).reshape((1,) * indices.ndim + (-1,))
        return jnp.where(bits & 1, 1.0, -1.0)

    def entropies(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """E[H(p(z))] and H(E[p(z)]) in nats over the vectors z: f32[..., bits]."""
        logits = 4 / self.temperature * z.reshape(-1, self.bits)
        log_p, log_q = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
        p = jnp.exp(log_p)
        each = -jnp.mean(jnp.sum(p * log_p + (1 - p) * log_q, axis=1))
        whole = jnp.zeros(())
        for first in range(0, self.bits, self.group):
            joint = jnp.ones((len(p), 1))
            for i in range(first, min(first + self.group, self.bits)):
                own = jnp.stack([1 - p[:, i], p[:, i]], axis=1)
                joint = (own[:, :, None] * joint[:, None]).reshape(len(p), -1)
            mean = jnp.mean(joint, axis=0)
            whole -= jnp.sum(mean * jnp.log(mean + 1e-12))
        return each, whole

    def loss(self, found: Found) -> jax.Array:
        loss = self.commitment * jnp.mean((found.z - jax.lax.stop_gradient(found.q)) ** 2)
        if not self.entropy:
            return loss
        each, whole = self.entropies(found.z)
        return loss + self.entropy * (each - self.diversity * whole)


def _row(values: object, ndim: int) -> jax.Array:
    """Numbers f32[1, ..., D] beside an array of so many axes."""
    return jnp.asarray(np.asarray(values), jnp.float32).reshape((1,) * (ndim - 1) + (-1,))
