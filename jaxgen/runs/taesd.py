"""A run folder of a tiny autoencoder's weights, as a first stage: see `jaxgen weights`."""

from pathlib import Path

from jaxgen.experiment import Experiment
from jaxgen.models.taesd import TAESD
from jaxgen.runs.imported import pictures, save_given
from jaxgen.runs.restore import check_new
from jaxgen.weights import taesd


def import_run(place: Path, out: Path, size: int = 64, images: str = "", tile: int = 0) -> None:
    """Makes `out` a run at step 0 for pictures of `size` pixels a side, a first stage of latents.

    place: a folder or file of weights. images: a folder of pictures as the run's data; emoji where there is none. tile:
    of the model. Raises UserError when files are missing or of another network, the size does not divide by 8, or `out`
    is no folder that can be made, or is not empty.
    """
    check_new(out)
    network, params = taesd.read(place)
    network.check((size, size, 3))
    model = TAESD(network=network, shape=(size, size, 3), tile=tile)
    experiment = Experiment(
        model=model, codec=model.natural_codec(), data=pictures(size, images), batch_size=16, steps=1000,
        steps_per_call=10, num_samples=4,
    )  # fmt: skip
    save_given(experiment, {"network": params}, out, str(place))
