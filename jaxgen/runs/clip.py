"""A run folder of CLIP's weights, and a folder of CLIP's weights of a run: see `jaxgen weights`."""

from pathlib import Path

import jax
import jax.numpy as jnp

from jaxgen.data import Captioned, Emoji
from jaxgen.data.clip_tokenizer import MERGES, ClipBPE
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.models.clip import CLIP
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import check_new, import_params, restore
from jaxgen.runtime.files import disk_errors, write_text
from jaxgen.weights import clip


def import_run(folder: Path, out: Path) -> None:
    """Makes `out` a run at step 0, to evaluate, guide by or train on as any other. Its data are captioned emoji.

    folder: weights in either layout, with vocab.json and merges.txt, or MERGES. Raises UserError when files are missing
    or do not go together, or `out` is no folder that can be made, or is not empty.
    """
    check_new(out)
    found = clip.read(folder)
    vocabulary = folder if (folder / "vocab.json").exists() or not (folder / MERGES).exists() else folder / MERGES
    text = found.network.text
    data = Captioned(
        data=Emoji(size=64), vocabulary=str(vocabulary.absolute()), window=text.window, template="a photo of a {}."
    )
    tokenizer, _, end = data.caption_tokenizer
    if tokenizer.size != text.vocab or text.end not in (-1, end) or (text.end < 0 and end != text.vocab - 1):
        raise UserError(
            f"{vocabulary} has {tokenizer.size} tokens and ends texts with {end}, the weights know {text.vocab} and "
            f"{text.end if text.end >= 0 else text.vocab - 1}: put their own vocabulary there"
        )
    objective = "infonce" if found.network.bias is None else "sigmoid"
    model = CLIP(
        network=found.network, shape=found.shape, objective=objective, mean=found.mean, deviation=found.deviation
    )
    params = {"network": jax.tree.map(jnp.asarray, found.params)}
    experiment = Experiment(model=model, data=data, batch_size=32, steps=1000, steps_per_call=10, num_samples=4)
    import_params(experiment, params, out, str(folder))


def export_run(run: Path, out: Path, layout: clip.Layout = "huggingface") -> None:
    """Writes the newest parameters of a run, averaged ones where it has them, and its vocabulary into a folder.

    Raises UserError where these cannot be written, before the run is read.
    """
    clip.check_place(out, layout)
    folder = RunFolder(run)
    experiment = folder.experiment()
    model, data = experiment.model, experiment.data
    if not isinstance(model, CLIP) or not isinstance(data, Captioned):
        raise UserError(f"{run} is of {type(model).__name__}, a CLIP is expected")
    tokenizer, start, end = data.caption_tokenizer
    params = restore(folder, experiment).state.sampling_params["network"]
    colours = [values * (model.shape[-1] if len(values) == 1 else 1) for values in (model.mean, model.deviation)]
    # Captions may have had fewer tokens to learn than the network has rows: the files have those of the vocabulary.
    network = model.network.clone(text=model.network.text.clone(vocab=data.vocab))
    params = {**params, "text": {**params["text"], "tokens": params["text"]["tokens"][: data.vocab]}}
    height, width, channels = model.shape
    clip.write(out, clip.Published(network, params, (height, width, channels), *colours), layout, start, end)
    if isinstance(tokenizer, ClipBPE):
        with disk_errors():
            for file, text in tokenizer.write(out).items():
                write_text(file, text)
