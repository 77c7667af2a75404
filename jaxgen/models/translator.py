"""What models that translate sources into targets by an adversarial loss share: their checks and their conditions."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxgen.core.ranges import Size
from jaxgen.core.types import Batch, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.adversarial import AdversarialModel


@dataclass(frozen=True, kw_only=True)
class Translator(AdversarialModel):
    """x: f32[B, H, W, C] in [-1, 1], targets; cond: [B, H, W, C'], uint8 or f32 in [-1, 1], sources. A sample is a
    translated source."""

    channels: Size = 3
    """Channels of the targets."""

    def check_sizes(self, batch: Batch, expected: str) -> None:
        """Raises UserError unless targets and sources have one size, and targets `channels`. expected: what is expected
        otherwise, and which data give it."""
        x, cond = tuple(batch["x"].shape), tuple(getattr(batch.get("cond"), "shape", ()))
        if len(x) != 4 or len(cond) != 4 or x[1:3] != cond[1:3]:
            raise UserError(f"targets have shape {x[1:]}, sources {cond[1:] or 'none'}: {expected}")
        if x[3] != self.channels:
            raise UserError(f"targets have {x[3]} channels, model.channels is {self.channels}: change either")

    def translate(self, state: TrainState, keys: jax.Array, source: jax.Array) -> jax.Array:
        raise NotImplementedError

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """`translate` of the sources cond, [len(keys), H, W, C']."""
        return self.translate(state, keys, cond)

    def check_cond(self, cond: PyTree) -> None:
        if getattr(cond, "ndim", 0) != 4:
            given = getattr(cond, "shape", "none")
            raise UserError(f"sources of shape {given} were given: pass images [B, H, W, C] as the condition")

    def sample_cond(self, num: int, batch: Batch) -> jax.Array:
        """The sources of `batch`, repeated as needed."""
        return jnp.asarray(batch["cond"])[jnp.arange(num) % len(batch["cond"])]
