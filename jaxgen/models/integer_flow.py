"""Integer discrete flow, arXiv:1905.07376: a permutation of the K^D images of D values in {0, ..., K - 1}.

z = f(x), log P(x) = log P(z): there is no Jacobian, so an entropy coder of z by P spends -log2 P(x) bits. f is made of
couplings x_b + round(t(x_a)), eq. 4 there. Sums are modulo K, where the paper's are over all integers, so that the
probabilities of all images sum to one and each symbol has K values.

Gradients of t are those of log P interpolated between integers. The paper's go straight through the rounding, by the
slope of P at the integer: where most values are the same, as a picture's ground, none tells what moving them costs.

Each of `scales` scales applies `depth` couplings, then factors out half of the channels, whose distribution is a
mixture by the other half, which continues: fig. 4 there. Every other scale, from the first on, squeezes
2 x 2 pixels into channels before. In vectors [N, D], what is not yet factored out is in front; in z, the last scale
comes first.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Ge, Le
from flax import linen as nn

from jaxgen.core.keys import fold_each, uniform_each
from jaxgen.core.model import LossModel
from jaxgen.core.ranges import Depth, OptionalSize, Shape
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.shared import ClassConditionalModel, check_classes, check_shape
from jaxgen.nets.apply import apply
from jaxgen.nets.conditioners import CouplingResNet
from jaxgen.ops.integers import draw_mixture, features, log_mixture, outputs, shifted, stretched
from jaxgen.ops.patches import depth_to_space, space_to_depth

Inverse = bool | jax.Array
"""The direction; an array bool[] where one compiled program is to compute both."""


CODED = 256
"""Images whose activations a coder holds at once."""


def pick(inverse: Inverse, back: jax.Array, there: jax.Array) -> jax.Array:
    """What belongs to the direction."""
    if isinstance(inverse, bool):
        return back if inverse else there
    return jnp.where(inverse, back, there)


def by_parts(change: Callable[..., jax.Array], *rows: jax.Array | None) -> jax.Array:
    """change(*rows), of CODED of the rows [B, ...] at a time."""
    num = len(jax.tree.leaves(rows)[0])
    if num <= CODED:
        return change(*rows)
    parts = -(-num // CODED)

    def cut(a: jax.Array) -> jax.Array:
        return jnp.pad(a, [(0, parts * CODED - num), *[(0, 0)] * (a.ndim - 1)]).reshape(parts, CODED, *a.shape[1:])

    found = jax.lax.map(lambda part: change(*part), jax.tree.map(cut, rows))
    return found.reshape(-1, *found.shape[2:])[:num]


@dataclass(frozen=True, kw_only=True)
class IntegerFlow(ClassConditionalModel, LossModel):
    """x: f32[B, H, W, C], level k at -1 + 2 k / (code_levels - 1); cond: i32[B] in [0, num_classes) when
    num_classes > 0."""

    network: nn.Module = field(default_factory=lambda: CouplingResNet(64, 2))
    """(x_a as `features`, outputs, y) -> t, for a step of each scale."""
    prior: nn.Module = field(default_factory=lambda: CouplingResNet(64, 2))
    """(what continues, as `features`, outputs, y) -> parameters of what a scale factors out."""
    shape: Shape = (28, 28, 1)
    code_levels: Annotated[int, Ge(2), Le(256)] = 256
    """K; level k stands for the raw value 255 k / (K - 1)."""
    scales: Depth = 4
    depth: Depth = 4
    """Couplings at each scale. Each changes as many channels as a pixel has, one set after another."""
    components: Depth = 5
    """Logistics of a mixture."""
    num_classes: OptionalSize = 0
    """Classes of a conditional flow, P(x | y); 0 for none."""

    def check(self, batch: Batch) -> None:
        check_shape(self.shape, batch)
        check_classes(self.num_classes, batch)
        if len(self.shape) != 3:
            raise UserError(f"model.shape is {self.shape}: height, width and channels are expected")
        if any(side % 2 ** self._squeezes(self.scales - 1) for side in self.shape[:2]):
            size, times = "x".join(map(str, self.shape)), self._squeezes(self.scales - 1)
            raise UserError(f"{self.scales} scales halve height and width {times} times, {size} does not: choose fewer")

    # --- levels and values ---

    def _levels(self, x: jax.Array) -> jax.Array:
        """Integers of values in model space, f32[B, D]."""
        nearest = jnp.round((x + 1) * ((self.code_levels - 1) / 2))
        return jnp.clip(nearest, 0, self.code_levels - 1).reshape(x.shape[0], -1)

    def _values(self, levels: jax.Array) -> jax.Array:
        """The inverse of `_levels`, f32[B, *shape]."""
        return (levels * (2 / (self.code_levels - 1)) - 1).reshape(-1, *self.shape)

    # --- the permutation ---

    def _squeezes(self, scale: int) -> int:
        """How often pixels have been squeezed at a scale."""
        return scale // 2 + 1

    def _map(self, scale: int) -> tuple[int, int, int]:
        """Height, width and channels of the maps that a scale's couplings see."""
        height, width, channels = self.shape
        times = self._squeezes(scale)
        return height >> times, width >> times, channels * (2 if scale % 2 else 4)

    def _active(self, scale: int) -> int:
        """Values that a scale works on."""
        return math.prod(self._map(scale))

    def _last(self, scale: int) -> bool:
        return scale == self.scales - 1

    def _factored(self, scale: int) -> int:
        """Values that a scale factors out."""
        return self._active(scale) // (1 if self._last(scale) else 2)

    def _coupling(
        self, params: PyTree, x: jax.Array, y: jax.Array | None, inverse: Inverse, cuts: bool
    ) -> jax.Array:
        """A coupling: the first part of the channels is changed and becomes the last, so that each has its turn. With
        `cuts`, behind the levels lie the sums of what rounding has cut off, which alone have gradients."""
        size = self.shape[-1]
        rest = x.shape[-1] - size
        kept = pick(inverse, x[..., :rest], x[..., size:])
        moved = pick(inverse, x[..., rest:], x[..., :size])
        levels = kept[: len(kept) // 2] if cuts else kept
        exact = stretched(apply(self.network, {"params": params}, features(levels, self.code_levels), size, y))
        t = jax.lax.stop_gradient(jnp.round(exact))
        if cuts:
            levels, cut = jnp.split(moved, 2)
            moved = jnp.concatenate([shifted(levels, t, self.code_levels), cut + exact - t])
        else:
            moved = shifted(moved, pick(inverse, -t, t), self.code_levels)
        there, back = jnp.concatenate([kept, moved], axis=-1), jnp.concatenate([moved, kept], axis=-1)
        return pick(inverse, back, there)

    def _scale(
        self, params: PyTree, scale: int, x: jax.Array, y: jax.Array | None, inverse: Inverse, cuts: bool = False
    ) -> jax.Array:
        """All couplings of a scale, of the vectors f32[B, active], or f32[2 B, active] with `cuts`."""
        height, width, channels = self._map(scale)
        given = x.reshape(-1, *((height, width, channels) if scale % 2 else (2 * height, 2 * width, channels // 4)))
        parts = [x] if self._last(scale) else jnp.split(x, 2, axis=-1)
        joined = jnp.concatenate([part.reshape(-1, height, width, channels // len(parts)) for part in parts], axis=-1)
        maps = pick(inverse, joined, given if scale % 2 else space_to_depth(given, 2))

        def one(maps: jax.Array, params: PyTree) -> tuple[jax.Array, None]:
            return self._coupling(params, maps, y, inverse, cuts), None

        steps = jax.tree.map(lambda a: pick(inverse, a[::-1], a), params[f"steps{scale}"])
        maps, _ = jax.lax.scan(one, maps, steps)
        split = jnp.split(maps, len(parts), axis=-1)
        there = jnp.concatenate([part.reshape(x.shape[0], -1) for part in split], axis=-1)
        back = maps if scale % 2 else depth_to_space(maps, 2)
        return pick(inverse, back.reshape(x.shape), there)

    # --- probabilities ---

    def _mixtures(self, params: PyTree, scale: int, rest: jax.Array, y: jax.Array | None) -> jax.Array:
        """The distribution of each value that a scale factors out, f32[B, factored, 3 M], by what it passes on,
        f32[B, active / 2]; that of the last scale by the class alone."""
        number = outputs(self.components)
        if self._last(scale):
            top = jnp.broadcast_to(params["top"]["bias"][None], (rest.shape[0], self._factored(scale) * number))
            top = top if y is None else top + y @ params["top"]["kernel"]
            return top.reshape(rest.shape[0], -1, number)
        height, width, channels = self._map(scale)
        maps = features(rest.reshape(-1, height, width, channels // 2), self.code_levels)
        found = apply(self.prior, {"params": params[f"prior{scale}"]}, maps, channels // 2 * number, y)
        return found.reshape(rest.shape[0], -1, number)

    def log_prob(self, params: PyTree, x: jax.Array, y: jax.Array | None = None) -> jax.Array:
        """log P(x) in nats, f32[B]; x is rounded to the nearest levels first."""
        levels = self._levels(x)
        num, total = len(levels), jnp.zeros(len(levels))
        rest = jnp.concatenate([levels, jnp.zeros_like(levels)])
        for scale in range(self.scales):
            rest = self._scale(params, scale, rest, y, False, cuts=True)
            rest, factored = jnp.split(rest, [self._active(scale) - self._factored(scale)], axis=-1)
            mixtures, common = self._mixtures(params, scale, rest[:num], y), params["frequencies"][scale]
            log_p = log_mixture(mixtures, factored[:num], common)
            # Where P lies between two integers, as rounding would have it, has the slope from one to the other.
            cut = factored[num:]
            beyond = shifted(factored[:num], jnp.where(cut < 0, -1.0, 1.0), self.code_levels)
            slope = jnp.where(cut < 0, -1.0, 1.0) * (log_mixture(mixtures, beyond, common) - log_p)
            log_p += jax.lax.stop_gradient(slope) * (cut - jax.lax.stop_gradient(cut))
            total += jnp.sum(log_p, axis=-1)
        return total

    def _inverse(
        self, params: PyTree, num: int, y: jax.Array | None, first: int, factored: Callable[[int, jax.Array], jax.Array]
    ) -> jax.Array:
        """What enters the scale `first`, f32[num, active], by the inverses of it and of all after it. factored(scale,
        rest): the values that a scale factors out, by what it passes on."""
        rest = jnp.zeros((num, 0))
        for scale in reversed(range(first, self.scales)):
            x = jnp.concatenate([rest, factored(scale, rest)], axis=-1)
            rest = self._scale(params, scale, x, y, True)
        return rest

    # --- training ---

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        y, num = self._one_hot(batch.get("cond")), len(batch["x"])
        number = outputs(self.components)
        top = self._factored(self.scales - 1) * number
        # Couplings start as the identity, so that values start as frequent as levels of the batch.
        seen = jnp.ones(self.code_levels).at[self._levels(batch["x"]).astype(jnp.int32)].add(1.0)
        common = jnp.tile(jnp.log(seen / jnp.mean(seen)), (self.scales, 1))
        params: dict[str, PyTree] = {"top": {"bias": jnp.zeros(top)}, "frequencies": common}
        if self.num_classes:
            params["top"]["kernel"] = jnp.zeros((self.num_classes, top))
        for scale in range(self.scales):
            key_steps, key_prior = jax.random.split(jax.random.fold_in(key, scale))
            height, width, channels = self._map(scale)
            kept = jnp.zeros((num, height, width, 3 * (channels - self.shape[-1])))

            def start(key: jax.Array, kept: jax.Array = kept) -> PyTree:
                return self.network.init(key, kept, self.shape[-1], y)["params"]

            params[f"steps{scale}"] = jax.vmap(start)(jax.random.split(key_steps, self.depth))
            if not self._last(scale):
                rest = jnp.zeros((num, height, width, 3 * (channels // 2)))
                params[f"prior{scale}"] = self.prior.init(key_prior, rest, channels // 2 * number, y)["params"]
        return params

    def loss(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
        """Bits per dimension; the metric `nats` is per example."""
        nats = -jnp.mean(self.log_prob(params, batch["x"], self._one_hot(batch.get("cond"))))
        return self._bits_per_dim(nats), {"nats": nats}

    def _bits_per_dim(self, nats: jax.Array) -> jax.Array:
        return nats / (math.prod(self.shape) * math.log(2))

    # --- use ---

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """The exact -log P(x), f32[B], as `nats` and as `bits_per_dim`."""
        nats = -self.log_prob(state.sampling_params, batch["x"], self._one_hot(batch.get("cond")))
        return {"nats": nats, "bits_per_dim": self._bits_per_dim(nats)}

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """f32[len(keys), *shape], values of levels. cond: i32[len(keys)] for a conditional model."""
        params, y = state.sampling_params, self._one_hot(cond)

        def draw(scale: int, rest: jax.Array) -> jax.Array:
            u = uniform_each(fold_each(keys, scale), (2, self._factored(scale)))
            return draw_mixture(self._mixtures(params, scale, rest, y), u[:, 0], u[:, 1], params["frequencies"][scale])

        return self._values(self._inverse(params, keys.shape[0], y, 0, draw))

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """`latents.png`: held-out images above their z, moved half a turn, so that 0 is grey: the last scale's values
        are in front."""
        x, y = batch["x"][:10], self._one_hot(batch.get("cond"))
        z = self._turn(state.sampling_params, self._levels(x), y if y is None else y[:10], False)
        return {"latents.png": jnp.stack([x, self._values(shifted(z, self.code_levels // 2, self.code_levels))])}

    # --- entropy coding, `coding.EntropyModel` and `MapsSymbols` ---

    def _turn(self, params: PyTree, x: jax.Array, y: jax.Array | None, inverse: Inverse) -> jax.Array:
        """z of levels, or their inverse: f32[B, D]."""

        def at(scale: int) -> Callable[[jax.Array], jax.Array]:
            def change(x: jax.Array) -> jax.Array:
                active = self._active(scale)
                return x.at[:, :active].set(self._scale(params, scale, x[:, :active], y, inverse))

            return change

        def one(x: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
            return jax.lax.switch(pick(inverse, self.scales - 1 - i, i), [at(s) for s in range(self.scales)], x), None

        return jax.lax.scan(one, x, jnp.arange(self.scales))[0]

    def map_symbols(self, state: TrainState, symbols: jax.Array, cond: PyTree, inverse: jax.Array) -> jax.Array:
        def turn(x: jax.Array, y: jax.Array | None) -> jax.Array:
            return self._turn(state.sampling_params, x, y, inverse)

        return by_parts(turn, symbols.astype(jnp.float32), self._one_hot(cond)).astype(jnp.int32)

    def code_init(self, state: TrainState, num: int, cond: PyTree) -> PyTree:
        most = max(self._factored(scale) for scale in range(self.scales))
        z, mixtures = jnp.zeros((num, math.prod(self.shape))), jnp.zeros((num, most, outputs(self.components)))
        return z, mixtures, self._one_hot(cond)

    def code_next(self, state: TrainState, cache: PyTree, position: jax.Array) -> tuple[PyTree, jax.Array]:
        z, mixtures, y = cache
        params = state.sampling_params
        starts = [self._active(scale) - self._factored(scale) for scale in range(self.scales)]

        def begin(scale: int) -> Callable[[jax.Array], jax.Array]:
            def found(z: jax.Array, y: jax.Array | None) -> jax.Array:
                def known(scale: int, rest: jax.Array) -> jax.Array:
                    return z[:, starts[scale] : self._active(scale)]

                return self._mixtures(params, scale, self._inverse(params, len(z), y, scale + 1, known), y)

            return lambda mixtures: mixtures.at[:, : self._factored(scale)].set(by_parts(found, z, y))

        # The scale that the position is in, and whether it is its first.
        scale = jnp.sum(position < jnp.asarray(starts))
        start = jnp.asarray(starts)[scale]
        which = jnp.where(position == start, scale, self.scales)
        mixtures = jax.lax.switch(which, [*(begin(s) for s in range(self.scales)), lambda mixtures: mixtures], mixtures)
        here = jax.lax.dynamic_index_in_dim(mixtures, position - start, axis=1)
        levels = jnp.arange(self.code_levels, dtype=jnp.float32)[None]
        return (z, mixtures, y), jnp.exp(log_mixture(here, levels, params["frequencies"][scale]))

    def code_push(self, state: TrainState, cache: PyTree, position: jax.Array, symbols: jax.Array) -> PyTree:
        z, mixtures, y = cache
        return z.at[:, position].set(symbols.astype(jnp.float32)), mixtures, y
