"""A prompt and a trained run that knows what it looks like, for a model that is taught by it.

    python experiments/clip.py emoji
    python experiments/text_to_3d.py emoji --codec.prompt "tomato"          # reads runs/clip-emoji-0

A run remembers which weights it was taught by (RUN/first_stage.json): it goes on with these, or says that they are
gone.
"""

from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxgen.codecs import Pixels
from jaxgen.core.capabilities import ScoresText
from jaxgen.core.codec import Codec, static
from jaxgen.core.types import Batch
from jaxgen.data import Captioned
from jaxgen.errors import UserError
from jaxgen.models.clip_guidance import Targets
from jaxgen.models.diffusion import Diffusion
from jaxgen.models.text_to_3d import Teacher
from jaxgen.runs.captions import caption_tokens
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.pretrained import NamesRun
from jaxgen.runs.restore import Trained, restore
from jaxgen.weights.store import tree_hash

UNIT = Pixels(low=0.0, high=1.0)


@struct.dataclass
class Prompted(NamesRun):
    """Names a run of CLIP, or of text to image by diffusion, and what it is asked for."""

    prompt: str = static("")
    """The text."""

    def load(self, record: dict[str, Any] | None = None) -> "Taught":
        run = self._folder()
        kind = run.experiment().compute_model
        told = isinstance(run.experiment().data, Captioned)
        if not told or not (isinstance(kind, ScoresText) or (isinstance(kind, Diffusion) and kind.text)):
            raise UserError(
                f"{run.path} is a run of {type(kind).__name__}, which reads no text: name one of experiments/clip.py, "
                "or of experiments/text_to_image.py, with --codec.run"
            )
        if not self.prompt.strip():
            raise UserError("the prompt is empty: say what is to be made with --codec.prompt TEXT")
        place, prompt = run.path.resolve(), self.prompt.strip()
        found = self._read(run, record, lambda step: _load(place, step, run.written(step), prompt))
        return replace(found, source=(("run", self.run), *found.source[1:]))


@struct.dataclass
class Taught(Codec):
    """What `Prompted` reads: views in [0, 1], with a teacher beside."""

    teacher: Teacher
    source: tuple[tuple[str, Any], ...] = static(())

    @property
    def provenance(self) -> dict[str, Any]:
        return dict(self.source)

    @property
    def draws(self) -> bool:
        return False

    def check_model(self, model: Any) -> None:
        """Raises UserError unless `model` makes views of the size that the teacher draws; CLIP resizes them."""
        teacher = self.teacher
        if not isinstance(teacher.model, Diffusion):
            return
        spec = jax.ShapeDtypeStruct((1, *teacher.model.shape), jnp.float32)
        expected = jax.eval_shape(teacher.codec.unrounded, spec).shape[1:]
        if tuple(getattr(model, "shape", ())) != tuple(expected):
            raise UserError(
                f"views have shape {tuple(model.shape)}, {self.provenance['run']} draws {tuple(expected)}: pass "
                f"--model.shape {' '.join(map(str, expected))} --data.size {expected[0]}"
            )

    def encode(self, batch: Batch, key: jax.Array) -> Batch:
        teacher: Any = self.teacher.for_each(len(batch["x"]))
        return {**UNIT.encode(batch, key), "teacher": teacher}

    def decode(self, x: jax.Array) -> jax.Array:
        return UNIT.decode(x)

    def unrounded(self, x: jax.Array) -> jax.Array:
        return x


@lru_cache(maxsize=2)
def _load(path: Path, step: int, written: int, prompt: str) -> Taught:
    trained = restore(RunFolder(path), step=step)
    params = trained.state.sampling_params
    # Not bound to the device they came to, as the field may lie on a mesh.
    params = jax.tree.map(lambda a: jnp.asarray(np.asarray(a)), params)
    teacher = Teacher(params, _told(trained, prompt), trained.codec, trained.model)
    source = (("run", ""), ("model", type(trained.experiment.model).__name__), ("step", step))
    return Taught(teacher, (*source, ("sha256", tree_hash(params))))


def _told(trained: Trained, prompt: str) -> Any:
    """The prompt as the run's model takes it, of one example."""
    tokens = {name: jnp.asarray(rows) for name, rows in caption_tokens(trained, [prompt]).items()}
    if isinstance(trained.model, Diffusion):
        return tokens
    vectors = _embed_text(trained.model, trained.state.sampling_params, tokens["text"], tokens["text_mask"])
    return Targets(vectors[:, None], jnp.ones((1, 1)))


@partial(jax.jit, static_argnums=0)
def _embed_text(model: Any, params: Any, text: jax.Array, mask: jax.Array) -> jax.Array:
    return model.embed_text(params, text, mask)
