"""What a model does with a given image. A diffusion model: redraw a part of it, vary it, and the way between two
samples. StyleGAN: find its style and vary that, and the way between two. PixelCNN: redraw a part of it. pix2pix:
translate it.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import core
from jaxgen.core import PyTree, TrainState
from jaxgen.data.pairs import open_picture
from jaxgen.errors import UserError
from jaxgen.models.diffusion import Diffusion
from jaxgen.models.pix2pix import Pix2Pix
from jaxgen.models.pixelcnn import PixelCNN
from jaxgen.models.stylegan import StyleGAN

Varies = Diffusion | StyleGAN
"""What redraws a picture and goes from one sample to another."""


def translates(model: Any) -> bool:
    """Whether an image is the model's condition, rather than where its sampler starts."""
    return isinstance(model, Pix2Pix)


def check_model(model: Any, image: bool, mask: bool, between: bool) -> None:
    """Raises UserError unless the model takes all that was given of --image, --mask and --between."""
    name = type(model).__name__
    if mask and not isinstance(model, Diffusion | PixelCNN):
        raise UserError(f"{name} is no diffusion model: --mask needs one, or PixelCNN")
    if between and not isinstance(model, Varies):
        raise UserError(f"{name} is no diffusion model: --between needs one, or StyleGAN")
    if image and not (isinstance(model, Varies) or translates(model) or mask):
        raise UserError(f"{name} is no diffusion model: --image without --mask needs one, or StyleGAN or pix2pix")


def sources(file: Path, channels: int, num: int) -> np.ndarray:
    """A picture of any size to be translated `num` times, uint8[num, H, W, channels]. Raises UserError when it cannot
    be read."""
    pixels = np.asarray(open_picture(file).convert("L" if channels == 1 else "RGB"))
    return np.broadcast_to(pixels.reshape(1, *pixels.shape[:2], channels), (num, *pixels.shape[:2], channels))


def save_each(folder: Path, images: np.ndarray) -> None:
    """Images uint8[N, H, W, 1 or 3] as 0.png, 1.png, ..., pixel by pixel."""
    for i, image in enumerate(images):
        save_image(image, folder / f"{i}.png")


def save_image(image: np.ndarray, file: Path) -> None:
    """uint8[H, W, 1 or 3] pixel by pixel. Raises UserError when it cannot be written, or not without loss."""
    from PIL import Image

    if file.suffix != ".png":
        raise UserError(f"{file} is to be written pixel by pixel: give it a name that ends in .png")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from error


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
    model: Varies | PixelCNN,
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
    if isinstance(model, PixelCNN):
        return codec.decode(model.complete(state, keys, x, mask[None], cond))
    if mask is None:
        return codec.decode(model.vary(state, keys, x, strength, cond))
    return codec.decode(model.inpaint(state, keys, x, mask[None], cond, resample))


@partial(jax.jit, static_argnums=0)
def between(
    model: Varies, state: TrainState, keys: jax.Array, others: jax.Array, weight: jax.Array, cond: PyTree, codec: Any
) -> jax.Array:
    """Samples between those of `keys` (weight 0) and of `others` (weight 1), raw data; weight: f32[len(keys)]."""
    return codec.decode(model.interpolate(state, keys, others, weight, cond))


def rows_between(
    model: Varies, state: TrainState, seed: int, rows: int, columns: int, cond: PyTree, codec: Any
) -> np.ndarray:
    """[rows * columns, *shape]: row i goes from sample 2 i to sample 2 i + 1 of a seed, under the first one's
    condition."""
    ends = np.repeat(np.arange(rows), columns)
    keys, others = (core.fold_each(core.run_key(seed, core.SAMPLE), jnp.asarray(2 * ends + i)) for i in (0, 1))
    weight = jnp.asarray(np.tile(np.linspace(0, 1, columns), rows), jnp.float32)
    first = jax.tree.map(lambda c: jnp.asarray(np.asarray(c)[2 * ends]), cond)
    return np.asarray(between(model, state, keys, others, weight, first, codec))
