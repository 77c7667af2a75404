"""A run folder of splats in a PLY file, and the file of a run: see `jaxgen weights`."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxgen.codecs import Pixels
from jaxgen.data import Cameras, SceneFolder, WholeViews
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.models.splats import Splats
from jaxgen.ops.densification import is_splat
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.imported import save_given
from jaxgen.runs.restore import check_new, restore
from jaxgen.runtime.files import check_output
from jaxgen.weights import ply

SIZE = 256
"""Side of the pictures of splats that come without any."""
AWAY = 4.0
"""Distance of their cameras, in units of the radius that holds nine splats of ten."""


def import_run(file: Path, out: Path, folder: str = "") -> None:
    """Makes `out` a run at step 0, to render or train on as any other.

    folder: of the pictures that the splats are of; without, cameras look at the origin from all around it. Raises
    UserError when the file is not of splats, or `out` is no folder that can be made, or is not empty.
    """
    check_new(out)
    splats = ply.read(file)
    if folder:
        data = WholeViews(scene=SceneFolder(folder=folder))
    else:
        radius = float(np.quantile(np.linalg.norm(splats["mean"], axis=-1), 0.9))
        data = WholeViews(scene=Cameras(size=SIZE, train_views=8, test_views=4, distance=AWAY * max(radius, 1e-3)))
    number, (height, width) = len(splats["mean"]), data.views("test").size
    places = data.views("train").poses[:, :, 3]
    extent = 1.1 * float(np.linalg.norm(places - places.mean(axis=0), axis=-1).max())
    model = Splats(
        shape=(height, width, 3), capacity=number, initial=number, degree=ply.degree(splats), degree_every=0, tile=16,
        extent=extent or 1.0, pairs=16 * number + 1024,
    )  # fmt: skip
    experiment = Experiment(
        model=model, codec=Pixels(low=0.0, high=1.0), data=data, batch_size=1, steps=1000, steps_per_call=1,
        num_samples=4,
    )  # fmt: skip
    save_given(experiment, {"splats": splats}, out, file.name)


def export_run(run: Path, file: Path) -> int:
    """Writes the splats of a run, slots without one left out, and returns how many there are.

    Raises UserError where that cannot be written, before the run is read.
    """
    if file.suffix != ".ply":
        raise UserError(f"{file} is to be a PLY file: give it a name that ends in .ply")
    check_output(file, folder=False)
    folder = RunFolder(run)
    experiment = folder.experiment()
    if not isinstance(experiment.model, Splats):
        raise UserError(f"{run} is of {type(experiment.model).__name__}, splats are expected")
    splats = {name: np.asarray(a) for name, a in restore(folder, experiment).state.params["splats"].items()}
    there = np.asarray(is_splat(jnp.asarray(splats["opacity"])))
    if not there.any():
        raise UserError(f"{run} has no splats left: train it anew, with a smaller model.densification.faint")
    ply.write(file, {name: a[there] for name, a in splats.items()})
    return int(there.sum())
