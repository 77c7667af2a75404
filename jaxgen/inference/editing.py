"""What a model does with a given picture: redraw a part of it, vary it, translate it; and the way between two samples.

A model says by protocols of `core.capabilities` which of these it can do.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.capabilities import HasLatents, Infills, Inpaints, Interpolates, Translates, Varies
from jaxgen.core.cascade import LaterStage
from jaxgen.core.codec import Codec
from jaxgen.core.keys import SAMPLE, fold_each, run_key
from jaxgen.core.model import GenerativeModel
from jaxgen.core.ranges import Depth, Fraction
from jaxgen.core.types import PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.metrics.ppl import slerp
from jaxgen.runs.restore import Trained


@dataclass(frozen=True)
class Edit:
    """Settings of editing a picture."""

    strength: Fraction = 0.6
    """How much noise `image` gets before it is sampled back, or how far its style moves; 1 keeps nothing of it."""
    resample: Depth = 1
    """Repetitions of each step of filling in: more make the parts fit better."""


def check_model(model: GenerativeModel, image: bool, mask: bool, between: bool) -> None:
    """Raises UserError unless the model can use all that was given: an image, a mask, steps between samples."""
    name = type(model).__name__
    if image:
        check_free(model)
    if mask and not isinstance(model, Inpaints | Infills):
        needed = "a model with inpaint, such as PixelCNN"
        raise UserError(f"{name} fills in no part of a picture: --mask and --alpha need {needed}")
    if between and not isinstance(model, Interpolates | HasLatents):
        needed = "a model with interpolate or latents, such as a diffusion model, StyleGAN, a GAN or a VAE"
        raise UserError(f"{name} has no way between samples: --between needs {needed}")
    if image and not mask and not isinstance(model, Varies | Translates):
        needed = "a model with vary or translate, such as a diffusion model or pix2pix"
        raise UserError(f"{name} makes nothing of a whole picture: --image without --mask needs {needed}")


def check_free(model: GenerativeModel) -> None:
    """Raises UserError for a later stage of a cascade, which draws what another picture or an embedding says: where a
    picture is given to edit, there is none of these."""
    if isinstance(model, LaterStage):
        raise UserError(
            f"{type(model).__name__} goes on from what another run draws, and edits no picture: name a run that draws "
            "by itself"
        )


def shape_of(model: GenerativeModel, codec: Codec) -> tuple[int, ...]:
    """(H, W, C) of the pictures that a model edits. Raises UserError for one that edits none."""
    if isinstance(model, Infills) and (pictures := getattr(codec, "pictures", ())):
        return codec.raw_shape(tuple(pictures))
    if not isinstance(model, Varies | Inpaints):
        raise UserError(f"{type(model).__name__} edits no picture of a given size")
    return codec.raw_shape(model.shape)


def redraw(
    trained: Trained,
    keys: jax.Array,
    image: np.ndarray,
    mask: np.ndarray | None = None,
    cond: PyTree = None,
    edit: Edit = Edit(),
) -> np.ndarray:
    """Variations of raw `image`, uint8[*shape]: one for each of `keys`, raw data.

    mask: bool[H, W, 1], true where the image stays; None to vary all of it. Raises UserError for a model that does not
    do what is asked.
    """
    check_model(trained.model, True, mask is not None, False)
    return np.asarray(_redraw(trained.model, edit, trained.codec, trained.state, keys, image, mask, cond))


@partial(jax.jit, static_argnums=(0, 1))
def _redraw(
    model: Any, edit: Edit, codec: Codec, state: TrainState, keys: jax.Array, image: jax.Array, mask: Any, cond: PyTree
) -> jax.Array:
    if mask is None and isinstance(model, Translates):
        return codec.decode(model.translate(state, keys, jnp.broadcast_to(image, (keys.shape[0], *image.shape))))
    x = codec.encode({"x": image[None]}, jax.random.key(0))["x"]
    x = jnp.broadcast_to(x, (keys.shape[0], *x.shape[1:]))
    if mask is None:
        return codec.decode(model.vary(state, keys, x, edit.strength, cond))
    mask = jnp.broadcast_to(mask, (*image.shape[:2], 1))
    if isinstance(model, Infills):
        maps: Any = getattr(codec, "maps", ())
        given = jnp.concatenate([coarse(mask, (*size, 1)).reshape(-1) for size in maps])
        drawn = codec.decode(model.infill(state, keys, x, given[None], cond))
    else:
        drawn = codec.decode(model.inpaint(state, keys, x, coarse(mask, model.shape)[None], cond, edit.resample))
    # A codec may give what stays back as other pixels: latents, colours of a palette, black or white.
    return jnp.where(mask[None], image[None], drawn)


def coarse(mask: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A mask bool[H, W, 1] for latents of `shape` = (h, w, D), bool[h, w, 1]: those stay all of whose pixels do."""
    height, width, _ = shape
    blocks = mask.reshape(height, mask.shape[0] // height, width, mask.shape[1] // width, 1)
    return jnp.all(blocks, axis=(1, 3))


@partial(jax.jit, static_argnums=0)
def _between(
    model: Any, codec: Codec, state: TrainState, ends: tuple[jax.Array, jax.Array], weight: Any, cond: PyTree
) -> jax.Array:
    if isinstance(model, Interpolates):
        return codec.decode(model.interpolate(state, *ends, weight, cond))
    space = model.latent_space(state, cond)
    return codec.decode(space.decode(jax.tree.map(partial(_arc, t=weight), *map(space.draw, ends))))


def _arc(a: jax.Array, b: jax.Array, t: jax.Array) -> jax.Array:
    """From vectors a to b, f32[B, ..., D], at t: f32[B] the `slerp` of each two."""
    each = jnp.broadcast_to(t.reshape(-1, *[1] * (a.ndim - 2)), a.shape[:-1]).reshape(-1)
    return slerp(a.reshape(-1, a.shape[-1]), b.reshape(-1, a.shape[-1]), each).reshape(a.shape)


def rows_between(trained: Trained, seed: int, rows: int, columns: int, cond: PyTree = None) -> np.ndarray:
    """[rows * columns, *shape], raw data: row i goes from sample 2 i to sample 2 i + 1 of a seed, under row i's
    condition; cond: of each row, or None. Raises UserError for a model that does not go between."""
    check_model(trained.model, False, False, True)
    start = np.repeat(2 * np.arange(rows), columns)
    # Keys anew for each end: one array of them is to be used once.
    ends = tuple(fold_each(run_key(seed, SAMPLE), jnp.asarray(start + i)) for i in (0, 1))
    weight = jnp.asarray(np.tile(np.linspace(0, 1, columns), rows), jnp.float32)
    first = jax.tree.map(lambda c: jnp.asarray(np.asarray(c)[np.arange(len(start)) // columns]), cond)
    return np.asarray(_between(trained.model, trained.codec, trained.state, ends, weight, first))
