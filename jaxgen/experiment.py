"""An experiment is a value: which model, on which data, for how long. Read from flags, written to JSON and back."""

import dataclasses
import importlib
import importlib.util
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.codecs import Pixels
from jaxgen.core.codec import Codec
from jaxgen.core.compiled import abstract_state, evaluate
from jaxgen.core.keys import sample_keys
from jaxgen.core.model import GenerativeModel, with_field
from jaxgen.core.types import TrainState
from jaxgen.data import Dataset
from jaxgen.errors import UserError, nearest

HELD_OUT = 1024
"""Examples that `best` is measured on."""

AUTO = "auto"
"""The mesh that is chosen when training begins."""

EXTENDABLE = ("steps", "log_every", "save_every", "sample_every", "num_samples", "keep", "preload", "mesh")
"""Fields a resumed run may change: none of them touches what a step computes."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One run, fully resolved."""

    model: GenerativeModel
    data: Dataset
    codec: Codec = dataclasses.field(default_factory=Pixels)
    seed: int = 0
    """Determines everything random: parameters, data order, noise and samples."""
    batch_size: int = 128
    steps: int = 10_000
    steps_per_call: int = 50
    """Steps fused into one compiled call; it must divide all the intervals below."""
    log_every: int = 100
    save_every: int = 1000
    sample_every: int = 1000
    num_samples: int = 64
    """Samples in each grid."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Compute type of every network; parameters, losses and statistics stay float32."""
    mesh: str = ""
    """Devices to train on, as data=4,fsdp=2,tensor=1; `batch_size` is of all of them together. auto: all accelerators
    of this host, or as many devices of a CPU's cores as are fastest. When empty: one CPU device, or all accelerators.
    """
    on_nonfinite: Literal["rollback", "skip", "stop"] = "rollback"
    """At a NaN or infinite metric or update: go back to the last checkpoint and continue with another data order, skip
    the step, or stop."""
    remat: bool = False
    """Recompute activations in the backward pass instead of storing them: less memory, steps about a third longer."""
    keep: int = 2
    """Number of newest checkpoints to keep."""
    best: str = ""
    """Also keep the checkpoint with the lowest value of this: a training metric such as `loss` (mean since the last
    save), or a number on 1,024 held-out examples (one picture of a scene at least) such as `test/nelbo`. A leading `-`
    keeps the highest."""
    preload: int = 1 << 30
    """Data of at most this many bytes is copied to the device once; larger data is streamed."""

    def __post_init__(self):
        for name in ("batch_size", "steps", "steps_per_call", "log_every", "save_every", "sample_every", "keep"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, at least 1 is expected")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}, at least 0 is expected")
        for name in ("steps", "log_every", "save_every", "sample_every"):
            if getattr(self, name) % self.steps_per_call:
                raise UserError(
                    f"{name} is {getattr(self, name)}, a multiple of steps_per_call = {self.steps_per_call} is "
                    f"expected: a shorter call would compile anew"
                )

    @property
    def compute_model(self) -> GenerativeModel:
        """The model with its networks computing in `precision`, and remembering or not."""
        model = self.model if self.precision == "float32" else with_field(self.model, "dtype", jnp.bfloat16)
        return with_field(model, "remat", True) if self.remat else model

    @property
    def parts(self) -> int:
        """The number of groups of neighbours that a batch is cut into for a gradient in parts."""
        accumulate = getattr(self.model, "accumulate", 1)
        return 1 if accumulate == 1 else accumulate * getattr(self.model, "block", 1)

    def check(self) -> None:
        """Raises UserError for what would fail later: too little data, shapes or labels that the model refuses."""
        split = self.data.arrays("train")
        self.data.indices_at(self.seed, 0, self.batch_size)
        raw = self.data.batch_at(self.seed, 0, self.batch_size)
        codec = self.codec.load()
        shapes = jax.eval_shape(lambda b: codec.encode(b, jax.random.key(0)), raw)
        # Labels of the whole split, not of one batch: a class too many must not wait for its turn to come.
        labels = {"cond": split["cond"]} if isinstance(split, dict) and "cond" in split else {}
        codec.check_model(self.model)
        self.model.check({**shapes, **labels})
        vocab = getattr(self.model, "vocab", self.data.vocab)
        if self.data.vocab > vocab:
            raise UserError(
                f"the data has {self.data.vocab} tokens, the model knows {vocab}: pass "
                f"--model.network.vocab {self.data.vocab}"
            )
        given = getattr(self.codec, "bits", 0)
        if (bits := getattr(self.model, "bits", given)) != given:
            raise UserError(
                f"model.bits is {bits}, codec.bits {given}: likelihoods would be of other data; set both "
                "alike, and model.bits to 0 for data that is continuous"
            )
        if self.remat and self.compute_model == with_field(self.compute_model, "remat", False):
            raise UserError(f"{type(self.model).__name__} has no network that can recompute: leave --remat out")
        if getattr(self.model, "accumulate", 1) != 1:
            # A step that cannot divide the batch into parts says so as it is traced.
            jax.eval_shape(self.compute_model.train_step, *self.step_arguments(raw, codec))
        if self.best:
            self._check_best(raw, codec)

    def step_arguments(self, raw: Any, codec: Codec) -> tuple[TrainState, jax.Array, Any]:
        """Arguments to trace `train_step` by: shapes of the state, a key, and shapes of the encoded batch."""
        key = jax.random.key(0)
        batch = jax.eval_shape(lambda b: codec.encode(b, key), raw)
        return abstract_state(self.compute_model, raw, codec), key, batch

    def _check_best(self, raw: Any, codec: Codec) -> None:
        """Raises UserError unless `best` names a metric of this model."""
        model, (state, key, batch) = self.compute_model, self.step_arguments(raw, codec)
        name = self.best.removeprefix("-")
        if name.startswith("test/"):
            keys = jax.eval_shape(lambda: sample_keys(0, self.batch_size))
            names = [f"test/{n}" for n in jax.eval_shape(partial(evaluate, model), state, keys, raw, codec)]
        else:
            names = list(jax.eval_shape(model.train_step, state, key, batch)[1])
        if name not in names:
            raise UserError(f"best is {self.best!r}{nearest(name, names)}: choose one of {', '.join(names) or 'none'}")


# --- JSON -----------------------------------------------------------------------------------------------------


def _config_fields(value: Any) -> list[str]:
    """The configuration fields of a dataclass. A Linen module's `parent` and `name` are not among them."""
    linen = ("parent", "name") if isinstance(value, nn.Module) else ()
    return [f.name for f in dataclasses.fields(value) if f.init and f.name not in linen]


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
    if kind == "Spline" and "steepest" not in value:
        value |= {"steepest": 0.0, "narrowest": value["least"]}  # as in the paper
    return value


def to_json(value: Any) -> Any:
    """Nested dataclasses as dicts with a `type`, tuples as lists. Raises TypeError for any other value."""
    if dataclasses.is_dataclass(value):
        kind = f"{type(value).__module__}:{type(value).__qualname__}"
        return {"type": kind, **{name: to_json(getattr(value, name)) for name in _config_fields(value)}}
    if isinstance(value, tuple):
        return [to_json(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{value!r} is no configuration: fields hold numbers, strings, tuples and dataclasses")


def from_json(value: Any, where: str = "experiment") -> Any:
    """The inverse of `to_json`. Raises UserError for a type or field that does not exist."""
    if isinstance(value, list):
        return tuple(from_json(v, where) for v in value)
    if not isinstance(value, dict):
        return value
    module_name, _, name = str(value.get("type", "")).partition(":")
    try:
        cls = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError):
        raise UserError(
            f"{where} is of type {value.get('type')!r}, which cannot be imported: is its module on PYTHONPATH?"
        ) from None
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise UserError(f"{where} is of type {value['type']!r}, which is no dataclass")
    known = [f.name for f in dataclasses.fields(cls) if f.init]
    given = {k: v for k, v in value.items() if k != "type"}
    for key in given:
        if key not in known:
            raise UserError(f"{where} has the field {key!r}, unknown to {name}{nearest(key, known)}")
    values = {k: from_json(v, f"{where}.{k}") for k, v in given.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise UserError(f"{where} does not make a {name}: {error}") from error


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """The differences of two JSON values, as 'model.beta: 1.0 there, 4.0 here'."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(dict.fromkeys([*old, *new]))
        return [d for k in keys for d in differences(old.get(k), new.get(k), f"{where}.{k}" if where else k)]
    return [] if old == new else [f"{where}: {old} there, {new} here"]


# --- scripts --------------------------------------------------------------------------------------------------


def scripts(folder: Path) -> dict[str, Path]:
    """The experiment scripts of a folder by name: its .py files that do not start with an underscore."""
    return {path.stem: path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")}


def presets(script: Path) -> dict[str, Experiment]:
    """PRESETS of an experiment script. Raises UserError when it has none."""
    name = f"jaxgen_experiment_{script.stem}"
    spec = importlib.util.spec_from_file_location(name, script)
    assert spec and spec.loader, script  # a .py file always has them
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses defined in a script look their module up by name
    spec.loader.exec_module(module)
    if not isinstance(getattr(module, "PRESETS", None), dict):
        raise UserError(f"{script} defines no PRESETS: an experiment script is a dict of presets by name")
    return module.PRESETS
