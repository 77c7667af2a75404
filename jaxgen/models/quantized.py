"""What models with codebooks share, however they are trained: images to codes and back, a first stage for other models.

x data, z the encoder's map of vectors, q the nearest code at each place of the map. A network may have several maps,
the coarsest first. `tokens`, i32[B, T], are the indices of the codes: those of the coarsest map in raster order, then
those of the next finer map, and so on. See `ops.quantize` for the codebook, `nets.vqvae` for a network's interface.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.capabilities import LatentSpace
from jaxgen.core.model import GenerativeModel
from jaxgen.core.ranges import Shape
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.metrics.image import psnr
from jaxgen.models.shared import check_shape, outside, to_8_bit
from jaxgen.nets.apply import apply
from jaxgen.ops.quantize import Codebook, Found, Quantizer, Running, straight_through

Weights = dict[str, PyTree]
"""`network`, and `codes`, f32[K, D] by level, where the codes are learnt by gradient."""


@dataclass(frozen=True, kw_only=True)
class Quantized(GenerativeModel):
    """x: f32[B, *shape] in [-1, 1]. A subclass defines `coder`, its network, and `weights`, where its weights are."""

    codebook: Quantizer = Codebook()
    """What quantizes each level: a learnt codebook, or implicit codes (`ops.implicit_codes`)."""
    shape: Shape = (32, 32, 3)

    @property
    def coder(self) -> nn.Module:
        """The network: `encode`, `decode`, `maps`, `check`."""
        raise NotImplementedError

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of the decoder's output."""
        return self.shape

    def image(self, out: jax.Array) -> jax.Array:
        """Images f32[B, *shape] from the decoder's output."""
        return out

    def weights(self, state: TrainState) -> Weights:
        """The weights that sampling and evaluation use."""
        raise NotImplementedError

    def check(self, batch: Batch) -> None:
        check_shape(self.shape, batch)
        self.coder.check(self.shape)
        if len(set(self.maps)) < len(self.maps):
            raise UserError(
                f"images of {self.shape[0]} x {self.shape[1]} have maps of codes {self.maps}, two of one size: leave "
                "the coarser ones out of --model.network.halvings"
            )

    # --- levels ---

    @property
    def maps(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each map of codes, the coarsest first."""
        return self.coder.maps(self.shape)

    @property
    def num_codes(self) -> int:
        """K, how many values a token takes."""
        return self.codebook.size

    @property
    def num_tokens(self) -> int:
        """T, how many tokens an image has."""
        return sum(math.prod(size) for size in self.maps)

    def _level(self, level: int) -> str:
        """A level's name: the size of its map."""
        return "{}x{}".format(*self.maps[level])

    def _codes(self, weights: Weights, running: dict[str, Running]) -> list[jax.Array]:
        learnt = weights.get("codes", {})
        names = [self._level(i) for i in range(len(self.maps))]
        return [self.codebook.codes(running[name], learnt.get(name)) for name in names]

    # --- training ---

    def _begin(self, key: jax.Array, x: jax.Array) -> tuple[Weights, dict[str, Running]]:
        """Weights and codebook statistics at step 0. The codes start among the new encoder's outputs for x."""
        key_network, key_codes = jax.random.split(key)
        sizes = (self.codebook.dim, self.out_shape)
        network = self.coder.init(key_network, x, lambda level, z: z, *sizes)["params"]
        codes, running = {}, {}

        def start(level: int, z: jax.Array) -> jax.Array:
            name = self._level(level)
            codes[name], running[name] = self.codebook.start(jax.random.fold_in(key_codes, level), z)
            return self.codebook.find(codes[name], z).q

        apply(self.coder, {"params": network}, x, start, self.codebook.dim, method="encode")
        weights = {"network": network, "codes": codes} if self.codebook.by_gradient else {"network": network}
        return weights, running

    def _rebuild(self, weights: Weights, running: dict[str, Running], x: jax.Array) -> tuple[jax.Array, list[Found]]:
        """The decoder's output for the codes of x, f32[B, *out_shape], with straight-through gradients, and the codes
        found at each level."""
        codes, found = self._codes(weights, running), []

        def quantize(level: int, z: jax.Array) -> jax.Array:
            found.append(self.codebook.find(codes[level], z))
            return straight_through(found[-1].z, found[-1].q)

        sizes = (self.codebook.dim, self.out_shape)
        return apply(self.coder, {"params": weights["network"]}, x, quantize, *sizes), found

    def _decode(self, weights: Weights, q: list[jax.Array]) -> jax.Array:
        """Images f32[B, *shape] from the code vectors q of all levels."""
        return self.image(apply(self.coder, {"params": weights["network"]}, q, self.out_shape, method="decode"))

    def _code_loss(self, found: list[Found]) -> jax.Array:
        """The codebook losses of all levels, summed, f32[]."""
        return sum((self.codebook.loss(one) for one in found), jnp.zeros(()))

    def _update_codebooks(
        self, key: jax.Array, weights: Weights, ema: Weights | None, running: dict[str, Running], found: list[Found]
    ) -> tuple[Weights, Weights | None, dict[str, Running], Metrics]:
        """Weights, their average and the codebooks after a batch in which `found` was found, and metrics of code usage.

        ema: the averaged weights, or None. Restarted codes are set there too, as the average would lag behind them.
        """
        learnt = [w and w.get("codes") for w in (weights, ema)]
        running, metrics = dict(running), {}
        for level, one in enumerate(found):
            name = self._level(level)
            key_level = jax.random.fold_in(key, level)
            codes = [each and each[name] for each in learnt]
            running[name], codes, numbers = self.codebook.update(key_level, running[name], one, codes)
            learnt = [each and {**each, name: moved} for each, moved in zip(learnt, codes)]
            metrics |= numbers if len(found) == 1 else {f"{n}_{name}": value for n, value in numbers.items()}
        if learnt[0]:
            weights = {**weights, "codes": learnt[0]}
        if ema and learnt[1]:
            ema = {**ema, "codes": learnt[1]}
        return weights, ema, running, metrics

    # --- as a first stage ---

    def encode_codes(self, state: TrainState, x: jax.Array) -> jax.Array:
        """Tokens i32[B, T] of images f32[B, *shape]."""
        _, found = self._rebuild(self.weights(state), state.extra["codes"], x)
        return jnp.concatenate([one.indices.reshape(x.shape[0], -1) for one in found], axis=1)

    def decode_codes(self, state: TrainState, tokens: jax.Array) -> jax.Array:
        """Images f32[B, *shape] of tokens i32[B, T]. Raises UserError for concrete tokens that are no code."""
        self._check_tokens(tokens)
        weights = self.weights(state)
        return self._decode(weights, self._vectors(self._codes(weights, state.extra["codes"]), tokens))

    def _vectors(self, codes: list[jax.Array], tokens: jax.Array) -> list[jax.Array]:
        """The codes f32[B, h, w, D] of tokens i32[B, T] at each level."""
        start, found = 0, []
        for own, size in zip(codes, self.maps):
            stop = start + math.prod(size)
            found.append(own[tokens[:, start:stop]].reshape(-1, *size, self.codebook.dim))
            start = stop
        return found

    def _check_tokens(self, tokens: jax.Array) -> None:
        if tokens.ndim != 2 or tokens.shape[1] != self.num_tokens:
            raise UserError(f"tokens have shape {tokens.shape}, [B, {self.num_tokens}] is expected")
        if (bad := outside(tokens, self.num_codes)) is not None:
            raise UserError(f"token {bad} is out of range: codes go from 0 to {self.num_codes - 1}")

    draws_latents: ClassVar[bool] = False

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return *self.maps[-1], self.codebook.dim

    def to_latent(self, state: TrainState, x: jax.Array, key: jax.Array) -> jax.Array:
        """z before it is rounded, f32[B, h, w, D], for a second stage that models vectors instead of codes: section 3.1
        of arXiv:2112.10752. `key` is not used."""
        if len(self.maps) > 1:
            raise UserError(f"this {type(self).__name__} has {len(self.maps)} maps of codes: latents are of one alone")
        return self._rebuild(self.weights(state), state.extra["codes"], x)[1][0].z

    def from_latent(self, state: TrainState, z: jax.Array) -> jax.Array:
        """Images f32[B, *shape] of z, which is quantized first."""
        weights = self.weights(state)
        return self._decode(weights, [self.codebook.near(self._codes(weights, state.extra["codes"])[0], z).q])

    # --- use ---

    def latent_space(self, state: TrainState, cond: PyTree = None) -> LatentSpace:
        """z before quantization at each level, f32[B, h, w, D], through which gradients go straight."""
        weights = self.weights(state)
        codes = self._codes(weights, state.extra["codes"])

        def draw(keys: jax.Array) -> list[jax.Array]:
            return self._vectors(codes, self._drawn(state, keys))

        def decode(zs: list[jax.Array]) -> jax.Array:
            found = [self.codebook.near(own, z) for own, z in zip(codes, zs)]
            return self._decode(weights, [straight_through(one.z, one.q) for one in found])

        def cost(zs: list[jax.Array]) -> jax.Array:
            """The distance to the codes in use, sum |z - q|^2 over the mean of |q|^2."""
            total = jnp.zeros(zs[0].shape[0])
            for own, z in zip(codes, zs):
                one = self.codebook.near(own, z)
                far = jnp.sum((one.z - jax.lax.stop_gradient(one.q)) ** 2, axis=(1, 2, 3))
                total += far / jnp.mean(jnp.sum(own**2, axis=1))
            return total

        return LatentSpace(draw, decode, cost)

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """f32[len(keys), *shape] from codes drawn independently by their recent frequency: textures without objects, as
        how codes depend on each other is for a prior to learn."""
        return self.decode_codes(state, self._drawn(state, keys))

    def _drawn(self, state: TrainState, keys: jax.Array) -> jax.Array:
        """Tokens i32[len(keys), T], drawn independently by their recent frequency."""
        tokens = []
        for level, size in enumerate(self.maps):
            logits = jnp.log(state.extra["codes"][self._level(level)].count + 1e-12)

            def draw(key: jax.Array, level=level, size=size, logits=logits) -> jax.Array:
                return jax.random.categorical(jax.random.fold_in(key, level), logits, shape=(math.prod(size),))

            tokens.append(jax.vmap(draw)(keys))
        return jnp.concatenate(tokens, axis=1)

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """Errors of reconstructions, f32[B] each: `mse` per element in model space, `psnr` in dB of 8-bit images."""
        x = batch["x"]
        rebuilt = self.image(self._rebuild(self.weights(state), state.extra["codes"], x)[0])
        mse = jnp.mean((x - rebuilt) ** 2, axis=(1, 2, 3))
        return {"mse": mse, "psnr": psnr(to_8_bit(rebuilt), to_8_bit(x))}

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Reconstructions below their originals."""
        x = batch["x"][:10]
        rebuilt, _ = self._rebuild(self.weights(state), state.extra["codes"], x)
        return {"reconstruction.png": jnp.stack([x, self.image(rebuilt)])}
