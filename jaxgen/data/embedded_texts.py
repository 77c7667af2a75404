"""Short English texts of the package to be spoken: phrases of Python's help topics, and the names of the emoji."""

import functools
import hashlib
import re

from jaxgen.data.embedded import Emoji

SHORTEST = 12
"""Characters of a text."""
_SENTENCE = re.compile(r"(?<=[.!?:;])\s+")
_PLAIN = re.compile(r"[A-Za-z][a-z]*(?:'[a-z]+)?")
_ENDS = ".,;:!?"


@functools.lru_cache(maxsize=4)
def phrases(longest: int) -> tuple[str, ...]:
    """Different texts of at most `longest` characters, in an order that no seed changes and the first few of which are
    as varied as all.

    Raises nothing; there are a few thousand for 60 characters.
    """
    from pydoc_data.topics import topics

    found = {name.replace("-", " ") for name in Emoji().names("all")}
    for topic in topics.values():
        for paragraph in re.split(r"\n\s*\n", topic):
            for sentence in _SENTENCE.split(" ".join(paragraph.split())):
                found |= _pieces(sentence, longest)
    kept = [text for text in found if SHORTEST <= len(text) <= longest and all(map(_is_plain, text.split()))]
    return tuple(sorted(kept, key=lambda text: hashlib.sha256(text.encode()).digest()))


def _pieces(sentence: str, longest: int) -> set[str]:
    """Runs of plain words, cut after punctuation, or where a run would be too long."""
    pieces: set[str] = set()
    run: list[str] = []
    for word in [*sentence.split(), "*"]:
        plain = _is_plain(word)
        if not plain or len(" ".join([*run, word])) > longest:
            pieces.add(" ".join(run))
            run = []
        if plain:
            run.append(word)
            if word[-1] in _ENDS and len(" ".join(run)) > longest // 2:
                pieces.add(" ".join(run))
                run = []
    return pieces


def _is_plain(word: str) -> bool:
    """Whether a word, perhaps with punctuation after it, is of letters alone: no code, no number."""
    return _PLAIN.fullmatch(word.rstrip(_ENDS) if word[-1:] in _ENDS else word) is not None
