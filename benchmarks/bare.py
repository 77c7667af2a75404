"""Lets the library run where its accelerator's packages alone are: jax, flax, optax, orbax, chex.

Imported before it. What else the library needs is imported where it is used, but for `annotated_types`, of which it
needs five classes that hold a number each.
"""

import importlib.util
import sys
from dataclasses import make_dataclass
from pathlib import Path
from types import ModuleType

LIMITS = {"Ge": "ge", "Gt": "gt", "Le": "le", "Lt": "lt", "MinLen": "min_length"}


def limits() -> ModuleType:
    """A module with the classes of annotated_types that the library uses."""
    module = ModuleType("annotated_types")
    for name, field in LIMITS.items():
        setattr(module, name, make_dataclass(name, [field], frozen=True))
    return module


try:
    import annotated_types  # noqa: F401
except ModuleNotFoundError:
    sys.modules["annotated_types"] = limits()
if importlib.util.find_spec("jaxgen") is None:  # not installed: the one beside this folder
    sys.path.insert(0, str(Path(__file__).parents[1]))
