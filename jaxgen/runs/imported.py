"""What runs of published weights share: the pictures that they are evaluated on, and their state at step 0."""

from pathlib import Path

import jax
import jax.numpy as jnp

from jaxgen.core.codec import Codec
from jaxgen.core.compiled import QUICK_TO_COMPILE
from jaxgen.core.keys import INIT, run_key
from jaxgen.core.types import PyTree
from jaxgen.data import Dataset, Emoji, ImageFolder
from jaxgen.data.enlarged import Enlarged
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.restore import open_run


def pictures(side: int, images: str = "") -> Dataset:
    """Pictures of so many pixels a side without classes: those of the folder `images`, or emoji, enlarged where they
    are smaller. Raises UserError where emoji cannot be."""
    if images:
        return ImageFolder(folder=images, size=side, label="none")
    for size in (64, 32, 16):
        if side % size == 0:
            emoji = Emoji(size=size, label="none")
            return emoji if side == size else Enlarged(data=emoji, factor=side // size)
    raise UserError(f"emoji cannot be enlarged to {side} pixels a side, a multiple of 16: name pictures, --images DIR")


def save_given(experiment: Experiment, given: PyTree, out: Path, source: str, extra: PyTree = None) -> None:
    """Makes `out` a run at step 0 with these parameters, and with `extra` in the place of what training would measure;
    networks that are not given start at random. source: where they come from."""
    model, codec = experiment.compute_model, experiment.codec.load()
    key_codec, key_init = jax.random.split(run_key(experiment.seed, INIT))

    def fresh(codec: Codec, batch: PyTree) -> PyTree:
        state = model.init(key_init, codec.encode(batch, key_codec))
        return state.replace(params={name: tree for name, tree in state.params.items() if name not in given})

    # What is given is not drawn: the compiler leaves out what the result lacks.
    begin = jax.jit(fresh, compiler_options=QUICK_TO_COMPILE)
    state = begin(codec, experiment.data.batch_at(experiment.seed, 0, 1))
    state = state.replace(params={**state.params, **jax.tree.map(jnp.asarray, given)})
    state = state.replace(extra={**state.extra, **jax.tree.map(jnp.asarray, extra or {})})
    run = open_run(experiment, out, {"source": source}, codec)
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save(state)
