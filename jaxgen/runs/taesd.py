"""A run folder of a tiny autoencoder's weights, as a first stage: see `jaxgen weights`."""

from pathlib import Path

import jax
import jax.numpy as jnp

from jaxgen.data import Emoji, ImageFolder
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.models.taesd import TAESD
from jaxgen.runs.restore import check_new, import_params
from jaxgen.weights import taesd


def import_run(place: Path, out: Path, size: int = 64, images: str = "") -> None:
    """Makes `out` a run at step 0 for pictures of `size` pixels a side, a first stage of latents.

    place: a folder or file of weights. images: a folder of pictures, which the run is evaluated on; emoji where there
    is none. Raises UserError when files are missing or of another network, the size does not divide by 8, or `out` is
    no folder that can be made, or is not empty.
    """
    check_new(out)
    network, params = taesd.read(place)
    network.check((size, size, 3))
    if size not in (64, 32, 16) and not images:
        raise UserError(f"emoji are of 64, 32 or 16 pixels, not {size}: name pictures with --images DIR")
    model = TAESD(network=network, shape=(size, size, 3))
    folder = ImageFolder(folder=images, size=size, label="none")
    data = folder if images else Emoji(size=size, label="none")  # pyright: ignore[reportArgumentType]
    tree = {"network": jax.tree.map(jnp.asarray, params)}
    experiment = Experiment(
        model=model, codec=model.natural_codec(), data=data, batch_size=16, steps=1000, steps_per_call=10,
        num_samples=4,
    )  # fmt: skip
    import_params(experiment, tree, out, str(place))
