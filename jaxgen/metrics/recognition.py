"""Speech recognition by pocketsphinx, whose English model comes with it: the extra `speech`. It is no strong
recogniser, so that error rates of synthetic speech mean something beside those of the speech that was learnt from."""

import functools
import math
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxgen.errors import UserError
from jaxgen.metrics.speech import words_of
from jaxgen.runtime.reading import read_text
from jaxgen.runtime.sound import cmu_dictionary, resampled, speech_extra

RATE = 16_000
PEAK, SILENCE, NOISE = 0.7, 0.2, 0.005
"""Level that sound is brought to, seconds of silence before and after it, and the deviation of white noise under all:
of a speech synthesizer's silences, which are zeros, the recogniser would take logarithms."""
DISCOUNT = 0.5


@functools.lru_cache(maxsize=4)
def recogniser(texts: tuple[str, ...] = ()) -> Callable[[np.ndarray, int], str]:
    """A function from a waveform f32[N] and its samples a second to the text that is heard, in lower case.

    texts: if given, only their words are known, in pairs as likely as there; else English in general. A word that the
    pronouncing dictionary lacks is never heard. Raises UserError where the package is missing, and where no word of the
    texts has a pronunciation.
    """
    sphinx = speech_extra("pocketsphinx", "speech recognition")
    sphinx.set_loglevel("FATAL")
    if not texts:
        decoder = sphinx.Decoder(samprate=float(RATE), cmn="batch")
    else:
        known = _pronunciations(cmu_dictionary())
        sentences = [[word for word in words_of(text) if word in known] for text in texts]
        if not any(sentences):
            raise UserError("no word of the texts has a pronunciation: give English texts")
        spoken = sorted({word for sentence in sentences for word in sentence})
        with tempfile.TemporaryDirectory() as folder:
            model, dictionary = Path(folder) / "words.lm", Path(folder) / "words.dict"
            model.write_text(bigrams(sentences))
            dictionary.write_text("".join(line for word in spoken for line in known[word]))
            decoder = sphinx.Decoder(samprate=float(RATE), cmn="batch", lm=str(model), dict=str(dictionary))

    def heard(x: np.ndarray, rate: int) -> str:
        x = resampled(np.asarray(x, np.float32), rate, RATE)
        peak = float(np.abs(x).max(initial=0.0))
        x = np.pad(x * (PEAK / peak if peak else 0.0), round(SILENCE * RATE))
        x = x + NOISE * np.random.default_rng(0).standard_normal(len(x))
        decoder.start_utt()
        decoder.process_raw((x * 32767).astype("<i2").tobytes(), no_search=False, full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        return found.hypstr if found else ""

    return heard


@functools.lru_cache(maxsize=1)
def _pronunciations(file: Path) -> dict[str, list[str]]:
    """The lines of each word of a dictionary; further pronunciations are called word(2), word(3), ..."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in read_text(file).splitlines(keepends=True):
        found[re.sub(r"\(\d+\)$", "", line.split(maxsplit=1)[0])].append(line)
    return dict(found)


def bigrams(sentences: Sequence[Sequence[str]], discount: float = DISCOUNT) -> str:
    """A model of pairs of words in ARPA's format, with absolute discounting: n(v) counts how often v begins a pair,
    k(v) with how many different words.

      p(w | v) = (n(v w) - d) / n(v) + b(v) p(w) for pairs that there are, b(v) p(w) for others, b(v) = d k(v) / n(v)
    """
    pairs = Counter(pair for s in sentences for pair in zip(("<s>", *s), (*s, "</s>")))
    words = Counter(word for s in sentences for word in (*s, "</s>"))
    total = sum(words.values())
    begins, kinds = Counter[str](), Counter[str]()
    for (v, _), count in pairs.items():
        begins[v] += count
        kinds[v] += 1
    back = {v: discount * kinds[v] / begins[v] for v in begins}
    single = [f"{math.log10(n / total):.5f} {w} {math.log10(back.get(w, 1.0)):.5f}" for w, n in sorted(words.items())]
    double = [
        f"{math.log10((n - discount) / begins[v] + back[v] * words[w] / total):.5f} {v} {w}"
        for (v, w), n in sorted(pairs.items())
    ]
    return "\n".join([
        "\\data\\", f"ngram 1={len(single) + 1}", f"ngram 2={len(double)}", "",
        "\\1-grams:", f"-99 <s> {math.log10(back['<s>']):.5f}", *single, "",
        "\\2-grams:", *double, "", "\\end\\", "",
    ])  # fmt: skip
