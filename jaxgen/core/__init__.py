"""The five nouns: what a run changes, what a model answers, its codec, and the compiled entry points."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxgen.core.compiled import QUICK_TO_COMPILE as QUICK_TO_COMPILE
    from jaxgen.core.compiled import abstract_state as abstract_state
    from jaxgen.core.compiled import evaluate as evaluate
    from jaxgen.core.compiled import init as init
    from jaxgen.core.compiled import pictures as pictures
    from jaxgen.core.compiled import sample as sample
    from jaxgen.core.compiled import sample_program as sample_program
    from jaxgen.core.compiled import train_seeds as train_seeds
    from jaxgen.core.compiled import train_steps as train_steps
    from jaxgen.core.ema import update_ema as update_ema
    from jaxgen.core.keys import EVAL as EVAL
    from jaxgen.core.keys import INIT as INIT
    from jaxgen.core.keys import SAMPLE as SAMPLE
    from jaxgen.core.keys import TRAIN as TRAIN
    from jaxgen.core.keys import check_keys as check_keys
    from jaxgen.core.keys import coin_each as coin_each
    from jaxgen.core.keys import fold_each as fold_each
    from jaxgen.core.keys import integer_each as integer_each
    from jaxgen.core.keys import normal_each as normal_each
    from jaxgen.core.keys import one_key as one_key
    from jaxgen.core.keys import run_key as run_key
    from jaxgen.core.keys import sample_keys as sample_keys
    from jaxgen.core.keys import split_each as split_each
    from jaxgen.core.keys import uniform_each as uniform_each
    from jaxgen.core.model import GenerativeModel as GenerativeModel
    from jaxgen.core.model import LossModel as LossModel
    from jaxgen.core.model import count_params as count_params
    from jaxgen.core.model import with_field as with_field
    from jaxgen.core.types import Batch as Batch
    from jaxgen.core.types import Metrics as Metrics
    from jaxgen.core.types import PyTree as PyTree
    from jaxgen.core.types import TrainState as TrainState

# Imported when asked for: `core.ranges` and others stand below `optim`, and `core.model` above.
HOMES = {
    "compiled": (
        "QUICK_TO_COMPILE", "abstract_state", "evaluate", "init", "pictures", "sample", "sample_program", "train_seeds",
        "train_steps",
    ),
    "ema": ("update_ema",),
    "keys": (
        "EVAL", "INIT", "SAMPLE", "TRAIN", "check_keys", "coin_each", "fold_each", "integer_each", "normal_each",
        "one_key", "run_key", "sample_keys", "split_each", "uniform_each",
    ),
    "model": ("GenerativeModel", "LossModel", "count_params", "with_field"),
    "types": ("Batch", "Metrics", "PyTree", "TrainState"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return import_module(f"jaxgen.core.{name}")
    for home, names in HOMES.items():
        if name in names:
            return getattr(import_module(f"jaxgen.core.{home}"), name)
    raise AttributeError(f"module 'jaxgen.core' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [name for names in HOMES.values() for name in names]
