"""`jaxgen speak RUN TEXT OUT.wav`: a text read out by a run of a model that speaks."""

from dataclasses import dataclass, replace
from pathlib import Path

from jaxgen.cli.options import Asked, Common, ask
from jaxgen.core.ranges import PathName, Seed
from jaxgen.errors import UserError
from jaxgen.inference.speech import save_spoken, speak, speech_of
from jaxgen.inference.vocoding import check_vocoder
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import restore
from jaxgen.runtime.files import check_output
from jaxgen.runtime.progress import say
from jaxgen.runtime.reading import read_lines, user_path
from jaxgen.runtime.sound import check_sound_name, write_sound


@dataclass(frozen=True)
class SpeakOptions(Common):
    seed: Seed = 0
    """Of the prenet's dropout, which makes each reading another, and of phases."""
    lines: PathName = ""
    """A file with a text in each line: OUT is then a folder, of 0.wav, 1.wav, ..."""
    vocoder: PathName = ""
    """A run that makes sound of mels; the Griffin-Lim algorithm does when empty."""
    picture: PathName = ""
    """A PNG of the mels and alignments of what is spoken."""


def command(args: list[str]) -> None:
    """A text read out by a run of a model that speaks: RUN TEXT OUT.wav [flags], or RUN OUT --lines FILE [flags]."""
    end = next((i for i, arg in enumerate(args) if i and arg.startswith("--")), len(args))
    asked = ask(SpeakOptions, [*args[:1], *args[end:]], "speak", command.__doc__)
    asked = replace(asked, words=("speak", *args))
    options, given = asked.options, args[1:end]
    if len(given) != (1 if options.lines else 2):
        raise UserError(
            f"speak takes RUN TEXT OUT.wav, or RUN OUT --lines FILE, not {len(given) + 1} words before the flags"
        )
    texts, files = _texts(options.lines, given)
    check_output(user_path(given[-1]), folder=bool(options.lines))
    for file in files:
        check_sound_name(file)
    speak_to(asked, texts, files)


def speak_to(asked: Asked, texts: list[str], files: list[Path]) -> None:
    """Speaks each text to its file, as `SpeakOptions` ask."""
    options = asked.options
    data = speech_of(asked.experiment)
    data.tokens(texts)
    if options.picture:
        check_output(user_path(options.picture), folder=False)
    vocoder = None
    if options.vocoder:
        vocoder = restore(RunFolder(user_path(options.vocoder)))
        check_vocoder(vocoder, data.mel)
    trained = asked.restore()
    found = speak(trained, texts, options.seed, vocoder)
    for file, text, (wave, spoken) in zip(files, texts, found):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_sound(file, wave, data.mel.rate)
        if not all(part.stopped for part in spoken):
            say(f"{text!r:.60} did not come to an end within model.max_frames: it is cut there")
        print(f"{file}: {len(wave) / data.mel.rate:.2f} s")
    if options.picture:
        origin = asked.origin(trained, seed=options.seed)
        save_spoken(user_path(options.picture), [part for _, parts in found for part in parts], data.mel, origin)


def _texts(lines: str, given: list[str]) -> tuple[list[str], list[Path]]:
    """Texts, and the files that they are spoken to. Raises UserError for a file without lines."""
    out = user_path(given[-1])
    if not lines:
        return [given[0]], [out]
    texts = list(read_lines(user_path(lines), "text"))
    return texts, [out / f"{i}.wav" for i in range(len(texts))]
