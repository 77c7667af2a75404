"""Experiments with one field changed, for tests of ranges."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from jaxgen.core.configuration import field_types

INF, NAN = float("inf"), float("nan")
VALUES = (NAN, INF, -INF, -1, -1.5, 0, 0.0, 1, 10**9, 10**400, "", "x", None, True, (), (0,), (1, 10**9))
"""What fields are tried with: bounds, numbers without end, and values of other types."""


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any, type]]:
    """(path, annotated type, class that has the field) of each field, however deep, that is no dataclass itself."""
    for name, hint in field_types(type(value)).items():
        part, where = getattr(value, name), f"{path}.{name}" if path else name
        if dataclasses.is_dataclass(part):
            yield from leaves(part, where)
        elif isinstance(part, tuple) and part and dataclasses.is_dataclass(part[0]):
            continue
        elif hint is not Any:
            yield where, hint, type(value)


def with_value(value: Any, path: str, new: Any) -> Any:
    """A copy of a dataclass with another value at a path such as model.optimizer.lr."""
    name, _, rest = path.partition(".")
    return dataclasses.replace(value, **{name: with_value(getattr(value, name), rest, new) if rest else new})
