"""Super-resolution by a diffusion model conditioned on a small image, SR3 (arXiv:2104.07636): the small image is
enlarged and concatenated to x_t as channels. Training makes the small images from the data.

As the second stage of a cascade it enlarges what another model has drawn, whose faults no training image has. With
`augment` it is trained for that by noise conditioning augmentation (arXiv:2106.15282, section 4.2; arXiv:2205.11487,
section 2.4): the small image z becomes

    z_s = cos(pi s / 2) z + sin(pi s / 2) eps,    s uniform in [0, augment],

and the network is told s, by sinusoids that are added to its time. s is chosen at sampling: `level`, or that of the
condition. At s = 0 the condition is that of plain super-resolution; at s = 1 nothing is left of z.
"""

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.keys import fold_each, normal_each, split_each, uniform_each
from jaxgen.core.ranges import Fraction, Size
from jaxgen.core.types import Batch, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.conditions import Inputs
from jaxgen.models.ddpm import DDPM
from jaxgen.models.shared import concrete, to_signed
from jaxgen.nets.unet import time_embedding
from jaxgen.ops.degrade import Small
from jaxgen.ops.schedules import expand

AUGMENT = 1 << 21  # stream of a sample's key, beyond those of a sampler's rows
SINUSOIDS = 64
"""By which the level is told."""
OWN = ("image", "level")
"""Entries of a condition beside those of any diffusion model."""


def augmented(z: jax.Array, eps: jax.Array, s: jax.Array) -> jax.Array:
    """z_s, f32[B, ...]: z with noise eps of levels s, f32[B] in [0, 1]. z itself at 0, eps at 1."""
    angle = expand(s, z.ndim) * (math.pi / 2)
    return jnp.where(expand(s, z.ndim) < 1, jnp.cos(angle) * z, 0.0) + jnp.sin(angle) * eps


@dataclass(frozen=True, kw_only=True)
class SuperResolution(DDPM):
    """x: f32[B, H, W, C] in [-1, 1]. cond: {"image": [B, H / factor, W / factor, C]}, uint8 or f32 in [-1, 1]; "label"
    when num_classes > 0; "text" and "text_mask" with `text`; and with `augment` perhaps "level": f32[B]."""

    factor: Size = 4
    """Height and width of x over those of the small image."""
    augment: Fraction = 0.0
    """The highest level s of noise on small images in training; 0 trains without."""
    level: Fraction = 0.0
    """s at sampling, at most `augment`."""

    def problem(self) -> str | None:
        if self.level > self.augment:
            return f"level is {self.level}: at most augment = {self.augment}, the highest in training, is expected"

    @property
    def small(self) -> tuple[int, ...]:
        """The shape of a small image."""
        return (self.shape[0] // self.factor, self.shape[1] // self.factor, self.shape[2])

    @property
    def drawn_from(self) -> tuple[int, ...]:
        """Of small images that another model draws."""
        return self.small

    def from_drawn(self, raw: np.ndarray) -> dict[str, np.ndarray]:
        return {"image": raw}

    def at_level(self, level: float) -> "SuperResolution":
        """A copy that samples at this level. Raises UserError for one beyond those of training."""
        changed = replace(self, level=level)
        if words := changed.problem():
            raise UserError(words)
        return changed

    # --- checks ---

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
        if "level" in cond:
            levels = cond["level"]
            if not self.augment:
                raise UserError("a level of noise was given to a model that is trained without augment: leave it out")
            if concrete(levels) and np.size(levels) and not 0 <= np.min(levels) <= np.max(levels) <= self.augment:
                raise UserError(f"levels go to {np.max(levels):g}: 0 to augment = {self.augment} is expected")
        super().check_cond({k: v for k, v in cond.items() if k not in OWN})

    # --- the network's inputs ---

    def shrink(self, x: jax.Array) -> jax.Array:
        """Small images: means over squares of factor x factor pixels of x, f32[B, H, W, C]."""
        return Small(self.factor)(x)

    def condition(self, batch: Batch) -> PyTree:
        """With small images as they are: noise comes with `drop` in training, with `drawn_told` in sampling."""
        told = super().condition(batch) if self.text else {"label": batch["cond"]} if self.num_classes else {}
        return {"image": self.shrink(batch["x"]), **told}

    def drop(self, keys: jax.Array, cond: PyTree) -> PyTree:
        """Drops classes and texts as of any diffusion model, and augments small images at levels that it draws."""
        if not self.augment:
            return super().drop(keys, cond)
        keys_told, keys_level, keys_noise = split_each(keys, 3)
        levels = uniform_each(keys_level, (), 0.0, self.augment)
        return self._noised(keys_noise, super().drop(keys_told, cond), levels)

    def drawn_told(self, keys: jax.Array, cond: PyTree) -> PyTree:
        if not self.augment:
            return cond
        levels = cond["level"] if "level" in cond else jnp.full(keys.shape, self.level)
        return self._noised(fold_each(keys, AUGMENT), cond, levels)

    def _noised(self, keys: jax.Array, cond: PyTree, levels: jax.Array) -> PyTree:
        """The condition with noise of these levels, f32[B], on its small images, which it then tells."""
        eps = normal_each(keys, self.small)
        return {**cond, "image": augmented(to_signed(jnp.asarray(cond["image"])), eps, levels), "level": levels}

    def inputs(self, params: PyTree, cond: PyTree, dropout: jax.Array | None = None) -> Inputs:
        large = jax.vmap(lambda a: jax.image.resize(a, self.shape, "cubic"))(to_signed(cond["image"]))
        inputs = {**super().inputs(params, cond, dropout), "image": large}
        if not self.augment:
            return inputs
        levels = cond["level"] if "level" in cond else jnp.zeros(large.shape[0])
        told = time_embedding(1000 * levels, SINUSOIDS)
        return {**inputs, "y": jnp.concatenate([inputs["y"], told], axis=-1) if "y" in inputs else told}

    # --- samples ---

    def sample_cond(self, num: int, batch: Batch) -> PyTree:
        """The small images, labels and texts of `batch`, raw (uint8) or in model space, repeated as needed."""
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
