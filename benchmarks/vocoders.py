"""Sound that vocoders make of the mels of held-out clips, beside the Griffin-Lim algorithm's of the same mels.

    python benchmarks/vocoders.py runs/wavenet-spoken-0 runs/diffwave-spoken-0 runs/hifigan-spoken-0
    python benchmarks/vocoders.py runs/wavenet-toy-0 --no-recognise

For each: the distance of its log mels from the true ones, in all bands up to half the rate, and of their cepstra (MCD);
where clips are speech, how many words pocketsphinx takes for others, knowing the texts' words alone; and the CPU time
for a second of sound. Writes a JSON file, a picture of mels with a row for each clip, and the first clips as WAV.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import common
import jax.numpy as jnp
import numpy as np

from jaxgen.cli import parse
from jaxgen.core.ranges import OptionalDepth, Samples, Seed
from jaxgen.data import Sounds, Speech
from jaxgen.data.speech_cache import mel_of
from jaxgen.errors import UserError
from jaxgen.inference.sounds import mel_picture
from jaxgen.inference.speech import waveform
from jaxgen.inference.vocoding import check_vocoder, vocoded
from jaxgen.metrics.recognition import recogniser
from jaxgen.metrics.speech import error_rate, mel_cepstral_distortion
from jaxgen.ops.audio import Mel, log_mel
from jaxgen.report import save_picture
from jaxgen.runs.restore import Trained
from jaxgen.runtime.files import write_text
from jaxgen.runtime.sound import write_sound

Vocoder = Callable[[np.ndarray, int], np.ndarray]
"""The waveform of the log mel of clip i."""


@dataclass(frozen=True)
class Options:
    num: Samples = 40
    """Held-out clips at most."""
    seed: Seed = 0
    recognise: bool = True
    """Recognise the words, which takes most of the time."""
    shown: OptionalDepth = 3
    """Clips in the picture and as WAV."""
    out: str = ""
    """JSON file, beside which the picture and the sound lie; benchmarks/results/vocoders-DATA.json when empty, after
    the preset of the first run."""


def speech_of(trained: Trained) -> Speech:
    """The clips that the run's pieces are cut from. Raises UserError where there are none."""
    data = trained.experiment.data
    if not isinstance(data, Sounds):
        kind = type(data).__name__
        raise UserError(f"{trained.name} was trained on {kind}: a vocoder of pieces of clips is expected")
    return data.data


def clips_of(trained: Trained, num: int) -> list[np.ndarray]:
    """The first held-out clips, as loud as the run's data have them."""
    speech, peak = speech_of(trained), getattr(trained.experiment.data, "peak", 0.0)
    sounds = [speech.sound(i) for i in range(min(num, len(speech.captions("test"))))]
    return [x * (peak / np.abs(x).max()) if peak else x for x in sounds]


def distance(made: np.ndarray, true: np.ndarray, mel: Mel) -> float:
    """The mean difference of log mels of all frequencies up to half the rate, in nats."""
    every = replace(mel, low=0.0, high=mel.rate / 2)
    return float(jnp.mean(jnp.abs(log_mel(jnp.asarray(made), every) - log_mel(jnp.asarray(true), every))))


def wrong(said: Sequence[str], heard: Sequence[str], unit: Literal["word", "character"]) -> dict[str, float]:
    """The share of words or characters that are wrong, with its interval over clips."""
    return common.jackknife(lambda kept: error_rate([said[i] for i in kept], [heard[i] for i in kept], unit), len(said))


def measured(
    made: Sequence[np.ndarray], true: Sequence[np.ndarray], said: Sequence[str], mel: Mel, hear: Any
) -> dict[str, Any]:
    """Numbers of waveforms beside the true ones of the same lengths."""
    found: dict[str, Any] = {
        "log_mel_l1": float(np.mean([distance(a, b, mel) for a, b in zip(made, true)])),
        "mel_cepstral_distortion": float(
            np.mean([mel_cepstral_distortion(mel_of(a, mel), mel_of(b, mel)) for a, b in zip(made, true)])
        ),
    }
    if hear is not None:
        heard = [hear(x, mel.rate) for x in made]
        found |= {
            "word_error_rate": wrong(said, heard, "word"),
            "character_error_rate": wrong(said, heard, "character"),
            "heard": dict(list(zip(said, heard))[:10]),
        }
    return found


def results(
    vocoders: dict[str, Vocoder], true: list[np.ndarray], said: Sequence[str], mel: Mel, recognise: bool
) -> tuple[list[dict[str, Any]], dict[str, list[np.ndarray]]]:
    """A row for the true sound and for each vocoder, and their waveforms."""
    hear = recogniser(tuple(said)) if recognise else None
    mels = [mel_of(x, mel) for x in true]
    # What frames of whole hops cannot say, the end of a clip, is left out of all.
    true = [x[: (len(frames) - 1) * mel.hop] for x, frames in zip(true, mels)]
    rows, sounds = [{"vocoder": "true sound", **measured(true, true, said, mel, hear)}], {"true": true}
    for name, vocoder in vocoders.items():
        for frames in {-(-len(m) // 128): m for m in mels}.values():
            vocoder(frames, 0)  # compiles; mels are padded to few shapes
        start = time.process_time()
        made = [vocoder(frames, i) for i, frames in enumerate(mels)]
        seconds = sum(map(len, made)) / mel.rate
        spent = (time.process_time() - start) / seconds
        row = {"vocoder": name, "cpu_seconds_a_second": spent, "seconds": seconds}
        rows.append(row | measured(made, true, said, mel, hear))
        sounds[name] = made
    return rows, sounds


def main(args: Sequence[str] | None = None) -> None:
    args = sys.argv[1:] if args is None else args
    runs, options = common.runs_asked(args, Options(), "vocoders.py", __doc__)
    speech = speech_of(runs[0])
    mel = speech.mel
    for run in runs:
        check_vocoder(run, mel)
    true = clips_of(runs[0], options.num)
    vocoders: dict[str, Vocoder] = {"griffin-lim": lambda frames, i: waveform(frames, mel, options.seed, i)}
    vocoders |= {run.name: lambda frames, i, run=run: vocoded(run, frames, mel, options.seed, i) for run in runs}
    said = speech.captions("test")[: len(true)]
    rows, sounds = results(vocoders, true, said, mel, options.recognise)
    steps = {run.name: {"steps": run.step, "batch_size": run.experiment.batch_size} for run in runs}
    for row in rows:
        row |= steps.get(row["vocoder"], {})
        words = f", {row['word_error_rate']['mean']:.1%} of words wrong" if "word_error_rate" in row else ""
        distances = f"log mel {row['log_mel_l1']:.3f}, MCD {row['mel_cepstral_distortion']:.2f} dB"
        print(f"{row['vocoder']:28} {distances}{words}")
    out = common.out_of(options.out, "vocoders", runs[0])
    found = {"provenance": common.provenance(), "clips": len(true), "results": rows}
    write_text(out, json.dumps(found, indent=2) + "\n")
    if not options.shown:
        return
    shown = range(min(options.shown, len(true)))
    pictures = [[mel_picture(mel_of(sounds[name][i], mel), mel) for name in sounds] for i in shown]
    texts = [f"{said[i]:.40}" if name == "true" else name for i in shown for name in sounds]
    save_picture(out.with_suffix(".png"), np.array(pictures), texts=texts)
    for name, waves in sounds.items():
        for i in shown:
            write_sound(out.with_name(f"{out.stem}-{name}-{i}.wav"), waves[i], mel.rate)


if __name__ == "__main__":
    parse.run(main)
