"""English text as symbols to be spoken: the 148 symbols and the cleaners of NVIDIA's Tacotron 2.

Cleaned text is of lower case, with numbers, money, dates and abbreviations read out, accents left out and white space
collapsed. Phonemes of ARPAbet stand in braces, as in "turn left on {HH AW1 S T AH0 N} street", where NVIDIA's code has
them; or a pronouncing dictionary in the format of CMU's gives them for the words that it has.
"""

import functools
import itertools
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxgen.data.spoken_numbers import numbers_read_out
from jaxgen.errors import UserError, first_few, nearest
from jaxgen.runtime.reading import read_text

PAD = "_"
VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW"
CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH"
STRESSED = [vowel + stress for vowel, stress in itertools.product(VOWELS.split(), ("", "0", "1", "2"))]
ARPABET = tuple(sorted([*CONSONANTS.split(), *STRESSED]))
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SYMBOLS = (PAD, "-", *"!'(),.:;? ", *LETTERS, *(f"@{phoneme}" for phoneme in ARPABET))
"""The 148 symbols; a text is their indices, and 0 pads."""
INDEX = {symbol: i for i, symbol in enumerate(SYMBOLS)}

ABBREVIATIONS = {
    "mrs.": "misess", "mr.": "mister", "dr.": "doctor", "st.": "saint", "co.": "company", "jr.": "junior",
    "maj.": "major", "gen.": "general", "drs.": "doctors", "rev.": "reverend", "lt.": "lieutenant",
    "hon.": "honorable", "sgt.": "sergeant", "capt.": "captain", "esq.": "esquire", "ltd.": "limited",
    "col.": "colonel", "ft.": "fort", "etc.": "et cetera", "vs.": "versus", "e.g.": "for example", "i.e.": "that is",
}  # fmt: skip
"""As in NVIDIA's cleaners and LJSpeech's transcripts, and four more."""
READINGS = {
    "&": " and ", "%": " percent ", "@": " at ", "+": " plus ", "=": " equals ", "\u00b0": " degrees ",
    "#": " number ", "/": " slash ", "\u00d7": " times ", "\u00f7": " divided by ", "\u00bd": " one half ",
    "\u00bc": " one quarter ", "\u00be": " three quarters ",
}  # fmt: skip
"""Signs that are read out: degree, times, division and fractions by their numbers in Unicode."""
ALIKE = {
    # Quotation marks and accents that stand for an apostrophe, dashes, the ellipsis.
    **dict.fromkeys("\u2018\u2019\u201a\u02bc`\u00b4", "'"),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"),
    "\u2026": "...", "[": "(", "]": ")", "_": " ", "|": ",",
    "ß": "ss", "æ": "ae", "ø": "o", "œ": "oe", "ð": "d", "þ": "th", "ł": "l", "đ": "d", "\u0131": "i",
    # Hyphens and spaces without a width, and the byte-order mark.
    "\u00ad": "", "\u200b": "", "\ufeff": "",
}  # fmt: skip
"""Characters that stand for others, in lower case."""
SILENT = '"“”„«»*~^<>\\•·†‡§¶©®™'
"""Marks without a sound, which are left out."""

_CHARACTERS = str.maketrans({**ALIKE, **READINGS, **dict.fromkeys(SILENT, "")})
_ABBREVIATED = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, ABBREVIATIONS))})(?!\w)")
_PHONEMES = re.compile(r"\{([^{}]*)\}")
_WORD = re.compile(r"[a-z']*[a-z]")


def cleaned(text: str) -> str:
    """The text as it is read out, in lower case; what has no symbol and is not read out stays in it."""
    text = text.lower().translate(_CHARACTERS)
    # Accents become characters of their own, which are left out.
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    text = text.lower().translate(_CHARACTERS)  # of letters in other forms, as \uff21
    text = _ABBREVIATED.sub(lambda m: ABBREVIATIONS[m[1]], text)
    text = re.sub(r"\s+([,.;:!?)])", r"\1", numbers_read_out(text))
    return " ".join(text.split())


def encoded(text: str, dictionary: Mapping[str, Sequence[str]] | None = None) -> np.ndarray:
    """The symbols of a text, i32[T], without padding. dictionary: phonemes of words in lower case.

    Raises UserError for a text in which nothing can be spoken, for characters without a symbol, and for braces that do
    not hold ARPAbet.
    """
    symbols: list[str] = []
    for i, part in enumerate(_PHONEMES.split(text)):  # texts and phonemes take turns
        if i % 2:
            symbols += _checked(part, text)
            continue
        if brace := next((c for c in part if c in "{}"), None):
            raise UserError(f"{_quoted(text)} has a {brace!r} without its other: phonemes stand in one pair of braces")
        said = cleaned(part)
        # Cleaning strips the spaces beside braces too.
        before = " " if said and part[:1].isspace() and symbols else ""
        symbols += before + said if dictionary is None else [*before, *_looked_up(said, dictionary)]
        symbols += " " if said and part[-1:].isspace() else ""
    while symbols and symbols[-1] == " ":
        symbols.pop()
    if unknown := sorted(set(symbols) - set(INDEX)):
        raise UserError(
            f"{_quoted(text)} has {first_few(map(repr, unknown))}, which no symbol stands for: write what is to be "
            "said in English letters"
        )
    if not any(symbol[-1].isalnum() for symbol in symbols):
        raise UserError(f"{_quoted(text)} has nothing to be spoken: write a word at least")
    return np.array([INDEX[symbol] for symbol in symbols], np.int32)


def _quoted(text: str) -> str:
    return f"the text {text if len(text) <= 60 else text[:57] + '...'!r}"


def _checked(phonemes: str, text: str) -> list[str]:
    found = phonemes.upper().split()
    for phoneme in found:
        if phoneme not in ARPABET:
            close = nearest(phoneme, ARPABET)
            raise UserError(f"{_quoted(text)} has {phoneme!r} in braces, no phoneme of ARPAbet{close}: correct it")
    return [f"@{phoneme}" for phoneme in found]


def _looked_up(said: str, dictionary: Mapping[str, Sequence[str]]) -> list[str]:
    symbols: list[str] = []
    place = 0
    for word in _WORD.finditer(said):
        phonemes = dictionary.get(word[0])
        symbols += said[place : word.start()]
        symbols += word[0] if phonemes is None else [f"@{phoneme}" for phoneme in phonemes]
        place = word.end()
    return symbols + list(said[place:])


def decoded(symbols: Iterable[int]) -> str:
    """The text of symbols without its padding, phonemes in braces."""
    names = [SYMBOLS[int(i)] for i in symbols if int(i)]
    parts = itertools.groupby(names, lambda name: name.startswith("@"))
    return "".join(f"{{{' '.join(n[1:] for n in some)}}}" if sounds else "".join(some) for sounds, some in parts)


@functools.lru_cache(maxsize=4)
def read_dictionary(path: Path) -> Mapping[str, tuple[str, ...]]:
    """The first pronunciation of each word of a file in the format of CMU's dictionary: a word and its phonemes a line,
    in UTF-8 or, as cmudict-0.7b is, in Latin-1.

    Raises UserError for a file that cannot be read, and for a line with other phonemes than ARPAbet's.
    """
    found: dict[str, tuple[str, ...]] = {}
    try:
        text = read_text(path)
    except UserError as error:
        if not isinstance(error.__cause__, UnicodeDecodeError):
            raise
        text = read_text(path, "latin-1")
    for i, line in enumerate(text.split("\n"), 1):
        word, *phonemes = line.split("#")[0].split() or [""]
        if not word or word.startswith(";;;"):
            continue
        if wrong := next((p for p in phonemes if p not in ARPABET), "" if phonemes else "nothing"):
            raise UserError(
                f"{path} has {wrong!r} in line {i}, a word and phonemes of ARPAbet are expected: correct it"
            )
        if not re.search(r"\(\d+\)$", word):
            found.setdefault(word.lower(), tuple(phonemes))
    if not found:
        raise UserError(f"{path} has no words: name a pronouncing dictionary, as CMU's")
    return found
