"""The one exception a command line turns into a single line and exit code 2."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input: the message says what was given, what was expected and what to do, in one line."""


def first_few(names: Iterable[str], most: int = 3) -> str:
    """'a, b, c and 4 more' of names."""
    every = list(names)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")


def nearest(given: str, known: Iterable[str]) -> str:
    """' (did you mean X?)' for the known name closest to `given`, or '' when none is close."""
    close = difflib.get_close_matches(given, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
