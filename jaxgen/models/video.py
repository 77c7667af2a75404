"""Diffusion over short clips, arXiv:2204.03458: EDM (arXiv:2206.00364) with a network of clips (`nets.video`). It also
continues clips whose first frames are given.

x: clips f32[B, F, H, W, C]; x^a: the given frames, x^b: the others. Frames are given in one of two ways.
`given` above 0: the network is told x^a and which frames they are, as further channels, and training draws how many
frames are given, from none to `given`, as MCVD (arXiv:2205.09853) and RaMViD (arXiv:2206.07696) do. `given` 0: the
network knows whole clips alone; at each step of sampling x^a is put in its place with noise, and the prediction of x^b
is drawn to what reconstructs x^a (`ops.guidance.reconstructing`). Either way the given frames come out as they went in.

With `block`, the network sees so many frames at once. Training cuts blocks out of clips; a sample is a block and then
further ones, each of which is given the last frames of the one before, as in MCVD.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.keys import coin_each, fold_each, integer_each, split_each
from jaxgen.core.ranges import Fraction, NonNegative, OptionalSize, Shape
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.conditions import NO_CLASS, Inputs
from jaxgen.models.edm import EDM
from jaxgen.models.shared import check_shape, outside, to_signed
from jaxgen.nets.video import VideoUNet
from jaxgen.ops.diffusion import Denoise
from jaxgen.ops.guidance import reconstructing
from jaxgen.ops.samplers import Start

CONTINUATION = 3  # stream of an evaluation's key, after those of `models.diffusion`
PLACE = 7  # stream of an example's key in training: of where a block lies
BLOCKS = 1 << 22  # streams of a sample's key, beyond those of a sampler's rows: of blocks
SHOWN = 8
"""Clips whose continuation is shown."""
FRAMES = ("frames", "given")


@dataclass(frozen=True, kw_only=True)
class VideoDiffusion(EDM):
    """x: f32[B, F, H, W, C] in [-1, 1]. cond: as of any diffusion model, or a dict with its entries (`label`, ...) and,
    for a clip that is continued, `frames`: its frames, uint8 or f32 in [-1, 1], [B, F, H, W, C], of which the first
    `given`, i32[B], are seen. Without labels of a model of classes, label -1 is the null class."""

    network: nn.Module = field(default_factory=VideoUNet)
    shape: Shape = (16, 16, 16, 1)
    given: OptionalSize = 0
    """Frames at most that training gives; 0: none, and clips are continued by replacement and reconstruction."""
    block: OptionalSize = 0
    """Frames that the network sees at once, more than `given`; 0: all of a clip."""
    whole: Fraction = 0.5
    """Fraction of training clips of which no frame is given."""
    reconstruction: NonNegative = 4.0
    """w_r: weight of reconstruction guidance, where training gives no frames; 0 leaves it out. The error of x^a is
    taken to have the variance of the noise, which is too much of it where noise is strong: hence weights above 1."""

    # --- checks ---

    def check(self, batch: Batch) -> None:
        if len(self.shape) != 4:
            raise UserError(f"model.shape is {self.shape}: clips (F, H, W, C) are expected")
        if self.block:
            self._check_blocks()
            check_shape(self.shape, batch)
            first: Any = jax.ShapeDtypeStruct((len(batch["x"]), *self.of_block.shape), batch["x"].dtype)
            return self.of_block.check({**batch, "x": first})
        super().check(batch)
        if self.given >= self.shape[0]:
            raise UserError(f"given is {self.given} of {self.shape[0]} frames: leave one at least to be drawn")

    def _check_blocks(self) -> None:
        frames = self.shape[0]
        if not 0 < self.given < self.block <= frames:
            raise UserError(
                f"block is {self.block}, given {self.given} of {frames} frames: a block has more frames than it is "
                "given, which are one at least, and no more than a clip"
            )
        if (frames - self.block) % (self.block - self.given):
            raise UserError(
                f"blocks of {self.block} frames, each given {self.given}, do not make {frames}: choose a block and "
                "given so that what is left after one block divides by their difference"
            )

    def check_cond(self, cond: PyTree) -> None:
        rest = cond
        if isinstance(cond, dict) and any(name in cond for name in FRAMES):
            self._check_frames(cond)
            rest = {name: value for name, value in cond.items() if name not in FRAMES} or None
        super().check_cond(rest)

    def _check_frames(self, cond: dict[str, jax.Array]) -> None:
        if missing := [name for name in FRAMES if name not in cond]:
            raise UserError(f"the condition has no {missing[0]}: frames and given are expected together")
        frames, given = (cond[name] for name in FRAMES)
        if tuple(frames.shape[1:]) != tuple(self.shape) or given.shape != frames.shape[:1]:
            raise UserError(
                f"frames have shape {list(frames.shape)} and given {list(given.shape)}: {['B', *self.shape]} and ['B'] "
                "are expected; fill what is not given with any frames"
            )
        most = self.given or self.shape[0]
        if (bad := outside(given, most + 1)) is not None:
            raise UserError(f"{bad} frames are given: 0 to {most} are expected of {self.shape[0]}")

    # --- blocks ---

    @property
    def of_block(self) -> "VideoDiffusion":
        """The model of one block, which may be a whole clip."""
        return replace(self, shape=(self.block, *self.shape[1:]), block=0) if self.block else self

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        if self.block:
            return self.of_block.init_params(key, {**batch, "x": batch["x"][:, : self.block]})
        return super().init_params(key, batch)

    def loss(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
        if not self.block:
            return super().loss(params, state, keys, batch)
        first = integer_each(fold_each(keys, PLACE), 0, self.shape[0] - self.block + 1)
        x = jax.vmap(lambda clip, i: jax.lax.dynamic_slice_in_dim(clip, i, self.block))(batch["x"], first)
        return self.of_block.loss(params, state, keys, {**batch, "x": x})

    def denoiser(self, params: PyTree, cond: PyTree = None, guided: bool = True, sampling: bool = False) -> Denoise:
        if self.block:
            raise UserError(f"the network sees {self.block} of {self.shape[0]} frames: only samples of clips are drawn")
        return super().denoiser(params, cond, guided, sampling)

    def _in_blocks(self, state: TrainState, keys: jax.Array, cond: PyTree) -> jax.Array:
        """The first block under `cond`, whose frames it may give, and the others from one another."""
        one, kept = self.of_block, self.given
        entries = cond if isinstance(cond, dict) else {} if cond is None else {"label": cond}
        told = {name: value for name, value in entries.items() if name not in FRAMES}
        given = {name: entries[name] for name in FRAMES if name in entries}
        if given:
            given["frames"] = given["frames"][:, : self.block]
        begin = one.sample(state, keys, {**told, **given} or None)
        further = (self.shape[0] - self.block) // (self.block - kept)

        def draw(last: jax.Array, i: jax.Array) -> tuple[jax.Array, jax.Array]:
            rest = jnp.zeros((len(keys), self.block - kept, *self.shape[1:]))
            frames = {"frames": jnp.concatenate([last, rest], axis=1), "given": jnp.full(len(keys), kept, jnp.int32)}
            clip = one.sample(state, fold_each(keys, BLOCKS + i), {**told, **frames})
            return clip[:, -kept:], clip[:, kept:]

        _, rest = jax.lax.scan(draw, begin[:, -kept:], jnp.arange(further))
        return jnp.concatenate([begin, jnp.moveaxis(rest, 0, 1).reshape(len(keys), -1, *self.shape[1:])], axis=1)

    # --- the network's inputs ---

    def seen_frames(self, given: jax.Array) -> jax.Array:
        """bool[B, F, 1, 1, 1], true for the first given[i] frames of clip i."""
        place = jnp.arange(self.shape[0])[None] < given[:, None]
        return place[:, :, None, None, None]

    def condition(self, batch: Batch) -> PyTree:
        """Of whole clips: no frame is given."""
        cond = super().condition(batch)
        if not self.given:
            return cond
        entries = cond if isinstance(cond, dict) else {} if cond is None else {"label": cond}
        return {**entries, "frames": batch["x"], "given": jnp.zeros(len(batch["x"]), jnp.int32)}

    def drop(self, keys: jax.Array, cond: PyTree) -> PyTree:
        """Drops classes and texts as of any diffusion model, and draws how many frames are given: none of a fraction
        `whole` of clips, else any number from 1 to `given`."""
        if not self.given:
            return super().drop(keys, cond)
        keys_told, keys_whole, keys_given = split_each(keys, 3)
        given = jnp.where(coin_each(keys_whole, self.whole), 0, integer_each(keys_given, 1, self.given + 1))
        told = {name: value for name, value in cond.items() if name not in FRAMES}
        return {**cond, **(super().drop(keys_told, told) if told else {}), "given": given}

    def inputs(self, params: PyTree, cond: PyTree, dropout: jax.Array | None = None) -> Inputs:
        inputs = super().inputs(params, cond, dropout)
        if self.given and isinstance(cond, dict) and "frames" in cond:
            mask = self.seen_frames(cond["given"])
            frames = jnp.where(mask, to_signed(cond["frames"]), 0.0)
            inputs["image"] = jnp.concatenate([frames, jnp.broadcast_to(mask, (*frames.shape[:-1], 1))], axis=-1)
        return inputs

    def answer(
        self, params: PyTree, x: jax.Array, t: jax.Array, inputs: Inputs, dropout: jax.Array | None = None
    ) -> jax.Array:
        if self.given and "image" not in inputs:  # no frame is given
            inputs = {**inputs, "image": jnp.zeros((*x.shape[:-1], x.shape[-1] + 1))}
        return super().answer(params, x, t, inputs, dropout)

    # --- sampling ---

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """Clips f32[len(keys), *shape]. Frames that the condition gives come out as they are."""
        if self.block:
            return self._in_blocks(state, keys, cond)
        if not isinstance(cond, dict) or "frames" not in cond:
            return super().sample(state, keys, cond)
        frames, mask = to_signed(jnp.asarray(cond["frames"])), self.seen_frames(cond["given"])
        if self.given:
            return jnp.where(mask, frames, self._sample(state, keys, cond))
        denoise = self.denoiser(state.sampling_params, cond)
        if self.reconstruction:
            denoise = reconstructing(denoise, self.schedule, frames, mask, self.reconstruction)
        return self.sampler(denoise, self.schedule, keys, self.shape, Start(image=frames, mask=mask))

    def continuing(self, x: jax.Array, given: int, cond: PyTree = None) -> PyTree:
        """The condition that continues clips x, f32[B, *shape], after their first `given` frames, under labels i32[B],
        or a condition by name, or else, of a model that knows the null class, without any."""
        entries = dict(cond) if isinstance(cond, dict) else {} if cond is None else {"label": cond}
        if cond is None and self.num_classes and self.class_dropout:
            entries = {"label": jnp.full(len(x), NO_CLASS, jnp.int32)}
        return {**entries, "frames": x, "given": jnp.full(len(x), given, jnp.int32)}

    # --- numbers and pictures ---

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """The numbers of EDM, of the first block; if training gives frames, also those of continuing after `given` of
        them: the PSNR of the other frames in dB, `continuation_psnr`, and of copies of the last given one, `copy_psnr`,
        f32[B] each."""
        one = self.of_block
        numbers = super(VideoDiffusion, one).evaluate(state, keys, {**batch, "x": batch["x"][:, : one.shape[0]]})
        if not self.given:
            return numbers
        x, keys = batch["x"], fold_each(keys, self.evaluate_times + CONTINUATION)
        continued = self.sample(state, keys, self._continuing(batch, self.given))
        copied = jnp.broadcast_to(x[:, self.given - 1 : self.given], x.shape)
        found = {"continuation_psnr": continued, "copy_psnr": copied}
        return numbers | {name: future_psnr(guess, x, self.given) for name, guess in found.items()}

    def _continuing(self, batch: Batch, given: int) -> PyTree:
        """The condition that continues held-out clips; of a model that must know the class, or of texts, with it."""
        told = super().condition(batch) if self.text else None if self.class_dropout else batch.get("cond")
        return self.continuing(batch["x"], given, told)

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Held-out clips above what their first `given` frames are continued by; of a model that was given none in
        training, half of each."""
        keys = keys[:SHOWN]
        given = self.given or self.shape[0] // 2
        batch = {name: value[: len(keys)] for name, value in batch.items()}
        cond = self._continuing(batch, given)
        return {"continued.gif": jnp.stack([batch["x"], self.sample(state, keys, cond)])}


def future_psnr(guess: jax.Array, x: jax.Array, given: int) -> jax.Array:
    """PSNR of the frames after the first `given` ones, in dB over all of them, f32[B]. guess, x: f32[B, F, H, W, C] in
    [-1, 1], to which the guess is clipped."""
    error = (jnp.clip(guess, -1, 1) - x)[:, given:] ** 2
    return 10 * jnp.log10(4 / (jnp.mean(error, axis=(1, 2, 3, 4)) + 1e-10))
