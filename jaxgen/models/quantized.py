"""What models with codebooks share, whatever trains them: images to codes and back, as a first stage for other models.

x data, z a map of vectors that a network makes of it, q the nearest codes, one for each place of the map; a network may
have several maps, the coarsest first. `tokens`, i32[B, T], are the codes' numbers: of the coarsest map in raster order,
then of the next finer one, and so on. See `ops.quantize` for the codebook, `nets.vqvae` for what a network answers.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.model import GenerativeModel
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.metrics.image import psnr
from jaxgen.models.shared import check_shape, outside, to_8_bit
from jaxgen.ops.quantize import Codebook, Found, Running, straight_through

Weights = dict[str, PyTree]
"""`network`, and where codes are learnt by gradient `codes`, f32[K, D] by level."""


@dataclass(frozen=True, kw_only=True)
class Quantized(GenerativeModel):
    """x: f32[B, *shape] in [-1, 1]. A model of this kind says which network is its, and where its weights are."""

    codebook: Codebook = Codebook()
    """Of each level."""
    shape: tuple[int, ...] = (32, 32, 3)

    @property
    def coder(self) -> nn.Module:
        """The network: `encode`, `decode`, `maps`, `check`."""
        raise NotImplementedError

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Of what the network makes of codes."""
        return self.shape

    def image(self, out: jax.Array) -> jax.Array:
        """f32[B, *shape] of that."""
        return out

    def weights(self, state: TrainState) -> Weights:
        """Those to use a trained model with."""
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
        """A level's name, by its map."""
        return "{}x{}".format(*self.maps[level])

    def _codes(self, weights: Weights, running: dict[str, Running]) -> list[jax.Array]:
        learnt = weights.get("codes", {})
        names = [self._level(i) for i in range(len(self.maps))]
        return [self.codebook.codes(running[name], learnt.get(name)) for name in names]

    # --- training ---

    def _begin(self, key: jax.Array, x: jax.Array) -> tuple[Weights, dict[str, Running]]:
        """Weights, and the codes' use, at step 0: codes lie where the new encoder puts x."""
        key_network, key_codes = jax.random.split(key)
        sizes = (self.codebook.dim, self.out_shape)
        network = self.coder.init(key_network, x, lambda level, z: z, *sizes)["params"]
        codes, running = {}, {}

        def start(level: int, z: jax.Array) -> jax.Array:
            name = self._level(level)
            codes[name], running[name] = self.codebook.start(jax.random.fold_in(key_codes, level), z)
            return self.codebook.find(codes[name], z).q

        self.coder.apply({"params": network}, x, start, self.codebook.dim, method="encode")
        weights = {"network": network, "codes": codes} if self.codebook.by_gradient else {"network": network}
        return weights, running

    def _rebuild(self, weights: Weights, running: dict[str, Running], x: jax.Array) -> tuple[jax.Array, list[Found]]:
        """What the network makes of x by way of its codes, f32[B, *out_shape] with gradients straight through them, and
        what was found."""
        codes, found = self._codes(weights, running), []

        def quantize(level: int, z: jax.Array) -> jax.Array:
            found.append(self.codebook.find(codes[level], z))
            return straight_through(found[-1].z, found[-1].q)

        sizes = (self.codebook.dim, self.out_shape)
        return self.coder.apply({"params": weights["network"]}, x, quantize, *sizes), found

    def _decode(self, weights: Weights, q: list[jax.Array]) -> jax.Array:
        """Images f32[B, *shape] of all levels' codes, as vectors."""
        return self.image(self.coder.apply({"params": weights["network"]}, q, self.out_shape, method="decode"))

    def _code_loss(self, found: list[Found]) -> jax.Array:
        """Of the codes, all levels together."""
        return sum(self.codebook.loss(one) for one in found)

    def _use(
        self, key: jax.Array, weights: Weights, ema: Weights | None, running: dict[str, Running], found: list[Found]
    ) -> tuple[Weights, Weights | None, dict[str, Running], Metrics]:
        """Codebooks after a batch of which this was found, and the metrics of how they are used.

        ema: the average of the weights, None without one: by itself it would lag behind a code that restarts.
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
        weights, ema = ({**w, "codes": each} if each else w for w, each in zip((weights, ema), learnt))
        return weights, ema, running, metrics

    # --- a first stage ---

    def encode_codes(self, state: TrainState, x: jax.Array) -> jax.Array:
        """Tokens i32[B, T] of images f32[B, *shape]."""
        _, found = self._rebuild(self.weights(state), state.extra["codes"], x)
        return jnp.concatenate([one.indices.reshape(x.shape[0], -1) for one in found], axis=1)

    def decode_codes(self, state: TrainState, tokens: jax.Array) -> jax.Array:
        """Images f32[B, *shape] of tokens i32[B, T]. Raises UserError for a (concrete) token that stands for no
        code."""
        self._check_tokens(tokens)
        weights, start, found = self.weights(state), 0, []
        for codes, size in zip(self._codes(weights, state.extra["codes"]), self.maps):
            stop = start + math.prod(size)
            found.append(codes[tokens[:, start:stop]].reshape(-1, *size, self.codebook.dim))
            start = stop
        return self._decode(weights, found)

    def _check_tokens(self, tokens: jax.Array) -> None:
        if tokens.ndim != 2 or tokens.shape[1] != self.num_tokens:
            raise UserError(f"tokens have shape {tokens.shape}, [B, {self.num_tokens}] is expected")
        if (bad := outside(tokens, self.num_codes)) is not None:
            raise UserError(f"token {bad} is out of range: codes go from 0 to {self.num_codes - 1}")

    def to_latent(self, state: TrainState, x: jax.Array, key: jax.Array) -> jax.Array:
        """z before it is quantized, f32[B, h, w, D], for a model of vectors instead of codes: arXiv:2112.10752,
        section 3.1."""
        if len(self.maps) > 1:
            raise UserError(f"this {type(self).__name__} has {len(self.maps)} maps of codes: latents are of one alone")
        return self._rebuild(self.weights(state), state.extra["codes"], x)[1][0].z

    def from_latent(self, state: TrainState, z: jax.Array) -> jax.Array:
        """Images f32[B, *shape] of z, which is quantized first."""
        weights = self.weights(state)
        return self._decode(weights, [self.codebook.find(self._codes(weights, state.extra["codes"])[0], z).q])

    # --- use ---

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """Decoded codes, each drawn by itself as often as the codebook's codes were used lately, f32[len(keys),
        *shape]: textures without objects. What codes go together a prior over them has to learn."""
        tokens = []
        for level, size in enumerate(self.maps):
            logits = jnp.log(state.extra["codes"][self._level(level)].count + 1e-12)

            def draw(key: jax.Array, level=level, size=size, logits=logits) -> jax.Array:
                return jax.random.categorical(jax.random.fold_in(key, level), logits, shape=(math.prod(size),))

            tokens.append(jax.vmap(draw)(keys))
        return self.decode_codes(state, jnp.concatenate(tokens, axis=1))

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """Of what comes back of x: mse per element in model space, psnr in dB of 8-bit images; each f32[B]."""
        x = batch["x"]
        rebuilt = self.image(self._rebuild(self.weights(state), state.extra["codes"], x)[0])
        pair = [to_8_bit(a) for a in (rebuilt, x)]
        return {"mse": jnp.mean((x - rebuilt) ** 2, axis=(1, 2, 3)), "psnr": psnr(*pair)}

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Reconstructions under their originals."""
        x = batch["x"][:10]
        rebuilt, _ = self._rebuild(self.weights(state), state.extra["codes"], x)
        return {"reconstruction.png": jnp.stack([x, self.image(rebuilt)])}
