"""An experiment is a value: which model, on which data, for how long. Read from flags, written to JSON and back."""

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge

from jaxgen.codecs import Augmented, Pixels
from jaxgen.core.capabilities import ScoresText
from jaxgen.core.codec import Codec
from jaxgen.core.compiled import abstract_state, evaluate
from jaxgen.core.configuration import check_fields, load_script
from jaxgen.core.keys import sample_keys
from jaxgen.core.model import GenerativeModel, with_field, with_networks
from jaxgen.core.ranges import Count, OptionalCount, PathName, Samples, Seed
from jaxgen.core.types import PyTree, TrainState
from jaxgen.data import Captioned, Dataset, ImageFolder, Mirrored
from jaxgen.errors import UserError, first_few, nearest
from jaxgen.metrics.retrieval import RECALLS
from jaxgen.nets.lora import TRAINED, LoRA, adapted
from jaxgen.optim import path_name
from jaxgen.runtime.devices import check_memory
from jaxgen.runtime.progress import say
from jaxgen.runtime.reading import why

HELD_OUT = 1024
"""Examples that `best` is measured on."""

WINDOW = 16
"""Tokens of a caption of pictures that a model is fitted to."""
AUTO = "auto"
"""The mesh that is chosen when training begins."""

EXTENDABLE = (
    "steps", "log_every", "save_every", "sample_every", "snapshot_every", "num_samples", "keep", "preload", "mesh",
    "data.download",
)  # fmt: skip
"""Fields a resumed run may change: none of them touches what a step computes."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One run, fully resolved."""

    model: GenerativeModel
    data: Dataset
    codec: Codec = dataclasses.field(default_factory=Pixels)
    seed: Seed = 0
    """Determines everything random: parameters, data order, noise and samples."""
    batch_size: Count = 128
    steps: Count = 10_000
    steps_per_call: Count = 50
    """Steps fused into one compiled call; it must divide all the intervals below."""
    log_every: Count = 100
    save_every: Count = 1000
    sample_every: Count = 1000
    snapshot_every: OptionalCount = 0
    """Steps between snapshots of power-function averages (model.ema_lengths), which all stay; save_every when 0."""
    num_samples: Samples = 64
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
    keep: Count = 2
    """Number of newest checkpoints to keep."""
    best: str = ""
    """Also keep the checkpoint with the lowest value of this: a training metric such as `loss` (mean since the last
    save), or a number on 1,024 held-out examples (one picture of a scene at least) such as `test/nelbo`. A leading `-`
    keeps the highest, as `-test/image_to_text_r1` of a CLIP."""
    preload: Annotated[int, Ge(0)] = 1 << 30
    """Data of at most this many bytes is copied to the device once; larger data is streamed."""
    init: PathName = ""
    """Start from the parameters of another run, or of a file of `jaxgen weights export`, as far as names and shapes
    agree; the rest starts at random, and it is said what that is. A run that is gone on with does not read it again."""
    trainable: str = ""
    """A regular expression searched in the paths of parameters, as in network/body/blocks/token_mlp/up/kernel: those
    without a match stay as they are and take no optimizer state. All are trained when empty; with lora.rank, the
    adapters and what has a match, where a preset's own pattern does not count."""
    lora: LoRA = LoRA()

    def __post_init__(self):
        check_fields(self)

    def problem(self) -> str | None:
        try:
            re.compile(self.trainable)
        except re.error as error:
            return f"trainable is {self.trainable!r}, no regular expression: {error}"
        if self.lora.rank and not self.init:
            return f"lora.rank is {self.lora.rank}, but nothing is adapted: name the run to start from with --init"
        for name in ("steps", "log_every", "save_every", "sample_every", "snapshot_every"):
            if getattr(self, name) % self.steps_per_call:
                return (
                    f"{name} is {getattr(self, name)}, a multiple of steps_per_call = {self.steps_per_call} is "
                    f"expected: a shorter call would compile anew"
                )

    @property
    def compute_model(self) -> GenerativeModel:
        """The model with its networks computing in `precision`, remembering or not, adapted, and trained in part."""
        model = self.model if self.precision == "float32" else with_field(self.model, "dtype", jnp.bfloat16)
        model = with_field(model, "remat", True) if self.remat else model
        if not self.lora.rank:
            return replace(model, trainable=self.trainable) if self.trainable else model
        model = with_networks(model, lambda name, network: adapted(network, self.lora, name))
        return replace(model, trainable="|".join(filter(None, (TRAINED, self.trainable))))

    @property
    def snapshots_every(self) -> int:
        """Steps between snapshots of averages; 0 for a model that keeps none of them."""
        return (self.snapshot_every or self.save_every) if getattr(self.model, "ema_lengths", ()) else 0

    @property
    def can_remat(self) -> bool:
        """Whether the model has a network that can recompute its activations."""
        return with_field(self.model, "remat", True) != with_field(self.model, "remat", False)

    @property
    def parts(self) -> int:
        """The number of groups of neighbours that a batch is cut into for a gradient in parts."""
        accumulate = getattr(self.model, "accumulate", 1)
        return 1 if accumulate == 1 else accumulate * self.model.neighbours

    def check(self) -> None:
        """Raises UserError for what would fail later: too little data, shapes or labels that the model refuses."""
        if isinstance(self.codec, Augmented):
            raise UserError(
                "codec is Augmented, which would change held-out pictures too: give the codec inside of it, and flip "
                "or shift to the data"
            )
        split = self.data.arrays("train")
        self.data.indices_at(self.seed, 0, self.batch_size)
        raw = self.data.batch_at(self.seed, 0, self.batch_size)
        codec = self.codec.load()
        shapes = jax.eval_shape(lambda b: codec.encode(b, jax.random.key(0)), raw)
        # Labels of the whole split, not of one batch: a class too many must not wait for its turn to come.
        labels = {"cond": split["cond"]} if isinstance(split, dict) and "cond" in split else {}
        if not labels and "cond" in raw and (names := self.data.class_names):  # it is read from the disk
            labels = {"cond": np.arange(len(names))}
        codec.check_model(self.model)
        self.model.check({**shapes, **labels})
        vocab = getattr(self.model, "vocab", 0) or self.data.vocab  # 0: a model without texts
        if self.data.vocab > vocab:
            field = getattr(self.model, "vocab_field", "network.vocab")
            raise UserError(
                f"the data has {self.data.vocab} tokens, the model knows {vocab}: pass --model.{field} "
                f"{self.data.vocab}"
            )
        end, read_at = self.data.end_token, getattr(self.model, "text_end", None)
        if end >= 0 and read_at not in (None, end) and not (read_at < 0 and end == self.data.vocab - 1):
            where = "the largest" if read_at < 0 else str(read_at)
            raise UserError(
                f"captions end with token {end}, the model reads them at {where}: pass --model.network.text.end {end}"
            )
        given = getattr(self.codec, "bits", 0)
        if (bits := getattr(self.model, "bits", given)) != given:
            raise UserError(
                f"model.bits is {bits}, codec.bits {given}: likelihoods would be of other data; set both "
                "alike, and model.bits to 0 for data that is continuous"
            )
        if self.remat and not self.can_remat:
            raise UserError(f"{type(self.model).__name__} has no network that can recompute: leave --remat out")
        with self._building():
            arguments = self.step_arguments(raw, codec)
            if getattr(self.model, "accumulate", 1) != 1:
                # A step that cannot divide the batch into parts says so as it is traced.
                jax.eval_shape(self.compute_model.train_step, *arguments)
        self._check_trained(arguments[0].params)
        check_memory(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(arguments[0])))
        if self.best:
            self._check_best(raw, codec, arguments)

    def _check_trained(self, params: PyTree) -> None:
        """Raises UserError for patterns that no parameter matches. params: their shapes."""
        names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        own = [name for name in names if not re.search("/lora_[abs]", name)]
        kernels = [name.replace("/base/", "/", 1) for name in own if name.endswith("/kernel")]
        found = any(re.search(self.trainable, name) for name in own)
        for field, given, nothing, some in (
            ("trainable", self.trainable, not found, own),
            ("lora.targets", self.lora.targets, self.lora.rank and len(own) == len(names), kernels),
        ):
            if nothing:
                shown = first_few(some) or "no kernels"
                raise UserError(f"{field} is {given!r}, which matches nothing: there are {shown}")

    @contextmanager
    def _building(self) -> Iterator[None]:
        """Turns whatever a model of this library raises for settings that do not go together into a UserError. The
        errors of a user's own model are left as they are."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if not type(self.model).__module__.startswith("jaxgen."):
                raise
            name = type(self.model).__name__
            raise UserError(
                f"{name} cannot be built of these settings ({type(error).__name__}: {why(error)}): choose others"
            ) from error

    def step_arguments(self, raw: Any, codec: Codec) -> tuple[TrainState, jax.Array, Any]:
        """Arguments to trace `train_step` by: shapes of the state, a key, and shapes of the encoded batch."""
        key = jax.random.key(0)
        batch = jax.eval_shape(lambda b: codec.encode(b, key), raw)
        return abstract_state(self.compute_model, raw, codec), key, batch

    def _check_best(self, raw: Any, codec: Codec, arguments: tuple[TrainState, jax.Array, Any]) -> None:
        """Raises UserError unless `best` names a metric of this model. arguments: as `step_arguments` gives them."""
        model, state = self.compute_model, arguments[0]
        name = self.best.removeprefix("-")
        if name.startswith("test/"):
            keys = jax.eval_shape(lambda: sample_keys(0, self.batch_size))
            names = [f"test/{n}" for n in jax.eval_shape(partial(evaluate, model), state, keys, raw, codec)]
            if isinstance(model, ScoresText) and isinstance(self.data, Captioned):
                numbers = (*RECALLS, "zero_shot") if self.data.class_names and "cond" in raw else RECALLS
                names += [f"test/{n}" for n in numbers]
        else:
            names = list(jax.eval_shape(model.train_step, *arguments)[1])
        if name not in names:
            raise UserError(f"best is {self.best!r}{nearest(name, names)}: choose one of {', '.join(names) or 'none'}")


def on_images(
    experiment: Experiment, folder: str, size: int = 0, classes: bool = False, label: str = "auto",
    channels: Literal[3, 1] = 3, captions: bool = False,
) -> Experiment:  # fmt: skip
    """The experiment on a folder of pictures instead of its own data, its model fitted to their shape and classes.

    size: height and width; those of the model's images when 0. classes: make it conditional, as a `label` does; a model
    that is so already stays so where the folder has classes. captions: make it draw by the pictures' captions, in the
    place of classes. Raises UserError for what cannot be fitted.
    """
    model = experiment.model
    shape = experiment.codec.raw_shape(getattr(model, "shape", ()))
    size = size or (shape[0] if len(shape) == 3 else ImageFolder.size)
    data = ImageFolder(folder=folder, size=size, label=label, channels=channels)
    classes = classes or label not in ("auto", "none")
    if captions and not isinstance(experiment.data, Captioned):
        model = model.captioned(WINDOW)
        experiment = replace(experiment, data=Captioned(data=experiment.data, window=WINDOW))
    captioned = isinstance(experiment.data, Captioned)
    conditional = classes or captioned or getattr(model, "num_classes", 0) > 0
    names = data.class_names  # of every folder, so that a wrong one is said before all else
    if classes and not names:
        raise UserError(f"{folder} has no classes: put pictures of each class into a folder of its own")
    if not conditional or not names:
        data = replace(data, label="none")
    if getattr(model, "num_classes", 0) and not names and not captioned:
        say(f"{folder} has no folders of classes: the model draws without; --data.label names a column that has some")
    # A second stage sees codes: its first stage alone is of pictures.
    codec = experiment.codec.fitted((data.size, data.size, data.channels))
    model = model.fitted(codec.shape_of((data.size, data.size, data.channels)), data.num_classes)
    return replace(experiment, model=model, codec=codec, data=_instead(experiment.data, data))


def _instead(data: Dataset, folder: ImageFolder) -> Dataset:
    """The folder in the place of the pictures of `data`, with captions or mirrored as these are."""
    if isinstance(data, Captioned | Mirrored):
        return replace(data, data=_instead(data.data, folder))
    return folder


# --- scripts --------------------------------------------------------------------------------------------------


def scripts(folder: Path) -> dict[str, Path]:
    """The experiment scripts of a folder by name: its .py files that do not start with an underscore, but for
    `compare`, which trains those of others."""
    return {
        path.stem: path
        for path in sorted(folder.glob("*.py"))
        if not path.stem.startswith("_") and path.stem != "compare"
    }


def presets(script: Path) -> dict[str, Experiment]:
    """PRESETS of an experiment script. Raises UserError when it has none."""
    module = load_script(script)
    if not isinstance(getattr(module, "PRESETS", None), dict):
        raise UserError(f"{script} defines no PRESETS: an experiment script is a dict of presets by name")
    return module.PRESETS
