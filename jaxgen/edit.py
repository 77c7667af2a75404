"""What a diffusion model does with a given image: redraw a part of it, vary it; and the way between two samples."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import core
from jaxgen.core import PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.diffusion import Diffusion


def check_model(model: Any) -> None:
    """Raises UserError unless images can be given to the model's sampler."""
    if not isinstance(model, Diffusion):
        raise UserError(f"{type(model).__name__} is no diffusion model: --image, --mask and --between need one")


def read_image(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A picture as uint8[*shape]. Raises UserError when it cannot be read or has another size."""
    from PIL import Image

    try:
        with Image.open(file) as picture:
            pixels = np.asarray(picture.convert("L" if shape[-1] == 1 else "RGB"))
    except OSError as error:
        raise UserError(f"{file} cannot be read as a picture ({error}): give a PNG, say") from error
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if pixels.shape != tuple(shape):
        raise UserError(f"{file} is {pixels.shape[1]} x {pixels.shape[0]}, the model draws {shape[1]} x {shape[0]}")
    return pixels


@partial(jax.jit, static_argnums=(0,), static_argnames=("strength", "resample"))
def redraw(
    model: Diffusion,
    state: TrainState,
    keys: jax.Array,
    image: jax.Array,
    mask: jax.Array | None,
    cond: PyTree,
    codec: Any,
    *,
    strength: float = 1.0,
    resample: int = 1,
) -> jax.Array:
    """Variations of raw `image`, [*shape]: one for each of `keys`, raw data.

    mask: bool[H, W, 1], true where the image stays; None to noise all of it as far as `strength` says and come back.
    """
    x = jnp.broadcast_to(codec.encode({"x": image[None]}, jax.random.key(0))["x"], (keys.shape[0], *model.shape))
    if mask is None:
        return codec.decode(model.vary(state, keys, x, strength, cond))
    return codec.decode(model.inpaint(state, keys, x, mask[None], cond, resample))


@partial(jax.jit, static_argnums=0)
def between(
    model: Diffusion, state: TrainState, keys: jax.Array, others: jax.Array, weight: jax.Array, cond: PyTree, codec: Any
) -> jax.Array:
    """Samples between those of `keys` (weight 0) and of `others` (weight 1), raw data; weight: f32[len(keys)]."""
    return codec.decode(model.interpolate(state, keys, others, weight, cond))


def rows_between(
    model: Diffusion, state: TrainState, seed: int, rows: int, columns: int, cond: PyTree, codec: Any
) -> np.ndarray:
    """[rows * columns, *shape]: row i goes from sample 2 i to sample 2 i + 1 of a seed, under the first one's
    condition."""
    ends = np.repeat(np.arange(rows), columns)
    keys, others = (core.fold_each(core.run_key(seed, core.SAMPLE), jnp.asarray(2 * ends + i)) for i in (0, 1))
    weight = jnp.asarray(np.tile(np.linspace(0, 1, columns), rows), jnp.float32)
    first = jax.tree.map(lambda c: jnp.asarray(np.asarray(c)[2 * ends]), cond)
    return np.asarray(between(model, state, keys, others, weight, first, codec))
