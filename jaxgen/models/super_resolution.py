"""Super-resolution by a diffusion model conditioned on a small image, SR3 (arXiv:2104.07636): the small image is
enlarged and concatenated to x_t as channels. Training makes the small images from the data.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxgen.core.ranges import Size
from jaxgen.core.types import Batch, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.conditions import Inputs
from jaxgen.models.ddpm import DDPM
from jaxgen.models.shared import to_signed
from jaxgen.ops.degrade import Small


@dataclass(frozen=True, kw_only=True)
class SuperResolution(DDPM):
    """x: f32[B, H, W, C] in [-1, 1]. cond: {"image": [B, H / factor, W / factor, C]}, uint8 or f32 in [-1, 1], and
    "label" when num_classes > 0."""

    factor: Size = 4
    """Height and width of x over those of the small image."""

    @property
    def small(self) -> tuple[int, ...]:
        """The shape of a small image."""
        return (self.shape[0] // self.factor, self.shape[1] // self.factor, self.shape[2])

    def check(self, batch: Batch) -> None:
        super().check(batch)
        if self.factor < 2 or self.shape[0] % self.factor or self.shape[1] % self.factor:
            raise UserError(
                f"images of shape {self.shape} do not shrink by {self.factor}: choose a divisor of height and width"
            )

    def check_cond(self, cond: PyTree) -> None:
        given = tuple(cond["image"].shape[1:]) if isinstance(cond, dict) and "image" in cond else None
        if given != self.small:
            raise UserError(
                f"small images of shape {given} were given, {self.small} is expected: pass "
                '{"image": [B, H, W, C]} as the condition'
            )
        super().check_cond({k: v for k, v in cond.items() if k != "image"})

    def shrink(self, x: jax.Array) -> jax.Array:
        """Small images: means over squares of factor x factor pixels of x, f32[B, H, W, C]."""
        return Small(self.factor)(x)

    def condition(self, batch: Batch) -> PyTree:
        label = {"label": batch["cond"]} if self.num_classes else {}
        return {"image": self.shrink(batch["x"]), **label}

    def inputs(self, params: PyTree, cond: PyTree, dropout: jax.Array | None = None) -> Inputs:
        large = jax.vmap(lambda a: jax.image.resize(a, self.shape, "cubic"))(to_signed(cond["image"]))
        return {**super().inputs(params, cond, dropout), "image": large}

    def sample_cond(self, num: int, batch: Batch) -> PyTree:
        """The small images and labels of `batch`, raw (uint8) or in model space, repeated as needed."""
        x = to_signed(jnp.asarray(batch["x"]))
        cond = self.condition({**batch, "x": x})
        return jax.tree.map(lambda a: jnp.asarray(a)[jnp.arange(num) % len(x)], cond)

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Rows of small images, of samples under them, and of the originals."""
        keys = keys[:10]
        batch = {name: value[: len(keys)] for name, value in batch.items()}
        cond = self.condition(batch)
        small = jnp.repeat(jnp.repeat(cond["image"], self.factor, axis=1), self.factor, axis=2)
        return {"enlarged.png": jnp.stack([small, self.sample(state, keys, cond), batch["x"]])}
