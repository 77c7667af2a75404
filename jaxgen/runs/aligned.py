"""Pictures with the features of a frozen run beside them, for a diffusion transformer to be aligned to
(`jaxgen.models.alignment`).

    python experiments/classifier.py digits
    python experiments/dit.py digits_repa             # reads runs/classifier-digits-0

A run remembers which weights it was aligned to (RUN/first_stage.json): it goes on with these, or says that they are
gone. Pictures are encoded once, before training, where they fit in memory.
"""

from dataclasses import field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxgen.codecs import Pixels
from jaxgen.core.capabilities import ScoresText
from jaxgen.core.codec import Codec, static
from jaxgen.core.types import Batch, TrainState
from jaxgen.errors import UserError
from jaxgen.models.alignment import MapsFeatures
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.pretrained import NamesRun
from jaxgen.runs.restore import restore
from jaxgen.weights.store import tree_hash


@struct.dataclass
class Aligned(NamesRun):
    """Names the run whose features are brought."""

    codec: Codec = field(default_factory=Pixels)
    """What the diffusion model sees pictures through; it reads no files of its own."""

    def load(self, record: dict[str, Any] | None = None) -> "Seeing":
        run = self._folder()
        model = run.experiment().compute_model
        if not isinstance(model, MapsFeatures):
            raise UserError(
                f"{run.path} is a run of {type(model).__name__}, which has no features of a picture's parts: name one "
                "of experiments/classifier.py or experiments/clip.py with --codec.run"
            )
        if isinstance(self.codec, NamesRun):
            raise UserError("codec.codec names another run: alignment is of models of pixels")
        found = self._read(run, record, lambda step: _load(run.path.resolve(), step, run.written(step)))
        return replace(found, codec=self.codec, source=(("run", self.run), *found.source[1:]))

    def shape_of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self.codec.shape_of(shape)

    def raw_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self.codec.raw_shape(shape)


@struct.dataclass
class Seeing(Codec):
    """What `Aligned` reads: `codec`, and the frozen model with its weights and its own codec."""

    state: TrainState
    own: Codec
    codec: Codec
    model: Any = static(None)
    source: tuple[tuple[str, Any], ...] = static(())

    @property
    def provenance(self) -> dict[str, Any]:
        return dict(self.source)

    @property
    def draws(self) -> bool:
        return self.codec.draws or self.own.draws

    @property
    def encode_once(self) -> bool:
        return not self.draws

    def features(self, x: jax.Array, key: jax.Array) -> jax.Array:
        """f32[B, h, w, D] of raw pictures."""
        x, model = self.own.encode({"x": x}, key)["x"], self.model
        height, width, channels = model.shape
        if x.shape[-1] == 1:  # grey pictures before a network of colours
            x = jnp.broadcast_to(x, (*x.shape[:-1], channels))
        size = x.shape[1:3] if isinstance(self.model, ScoresText) else (height, width)  # CLIP resizes pictures itself
        if x.shape[1:] != (*size, channels):
            given, run = tuple(x.shape[1:]), self.provenance["run"]
            raise UserError(
                f"pictures have shape {given}, those of {run} {tuple(model.shape)}: name another with --codec.run"
            )
        return model.feature_map(self.state, x)

    def encode(self, batch: Batch, key: jax.Array) -> Batch:
        key, key_own = jax.random.split(key)
        return {**self.codec.encode(batch, key), "features": self.features(batch["x"], key_own)}

    def decode(self, x: jax.Array) -> jax.Array:
        return self.codec.decode(x)

    def unrounded(self, x: jax.Array) -> jax.Array:
        return self.codec.unrounded(x)


@lru_cache(maxsize=1)
def _load(path: Path, step: int, written: int) -> Seeing:
    trained = restore(RunFolder(path), step=step)
    state = trained.state.replace(params=trained.state.sampling_params, ema=None)
    # Not bound to the device they came to, as the model may lie on a mesh.
    state = jax.tree.map(lambda a: jnp.asarray(np.asarray(a)), state)
    kind = type(trained.experiment.model).__name__
    source = (("run", ""), ("model", kind), ("step", step), ("sha256", tree_hash(state)))
    return Seeing(state, trained.codec, Pixels(), trained.model, source)
