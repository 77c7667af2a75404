"""A trained diffusion run as the teacher of a student (`models.student`).

    python experiments/flow_matching.py digits
    python experiments/distill.py digits            # reads runs/flow_matching-digits-0

The student sees data as its teacher does: by the teacher's own codec, first stage included. A run remembers which
weights it was taught by (RUN/first_stage.json): it goes on with these, or says that they are gone.
"""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxgen.codecs import Identity
from jaxgen.core.codec import Codec, static
from jaxgen.core.types import Batch
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.models.diffusion import Diffusion
from jaxgen.models.student import TEACHER, Student, Teacher
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.pretrained import NamesRun
from jaxgen.runs.restore import restore
from jaxgen.runtime.reading import user_path
from jaxgen.weights.store import tree_hash


@struct.dataclass
class TaughtBy(NamesRun):
    """Names the run of a diffusion model that teaches."""

    def _experiment(self) -> tuple[RunFolder, Experiment]:
        """The run and its experiment. Raises UserError if it is no run of a diffusion model."""
        run = self._folder()
        experiment = run.experiment()
        if not isinstance(experiment.model, Diffusion):
            raise UserError(
                f"{run.path} is a run of {type(experiment.model).__name__}, no diffusion model: name one, as of "
                "experiments/flow_matching.py, with --codec.run"
            )
        return run, experiment

    def load(self, record: dict[str, Any] | None = None) -> "Taught":
        run, _ = self._experiment()
        found = self._read(run, record, lambda step: _load(run.path.resolve(), step, run.written(step)))
        return replace(found, source=(("run", self.run), *found.source))

    def shape_of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self._experiment()[1].codec.shape_of(shape)

    def raw_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self._experiment()[1].codec.raw_shape(shape)


@struct.dataclass
class Taught(Codec):
    """What `TaughtBy` reads: the teacher's codec, with the teacher beside the examples."""

    codec: Codec
    teacher: Teacher
    source: tuple[tuple[str, Any], ...] = static(())

    @property
    def provenance(self) -> dict[str, Any]:
        return dict(self.source)

    @property
    def draws(self) -> bool:
        return self.codec.draws

    @property
    def encode_once(self) -> bool:
        return self.codec.encode_once

    def apart(self) -> tuple[Codec, Codec]:
        return self.codec, replace(self, codec=Identity())

    def check_model(self, model: Any) -> None:
        if not isinstance(model, Student):
            raise UserError(f"{type(model).__name__} takes no teacher: choose another codec than TaughtBy")

    def encode(self, batch: Batch, key: jax.Array) -> Batch:
        encoded = self.codec.encode(batch, key)
        taught: Any = self.teacher.for_each(len(encoded["x"]))
        return {**encoded, TEACHER: taught}

    def decode(self, x: jax.Array) -> jax.Array:
        return self.codec.decode(x)

    def unrounded(self, x: jax.Array) -> jax.Array:
        return self.codec.unrounded(x)


# Read once for the check of an experiment and for its training.
@lru_cache(maxsize=1)
def _load(path: Path, step: int, written: int) -> Taught:
    trained = restore(RunFolder(path), step=step)
    # Not bound to the device they came to, as the student may lie on a mesh.
    params = jax.tree.map(lambda a: jnp.asarray(np.asarray(a)), trained.state.sampling_params)
    source = (("model", type(trained.experiment.model).__name__), ("step", step), ("sha256", tree_hash(params)))
    return Taught(trained.codec, Teacher(params, trained.model), source)


def taught_by(experiment: Experiment, run: str) -> Experiment:
    """The experiment with another teacher: its student has that run's network, conditions and data. Raises UserError
    for a run that cannot teach."""
    assert isinstance(experiment.codec, TaughtBy) and isinstance(experiment.model, Student)
    codec = replace(experiment.codec, run=str(user_path(run)))
    teacher = codec._experiment()[1]
    assert isinstance(teacher.model, Diffusion)
    model = replace(experiment.model, model=experiment.model.learner(teacher.model))
    return replace(experiment, codec=codec, model=model, data=teacher.data)
