"""The pictures that a run leaves while it trains and when it ends."""

import numpy as np

from jaxgen.core import compiled
from jaxgen.core.capabilities import DrawsSound, Speaks, Vocodes
from jaxgen.core.keys import sample_keys
from jaxgen.data import Dataset
from jaxgen.inference.prompts import captions
from jaxgen.inference.sampling import as_picture, draw, in_one, in_rows, is_clips
from jaxgen.inference.speech import save_speech
from jaxgen.inference.vocoding import save_drawn, save_vocoded
from jaxgen.metrics.modes import mode_coverage
from jaxgen.metrics.neighbours import centred, nearest_rows
from jaxgen.report import save_picture
from jaxgen.runs.origin import origin_of, pinned
from jaxgen.runs.restore import Trained
from jaxgen.runtime.files import write_text
from jaxgen.runtime.processes import is_main, whole

COMPARED = 12
"""Samples whose nearest training images are shown."""
MOST_BYTES = 1 << 28
"""Of a training set that is searched for them, as uint8."""


def save_pictures(trained: Trained, final: bool) -> None:
    """Saves a grid of samples, or their text, and at the end the family's other pictures; beside samples of images,
    held-out ones and the nearest of the training set. If the data's modes are known, the number that the samples reach
    goes to RUN/held_out.jsonl."""
    experiment, model, run, layout = trained.experiment, trained.model, trained.run, trained.layout
    folder, batch, num = run.pictures(trained.step), run.examples(), experiment.num_samples
    if isinstance(model, Speaks):
        return save_speech(trained, folder)
    if isinstance(model, Vocodes):
        return save_vocoded(trained, folder)
    if isinstance(model, DrawsSound):
        return save_drawn(trained, folder)
    cond = model.sample_cond(num, batch)
    samples = draw(trained, experiment.seed, num, cond, num)
    texts = experiment.data.texts(samples)
    pictures = {"samples.png": in_rows(experiment.data.shown(samples), cond)} if texts is None else {}
    frame, clips = experiment.data.picture_size, is_clips(np.asarray(batch["x"]))
    if final:
        some = sample_keys(experiment.seed, len(batch["x"]))
        if layout is not None:
            some, batch = layout.put((some, batch), layout.everywhere)
        pictures |= whole(compiled.pictures(model, trained.state, some, batch, trained.codec))
    chosen = {"seed": experiment.seed, "num": num}
    origin = origin_of(trained, chosen) if pictures else None
    if not is_main():
        return
    if (modes := experiment.data.modes) is not None:
        counted = mode_coverage(samples, *modes)
        finite = {f"samples/{name}": value for name, value in counted.items() if np.isfinite(value)}
        run.append(run.held_out, [{"step": trained.step, **finite}])
    if final:
        pictures |= _beside_data(samples, np.asarray(batch["x"]), experiment.data)
    if texts is not None:
        write_text(folder / "samples.txt", in_one(texts))
    said = captions(trained, cond)
    again = ["sample", str(run.path), *pinned((), {**chosen, "step": trained.step})]
    for name, picture in pictures.items():
        file, shown = as_picture(name, picture, clips, frame)
        drawn = name == "samples.png"
        from_run = origin and {**origin, "command": again if drawn else None}
        save_picture(folder / file, shown, texts=said if file == "samples.png" else (), origin=from_run)


def _beside_data(samples: np.ndarray, real: np.ndarray, data: Dataset) -> dict[str, np.ndarray]:
    """Of samples uint8[N, H, W, C], or clips uint8[N, F, H, W, C]: held-out ones, and some samples above the training
    examples nearest to them by the distance of pixels, of a set in memory. Nothing for samples of another kind, and
    where the data has no pictures."""
    alike = samples.ndim in (4, 5) and samples.dtype == np.uint8 and real.shape[1:] == samples.shape[1:]
    if not alike or not data.pictured:
        return {}
    shown = {"held_out_images.png": real}
    train = data.arrays("train")
    x = train["x"] if isinstance(train, dict) else None
    if x is not None and x.nbytes <= MOST_BYTES:
        some = samples[:COMPARED]
        base, queries = centred(x.reshape(len(x), -1), some.reshape(len(some), -1))
        nearest = x[np.asarray(nearest_rows(queries, base)[1])]
        shown["nearest_training_images.png"] = np.stack([some, nearest])
    return shown
