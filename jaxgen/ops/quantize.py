"""Vector quantization, arXiv:1711.00937: the nearest of K codes, the gradient through it, and how codes are learnt.

z: f32[..., D] are the vectors to quantize; codes: f32[K, D]; q: f32[..., D] the code nearest to each z; indices:
i32[...] the index of that code. Sums over vectors are over the whole batch, on all devices of the mesh.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import Ge, Le
from flax import struct

from jaxgen.core.ranges import Decay, NonNegative, OptionalDepth, Size

EPSILON = 1e-5  # the count that Laplace smoothing adds to each code
LARGEST = 1e30  # a squared distance larger than any: the first seed is drawn uniformly
LATELY = 100  # steps within which a code must have been chosen to count as used


def unit(x: jax.Array) -> jax.Array:
    """x scaled to length 1 over its last axis. 0 stays 0, with a finite gradient."""
    return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-12)


def nearest(z: jax.Array, codes: jax.Array) -> jax.Array:
    """argmin_k |z - codes_k|, i32[...]; the first one of a tie."""
    # f32 at full precision: with bf16 distances 4.5 % of the codes were wrong.
    z, codes = z.astype(jnp.float32), codes.astype(jnp.float32)
    product = jnp.einsum("...d,kd->...k", z, codes, precision=jax.lax.Precision.HIGHEST)
    square = jnp.sum(codes**2, axis=-1).reshape((1,) * (z.ndim - 1) + (-1,))
    return jnp.argmin(square - 2 * product, axis=-1).astype(jnp.int32)  # |z|^2 is the same for all


def straight_through(z: jax.Array, q: jax.Array) -> jax.Array:
    """q, with the straight-through gradient: z receives the gradient of q unchanged. Section 3.2."""
    return z + jax.lax.stop_gradient(q - z)


def tally(z: jax.Array, indices: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """For each code, how many of z: f32[N, D] chose it, f32[K], and the sum of those, f32[K, D]."""
    # A matrix product, as a scatter-add on a GPU sums in no fixed order.
    chosen = jax.nn.one_hot(indices, size)
    return jnp.sum(chosen, axis=0), jnp.einsum("nk,nd->kd", chosen, z, precision=jax.lax.Precision.HIGHEST)


def perplexity(uses: jax.Array) -> jax.Array:
    """exp of the entropy of the codes' frequencies, f32[], from counts f32[K]: K if all are used equally, 1 if only one
    is used."""
    p = uses / jnp.maximum(jnp.sum(uses), 1e-12)
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(p, p)))


def kmeans_seeds(key: jax.Array, z: jax.Array, size: int) -> jax.Array:
    """k-means++ seeds f32[size, D]: vectors of z: f32[N, D], each drawn in proportion to its squared distance from the
    nearest earlier seed, the first one uniformly."""

    def seed(distance: jax.Array, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Relative to the largest, so that the scale of z does not matter.
        share = distance / jnp.maximum(jnp.max(distance), 1e-30)
        chosen = z[jax.random.categorical(jax.random.fold_in(key, i), jnp.log(share + 1e-12))]
        return jnp.minimum(distance, jnp.sum((z - chosen[None]) ** 2, axis=1)), chosen

    return jax.lax.scan(seed, jnp.full(len(z), LARGEST), jnp.arange(size))[1]


def kmeans(key: jax.Array, z: jax.Array, size: int, steps: int, spherical: bool = False) -> jax.Array:
    """`size` centres of z: f32[N, D] by `steps` of Lloyd's iteration from k-means++ seeds. spherical: centres have unit
    length, as z must have."""

    def step(centres: jax.Array, _) -> tuple[jax.Array, None]:
        uses, sums = tally(z, nearest(z, centres), size)
        # A centre that no vector chose stays where it is.
        moved = jnp.where(uses[:, None] > 0, sums / jnp.maximum(uses, 1)[:, None], centres)
        return unit(moved) if spherical else moved, None

    return jax.lax.scan(step, kmeans_seeds(key, z, size), length=steps)[0]


def drawn_by_error(key: jax.Array, z: jax.Array, q: jax.Array, size: int) -> jax.Array:
    """Draws `size` vectors of z: f32[N, D] without replacement, in proportion to the squared distance from their codes
    q, as k-means++ draws seeds: f32[size, D], in the order of the draws. Where N is less than `size`, the drawn vectors
    repeat."""
    error = jnp.log(jnp.sum((z - q) ** 2, axis=-1) + 1e-12)
    # The top k of log p + Gumbel noise are a draw without replacement.
    _, chosen = jax.lax.top_k(error + jax.random.gumbel(key, error.shape), min(size, len(z)))
    return z[chosen[jnp.arange(size) % len(chosen)]]


@struct.dataclass
class Running:
    """Running statistics of a codebook's use.

    count: f32[K], running mean of how many vectors of a batch chose each code; total: f32[K, D], running mean of the
    sums of those vectors, None where codes are implicit or learnt by gradient; idle: i32[K], steps since a code was
    last chosen.
    """

    count: jax.Array
    total: jax.Array | None
    idle: jax.Array


@struct.dataclass
class Found:
    """Vectors and their codes. z: f32[B, h, w, D], as they are compared with codes; q: f32[B, h, w, D]; indices:
    i32[B, h, w]."""

    z: jax.Array
    q: jax.Array
    indices: jax.Array


@dataclass(frozen=True)
class Quantizer:
    """What puts one of K codes of D numbers in the place of each vector. Unless a subclass says otherwise, codes are
    implicit: they follow from the settings, nothing of them is learnt, and their use alone is counted."""

    @property
    def size(self) -> int:
        """K."""
        raise NotImplementedError

    @property
    def dim(self) -> int:
        """D."""
        raise NotImplementedError

    @property
    def by_gradient(self) -> bool:
        """Whether codes are parameters."""
        return False

    def start(self, key: jax.Array, z: jax.Array) -> tuple[jax.Array, Running]:
        """Initial codes f32[K, D] from the first batch's z: f32[..., D], and initial statistics: equal counts, but no
        recent use."""
        # Typed: the step would compile twice for a weak type.
        count = jnp.full(self.size, math.prod(z.shape[:-1]) / self.size, jnp.float32)
        running = Running(count, None, jnp.full(self.size, LATELY, jnp.int32))
        return self.codes(running), running

    def codes(self, running: Running, learnt: jax.Array | None = None) -> jax.Array:
        """The codes f32[K, D]. learnt: their parameters, if they are learnt by gradient."""
        return self.vectors(jnp.arange(self.size))

    def vectors(self, indices: jax.Array) -> jax.Array:
        """Implicit codes f32[..., D] of indices i32[...]."""
        raise NotImplementedError

    def compared(self, z: jax.Array) -> jax.Array:
        """Outputs of an encoder, f32[..., D], as they are compared with codes, in f32."""
        return z.astype(jnp.float32)

    def near(self, codes: jax.Array, z: jax.Array) -> Found:
        """The codes of z: f32[B, h, w, D], as `compared` gives it."""
        raise NotImplementedError

    def find(self, codes: jax.Array, z: jax.Array) -> Found:
        """The codes of an encoder's output z: f32[B, h, w, D]."""
        return self.near(codes, self.compared(z))

    def loss(self, found: Found) -> jax.Array:
        """What is minimised beside the error of reconstruction, f32[]."""
        return jnp.zeros(())

    def update(
        self, key: jax.Array, running: Running, found: Found, learnt: Any = None
    ) -> tuple[Running, Any, dict[str, jax.Array]]:
        """The new statistics after a batch, the new `learnt`, and the metrics `perplexity` (of this batch) and `usage`
        (the share of codes chosen within the last 100 steps)."""
        uses = jnp.zeros(self.size, jnp.int32).at[found.indices.reshape(-1)].add(1).astype(jnp.float32)
        idle = jnp.where(uses > 0, 0, running.idle + 1)
        count = 0.99 * running.count + 0.01 * uses
        return Running(count, None, idle), learnt, usage(uses, idle)


def usage(uses: jax.Array, idle: jax.Array) -> dict[str, jax.Array]:
    """The metrics of `Quantizer.update`, of uses f32[K] in a batch and steps i32[K] since the last one."""
    return {"perplexity": perplexity(uses), "usage": jnp.mean(idle < LATELY, dtype=jnp.float32)}


@dataclass(frozen=True)
class Codebook(Quantizer):
    """The settings of a codebook of K codes of D numbers, and how they are learnt."""

    size: Annotated[int, Ge(2), Le(65_536)] = 512
    """K."""
    dim: Size = 64
    """D."""
    cosine: bool = False
    """Scale codes and vectors to unit length, so that the angle decides: section 3.2 of arXiv:2110.04627."""
    decay: Decay = 0.99
    """Above 0, codes are exponential moving averages, with this decay, of the vectors that chose them: appendix A.1. At
    0, they are parameters that the gradient of the second term of eq. 3 moves to those vectors."""
    commitment: NonNegative = 0.25
    """beta, the weight of the third term of eq. 3, |z - sg(q)|^2 averaged over the D numbers."""
    restart: Decay = 0.1
    """Codes that are chosen less often than this fraction of an even share are replaced by vectors of the batch; 0 for
    never."""
    kmeans: OptionalDepth = 10
    """Steps of k-means on the first batch that initialise the codes; at 0 they start as vectors of that batch."""

    @property
    def by_gradient(self) -> bool:
        return not self.decay

    def start(self, key: jax.Array, z: jax.Array) -> tuple[jax.Array, Running]:
        z = self.compared(z).reshape(-1, self.dim)
        codes = kmeans(key, z, self.size, self.kmeans, self.cosine)
        count = jnp.full(self.size, len(z) / self.size, jnp.float32)  # weakly typed, the step would compile twice
        total = None if self.by_gradient else codes * count[:, None]
        return codes, Running(count, total, jnp.full(self.size, LATELY, jnp.int32))

    def compared(self, z: jax.Array) -> jax.Array:
        """z in f32, scaled to unit length if `cosine`, to be compared with codes."""
        z = z.astype(jnp.float32)
        return unit(z) if self.cosine else z

    def codes(self, running: Running, learnt: jax.Array | None = None) -> jax.Array:
        """The codes f32[K, D]. learnt: their parameters, if they are learnt by gradient.

        Moving averages are total / N with the smoothed count N = (count + eps) / (n + K eps) n, n the sum of counts, so
        that no code is divided by zero.
        """
        if self.by_gradient:
            assert learnt is not None
            return self.compared(learnt)
        assert running.total is not None
        if self.cosine:
            return unit(running.total)
        n = jnp.sum(running.count)
        return running.total / ((running.count + EPSILON) / (n + self.size * EPSILON) * n)[:, None]

    def near(self, codes: jax.Array, z: jax.Array) -> Found:
        """The nearest of `codes` for each of z: f32[B, h, w, D]."""
        z = self.compared(z)
        indices = nearest(z, codes)
        return Found(z, codes[indices], indices)

    def loss(self, found: Found) -> jax.Array:
        """The terms of eq. 3 without the reconstruction term, f32[]."""
        commitment = jnp.mean((found.z - jax.lax.stop_gradient(found.q)) ** 2)
        if not self.by_gradient:
            return self.commitment * commitment
        return self.commitment * commitment + jnp.mean((jax.lax.stop_gradient(found.z) - found.q) ** 2)

    def update(
        self, key: jax.Array, running: Running, found: Found, learnt: Any = None
    ) -> tuple[Running, Any, dict[str, jax.Array]]:
        """Updates statistics and restarts unused codes after a batch. Returns what `Quantizer.update` says.

        learnt: the codes' parameters, if they are learnt by gradient, or a pytree of them and their averages. A
        restarted code is replaced in every leaf.
        """
        z, q = (jax.lax.stop_gradient(a).reshape(-1, self.dim) for a in (found.z, found.q))
        uses, sums = tally(z, found.indices.reshape(-1), self.size)
        idle = jnp.where(uses > 0, 0, running.idle + 1)
        decay = self.decay or 0.99
        count = decay * running.count + (1 - decay) * uses
        total = None
        if running.total is not None:  # codes that have no gradient
            total = decay * running.total + (1 - decay) * sums
        if self.cosine and total is not None:
            assert running.total is not None
            # Keep the totals of unused codes: one that decays to 0 would be nearer to z than most other codes.
            total = jnp.where(uses[:, None] > 0, total, running.total)
        if self.restart:
            share = len(z) / self.size
            dead = count < self.restart * share
            # The j-th dead code gets the j-th vector drawn: later ones are less likely to lie far from their codes.
            fresh = drawn_by_error(key, z, q, self.size)[jnp.maximum(jnp.cumsum(dead) - 1, 0)]
            # Start at an even share, so that a new code has a few hundred steps in which it can be chosen.
            count = jnp.where(dead, share, count)
            if total is None:
                learnt = jax.tree.map(lambda codes: jnp.where(dead[:, None], fresh, codes), learnt)
            else:
                total = jnp.where(dead[:, None], fresh * share, total)
        return Running(count, total, idle), learnt, usage(uses, idle)
