"""Whether sound that is drawn by class is of its class, beside held-out sound of the data.

    python benchmarks/sound_classes.py runs/wavenet-digits-0 runs/diffwave-digits-0
    python benchmarks/sound_classes.py runs/wavenet-notes-0 runs/diffwave-notes-0

Words are recognised by pocketsphinx, which knows them alone; notes are the class nearest to the strongest frequency.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import common
import numpy as np

from jaxgen.cli import parse
from jaxgen.core.ranges import Samples, Seed
from jaxgen.data import Dataset, Notes, SpokenWords
from jaxgen.data.notes import SCALE
from jaxgen.errors import UserError
from jaxgen.inference.sampling import draw
from jaxgen.metrics.recognition import recogniser
from jaxgen.runtime.files import write_text


@dataclass(frozen=True)
class Options:
    each: Samples = 10
    """Samples of each class; as many held-out examples at most."""
    seed: Seed = 0
    out: str = ""
    """JSON file; benchmarks/results/sound-classes-PRESET.json when empty."""


def note_of(x: np.ndarray, rate: int) -> int:
    """The class whose pitch is nearest, in tones, to the strongest frequency of x, f32[N]."""
    size = 1 << (4 * len(x)).bit_length()
    strength = np.abs(np.fft.rfft(x * np.hanning(len(x)), size))
    hz = np.fft.rfftfreq(size, 1 / rate)
    strongest = hz[1:][np.argmax(strength[1:])]
    return int(np.argmin([abs(np.log2(strongest / pitch)) for _, pitch in SCALE]))


def listener(data: Dataset) -> Callable[[np.ndarray], int]:
    """The class that is heard in a waveform; -1 for none. Raises UserError for data of another kind."""
    if isinstance(data, Notes):
        return lambda x: note_of(x, data.rate)
    if isinstance(data, SpokenWords):
        hear = recogniser(data.words)

        def word(x: np.ndarray) -> int:
            heard = hear(x, data.rate).split()
            return data.words.index(heard[0]) if len(heard) == 1 and heard[0] in data.words else -1

        return word
    raise UserError(f"{type(data).__name__} has no sounds of classes that can be heard: Notes and SpokenWords have")


def main(args: Sequence[str] | None = None) -> None:
    args = sys.argv[1:] if args is None else args
    runs, options = common.runs_asked(args, Options(), "sound_classes.py", __doc__)
    data = runs[0].experiment.data
    heard, classes = listener(data), data.num_classes
    batch = data.batch_at(0, 0, min(options.each * classes, data.count("test")), "test")
    true = np.mean([heard(x) == label for x, label in zip(batch["x"], batch["cond"])])
    rows = [{"sound": "held-out", "num": len(batch["x"]), "accuracy": float(true)}]
    cond = np.repeat(np.arange(classes, dtype=np.int32), options.each)
    for run in runs:
        x = draw(run, options.seed, len(cond), cond, min(len(cond), 64))
        right = np.array([heard(sound) == label for sound, label in zip(x, cond)])
        each = {name: float(right[cond == i].mean()) for i, name in enumerate(data.class_names)}
        rows.append(
            {"sound": run.name, "num": len(x), "accuracy": float(right.mean()), "each": each, "steps": run.step}
        )
    for row in rows:
        print(f"{row['sound']:28} {row['accuracy']:.1%} of {row['num']} are of their class")
    out = common.out_of(options.out, "sound-classes", runs[0])
    write_text(out, json.dumps({"provenance": common.provenance(), "results": rows}, indent=2) + "\n")


if __name__ == "__main__":
    parse.run(main)
