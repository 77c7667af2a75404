"""PixelCNN, arXiv:1601.06759, and its successors: p(x) = prod_i p(x_i | x_1 ... x_{i-1}) over pixels in raster order,
the channels of a pixel in theirs. The network decides which: `nets.pixelcnn`, `nets.pixelcnn_pp`.

x: levels in model space (`ops.levels`). Training sees all pixels at once; sampling goes from pixel to pixel, and with
`cached` each costs what the one new pixel changes. The same steps serve an entropy coder, see `Coder`.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.codecs import Binarize
from jaxgen.core.codec import Codec
from jaxgen.core.keys import fold_each, one_key
from jaxgen.core.model import LossModel
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.shared import check_classes, check_labels, check_shape, class_grid, one_hot
from jaxgen.nets.pixelcnn import GatedPixelCNN
from jaxgen.ops.levels import Binary, Levels


class Coder(NamedTuple):
    """Where `PixelCNN.next_log_probs` stands: caches of the network, what it said along this row and of this pixel."""

    cache: PyTree
    side: PyTree
    answer: jax.Array


@dataclass(frozen=True, kw_only=True)
class PixelCNN(LossModel):
    """x: f32[B, H, W, C], values of `likelihood`'s levels; cond: i32[B] in [0, num_classes) when num_classes > 0."""

    network: nn.Module = field(default_factory=GatedPixelCNN)
    """(x, outputs, y, groups, train) -> outputs for each pixel; with `row` and `pixel`, see `nets.pixelcnn`."""
    likelihood: Levels = Binary()
    """What the outputs say of a pixel."""
    shape: tuple[int, ...] = (28, 28, 1)
    num_classes: int = 0
    embed: int = 0
    """Learnt numbers that stand for a level, for levels without order such as codes; 0: its value does."""
    temperature: float = 1.0
    """Of sampling: log p of each channel is divided by it."""
    cached: bool = True
    """Sample by computing what each new pixel changes; else the whole network anew for each."""

    def natural_codec(self) -> Codec | None:
        return Binarize() if isinstance(self.likelihood, Binary) else None

    def check(self, batch: Batch) -> None:
        if len(self.shape) != 3:
            raise UserError(f"model.shape is {self.shape}: height, width and channels are expected")
        check_shape(self.shape, batch)
        check_classes(self.num_classes, batch)
        self.network.check(self.shape, self._groups)
        if self.likelihood.levels < 2:
            raise UserError(f"model.likelihood.levels is {self.likelihood.levels}: 2 or more are expected")
        if not self.temperature > 0:
            raise UserError(f"model.temperature is {self.temperature}: more than 0 is expected")

    # --- the network ---

    @property
    def _groups(self) -> int:
        """Parts of the network's features that see different channels of the pixel."""
        return 1 if self.likelihood.joint else self.shape[-1]

    @property
    def _outputs(self) -> int:
        return self.likelihood.outputs(self.shape[-1])

    def _seen(self, params: PyTree, x: jax.Array) -> jax.Array:
        """x as the network sees it: [B, H, W, C], or [B, H, W, C embed] of what stands for its levels."""
        if not self.embed:
            return x
        return params["embed"]["embedding"][self.likelihood.level(x)].reshape(*x.shape[:3], -1)

    def answer(
        self, params: PyTree, x: jax.Array, y: jax.Array | None = None, dropout: jax.Array | None = None
    ) -> jax.Array:
        """Parameters of `likelihood` for all pixels, f32[B, H, W, outputs]. dropout: its key, in training."""
        x = self._seen(params, x)
        return self.network.apply(
            {"params": params["network"]}, x, self._outputs, y, groups=self._groups, train=dropout is not None,
            rngs=None if dropout is None else {"dropout": dropout},
        )  # fmt: skip

    def log_prob(self, params: PyTree, x: jax.Array, y: jax.Array | None = None, dropout=None) -> jax.Array:
        """log p(x) in nats, f32[B]; x is moved to the nearest levels first."""
        x = self.likelihood.nearest(x)
        return jnp.sum(self.likelihood.log_prob(self.answer(params, x, y, dropout), x), axis=(1, 2, 3))

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        y, params = one_hot(batch.get("cond"), self.num_classes), {}
        if self.embed:
            key, key_embed = jax.random.split(key)
            shape = (self.likelihood.levels, self.embed)
            params["embed"] = {"embedding": jax.random.normal(key_embed, shape)}
        x = self._seen(params, batch["x"])
        return params | {"network": self.network.init(key, x, self._outputs, y, groups=self._groups)["params"]}

    def loss(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
        """Bits per dimension; `nats` per example beside."""
        y = one_hot(batch.get("cond"), self.num_classes)
        nats = -jnp.mean(self.log_prob(params, batch["x"], y, one_key(keys)))
        return self._bits_per_dim(nats), {"nats": nats}

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """-log p(x) exactly, f32[B]: `nats` per example and `bits_per_dim`."""
        y = one_hot(batch.get("cond"), self.num_classes)
        nats = -self.log_prob(state.sampling_params, batch["x"], y)
        return {"nats": nats, "bits_per_dim": self._bits_per_dim(nats)}

    def _bits_per_dim(self, nats: jax.Array) -> jax.Array:
        return nats / (math.prod(self.shape) * math.log(2))

    # --- from pixel to pixel ---

    def _row(self, params: PyTree, cache: PyTree, x: jax.Array, i: jax.Array, y: jax.Array | None):
        """The caches after row i began, and what it says to its pixels."""
        variables = {"params": params["network"], "cache": cache}
        side, new = self.network.apply(variables, self._seen(params, x), i, y, method="row", mutable=["cache"])
        return {**cache, **new.get("cache", {})}, side

    def _pixel(self, params: PyTree, cache: PyTree, side: PyTree, x, i, j, y):
        """The caches after pixel (i, j), and the answer f32[B, outputs]."""
        variables = {"params": params["network"], "cache": cache}
        x = self._seen(params, x)
        answer, new = self.network.apply(
            variables, x, side, i, j, self._outputs, y, groups=self._groups, method="pixel", mutable=["cache"]
        )
        return {**cache, **new.get("cache", {})}, answer

    def start(self, params: PyTree, x: jax.Array, y: jax.Array | None = None) -> Coder:
        """Before the first pixel of images of x's shape, f32[B, H, W, C]; their values are not read."""

        def first(x: jax.Array, y: jax.Array | None) -> Coder:
            cache, side = self._row(params, {}, x, 0, y)
            cache, answer = self._pixel(params, cache, side, x, 0, 0, y)
            return Coder(cache, side, answer)

        return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(first, x, y))

    def next_log_probs(
        self, params: PyTree, coder: Coder, x: jax.Array, position: jax.Array, y: jax.Array | None = None
    ) -> tuple[Coder, jax.Array]:
        """log p of every level of the value at `position`, f32[B, levels], given all values before it.

        position: i32[], 0 to H W C - 1 in the order of x.reshape(B, -1), to be called for each in turn from `start`.
        x: f32[B, H, W, C], right before `position`; later values are not read, so an encoder may pass the whole image
        and a decoder what it has. Both get the same bits, if both run this by the same executable on the same machine
        with the same batch: jit it once, with `position` an array, and let neither use `answer`, whose sums are taken
        in another order.
        """
        _, width, channels = self.shape
        pixel, channel = position // channels, position % channels
        i, j = pixel // width, pixel % width
        cache, side, answer = coder
        # What is not yet known must not differ between the two, not even where it is multiplied by zero.
        known = jnp.arange(math.prod(self.shape)) < position
        x = jnp.where(known.reshape(1, *self.shape), self.likelihood.nearest(x), 0.0)

        def begin(cache: PyTree, side: PyTree):
            return self._row(params, cache, x, i, y)

        def predict(cache: PyTree, answer: jax.Array):
            return self._pixel(params, cache, side, x, i, j, y)

        def keep(cache: PyTree, value: PyTree):
            return cache, value

        cache, side = jax.lax.cond((j == 0) & (channel == 0), begin, keep, cache, side)
        fresh = (channel == 0) | (self._groups > 1)
        cache, answer = jax.lax.cond(fresh, predict, keep, cache, answer)
        pixel = jax.lax.dynamic_slice(x, (0, i, j, 0), (x.shape[0], 1, 1, channels))[:, 0, 0]
        return Coder(cache, side, answer), self.likelihood.log_probs(answer, pixel, channel)

    # --- entropy coding, `compress.EntropyModel` ---

    @property
    def code_levels(self) -> int:
        return self.likelihood.levels

    def code_init(self, state: TrainState, num: int, cond: PyTree) -> PyTree:
        x, y = jnp.zeros((num, *self.shape)), one_hot(cond, self.num_classes)
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
        """Images that equal x, f32[B, *shape], where `mask` (bool[B or 1, H, W, 1]) is true, the rest drawn in raster
        order: what is given further down is kept, but what is drawn above it does not know it. Raises UserError for
        another resample than 1: each pixel is drawn once."""
        if resample != 1:
            raise UserError(f"resample is {resample}, but PixelCNN draws each pixel once: leave it at 1")
        params, y = state.sampling_params, one_hot(cond, self.num_classes)
        height, width, channels = self.shape
        u = jax.vmap(lambda key: jax.random.uniform(key, self.shape))(keys).transpose(1, 2, 0, 3)
        given = jnp.broadcast_to(mask, (mask.shape[0], height, width, 1)).transpose(1, 2, 0, 3)
        # What is to be drawn is not seen before it is, whatever x has there.
        canvas = jnp.where(mask, self.likelihood.nearest(x), 0.0)
        cache = self.start(params, canvas, y).cache if self.cached else {}

        def answer(cache: PyTree, side: PyTree, canvas: jax.Array, i: jax.Array, j: jax.Array):
            if self.cached:
                return self._pixel(params, cache, side, canvas, i, j, y)
            whole = self.answer(params, canvas, y)
            return cache, jax.lax.dynamic_slice(whole, (0, i, j, 0), (whole.shape[0], 1, 1, whole.shape[3]))[:, 0, 0]

        def draw_row(carry: tuple[PyTree, jax.Array], row: tuple[jax.Array, ...]):
            i, u, given = row
            cache, canvas = carry
            cache, side = self._row(params, cache, canvas, i, y) if self.cached else (cache, None)

            def draw_pixel(carry: tuple[PyTree, jax.Array], column: tuple[jax.Array, ...]):
                j, u, given = column
                cache, canvas = carry
                size = (canvas.shape[0], 1, 1, channels)
                pixel = jax.lax.dynamic_slice(canvas, (0, i, j, 0), size)[:, 0, 0]
                for c in range(channels):
                    if c == 0 or self._groups > 1:
                        cache, said = answer(cache, side, canvas, i, j)
                    drawn = self.likelihood.draw(said, pixel, c, u[:, c], self.temperature)
                    pixel = pixel.at[:, c].set(jnp.where(given[:, 0], pixel[:, c], drawn))
                    canvas = jax.lax.dynamic_update_slice(canvas, pixel[:, None, None], (0, i, j, 0))
                return (cache, canvas), None

            return jax.lax.scan(draw_pixel, (cache, canvas), (jnp.arange(width), u, given))[0], None

        (_, canvas), _ = jax.lax.scan(draw_row, (cache, canvas), (jnp.arange(height), u, given))
        return canvas

    def check_cond(self, cond: PyTree) -> None:
        check_labels(self.num_classes, cond)

    def sample_cond(self, num: int, batch: Batch) -> PyTree:
        return class_grid(num, self.num_classes) if self.num_classes else None

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """`completion.png`: upper halves, three ways to go on from each, and the originals."""
        shown, ways = min(10, keys.shape[0], len(batch["x"])), 3
        x = batch["x"][:shown]
        cond = jnp.tile(batch["cond"][:shown], ways) if self.num_classes else None
        upper = (jnp.arange(self.shape[0]) < self.shape[0] // 2).reshape(1, -1, 1, 1)
        each = jax.vmap(fold_each, (None, 0))(keys[:shown], jnp.arange(ways)).reshape(-1)
        went_on = self.inpaint(state, each, jnp.tile(x, (ways, 1, 1, 1)), upper, cond)
        given = jnp.where(upper, x, self.likelihood.low)
        return {"completion.png": jnp.stack([given, *went_on.reshape(ways, *x.shape), x])}
