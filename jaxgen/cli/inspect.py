"""`jaxgen inspect FILE`: where a picture comes from, and the command that draws it again."""

import os
import re
import shlex
from typing import Any

from jaxgen.errors import UserError
from jaxgen.runtime.png import read_origin
from jaxgen.runtime.reading import user_path


def command(args: list[str]) -> None:
    """Prints which run, checkpoint, weights, seed and settings a PNG of jaxgen was drawn by, and on the last line the
    command that draws the same pixels."""
    from jaxgen.report.parts import flatten

    if len(args) != 1 or args[0].startswith("-"):
        print(f"{command.__doc__}\n\nusage: jaxgen inspect FILE")
        if args in (["-h"], ["--help"]):
            return
        raise UserError("exactly one picture is expected: jaxgen inspect FILE")
    file = user_path(args[0])
    origin = read_origin(file)
    words = origin.pop("command", None)
    if words is not None and not (isinstance(words, list) and words and all(map(_is_word, words))):
        raise UserError(f"the command that {file} holds is no list of words: restore the file")
    facts = [(_printable(name), _printable(text)) for name, text in flatten(origin)]
    width = max(len(name) for name, _ in facts)
    print("\n".join(f"{name:{width}}  {text}" for name, text in facts), end="\n\n")
    again = f"jaxgen {' '.join(map(_quoted, words or ()))}"
    print(again if words else "no command draws it alone: the run left it as it trained")


def _is_word(word: Any) -> bool:
    """Whether a value can be a word of a command line."""
    try:
        return isinstance(word, str) and b"\0" not in os.fsencode(word)
    except UnicodeEncodeError:
        return False


def _printable(text: str) -> str:
    """Text whose control characters are escaped: a file can hold what a terminal obeys."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _quoted(word: str) -> str:
    """A word as a shell reads it, on one line: $'...' of bash and zsh, where it has control characters."""
    if word.isprintable():
        return shlex.quote(word)
    kept = re.compile(r"[\w .,:/=-]", re.ASCII)
    return "$'" + "".join(chr(b) if kept.match(chr(b)) else f"\\x{b:02x}" for b in os.fsencode(word)) + "'"
