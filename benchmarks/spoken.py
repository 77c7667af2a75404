"""What a run of Tacotron 2 says of held-out texts: whether its attention is in order, whether it ends in time, how far
its mels are from the true ones, and what a recogniser understands, beside what it does of the true sound.

    python benchmarks/spoken.py runs/tacotron2-spoken-0
    python benchmarks/spoken.py runs/tacotron2-prompts-0 --cpu-minutes 40

The recogniser is pocketsphinx, which knows the held-out texts alone, their words and which of them follow each other.
It hears the sound of the data itself, the Griffin-Lim algorithm's of the true mels, and that of the mels spoken.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import common
import numpy as np

from jaxgen.cli import parse
from jaxgen.core.ranges import NonNegative, Samples, Seed
from jaxgen.errors import UserError
from jaxgen.inference.speech import conditions, speech_of, utterances, waveform
from jaxgen.metrics.recognition import recogniser
from jaxgen.metrics.speech import alignment, error_rate, mel_cepstral_distortion, stop_error_rate
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import Trained, restore
from jaxgen.runtime import devices
from jaxgen.runtime.reading import user_path


@dataclass(frozen=True)
class Options:
    num: Samples = 100
    """Held-out texts at most."""
    seed: Seed = 0
    recognise: bool = True
    """Recognise the words, which takes most of the time."""
    cpu_minutes: NonNegative = 0.0
    """What training took, to be kept with the numbers; 0 if it was not measured."""
    out: str = ""
    """JSON file; benchmarks/results/RUN.json when empty."""


def true_mels(trained: Trained, num: int) -> list[np.ndarray]:
    """Of the first held-out clips, f32[F, bands] each."""
    found: list[np.ndarray] = []
    for batch, mask in trained.experiment.data.padded_batches(min(num, 20), "test", num):
        found += [x[:length] for x, length, real in zip(batch["x"], batch["length"], mask) if real]
    return found


def numbers(trained: Trained, options: Options) -> dict[str, Any]:
    """All of them, over the first held-out texts."""
    data = speech_of(trained.experiment)
    said = data.captions("test")[: options.num]
    true, start = true_mels(trained, len(said)), time.process_time()
    spoken = utterances(trained, conditions(data.tokens(said)), options.seed)
    speaking = time.process_time() - start
    attended = [alignment(u.alignment) for u in spoken]
    ratio = np.array([len(u.mel) / len(x) for u, x in zip(spoken, true)])
    stopped, frames = [u.stopped for u in spoken], [len(u.mel) for u in spoken]
    distances = [mel_cepstral_distortion(u.mel, x) for u, x in zip(spoken, true)]
    found: dict[str, Any] = {
        "texts": len(said),
        "stopped": float(np.mean(stopped)),
        "stop_error_rate": stop_error_rate(frames, list(map(len, true)), stopped),
        "length_over_reference": {str(q): float(np.quantile(ratio, q)) for q in (0.0, 0.05, 0.5, 0.95, 1.0)},
        "in_order": float(np.mean([a.monotony == 1 for a in attended])),
        **{name: float(np.mean([getattr(a, name) for a in attended])) for name in attended[0]._fields},
        "mel_cepstral_distortion": float(np.mean(distances)),
        "speech_seconds": sum(frames) * data.mel.hop / data.mel.rate,
        "cpu_seconds": speaking,
    }
    if options.recognise:
        hear = recogniser(data.captions("test"))
        sounds = {
            "own": [data.sound(i) for i in range(len(said))],
            "griffin_lim": [waveform(x, data.mel, options.seed, i) for i, x in enumerate(true)],
            "spoken": [waveform(u.mel, data.mel, options.seed, i) for i, u in enumerate(spoken)],
        }
        for name, waves in sounds.items():
            heard = [hear(x, data.mel.rate) for x in waves]
            found[f"recognised_{name}"] = {
                "word_error_rate": error_rate(said, heard),
                "character_error_rate": error_rate(said, heard, "character"),
                "heard": dict(list(zip(said, heard))[:10]),
            }
    return found


def main(args: Sequence[str] | None = None) -> None:
    args = sys.argv[1:] if args is None else list(args)
    if not args or args[0].startswith("-"):
        raise UserError("no run was named: spoken.py RUN [flags]")
    options = parse.parse(Options, Options(), args[1:], "spoken.py", __doc__)
    devices.start_jax()
    trained = restore(RunFolder(user_path(args[0])))
    steps = {"steps": trained.step, "batch_size": trained.experiment.batch_size}
    steps |= {"cpu_minutes": options.cpu_minutes} if options.cpu_minutes else {}
    found = {**steps, **numbers(trained, options)}
    for name, value in found.items():
        if not isinstance(value, dict):
            print(f"{name:24} {value:.4g}")
        elif "word_error_rate" in value:
            words, characters = value["word_error_rate"], value["character_error_rate"]
            print(f"{name:24} {words:.3f} of words wrong, {characters:.3f} of characters")
    out = user_path(options.out) if options.out else common.RESULTS / f"{trained.name.rpartition('-')[0]}.json"
    out.write_text(json.dumps({"provenance": common.provenance(), "result": found}, indent=2) + "\n")


if __name__ == "__main__":
    parse.run(main)
