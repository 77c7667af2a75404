"""Numbers as they are read out in English: cardinals, ordinals, years, decimals, times, dates and money."""

import re


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SMALL = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
TENS = _words("zero ten twenty thirty forty fifty sixty seventy eighty ninety")
SCALES = ("", "thousand", "million", "billion", "trillion", "quadrillion", "quintillion")
ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip
MONTHS = _words("january february march april may june july august september october november december")
CURRENCIES = {"$": ("dollar", "cent"), "£": ("pound", "penny"), "€": ("euro", "cent")}


def cardinal(n: int) -> str:
    """345 as "three hundred forty-five", for n in [0, 10^21)."""
    if n < 1000:
        return _below_thousand(n)
    groups = []
    for scale in SCALES:
        n, group = divmod(n, 1000)
        if group:
            groups.append(f"{_below_thousand(group)} {scale}".rstrip())
    return ", ".join(reversed(groups))


def _below_thousand(n: int) -> str:
    hundreds, n = divmod(n, 100)
    words = [f"{SMALL[hundreds]} hundred"] if hundreds else []
    if n >= 20:
        words.append(TENS[n // 10] + (f"-{SMALL[n % 10]}" if n % 10 else ""))
    elif n or not hundreds:
        words.append(SMALL[n])
    return " ".join(words)


def ordinal(n: int) -> str:
    """21 as "twenty-first"."""
    words = re.split(r"([ -])", cardinal(n))
    last = words[-1]
    words[-1] = ORDINALS.get(last) or (f"{last[:-1]}ieth" if last.endswith("y") else f"{last.removesuffix('t')}th")
    return "".join(words)


def number(n: int) -> str:
    """As a year from 1001 to 2999, as NVIDIA's cleaners have it, else as a cardinal."""
    if not 1000 < n < 3000:
        return cardinal(n)
    if 2000 <= n < 2010:
        return f"two thousand {cardinal(n - 2000)}" if n > 2000 else "two thousand"
    if n % 100 == 0:
        return f"{cardinal(n // 100)} hundred"
    return f"{cardinal(n // 100)} {_two_digits(n % 100)}"


def _two_digits(n: int) -> str:
    return f"oh {cardinal(n)}" if n < 10 else cardinal(n)


def _digits(text: str) -> str:
    return " ".join(SMALL[int(digit)] for digit in text)


def _whole(digits: str, read=cardinal) -> str:
    """Digits, perhaps in groups, by `read`; one by one where they are too many."""
    digits = digits.replace(",", "")
    return read(int(digits)) if len(digits) <= 3 * len(SCALES) else _digits(digits)


def _decimal(whole: str, part: str) -> str:
    return f"{_whole(whole)} point {_digits(part)}" if part else _whole(whole)


SHORT = {"k": "thousand", "m": "million", "bn": "billion"}
"""Of a sum of money: "$5m"."""


def _money(found: re.Match[str]) -> str:
    whole, _, part = found["amount"].partition(".")
    (name, of), scale = CURRENCIES[found["sign"]], found["scale"]
    after = "" if found["next"] is None else " "  # words next to letters need a space between them
    if scale:
        return f"{_decimal(whole, part)} {SHORT.get(scale, scale)} {name}s"
    if len(part.rstrip("0")) > 2:
        return f"{_decimal(whole, part)} {name}s{after}"
    units, parts = _whole(whole), int((part + "00")[:2])
    said = [f"{units} {name}{'' if units == 'one' else 's'}"] if units != "zero" or not parts else []
    if parts:
        several = "pence" if of == "penny" else f"{of}s"
        said.append(f"{cardinal(parts)} {of if parts == 1 else several}")
    return ", ".join(said) + after


def _grouped(found: re.Match[str]) -> str:
    """A number of groups or with decimals, and a space before letters that follow."""
    return _decimal(found[1], found[2] or "") + ("" if found["next"] is None else " ")


def _time(found: re.Match[str]) -> str:
    hour, minute, half = int(found[1]), int(found[2]), found[3] or ""
    said = f"{cardinal(hour)} {_two_digits(minute)}" if minute else cardinal(hour)
    half = f" {half.strip()}" if half else ""
    return said + half if minute or half else f"{said} o'clock"


def _decades(found: re.Match[str]) -> str:
    n = int(found[1])
    if n % 1000 == 0 and n:
        return f"{cardinal(n)}s"
    last = TENS[n % 100 // 10] if n % 100 else "hundred"
    plural = f"{last[:-1]}ies" if last.endswith("y") else f"{last}s"
    return f"{cardinal(n // 100)} {plural}" if n // 100 else plural


_MONTH = "|".join(f"{month}|{month[:3]}\\." for month in MONTHS)


def _month(text: str) -> str:
    return next(month for month in MONTHS if month.startswith(text.rstrip(".")))


_BEFORE = re.compile(r"\b(?:on|of|in|by|since|until|till|from|before|after|last|next|this|every|early|late)\s$")
_AFTER = re.compile(r"\s?(?:[,.;:!?)\-]|$)|\s(?:[12]\d{3}|and|to|through|until|at)\b")


def _date(found: re.Match[str]) -> str:
    """A day of a month as an ordinal. "march 5 miles" and "may 10 people come" are no dates: these two months need an
    ordinal, or a word or sign beside them that goes with dates."""
    words = [_month(found["month"]), ordinal(int(found["day"]))]
    if found["month"] in ("march", "may") and not found["th"]:
        text = found.string
        if not _BEFORE.search(text, 0, found.start()) and not _AFTER.match(text, found.end()):
            return found[0]
    return " ".join(words if found.start("month") < found.start("day") else reversed(words))


# In this order: each rule sees what those before it have left. No pattern begins within a run of digits: of a long one,
# each would be tried to its end.
_RULES = (
    # Next to letters, as in "mp3", words need a space between them.
    (r"(?<=[a-z])(?=\d)", " "),
    (
        r"(?P<sign>[$£€])\s?(?P<amount>\d+(?:,\d{3})*(?:\.\d+)?)"
        r"(?:\s?(?P<scale>thousand|million|billion|trillion|k|m|bn)\b)?(?P<next>(?=[a-z]))?",
        _money,
    ),
    (r"\b(\d{1,3}(?:,\d{3})+)(?:st|nd|rd|th)\b", lambda m: _whole(m[1], ordinal)),
    (r"\b(\d{1,3}(?:,\d{3})+)(?:\.(\d+))?(?!\d)(?P<next>(?=[a-z]))?", _grouped),
    (
        r"\b(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])\b",
        lambda m: f"{MONTHS[int(m[2]) - 1]} {ordinal(int(m[3]))}, {number(int(m[1]))}",
    ),
    (
        rf"\b(?P<month>{_MONTH})\s(?P<day>[12]?\d|3[01])(?P<th>st|nd|rd|th)?\b(?![:.]\d)",
        _date,
    ),
    (
        rf"\b(?P<day>[12]?\d|3[01])(?P<th>st|nd|rd|th)?\s(?P<month>{_MONTH})(?!\w)",
        _date,
    ),
    (r"\b([01]?\d|2[0-3]):([0-5]\d)(?:(\s?[ap]\.?m)\b|\b)", _time),
    (r"\b(\d0|\d{3}0)s\b", _decades),
    (r"(?<!\d)(\d+)\.(\d+)(?P<next>(?=[a-z]))?", _grouped),
    (r"(?<!\d)(\d+)(?:st|nd|rd|th)\b", lambda m: _whole(m[1], ordinal)),
    (r"(?<![\w)])-(?=\d)", "minus "),
    (r"(?<=\d)(?=[a-z])", " "),
    (r"\d+", lambda m: _whole(m[0], number)),
)
_COMPILED = tuple((re.compile(pattern), replacement) for pattern, replacement in _RULES)


def numbers_read_out(text: str) -> str:
    """The text, of lower case, with all its numbers as words."""
    for pattern, replacement in _COMPILED:
        text = pattern.sub(replacement, text)
    return text
