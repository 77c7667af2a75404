"""Win rates against enumeration and the equation of Wilson's interval; answers that cannot be counted together."""

import json
from math import comb

import numpy as np
import pytest
from messages import one_line

from jaxgen import __main__ as commands
from jaxgen.errors import UserError
from jaxgen.scoring.preferences import rate, read_answers, table, win_rates

A, B = ({"of": "samples", "run": name, "step": 20, "weights": name * 8, "seed": 0, "num": 9} for name in "ab")
REAL = {"of": "test", "data": "Digits"}


def saved(file, choices, contestants=(A, B, REAL), **fields):
    """A file of answers; choices: (left, right, side chosen)."""
    answers = []
    for i, (left, right, side) in enumerate(choices):
        shown = {"left": {"contestant": left, "sample": i}, "right": {"contestant": right, "sample": i}}
        answers.append({"trial": i, **shown, "chosen": side})
    about = {"kind": "jaxgen answers 1", "question": "Which?", "page": "p", "started": file.name}
    file.write_text(json.dumps({**about, "contestants": contestants, "answers": answers, **fields}))
    return file


@pytest.mark.parametrize(("wins", "num"), [(0, 4), (3, 4), (17, 50), (50, 50)])
def test_the_interval_and_the_test(wins, num):
    """Its ends are where (w / n - q)^2 = z^2 q (1 - q) / n; p is the sum of binomials as unlikely or more."""
    z = 1.959963984540054

    def excess(q):
        return (wins / num - q) ** 2 - z**2 * q * (1 - q) / num

    def crossing(inside, outside):
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if excess(middle) < 0 else (inside, middle)
        return inside

    inner = (wins + z**2 / 2) / (num + z**2)
    found = rate("one", "other", wins, num)
    np.testing.assert_allclose([found.low, found.high], [crossing(inner, 0.0), crossing(inner, 1.0)], atol=1e-9)
    chances = [comb(num, k) / 2**num for k in range(num + 1)]
    assert found.p == pytest.approx(sum(c for c in chances if c <= chances[wins] * (1 + 1e-9)))


def test_answers_of_several_people_are_counted_together(tmp_path):
    """Whatever order the contestants stand in, and by the whole of what is known of them."""
    later = {**A, "step": 40}
    files = [
        saved(tmp_path / "1.json", [(0, 1, "left"), (1, 0, "left"), (0, 1, "left"), (2, 0, "left")]),
        saved(tmp_path / "2.json", [(1, 0, "left"), (0, 2, "right")], (B, A, later)),
    ]
    rates, left = win_rates([read_answers(file) for file in files])
    found = {(r.one, r.other): (r.wins, r.num) for r in rates}
    a, b, real = "a step 20", "b step 20", "real Digits test"
    assert found == {(a, b): (3, 4), (a, real): (0, 1), (b, "a step 40"): (0, 1)}
    assert (left.wins, left.num) == (5, 6)
    heads, rows, line = table([read_answers(files[0])])
    assert rows[0][: len(heads)][:4] == ["a", "b", "3", "66.7 %"] and "1 sitting;" in line


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "scores"}, "holds no answers"),
        ({"answers": []}, "holds no answer"),
        ({"answers": [{"trial": 0}]}, "damaged"),
        ({"answers": 3}, "damaged"),
        ({"contestants": [A]}, "damaged"),
        ({"contestants": "ab"}, "damaged"),
        ({"started": 3}, "damaged"),
    ],
    ids=str,
)
def test_other_files_are_one_line(fields, words, tmp_path):
    file = saved(tmp_path / "a.json", [(0, 1, "left")], **fields)
    with pytest.raises(UserError) as error:
        commands.call(["compare", str(file)])
    assert str(file) in (line := one_line(error)) and words in line


@pytest.mark.parametrize("choice", [(0, 0, "left"), (0, 9, "left"), (-1, 0, "left"), (True, 0, "left"), (0, 1, "both")])
def test_a_choice_that_there_was_not_is_refused(choice, tmp_path):
    with pytest.raises(UserError, match="damaged"):
        read_answers(saved(tmp_path / "a.json", [choice]))


def test_what_does_not_go_together(tmp_path):
    one, again, other = (tmp_path / f"{name}.json" for name in ("one", "again", "other"))
    saved(one, [(0, 1, "left")])
    saved(again, [(0, 1, "left"), (0, 2, "left")], started="one.json")
    saved(other, [(0, 1, "left")], question="Why?")
    for words, said in (([one, again], "one sitting"), ([one, other], "one question"), ([one, tmp_path], "nothing")):
        with pytest.raises(UserError, match=said):
            commands.call(["compare", *map(str, words)])
