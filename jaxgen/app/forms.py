"""Forms made of a command's options: a control for each field that a browser may set, and from what was set back to
options and to the words of the command.

Numbers, switches and choices get a control by themselves, as an option that is new does. Texts do not: one may name a
file, and a browser names none. Those that name no file are `WORDS`, and what names a run is chosen among those shown.
"""

import ast
import functools
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, Literal, Union
from unicodedata import category

from annotated_types import Ge, Gt, Le, Lt

from jaxgen.core.configuration import check_value, field_types
from jaxgen.errors import UserError, nearest

WORDS = ("text", "prompt", "negative", "size")
"""Fields of text, or of several, that name no file."""
MACHINE = ("device", "compilation_cache", "batch", "files", "alpha", "guide_step", "draft_tokens", "frames")
"""Numbers, switches and choices that say how a command computes and what it keeps, which a page has no use for."""
FRONT = (
    "text", "prompt", "negative", "cond", "lost", "factor", "width", "std", "num", "between", "seed", "strength",
    "guidance", "steps", "sampler", "tokens", "turntable",
)  # fmt: skip
"""Fields in the order in which they are shown; others follow, folded away."""
LONGEST = 10_000
"""Letters of a text."""

Kind = Literal["integer", "number", "switch", "choice", "text", "lines", "classes", "run"]
NUMBERS: dict[Any, Kind] = {bool: "switch", int: "integer", float: "number"}


@dataclass(frozen=True)
class Control:
    """How one field is set."""

    name: str
    kind: Kind
    hint: Any
    """The annotated type of the field."""
    default: Any
    help: str = ""
    choices: tuple[tuple[Any, str], ...] = ()
    """Values and what they are called: of a choice, of classes and of runs."""

    @property
    def optional(self) -> bool:
        """Whether it can be left empty, for None."""
        return type(None) in typing.get_args(self.hint)

    def to_json(self) -> dict[str, Any]:
        """What the page makes a control of."""
        least, most, above = None, None, False
        for bound in getattr(_plain(self.hint), "__metadata__", ()):
            match bound:
                case Ge(low) | Gt(low):
                    least, above = low, isinstance(bound, Gt)
                case Le(high) | Lt(high):
                    most = high
        return {
            "name": self.name, "label": self.name.replace("_", " "), "kind": self.kind, "help": self.help,
            "default": list(self.default) if isinstance(self.default, tuple) else self.default,
            "optional": self.optional, "least": least, "most": most, "above": above, "front": self.name in FRONT,
            "choices": [list(choice) for choice in self.choices],
        }  # fmt: skip

    def value(self, given: Any) -> Any:
        """The field's value of what JSON holds. Raises UserError for what is none."""
        value = tuple(given) if isinstance(given, list) else given
        if self.kind == "run":
            if value not in [choice for choice, _ in self.choices]:
                raise UserError(f"{self.name} is {given!r:.60}: one of the runs of the page is expected")
            return value
        check_value(value, self.hint, self.name)
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str):
                check_text(text, self.name)
        if self.kind == "classes" and (unknown := set(value) - {choice for choice, _ in self.choices}):
            raise UserError(f"class {min(unknown)} is unknown: 0 to {len(self.choices) - 1} are expected")
        return value


def check_text(text: str, name: str) -> None:
    """Raises UserError for a text that is too long, or that no command line can hold."""
    if len(text) > LONGEST:
        raise UserError(f"{name} has {len(text)} letters, at most {LONGEST} are read: shorten it")
    if bad := [c for c in text if category(c) in ("Cc", "Cs") and c not in "\n\t"]:
        raise UserError(f"{name} holds {bad[0]!r}, which no command line can: leave it out")


def controls(kind: type, choices: Mapping[str, Sequence[tuple[Any, str]]], hidden: Sequence[str]) -> list[Control]:
    """The controls of options of type `kind` but those `hidden`.

    choices: values and their names of the fields whose type does not say them: classes and runs. Fields of such kinds
    that are not among them have no control.
    """
    helps, made = docs_of(kind), []
    defaults = {field.name: field.default for field in fields(kind)}
    for name, hint in field_types(kind).items():
        default = defaults[name]
        if name in hidden or name in MACHINE or default is MISSING or not (found := _kind(name, hint, choices)):
            continue
        known = choices.get(name, ())
        if found == "choice":
            known = [(value, str(value) or "the run's own") for value in _literals(hint)]
        made.append(Control(name, found, hint, default, helps.get(name, ""), tuple(known)))
    place = {name: i for i, name in enumerate(FRONT)}
    return sorted(made, key=lambda control: place.get(control.name, len(FRONT)))


def _kind(name: str, hint: Any, choices: Mapping[str, Any]) -> Kind | None:
    """What a field is set by, None for one that a browser may not set."""
    plain = _plain(hint)
    base = typing.get_args(plain)[0] if typing.get_origin(plain) is Annotated else plain
    if name in choices:
        return "classes" if typing.get_origin(base) is tuple else "run"
    if _literals(hint):
        return "choice"
    if base in NUMBERS:
        return NUMBERS[base]
    if name in WORDS and base is str:
        return "text"
    if name in WORDS and base == tuple[str, ...]:
        return "lines"
    return None


def _plain(hint: Any) -> Any:
    """A type without the None beside it."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        others = [part for part in typing.get_args(hint) if part is not type(None)]
        return others[0] if len(others) == 1 else hint
    return hint


def _literals(hint: Any) -> list[Any]:
    """The values of a choice, also of several; () for another type."""
    if typing.get_origin(hint) is Literal:
        return list(typing.get_args(hint))
    if typing.get_origin(hint) in (Union, types.UnionType):
        parts = [_literals(part) for part in typing.get_args(hint)]
        return [value for part in parts for value in part] if all(parts) else []
    return []


@functools.cache
def docs_of(kind: type) -> dict[str, str]:
    """What the source of a dataclass, and of those it derives from, says below each field, on one line."""
    found: dict[str, str] = {}
    for cls in reversed(kind.__mro__[:-1]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        for name, text in _documented(getattr(tree, "body", [])):
            found[name] = " ".join(text.split())
    return found


def _documented(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for field, after in zip(body, [*body[1:], ast.Pass()]):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
            yield field.target.id, str(ast.literal_eval(after.value))


def values_of(shown: Sequence[Control], given: Any) -> dict[str, Any]:
    """The fields that JSON sets, checked; the others keep their defaults. Raises UserError for what has no control."""
    if not isinstance(given, dict):
        raise UserError(f"the settings are a {type(given).__name__}: an object of names and values is expected")
    known = {control.name: control for control in shown}
    for name in given:
        if name not in known:
            raise UserError(f"the setting {name!r:.60} is unknown{nearest(name, known)}: it is none of the form's")
    return {name: known[name].value(value) for name, value in given.items()}


def words(options: Any, besides: Sequence[str] = ()) -> list[str]:
    """The flags that make these options: of each field but `besides` that has not its default value."""
    flags: list[str] = []
    for field in fields(options):
        value, flag = getattr(options, field.name), field.name.replace("_", "-")
        if field.name in besides or value == field.default:
            continue
        if isinstance(value, bool):
            flags.append(f"--{'' if value else 'no-'}{flag}")
        elif isinstance(value, tuple) and all(isinstance(part, str) for part in value):
            flags += [word for part in value for word in _flag(flag, part)]
        elif isinstance(value, tuple):
            flags += [f"--{flag}", *map(str, value)]
        else:
            flags += _flag(flag, str(value))
    return flags


def _flag(name: str, value: str) -> list[str]:
    """A flag and its value: in one word where the value looks like a flag."""
    return [f"--{name}={value}"] if value.startswith("-") else [f"--{name}", value]
