"""Forms of `jaxgen app`: which options a browser may set, and that what it sets is the command that is shown."""

import json
import re
from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Le
from messages import one_line

from jaxgen.app.forms import controls, docs_of, values_of, words
from jaxgen.cli.guide import GuideOptions
from jaxgen.cli.options import Common
from jaxgen.cli.parse import parse
from jaxgen.cli.restore import RestoreOptions
from jaxgen.cli.sample import SampleOptions, WriteOptions
from jaxgen.cli.tasks import TASKS
from jaxgen.core.ranges import OptionalCount, PathName
from jaxgen.errors import UserError


@dataclass(frozen=True)
class Old:
    count: Annotated[int, Ge(1), Le(9)] = 4
    """How many."""


@dataclass(frozen=True)
class New(Old):
    """Options as a command may have."""

    scale: float | None = None
    fast: bool = True
    """Whether it is
    fast."""
    kind: Literal["a", "b"] | Literal[""] = "a"
    cond: tuple[OptionalCount, ...] = ()
    prompt: str | None = None
    negative: tuple[str, ...] = ()
    file: str = ""
    place: PathName = ""
    places: tuple[str, ...] = ()
    clip: str = ""
    inner: Old = field(default_factory=Old)


CHOICES = {"cond": [(0, "zero"), (1, "one")], "clip": [("", "none"), ("runs/clip", "clip")]}


def test_an_option_has_a_control_of_its_type():
    """But texts that may name a file, and what is no single value."""
    made = {one.name: one for one in controls(New, CHOICES, ("fast",))}
    kinds = {name: one.kind for name, one in made.items()}
    assert kinds == {
        "prompt": "text", "negative": "lines", "cond": "classes", "count": "integer", "scale": "number",
        "kind": "choice", "clip": "run",
    }  # fmt: skip
    assert list(kinds)[:3] == ["prompt", "negative", "cond"]  # of `FRONT`
    shown = made["count"].to_json()
    assert (shown["least"], shown["most"], shown["default"], shown["optional"]) == (1, 9, 4, False)
    assert shown["help"] == "How many." and docs_of(New)["fast"] == "Whether it is fast."
    assert made["scale"].to_json()["optional"]
    assert json.loads(json.dumps([one.to_json() for one in made.values()]))
    assert {one.name for one in controls(New, {}, ())} == {"prompt", "negative", "count", "scale", "fast", "kind"}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_no_form_sets_what_names_a_file(task):
    allowed = {"prompt", "negative", "size", "text"}
    hints = {f.name: f for f in fields(task.options)}
    for one in controls(task.options, {}, ()):
        assert one.kind not in ("text", "lines") or one.name in allowed, one.name
        assert one.name in hints and one.name not in ("out", "device", "compilation_cache", "trust", "mesh")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "the settings are a list"),
        ({"file": "/etc/passwd"}, "setting 'file' is unknown"),
        ({"coun": 3}, "did you mean count?"),
        ({"count": 10}, "count is 10: an integer from 1 to 9 is expected"),
        ({"count": True}, "count is True"),
        ({"count": "3"}, "count is '3'"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"kind": "c"}, "kind is 'c': one of a, b"),
        ({"cond": [2]}, "class 2 is unknown: 0 to 1"),
        ({"cond": [-1]}, "cond is (-1,)"),
        ({"cond": [[1]]}, "cond is ([1],)"),
        ({"prompt": "a\0b"}, "holds '\\x00'"),
        ({"prompt": "\ud800"}, "no command line can"),
        ({"prompt": "x" * 10_001}, "10001 letters"),
        ({"negative": ["\x1b[2J"]}, "holds '\\x1b'"),
        ({"clip": "/elsewhere"}, "one of the runs of the page"),
    ],
)
def test_what_cannot_be_set_is_one_line(given, said):
    with pytest.raises(UserError) as error:
        values_of(controls(New, CHOICES, ()), given)
    assert said in one_line(error)


TEXTS = ["a dog", "--out=/etc", "-x", 'it\'s "so"', "$(echo no)", "a\nb\tc", "3:-0.5", "é 汉"]


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (SampleOptions, {}),
        (SampleOptions, {"num": 3, "seed": 7, "cond": [3, 1], "guidance": 2.5, "steps": 9, "sampler": "dpm++"}),
        (SampleOptions, {"prompt": TEXTS, "negative": "--seed", "size": "16x32", "strength": 0.25, "step": 5}),
        (WriteOptions, {"prompt": "--help", "tokens": 5}),
        (WriteOptions, {"prompt": "", "best": True, "beams": 2, "num": 2}),
        (RestoreOptions, {"lost": "resolution", "factor": 2, "std": 1e-05, "cond": [0]}),
        (GuideOptions, {"prompt": ["a", "-b"], "clip": "runs/clip", "steps": 4, "lr": 0.5}),
    ],
)
def test_the_words_of_a_command_are_its_options(kind, given):
    """A text that looks like a flag, or like what a shell runs, stays a text."""
    choices = {"cond": [(i, str(i)) for i in range(5)], "clip": [("runs/clip", "clip")]}
    options = kind(**values_of(controls(kind, choices, ()), given))
    flags = words(options)
    assert parse(kind, kind(), flags, "jaxgen") == options
    assert all("step" not in word for word in words(options, ("step", "steps")))


def test_every_capability_has_its_options():
    """The tasks are the commands' own options, which each derive from what the commands share."""
    for task in TASKS:
        assert issubclass(task.options, Common) and re.fullmatch(r"[a-z ]+", task.name)
        known = {f.name for f in fields(task.options)}
        assert {*task.hides, *task.first, *task.pictures} <= known, task.name
