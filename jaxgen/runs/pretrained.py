"""A trained model as a codec: its codes, or its latents, are what another model sees. Two stages in two commands.

    python experiments/vqvae.py emoji           # runs/vqvae-emoji-0
    python experiments/vqvae_prior.py emoji     # reads that run; its samples are images

A run remembers which weights it began with (RUN/first_stage.json): it goes on with these, and is sampled with these,
or says that they are gone. Latents z are standardized: (z - m) / s, with the mean m and the deviation s of each channel
over training examples, measured as the run begins and kept there too.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxgen.core.capabilities import CodeStage, LatentStage
from jaxgen.core.codec import Codec, static
from jaxgen.core.ranges import CheckpointStep, PathName
from jaxgen.core.types import Batch, RawBatch, TrainState
from jaxgen.errors import UserError
from jaxgen.ops.samplers import Sampler
from jaxgen.runs.checkpoint import Checkpoints, saved_steps
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import restore
from jaxgen.runtime.reading import user_path
from jaxgen.weights.store import tree_hash

T = TypeVar("T", bound=Codec)
Form = Literal["tokens", "levels", "latents"]
FARTHEST = 3.0
"""Of a sampler's bound on x_0 where that is latents of deviation one: a lower one would cut many of them off."""


@struct.dataclass
class NamesRun(Codec):
    """A codec that names another run, by whose model it encodes; `load` reads it."""

    run: PathName = static("")
    """Folder of that run."""
    step: CheckpointStep = static(-1)
    """Checkpoint to use; the newest when negative."""
    best: bool = static(False)
    """Use the best checkpoint, of a run trained with --best."""

    def _folder(self) -> RunFolder:
        """The run. Raises UserError where there is none."""
        run = RunFolder(user_path(self.run))
        if not self.run or not (run.path / "experiment.json").exists():
            named = re.fullmatch(r"(\w+)-(\w+)-(\d+)", run.path.name)
            how = "python experiments/{}.py {} --seed {}".format(*named.groups()) if named else "a script of its own"
            raise UserError(
                f"codec.run is {self.run!r}, no run folder: train the first stage before ({how}), or name another run "
                "with --codec.run"
            )
        return run

    def _chosen(self, run: RunFolder, record: dict[str, Any] | None) -> int:
        """The step of the checkpoint that the record names, or else that is asked for. Raises UserError where it is
        not there."""
        steps = saved_steps(run.checkpoints)
        if not steps:
            raise UserError(f"{run.path} has no checkpoints: train it first")
        step = record["step"] if record else self._step(run, steps)
        if step not in steps:
            since = ", with which this run began" if record else ""
            raise UserError(f"{run.path} has no checkpoint of step {step}{since}, only of {steps}")
        return step

    def _read(self, run: RunFolder, record: dict[str, Any] | None, read: Callable[[int], T]) -> T:
        """What `read` makes of the checkpoint that is chosen. Raises UserError if it has not the record's weights."""
        step = self._chosen(run, record)
        found = read(step)
        sha256 = found.provenance["sha256"]
        if record and sha256 != record["sha256"]:
            raise UserError(
                f"{run.path} has other weights at step {step} than when this run began (SHA-256 "
                f"{sha256[:12]}..., not {record['sha256'][:12]}...): bring those back, or train "
                "anew in another folder with --out"
            )
        return found

    def _step(self, run: RunFolder, steps: list[int]) -> int:
        if not self.best:
            return steps[-1] if self.step < 0 else self.step
        with Checkpoints(run.checkpoints) as checkpoints:
            return checkpoints.best()

    def encode(self, batch: Batch, key: jax.Array) -> Batch:
        raise UserError(f"the codec of {self.run!r} has no weights yet: call its load()")

    def decode(self, x: jax.Array) -> jax.Array:
        raise UserError(f"the codec of {self.run!r} has no weights yet: call its load()")


@struct.dataclass
class Pretrained(NamesRun):
    """A first stage, whose codes or latents are what the model sees."""

    form: Form = static("tokens")
    """tokens: i32[B, T], for GPT and MaskGIT. levels: one map of codes as f32[B, h, w, 1] from -1 to 1, for PixelCNN.
    latents: vectors f32[B, h, w, D] before they are quantized, for diffusion."""
    standardize: bool = static(True)
    """Of latents: whether each channel is shifted and scaled to mean 0 and deviation 1."""

    @property
    def pictures(self) -> tuple[int, ...]:
        """(H, W, C) of the pictures that the first stage sees."""
        return self._stage()[1].shape

    def _stage(self) -> tuple[RunFolder, Any]:
        """The run and its model. Raises UserError if it is no first stage of this form."""
        run = self._folder()
        model = run.experiment().compute_model
        if not isinstance(model, LatentStage if self.form == "latents" else CodeStage):
            what = "latents" if self.form == "latents" else "codes"
            raise UserError(
                f"{run.path} is a run of {type(model).__name__}, which makes no {what} of images: name one that does, "
                "as of experiments/vqvae.py"
            )
        if self.form == "levels" and isinstance(model, CodeStage) and len(model.maps) > 1:
            raise UserError(f"{run.path} has {len(model.maps)} maps of codes, form levels takes one: use form tokens")
        return run, model

    def load(self, record: dict[str, Any] | None = None) -> "Loaded":
        run, _ = self._stage()
        place = run.path.resolve()
        loaded = self._read(run, record, lambda step: _load(place, step, run.written(step), self.form, self.run))
        loaded = replace(loaded, standardize=self.standardize)
        if record and "mean" in record:
            loaded = loaded.standardized(record["mean"], record["deviation"])
        return loaded

    def shape_of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.form != "latents":
            return shape
        _, model = self._stage()
        if tuple(shape) != tuple(model.shape):
            raise UserError(f"images have shape {tuple(shape)}, the first stage {self.run} takes {tuple(model.shape)}")
        return model.latent_shape

    def raw_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self._stage()[1].shape if self.form == "latents" else shape


@struct.dataclass
class Loaded(Codec):
    """What `Pretrained` reads: the first stage's model with the weights it samples with, and its own codec."""

    state: TrainState
    codec: Codec
    model: Any = static(None)
    form: Form = static("tokens")
    source: tuple[tuple[str, Any], ...] = static(())
    standardize: bool = static(True)
    mean: jax.Array | None = None
    """Of each channel of latents, f32[D]; None where they stay as they are."""
    deviation: jax.Array | None = None

    @property
    def provenance(self) -> dict[str, Any]:
        found = dict(self.source)
        if self.mean is not None:
            found |= {"mean": np.asarray(self.mean).tolist(), "deviation": np.asarray(self.deviation).tolist()}
        return found

    @property
    def pictures(self) -> tuple[int, ...]:
        return self.model.shape

    @property
    def maps(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each map of codes, whose tokens follow one another."""
        return self.model.maps

    @property
    def draws(self) -> bool:
        return self.codec.draws or (self.form == "latents" and self.model.draws_latents)

    @property
    def encode_once(self) -> bool:
        return not self.draws

    def standardized(self, mean: Any, deviation: Any) -> "Loaded":
        """The codec with these statistics of latents, f32[D]."""
        return replace(self, mean=jnp.asarray(mean, jnp.float32), deviation=jnp.asarray(deviation, jnp.float32))

    def measured(self, batches: Iterable[RawBatch]) -> "Loaded":
        """The codec with statistics of the latents of these examples."""
        if self.form != "latents" or not self.standardize:
            return self
        encode = jax.jit(lambda codec, batch, key: codec.encode(batch, key)["x"])
        count, total, squares = 0, np.zeros(()), np.zeros(())
        for i, batch in enumerate(batches):
            z = np.asarray(encode(self, batch, jax.random.key(i)), np.float64)
            z = z.reshape(-1, z.shape[-1])
            count, total, squares = count + len(z), total + z.sum(axis=0), squares + (z**2).sum(axis=0)
        mean = total / count
        # A channel that never changes keeps its scale.
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
        return self.standardized(mean, np.where(deviation > 1e-6, deviation, 1))

    def check_model(self, model: Any) -> None:
        """Raises UserError unless `model` counts codes as the first stage does, and takes latents for what they are."""
        if self.form == "latents":
            _check_latents(model)
            return
        name = "vocab" if self.form == "tokens" else "code_levels"
        given, expected = getattr(model, name, 0) or None, self.model.num_codes
        if given is None:
            other = "levels" if self.form == "tokens" else "tokens"
            raise UserError(f"{type(model).__name__} takes no {self.form}: try --codec.form {other}")
        if given != expected:
            flag = "--model.network.vocab" if self.form == "tokens" else "--model.likelihood.levels"
            stage = f"the first stage {self.provenance['run']}"
            raise UserError(f"the model knows {given} codes, {stage} has {expected}: pass {flag} {expected}")

    def encode(self, batch: Batch, key: jax.Array) -> Batch:
        key_codec, key_latent = jax.random.split(key)
        given, expected = tuple(batch["x"].shape[1:]), tuple(self.model.shape)
        if given != expected:
            run = self.provenance["run"]
            raise UserError(f"images have shape {given}, the first stage {run} takes {expected}: give it the same data")
        batch = self.codec.encode(batch, key_codec)
        x = batch["x"]
        if self.form == "latents":
            z = self.model.to_latent(self.state, x, key_latent)
            return {**batch, "x": z if self.mean is None else (z - _row(self.mean)) / _row(self.deviation)}
        tokens = self.model.encode_codes(self.state, x)
        if self.form == "levels":
            (size,) = self.model.maps
            tokens = (tokens.reshape(-1, *size, 1) * (2 / (self.model.num_codes - 1)) - 1).astype(jnp.float32)
        return {**batch, "x": tokens}

    def decode(self, x: jax.Array) -> jax.Array:
        if self.form == "latents":
            return self.codec.decode(self._images(x))
        if self.form == "levels":
            x = jnp.round((x + 1) * ((self.model.num_codes - 1) / 2)).astype(jnp.int32)
        return self.codec.decode(self.model.decode_codes(self.state, x.reshape(x.shape[0], -1)))

    def unrounded(self, x: jax.Array) -> jax.Array:
        if self.form != "latents":
            raise UserError("codes are integers, which no gradient moves: guide the run of the first stage instead")
        return self.codec.unrounded(self._images(x))

    def _images(self, z: jax.Array) -> jax.Array:
        """The first stage's x of standardized latents."""
        z = z if self.mean is None else z * _row(self.deviation) + _row(self.mean)
        return self.model.from_latent(self.state, z)


def _check_latents(model: Any) -> None:
    sampler = getattr(model, "sampler", None)
    if isinstance(sampler, Sampler) and 0 < sampler.clip < FARTHEST:
        raise UserError(
            f"model.sampler.clip is {sampler.clip:g}, but latents have a deviation of one and go beyond: pass "
            "--model.sampler.clip 0"
        )
    for name in ("bound_steps", "ode_steps"):
        if steps := getattr(model, name, 0):
            raise UserError(f"model.{name} is {steps}: latents are no pixels and have no bits/dim, 0 is expected")


def _row(channels: jax.Array | None) -> jax.Array:
    """f32[D] as f32[1, 1, 1, D]."""
    assert channels is not None
    return channels.reshape(1, 1, 1, -1)


# Read once for the check of an experiment and for its training.
@lru_cache(maxsize=1)
def _load(path: Path, step: int, written: int, form: Form, name: str) -> Loaded:
    run = RunFolder(path)
    trained = restore(run, step=step)
    state = trained.state.replace(params=trained.state.sampling_params, ema=None)
    # Not bound to the device they came to, as the second stage may lie on a mesh.
    state = jax.tree.map(lambda a: jnp.asarray(np.asarray(a)), state)
    kind = type(trained.experiment.model).__name__
    source = (("run", name), ("model", kind), ("step", step), ("sha256", tree_hash(state)))
    return Loaded(state, trained.codec, trained.model, form, source)
