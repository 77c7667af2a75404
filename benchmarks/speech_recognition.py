"""How much of real speech pocketsphinx understands, which is what error rates of synthetic speech are read beside.

    python benchmarks/speech_recognition.py --folders FOLDER

Held-out clips of folders and of eSpeak NG's voices are recognised twice: by a model of English in general, and by one
that knows the held-out texts alone, their words and which of them follow each other.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import common

from jaxgen.cli import parse
from jaxgen.data import SpeechFolder, Spoken
from jaxgen.data.speech import Speech
from jaxgen.metrics.recognition import recogniser
from jaxgen.metrics.speech import error_rate
from jaxgen.runtime import devices


@dataclass(frozen=True)
class Options:
    folders: tuple[str, ...] = ()
    """Folders in LJSpeech's layout."""
    voices: tuple[str, ...] = ("en-us", "en-us+f2")
    """Voices of eSpeak NG."""
    num: int = 100
    """Clips of each at most."""
    general: int = 40
    """Of these, how many are recognised by the model of English in general, which takes ten times as long."""
    out: str = str(common.RESULTS / "speech-recognition.json")


def recognised(source: str, data: Speech, num: int, general: int, rows: common.Rows) -> None:
    """Error rates of the first held-out clips by each model."""
    known = data.captions("test")

    def measure(name: str, texts: Sequence[str], most: int) -> common.Row:
        common.say(f"{source}, {name}", "jaxgen", "measure")
        said = known[:most]
        sounds = [data.sound(i) for i in range(len(said))]
        hear, start = recogniser(texts), time.process_time()
        heard = [hear(x, data.mel.rate) for x in sounds]
        return {
            "source": source,
            "known": name,
            "clips": len(said),
            "speech_seconds": sum(map(len, sounds)) / data.mel.rate,
            "cpu_seconds": time.process_time() - start,
            "word_error_rate": error_rate(said, heard),
            "character_error_rate": error_rate(said, heard, "character"),
            "heard": dict(list(zip(said, heard))[:10]),
        }

    for name, texts, most in (("texts", known, num), ("english", (), general)):
        rows.add(f"{source}, {name}", lambda args=(name, texts, most): measure(*args))


COLUMNS = {
    "experiment": lambda r: r["source"],
    "known": lambda r: r["known"],
    "clips": lambda r: str(r["clips"]),
    "words wrong": lambda r: f"{r['word_error_rate']:.3f}",
    "characters wrong": lambda r: f"{r['character_error_rate']:.3f}",
}


def main(argv: list[str] | None = None) -> None:
    options = parse.parse(Options, None, sys.argv[1:] if argv is None else argv, "speech_recognition.py", __doc__)
    devices.start_jax()
    sources = {Path(folder).name: SpeechFolder(folder=folder) for folder in options.folders}
    sources |= {f"espeak {voice}": Spoken(voice=voice) for voice in options.voices}
    rows = common.rows(options.out, "speech_recognition", COLUMNS, options)
    for name, data in sources.items():
        recognised(name, data, options.num, options.general, rows)
    rows.finish("what recognisers understand")


if __name__ == "__main__":
    parse.run(main)
