"""Win rates of runs by what people chose on the pages of `jaxgen judge`."""

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from jaxgen.errors import UserError
from jaxgen.inference.judging import KIND
from jaxgen.runtime.reading import read_json

SIDES = ("left", "right")


class Sitting(NamedTuple):
    """The answers of one person on one page.

    contestants: facts of each. answers: of each trial the two contestants, left and right, and the side chosen.
    """

    file: Path
    question: str
    page: str
    started: str
    contestants: list[dict[str, Any]]
    answers: list[tuple[int, int, int]]


class Rate(NamedTuple):
    """How often one contestant was preferred to another.

    wins: of `num` answers. low, high: Wilson's interval of 95 %. p: of so many wins, or further from half, by chance.
    """

    one: str
    other: str
    wins: int
    num: int
    low: float
    high: float
    p: float


def read_answers(file: Path) -> Sitting:
    """What the page saved. Raises UserError for a file that holds something else, or no answer."""
    value = read_json(file)
    if not isinstance(value, dict) or value.get("kind") != KIND:
        raise UserError(f"{file} holds no answers that a page of jaxgen judge saved: name such a file, or a run folder")
    try:
        contestants = [dict(facts) for facts in value["contestants"]]
        answers = {int(answer["trial"]): _answer(answer, len(contestants)) for answer in value["answers"]}
        if len(answers) != len(value["answers"]):
            raise ValueError("a trial is answered twice")
        question, page, started = (value[name] for name in ("question", "page", "started"))
        if not all(isinstance(text, str) for text in (question, page, started)):
            raise ValueError("its question, page or time is no text")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{file} holds damaged answers ({error!r:.80}): save them anew from the page") from error
    if not answers:
        raise UserError(f"{file} holds no answer: choose on the page, then save")
    return Sitting(file, question, page, started, contestants, list(answers.values()))


def _answer(answer: dict[str, Any], count: int) -> tuple[int, int, int]:
    left, right = (answer[side]["contestant"] for side in SIDES)
    if not all(type(i) is int and 0 <= i < count for i in (left, right)) or left == right:
        raise ValueError(f"{left} and {right} are not two of {count}")
    return left, right, SIDES.index(answer["chosen"])


def win_rates(sittings: Sequence[Sitting]) -> tuple[list[Rate], Rate]:
    """The rate of each couple of contestants over all sittings, and that of the left side over the right. Contestants
    are the same where all facts of them are: run, step, weights, seed.

    Raises UserError for answers to different questions, and for one sitting that is given twice.
    """
    first = sittings[0]
    for i, sitting in enumerate(sittings):
        if sitting.question != first.question:
            raise UserError(
                f"{first.file} answers {first.question!r}, {sitting.file} {sitting.question!r}: compare one question"
            )
        for other in sittings[:i]:
            if (other.page, other.started) == (sitting.page, sitting.started):
                raise UserError(f"{other.file} and {sitting.file} are of one sitting: give the one with more answers")
    known: dict[str, dict[str, Any]] = {}
    for sitting in sittings:
        known |= {_key(facts): facts for facts in sitting.contestants}
    names = dict(zip(known, _names(list(known.values()))))
    choices = [
        (*(_key(sitting.contestants[side]) for side in (left, right)), chosen)
        for sitting in sittings
        for left, right, chosen in sitting.answers
    ]
    rates = []
    for one, other in combinations(known, 2):
        won = [(left, right)[chosen] == one for left, right, chosen in choices if {left, right} == {one, other}]
        if won:
            rates.append(rate(names[one], names[other], sum(won), len(won)))
    return rates, rate("left", "right", sum(chosen == 0 for *_, chosen in choices), len(choices))


def rate(one: str, other: str, wins: int, num: int) -> Rate:
    """Of `wins` in `num` independent answers: Wilson's score interval, and the exact binomial test against a half."""
    from scipy.stats import binomtest

    test = binomtest(wins, num)
    low, high = test.proportion_ci(method="wilson")
    return Rate(one, other, wins, num, float(low), float(high), float(test.pvalue))


def table(sittings: Sequence[Sitting]) -> tuple[list[str], list[list[str]], str]:
    """The rates as a table, its headings and rows, and a line about all answers."""
    rates, left = win_rates(sittings)
    heads = ["preferred", "to", "answers", "share", "95 % interval", "p of a half"]
    rows = [[r.one, r.other, str(r.num), _percent(r.wins / r.num), _interval(r), f"{r.p:.2g}"] for r in rates]
    people = f"{len(sittings)} sitting{'s' if len(sittings) > 1 else ''}"
    said = f"{sittings[0].question!r}: {left.num} answers, {people}; left was chosen in"
    return heads, rows, f"{said} {_percent(left.wins / left.num)} ({_interval(left)})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(found: Rate) -> str:
    return f"{100 * found.low:.1f} to {100 * found.high:.1f} %"


def _key(facts: dict[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True)


def _names(contestants: Sequence[dict[str, Any]]) -> list[str]:
    """A short name of each, longer where two would be the same."""
    for parts in (("run",), ("run", "step"), ("run", "step", "weights"), ("run", "step", "weights", "seed", "num")):
        names = [_name(facts, parts) for facts in contestants]
        if len(set(names)) == len(names):
            break
    return names


def _name(facts: dict[str, Any], parts: Sequence[str]) -> str:
    if facts.get("of") != "samples":
        return f"real {facts.get('data', '')} {facts.get('of', '')}"
    first, *more = parts
    return " ".join([str(facts.get(first)), *(f"{part} {facts.get(part)}" for part in more)])
