"""Image GPT, "Generative Pretraining from Pixels" (Chen et al., ICML 2020): p(x) = prod_i p(x_i | x_1 ... x_{i-1}), its
eq. 1, over the pixels of a picture in raster order, by a GPT that knows nothing of their rows and columns.

x: i32[B, H W], the index of each pixel's colour (`codecs.Colours`). All of them are predicted, the first from a learnt
start token of the class. A picture is completed by drawing what is not given, in raster order.
"""

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from jaxgen.codecs import Colours
from jaxgen.core.codec import Codec
from jaxgen.core.keys import fold_each
from jaxgen.core.ranges import Shape
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.gpt import GPT


@dataclass(frozen=True, kw_only=True)
class ImageGPT(GPT):
    """x: i32[B, H W]; cond, where num_classes > 0: i32[B] in [0, num_classes)."""

    shape: Shape = (8, 8, 1)
    """(H, W, C) of the pictures, raw: their height times their width is the window."""
    start: bool = True

    def natural_codec(self) -> Codec | None:
        return Colours(self.shape, self.vocab)

    def fitted(self, shape: tuple[int, ...], num_classes: int) -> "ImageGPT":
        model = super().fitted(shape, num_classes)
        assert isinstance(model, ImageGPT)
        return replace(model, network=replace(model.network, window=shape[0] * shape[1]))

    def check(self, batch: Batch) -> None:
        if len(self.shape) != 3 or math.prod(self.shape[:2]) != self.window:
            raise UserError(
                f"model.shape is {self.shape}, model.network.window {self.window}: height, width and channels are "
                "expected, and height times width as the window"
            )
        if not self.start:
            raise UserError("model.start is False: the first pixel needs a start token; leave it out")
        super().check(batch)

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """-log p(x) of the colours' indices, exact, f32[B]: `nats`, `nats_per_token`, `bits_per_token`, and
        `bits_per_dim`, bits over H W C.

        Where the codec has every level of grey pictures, `bits_per_dim` is of the pictures themselves, as PixelCNN's
        is. Otherwise it is of the nearest colours alone: what they leave out of a picture is not counted.
        """
        numbers = super().evaluate(state, keys, batch)
        bits_per_dim = numbers["bits_per_token"] / self.shape[-1]
        return {"nats": numbers["nats_per_token"] * self.window, "bits_per_dim": bits_per_dim, **numbers}

    def inpaint(
        self, state: TrainState, keys: jax.Array, x: jax.Array, mask: jax.Array, cond: PyTree = None, resample: int = 1
    ) -> jax.Array:
        """Pictures that equal x, i32[B, H W], where `mask` (bool[B or 1, H, W, 1]) is true. The rest is drawn in raster
        order, so a pixel is not conditioned on given pixels after it. Raises UserError unless resample is 1."""
        if resample != 1:
            raise UserError(f"resample is {resample}, but image GPT draws each pixel once: leave it at 1")
        given = jnp.where(mask.reshape(mask.shape[0], -1), x, -1)
        return self.drawn(state.sampling_params, keys, cond, given)

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """`completion.png`: upper halves, three completions of each, and the originals."""
        shown, ways = min(10, keys.shape[0], len(batch["x"])), 3
        x = batch["x"][:shown]
        cond = jnp.tile(batch["cond"][:shown], ways) if self.num_classes else None
        upper = (jnp.arange(self.shape[0]) < self.shape[0] // 2).reshape(1, -1, 1, 1)
        upper = jnp.broadcast_to(upper, (1, *self.shape[:2], 1))
        each = jax.vmap(fold_each, (None, 0))(keys[:shown], jnp.arange(ways)).reshape(-1)
        completed = self.inpaint(state, each, jnp.tile(x, (ways, 1)), upper, cond)
        given = jnp.where(upper.reshape(1, -1), x, 0)
        return {"completion.png": jnp.stack([given, *completed.reshape(ways, *x.shape), x])}
