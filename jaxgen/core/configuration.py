"""Configurations: nested frozen dataclasses, checked against the types and ranges of their fields.

They are written as JSON and read back without running code that the JSON names.
"""

import dataclasses
import functools
import importlib
import importlib.util
import math
import os
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

from annotated_types import Ge, Gt, Le, Lt, MinLen
from flax import linen as nn

from jaxgen.core.ranges import Place
from jaxgen.errors import UserError, nearest
from jaxgen.runtime.reading import user_path

T = TypeVar("T")

SCRIPT = "jaxgen_experiment_"
"""Before a script's name in that of its module."""

# --- fields by their paths ------------------------------------------------------------------------------------


def field_at(value: Any, path: str) -> Any:
    """The field of nested dataclasses that a dotted path names, as optimizer.lr. Raises AttributeError without it."""
    return functools.reduce(getattr, path.split("."), value)


def with_fields_at(value: T, fields: Mapping[str, Any]) -> T:
    """A copy of nested dataclasses with other values of fields, by their dotted paths."""
    for path, new in fields.items():
        outer, _, rest = path.partition(".")
        new = with_fields_at(getattr(value, outer), {rest: new}) if rest else new
        value = dataclasses.replace(value, **{outer: new})  # pyright: ignore[reportArgumentType]
    return value


# --- types and ranges of fields -------------------------------------------------------------------------------


def config_fields(value: Any) -> list[str]:
    """The configuration fields of a dataclass or its type. A Linen module's `parent` and `name` are not among them."""
    cls = value if isinstance(value, type) else type(value)
    linen = ("parent", "name") if issubclass(cls, nn.Module) else ()
    return [f.name for f in dataclasses.fields(cls) if f.init and f.name not in linen]


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """The annotated type of each configuration field of a dataclass."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {name: hints[name] for name in config_fields(cls)}


def check_fields(value: Any, where: str = "") -> None:
    """Raises UserError for the first field of a dataclass, however deep, that is not of its type or in its range.

    A class whose fields must also go together has a method `problem`, which says what is wrong, or None. where: what
    the dataclass is called; its fields are `where.field`.
    """
    for name, hint in field_types(type(value)).items():
        check_value(getattr(value, name), hint, f"{where}.{name}" if where else name)
    problem = getattr(value, "problem", None)
    if problem and (words := problem()):
        raise UserError(f"{where}: {words}" if where else words)


def check_value(value: Any, hint: Any, where: str) -> None:
    """Raises UserError unless a value, called `where`, and all within it are of the annotated type `hint`."""
    if not fits(value, hint):
        raise UserError(f"{where} is {shown(value)}: {expected(hint)} is expected")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        check_fields(value, where)
    elif isinstance(value, tuple):
        for i, part in enumerate(value):
            if dataclasses.is_dataclass(part):
                check_fields(part, f"{where}[{i}]")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type. The fields of dataclasses are not looked at."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return fits(value, args[0]) and all(_in_range(value, bound) for bound in args[1:])
    if hint is Any:
        return True
    if hint in (None, type(None)):
        return value is None
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in args)
    if origin in (Union, types.UnionType):
        return any(fits(value, choice) for choice in args)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if args[-1:] == (...,):
            return all(fits(part, args[0]) for part in value)
        return len(value) == len(args) and all(map(fits, value, args))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and _finite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is Callable or getattr(hint, "_is_protocol", False):
        return True
    cls = origin or hint
    return isinstance(value, cls) if isinstance(cls, type) else True


def _in_range(value: Any, bound: Any) -> bool:
    match bound:
        case Ge(least):
            return value >= least
        case Gt(least):
            return value > least
        case Le(most):
            return value <= most
        case Lt(most):
            return value < most
        case MinLen(least):
            return len(value) >= least
    return True


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the floats
        return False


def shown(value: Any) -> str:
    """A value for an error, in few words."""
    text = type(value).__name__ if dataclasses.is_dataclass(value) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def expected(hint: Any) -> str:
    """A type with its range, in words: 'an integer from 1 to 8'."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return f"{expected(args[0])}{range_of(hint)}"
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin in (Union, types.UnionType):
        return " or ".join(expected(choice) for choice in args)
    if origin is tuple:
        if args[-1:] == (...,):
            return f"a list, each {expected(args[0])},"
        return f"a list of {len(args)}, each {expected(args[0])}," if args else "an empty list"
    words = {
        int: "an integer",
        float: "a finite number",
        bool: "true or false",
        str: "text",
        type(None): "none",
        None: "none",
    }
    if hint in words:
        return words[hint]
    name = getattr(origin or hint, "__name__", str(hint))
    return f"a configuration of type {name}"


def range_of(hint: Any) -> str:
    """The range of an annotated number: ' from 1 to 8', ' above 0', '' without one."""
    low = high = ""
    for bound in getattr(hint, "__metadata__", ()):
        match bound:
            case Ge(least):
                low = f"from {least:,}" if isinstance(least, int) else f"from {least:g}"
            case Gt(least):
                low = f"above {least:g}"
            case Le(most):
                high = f"to {most:,}" if isinstance(most, int) else f"to {most:g}"
            case Lt(most):
                high = f"below {most:,}" if isinstance(most, int) else f"below {most:g}"
    return "".join(f" {words}" for words in (low, high) if words)


# --- paths ----------------------------------------------------------------------------------------------------


def paths(value: Any, where: str = "") -> Iterator[str]:
    """The names of all fields that name a file or folder, however deep, as data.folder."""
    for name, hint in field_types(type(value)).items():
        part, field = getattr(value, name), f"{where}.{name}" if where else name
        if _place(hint) is not None:
            yield field
        elif dataclasses.is_dataclass(part):
            yield from paths(part, field)


def located(value: T) -> T:
    """A copy of a configuration with absolute paths, where these lead to something."""
    return _with_paths(value, _absolute)


def with_names(value: T) -> T:
    """A copy of a configuration in which paths are the names of what they lead to, for readers on other machines."""
    return _with_paths(value, lambda name, place: name if not name or name in place.besides else Path(name).name)


def found_within(value: T, folder: Path, names: Collection[str]) -> T:
    """A copy of a configuration in which paths that end in one of `names`, and lead to nothing, lead to what `folder`
    has of that name, if it has."""

    def found(name: str | None, place: Place) -> str | None:
        if not name or Path(name).name not in names or os.path.exists(name):
            return name
        inside = folder / Path(name).name
        return str(inside.absolute()) if inside.exists() else name

    return _with_paths(value, found)


def _with_paths(value: T, change: Callable[[str | None, Place], str | None]) -> T:
    """A copy of a configuration with every path changed."""
    changed = {}
    for name, hint in field_types(type(value)).items():
        part = getattr(value, name)
        if (place := _place(hint)) is not None:
            several = isinstance(part, tuple)
            changed[name] = tuple(change(p, place) for p in part) if several else change(part, place)
        elif dataclasses.is_dataclass(part):
            changed[name] = _with_paths(part, change)
    changed = {name: part for name, part in changed.items() if part != getattr(value, name)}
    return dataclasses.replace(value, **changed) if changed else value  # pyright: ignore[reportArgumentType]


def _place(hint: Any) -> Place | None:
    """The mark of text that names files, also within a tuple or beside None."""
    marks = [mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Place)]
    return marks[0] if marks else next(filter(None, map(_place, typing.get_args(hint))), None)


def _absolute(name: str | None, place: Place) -> str | None:
    if not name or name in place.besides or not os.path.exists(path := user_path(name)):
        return name
    return str(path.absolute())


# --- JSON -----------------------------------------------------------------------------------------------------

MOVED = {"jaxgen.pretrained": "jaxgen.runs.pretrained"}
"""Modules that older run folders name, and where they are now."""


def modernised(value: Any) -> Any:
    """Translates the experiment.json of an older run folder into the form that `to_json` writes today.

    Raises UserError for settings that no longer exist.
    """
    if isinstance(value, list):
        return [modernised(v) for v in value]
    if not isinstance(value, dict):
        return value
    value = {k: modernised(v) for k, v in value.items()}
    module, _, kind = str(value.get("type", "")).partition(":")
    if module in MOVED:
        value["type"] = f"{MOVED[module]}:{kind}"
    if kind in ("Adam", "RMSprop") and (parts := value.pop("accumulate", 1)) != 1:
        raise UserError(f"{kind}.accumulate is {parts}, of steps that had a part each: use the jaxgen that wrote this")
    if kind == "Spline" and "steepest" not in value and "least" in value:
        value |= {"steepest": 0.0, "narrowest": value["least"]}  # as in the paper
    return value


def to_json(value: Any) -> Any:
    """Nested dataclasses as dicts with a `type`, tuples as lists. Raises TypeError for any other value."""
    if dataclasses.is_dataclass(value):
        kind = f"{type(value).__module__}:{type(value).__qualname__}"
        return {"type": kind, **{name: to_json(getattr(value, name)) for name in config_fields(value)}}
    if isinstance(value, tuple):
        return [to_json(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{value!r} is no configuration: fields hold numbers, strings, tuples and dataclasses")


def from_json(value: Any, where: str = "experiment", kind: type = object) -> Any:
    """The inverse of `to_json`: a value of type `kind`, called `where` in errors.

    No module is imported for it but those of jaxgen and Flax's layers. A class of the user's own is found where its
    module is loaded: by the script that trains, by an import before, or by `trust`. Raises UserError for a type or
    field that does not exist, and for a value that is not of its field's type or in its range.
    """
    built = _built(value, where)
    check_value(built, kind, where)
    return built


DEEPEST = 30
"""Levels of dataclasses within each other."""


def _built(value: Any, where: str, depth: int = 0) -> Any:
    if depth > DEEPEST:
        raise UserError(f"{where[:80]}... has more than {DEEPEST} levels: restore it")
    if isinstance(value, list):
        return tuple(_built(v, where, depth + 1) for v in value)
    if not isinstance(value, dict):
        return value
    cls = _config_class(value.get("type"), where)
    known = config_fields(cls)
    given = {k: v for k, v in value.items() if k != "type"}
    for key in given:
        if key not in known:
            raise UserError(f"{where} has the field {key!r}, unknown to {cls.__name__}{nearest(key, known)}")
    values = {k: _built(v, f"{where}.{k}", depth + 1) for k, v in given.items()}
    for key, part in values.items():  # before the class sees them
        hint = field_types(cls)[key]
        check_value(part, None if hint is Any else hint, f"{where}.{key}")  # Any: a dtype, which no file sets
    try:
        return cls(**values)
    except TypeError as error:
        raise UserError(f"{where} does not make a {cls.__name__}: {error}") from error


def _config_class(name: Any, where: str) -> type:
    """The dataclass that `module:Class` names. Raises UserError if it is none that may be looked up."""
    module_name, _, qualname = name.partition(":") if isinstance(name, str) else ("", "", "")
    ours = module_name.startswith(("jaxgen.", "flax.linen"))
    foreign = module_name.split(".")[0] in sys.stdlib_module_names and module_name != "__main__"
    try:
        module = importlib.import_module(module_name) if ours else sys.modules.get(module_name)
    except ImportError:
        module = None
    if module is None and module_name and not (ours or foreign):
        script = module_name.removeprefix(SCRIPT)
        named = module_name if script == module_name else f"FOLDER/{script}.py, the script that defines it"
        raise UserError(
            f"{where} is of type {shown(name)}, whose module is not loaded: if you trust its code, pass --trust "
            f"{named}, or import it first"
        )
    cls = getattr(module, qualname, None)
    if module_name == "__main__" and cls is None:
        raise UserError(
            f"{where} is of type {shown(name)}, which the notebook or program defined that trained the run: define it "
            "here as well, or in a module, train by that, and pass --trust MODULE"
        )
    if foreign or not (isinstance(cls, type) and dataclasses.is_dataclass(cls) and cls.__module__ == module_name):
        raise UserError(f"{where} is of type {shown(name)}, which is no configuration: restore the file")
    return cls


def load_script(path: Path) -> types.ModuleType:
    """The module of an experiment script, by whose name run folders know the classes that it defines."""
    name = f"{SCRIPT}{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader, path  # a .py file always has them
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses defined in a script look their module up by name
    spec.loader.exec_module(module)
    return module


def trust(modules: Iterable[str]) -> None:
    """Imports modules of the user's, and scripts, by their paths, whose classes run folders may then name. Raises
    UserError where it cannot."""
    for module in modules:
        if module.endswith(".py"):
            path = user_path(module)
            if not path.is_file():
                raise UserError(f"--trust {module} is no file: the script that defines the run's classes is expected")
            load_script(path)
            continue
        try:
            importlib.import_module(module)
        except (ImportError, ValueError) as error:
            raise UserError(f"--trust {module} cannot be imported ({error}): is it on PYTHONPATH?") from error


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """The differences of two JSON values, as 'model.beta: 1.0 there, 4.0 here'."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(dict.fromkeys([*old, *new]))
        return [d for k in keys for d in differences(old.get(k), new.get(k), f"{where}.{k}" if where else k)]
    return [] if old == new else [f"{where}: {old} there, {new} here"]
