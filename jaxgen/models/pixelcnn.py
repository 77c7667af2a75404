"""PixelCNN, arXiv:1601.06759, and its successors: p(x) = prod_i p(x_i | x_1 ... x_{i-1}) over pixels in raster order,
and over the channels of each pixel in turn. The network decides which model it is: `nets.pixelcnn`, `nets.pixelcnn_pp`.

x: levels in model space (`ops.levels`). Training predicts all pixels in one pass. Sampling draws one pixel at a time;
with `cached`, each step computes only what the new pixel changes. An entropy coder uses the same steps, see `Coder`.
"""

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.codecs import Binarize
from jaxgen.core.codec import Codec
from jaxgen.core.keys import fold_each, one_key
from jaxgen.core.model import LossModel
from jaxgen.core.ranges import OptionalSize, Positive, Shape
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.shared import ClassConditionalModel, check_classes, check_shape
from jaxgen.nets.apply import apply, apply_mutable
from jaxgen.nets.pixelcnn import GatedPixelCNN
from jaxgen.ops.levels import Binary, Levels

Index = jax.Array | int
Moved = tuple[PyTree, PyTree]
"""The network's caches after a row or a pixel, and its output there."""


class Coder(NamedTuple):
    """The state of `PixelCNN.next_log_probs`: the network's caches, and its outputs for this row and this pixel."""

    cache: PyTree
    side: PyTree
    answer: jax.Array


@dataclass(frozen=True, kw_only=True)
class PixelCNN(ClassConditionalModel, LossModel):
    """x: f32[B, H, W, C], values of `likelihood`'s levels; cond: i32[B] in [0, num_classes) when num_classes > 0."""

    network: nn.Module = field(default_factory=GatedPixelCNN)
    """(x, outputs, y, groups, train) -> `outputs` numbers for each pixel. Has methods `row` and `pixel`, see
    `nets.pixelcnn`."""
    likelihood: Levels = Binary()
    """The distribution of a pixel, whose parameters the network outputs."""
    shape: Shape = (28, 28, 1)
    num_classes: OptionalSize = 0
    embed: OptionalSize = 0
    """Size of a learnt embedding of each level, for levels without order such as codes; 0 feeds their values."""
    temperature: Positive = 1.0
    """Sampling divides log p of each channel by it."""
    cached: bool = True
    """Sampling computes only what each new pixel changes; without, it runs the whole network for each pixel."""

    def natural_codec(self) -> Codec | None:
        return Binarize() if isinstance(self.likelihood, Binary) else None

    def check(self, batch: Batch) -> None:
        if len(self.shape) != 3:
            raise UserError(f"model.shape is {self.shape}: height, width and channels are expected")
        check_shape(self.shape, batch)
        check_classes(self.num_classes, batch)
        self.network.check(self.shape, self._groups)

    def fitted(self, shape: tuple[int, ...], num_classes: int) -> "PixelCNN":
        model = super().fitted(shape, num_classes)
        assert isinstance(model, PixelCNN)
        # Features are split among the channels of a pixel: the next widths that can be.
        network, groups = model.network, model._groups
        wider = {
            name: -(-getattr(network, name) // groups) * groups for name in ("width", "head") if hasattr(network, name)
        }
        return replace(model, network=replace(network, **wider))  # pyright: ignore[reportArgumentType]: a Linen module

    # --- the network ---

    @property
    def _groups(self) -> int:
        """Groups of the network's features, each of which sees other channels of the current pixel."""
        return 1 if self.likelihood.joint else self.shape[-1]

    @property
    def _outputs(self) -> int:
        return self.likelihood.outputs(self.shape[-1])

    def _embedded(self, params: PyTree, x: jax.Array) -> jax.Array:
        """The network's input: x itself, [B, H, W, C], or the embeddings of its levels, [B, H, W, C embed]."""
        if not self.embed:
            return x
        return params["embed"]["embedding"][self.likelihood.level(x)].reshape(*x.shape[:3], -1)

    def answer(
        self, params: PyTree, x: jax.Array, y: jax.Array | None = None, dropout: jax.Array | None = None
    ) -> jax.Array:
        """Parameters of `likelihood` for all pixels, f32[B, H, W, outputs]. dropout: the key of dropout masks, given
        in training."""
        x = self._embedded(params, x)
        return apply(
            self.network, {"params": params["network"]}, x, self._outputs, y, groups=self._groups,
            train=dropout is not None, rngs=None if dropout is None else {"dropout": dropout},
        )  # fmt: skip

    def log_prob(self, params: PyTree, x: jax.Array, y: jax.Array | None = None, dropout=None) -> jax.Array:
        """log p(x) in nats, f32[B]; x is rounded to the nearest levels first."""
        x = self.likelihood.nearest(x)
        return jnp.sum(self.likelihood.log_prob(self.answer(params, x, y, dropout), x), axis=(1, 2, 3))

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        y, params = self._one_hot(batch.get("cond")), {}
        if self.embed:
            key, key_embed = jax.random.split(key)
            shape = (self.likelihood.levels, self.embed)
            params["embed"] = {"embedding": jax.random.normal(key_embed, shape)}
        x = self._embedded(params, batch["x"])
        return params | {"network": self.network.init(key, x, self._outputs, y, groups=self._groups)["params"]}

    def loss(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
        """Bits per dimension; the metric `nats` is per example."""
        y = self._one_hot(batch.get("cond"))
        nats = -jnp.mean(self.log_prob(params, batch["x"], y, one_key(keys)))
        return self._bits_per_dim(nats), {"nats": nats}

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """The exact -log p(x), f32[B], as `nats` and as `bits_per_dim`."""
        y = self._one_hot(batch.get("cond"))
        nats = -self.log_prob(state.sampling_params, batch["x"], y)
        return {"nats": nats, "bits_per_dim": self._bits_per_dim(nats)}

    def _bits_per_dim(self, nats: jax.Array) -> jax.Array:
        return nats / (math.prod(self.shape) * math.log(2))

    # --- pixel by pixel ---

    def _begin_row(self, params: PyTree, cache: PyTree, x: jax.Array, i: Index, y: jax.Array | None) -> Moved:
        """The caches at the start of row i, and the features `side` that its pixels share."""
        variables = {"params": params["network"], "cache": cache}
        x = self._embedded(params, x)
        side, new = apply_mutable(self.network, variables, x, i, y, method="row", mutable=["cache"])
        return {**cache, **new.get("cache", {})}, side

    def _predict(
        self, params: PyTree, caches: Moved, x: jax.Array, place: tuple[Index, Index], y: jax.Array | None
    ) -> Moved:
        """The caches after the pixel at `place`, (i, j), and its parameters of `likelihood`, f32[B, outputs]. caches:
        as `_begin_row` returns them."""
        cache, side = caches
        variables = {"params": params["network"], "cache": cache}
        x = self._embedded(params, x)
        answer, new = apply_mutable(
            self.network, variables, x, side, place, self._outputs, y, groups=self._groups, method="pixel",
            mutable=["cache"],
        )  # fmt: skip
        return {**cache, **new.get("cache", {})}, answer

    def start(self, params: PyTree, x: jax.Array, y: jax.Array | None = None) -> Coder:
        """The coder before the first pixel of images of x's shape, f32[B, H, W, C]; the values of x are not read."""

        def first(x: jax.Array, y: jax.Array | None) -> Coder:
            cache, side = self._begin_row(params, {}, x, 0, y)
            cache, answer = self._predict(params, (cache, side), x, (0, 0), y)
            return Coder(cache, side, answer)

        return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(first, x, y))

    def next_log_probs(
        self, params: PyTree, coder: Coder, x: jax.Array, position: jax.Array, y: jax.Array | None = None
    ) -> tuple[Coder, jax.Array]:
        """log p of every level of the value at `position`, f32[B, levels], given all values before it.

        position: i32[], from 0 to H W C - 1 in the order of x.reshape(B, -1). Call this for each position in turn,
        beginning with the coder of `start`. x: f32[B, H, W, C], of which only values before `position` are read, so an
        encoder may pass the whole image and a decoder what it has decoded. Both get the same bits if they run the same
        executable on the same machine with the same batch: jit this once, with `position` an array, and use `answer`
        in neither, as it sums in another order.
        """
        _, width, channels = self.shape
        pixel, channel = position // channels, position % channels
        i, j = pixel // width, pixel % width
        cache, side, answer = coder
        # Unknown values must not differ between encoder and decoder, not even where they are multiplied by zero.
        known = jnp.arange(math.prod(self.shape)) < position
        x = jnp.where(known.reshape(1, *self.shape), self.likelihood.nearest(x), 0.0)

        def begin(cache: PyTree, side: PyTree) -> Moved:
            return self._begin_row(params, cache, x, i, y)

        def predict(cache: PyTree, answer: jax.Array) -> Moved:
            return self._predict(params, (cache, side), x, (i, j), y)

        def keep(cache: PyTree, value: PyTree) -> Moved:
            return cache, value

        cache, side = jax.lax.cond((j == 0) & (channel == 0), begin, keep, cache, side)
        fresh = (channel == 0) | (self._groups > 1)
        cache, answer = jax.lax.cond(fresh, predict, keep, cache, answer)
        pixel = jax.lax.dynamic_slice(x, (0, i, j, 0), (x.shape[0], 1, 1, channels))[:, 0, 0]
        return Coder(cache, side, answer), self.likelihood.log_probs(answer, pixel, channel)

    # --- entropy coding, `coding.EntropyModel` ---

    @property
    def code_levels(self) -> int:
        return self.likelihood.levels

    def code_init(self, state: TrainState, num: int, cond: PyTree) -> PyTree:
        x, y = jnp.zeros((num, *self.shape)), self._one_hot(cond)
        return self.start(state.sampling_params, x, y), x, y

    def code_next(self, state: TrainState, cache: PyTree, position: jax.Array) -> tuple[PyTree, jax.Array]:
        coder, x, y = cache
        coder, log_probs = self.next_log_probs(state.sampling_params, coder, x, position, y)
        return (coder, x, y), jnp.exp(log_probs)

    def code_push(self, state: TrainState, cache: PyTree, position: jax.Array, symbols: jax.Array) -> PyTree:
        coder, x, y = cache
        flat = x.reshape(x.shape[0], -1).at[:, position].set(self.likelihood.value(symbols))
        return coder, flat.reshape(x.shape), y

    # --- samples ---

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """f32[len(keys), *shape], values of levels. cond: i32[len(keys)] for a conditional model."""
        x = jnp.zeros((keys.shape[0], *self.shape))
        return self.inpaint(state, keys, x, jnp.zeros((1, *self.shape[:2], 1), bool), cond)

    def inpaint(
        self, state: TrainState, keys: jax.Array, x: jax.Array, mask: jax.Array, cond: PyTree = None, resample: int = 1
    ) -> jax.Array:
        """Images that equal x, f32[B, *shape], where `mask` (bool[B or 1, H, W, 1]) is true. The rest is drawn in
        raster order, so a pixel is not conditioned on given pixels after it. Raises UserError unless resample is 1."""
        if resample != 1:
            raise UserError(f"resample is {resample}, but PixelCNN draws each pixel once: leave it at 1")
        params, y = state.sampling_params, self._one_hot(cond)
        height, width, channels = self.shape
        u = jax.vmap(lambda key: jax.random.uniform(key, self.shape))(keys).transpose(1, 2, 0, 3)
        given = jnp.broadcast_to(mask, (mask.shape[0], height, width, 1)).transpose(1, 2, 0, 3)
        # The network must not see x where pixels are yet to be drawn.
        canvas = jnp.where(mask, self.likelihood.nearest(x), 0.0)
        cache = self.start(params, canvas, y).cache if self.cached else {}

        def answer(cache: PyTree, side: PyTree, canvas: jax.Array, i: jax.Array, j: jax.Array):
            if self.cached:
                return self._predict(params, (cache, side), canvas, (i, j), y)
            whole = self.answer(params, canvas, y)
            return cache, jax.lax.dynamic_slice(whole, (0, i, j, 0), (whole.shape[0], 1, 1, whole.shape[3]))[:, 0, 0]

        def draw_row(carry: tuple[PyTree, jax.Array], row: tuple[jax.Array, ...]):
            i, u, given = row
            cache, canvas = carry
            cache, side = self._begin_row(params, cache, canvas, i, y) if self.cached else (cache, None)

            def draw_pixel(carry: tuple[PyTree, jax.Array], column: tuple[jax.Array, ...]):
                j, u, given = column
                cache, canvas = carry
                size = (canvas.shape[0], 1, 1, channels)
                pixel = jax.lax.dynamic_slice(canvas, (0, i, j, 0), size)[:, 0, 0]
                for c in range(channels):
                    if c == 0 or self._groups > 1:
                        cache, outputs = answer(cache, side, canvas, i, j)
                    drawn = self.likelihood.draw(outputs, pixel, c, u[:, c], self.temperature)
                    pixel = pixel.at[:, c].set(jnp.where(given[:, 0], pixel[:, c], drawn))
                    canvas = jax.lax.dynamic_update_slice(canvas, pixel[:, None, None], (0, i, j, 0))
                return (cache, canvas), None

            return jax.lax.scan(draw_pixel, (cache, canvas), (jnp.arange(width), u, given))[0], None

        (_, canvas), _ = jax.lax.scan(draw_row, (cache, canvas), (jnp.arange(height), u, given))
        return canvas

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """`completion.png`: upper halves, three completions of each, and the originals."""
        shown, ways = min(10, keys.shape[0], len(batch["x"])), 3
        x = batch["x"][:shown]
        cond = jnp.tile(batch["cond"][:shown], ways) if self.num_classes else None
        upper = (jnp.arange(self.shape[0]) < self.shape[0] // 2).reshape(1, -1, 1, 1)
        each = jax.vmap(fold_each, (None, 0))(keys[:shown], jnp.arange(ways)).reshape(-1)
        completed = self.inpaint(state, each, jnp.tile(x, (ways, 1, 1, 1)), upper, cond)
        given = jnp.where(upper, x, self.likelihood.low)
        return {"completion.png": jnp.stack([given, *completed.reshape(ways, *x.shape), x])}
