"""What the page of `jaxgen app` does with a run: the other commands' own options and functions, as far as the run's
model has the capabilities that they ask for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgen.app.forms import Control, controls
from jaxgen.app.memory import Memory
from jaxgen.cli.guide import GuideOptions, guide
from jaxgen.cli.options import Asked, Common
from jaxgen.cli.render import RenderOptions
from jaxgen.cli.restore import RestoreOptions, restore
from jaxgen.cli.sample import SampleOptions, WriteOptions, sample, write, writes
from jaxgen.cli.speak import SpeakOptions, speak_to
from jaxgen.codecs import Pixels
from jaxgen.core.capabilities import (
    Continues,
    HasLatents,
    Infills,
    Inpaints,
    Interpolates,
    RadianceField,
    RendersViews,
    Restores,
    ScoresText,
    Speaks,
    Steers,
    Translates,
    Varies,
    Vocodes,
    WritesText,
)  # fmt: skip
from jaxgen.core.cascade import LaterStage
from jaxgen.core.model import GenerativeModel
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.inference import editing, rendering
from jaxgen.models.diffusion import Diffusion
from jaxgen.models.gpt import GPT
from jaxgen.report import save_picture
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import Trained

SPOKEN = "spoken.wav"


@dataclass(frozen=True, eq=False)
class Subject:
    """A run that the page is about."""

    path: str
    """As the user typed it."""
    run: RunFolder
    experiment: Experiment

    @property
    def name(self) -> str:
        return self.run.path.resolve().name

    @cached_property
    def model(self) -> GenerativeModel:
        return self.experiment.compute_model

    @cached_property
    def examples(self) -> Mapping[str, np.ndarray]:
        return self.run.examples()

    @property
    def draws_images(self) -> bool:
        x = self.examples["x"]
        return x.ndim == 4 and x.dtype == np.uint8

    @cached_property
    def edits_images(self) -> bool:
        """Whether a picture is all that it can be given: no small one of each, as in super-resolution."""
        return self.draws_images and not isinstance(self.model, LaterStage)

    @property
    def writes(self) -> bool:
        return writes(self.run.path) and isinstance(self.model, WritesText)

    @property
    def told(self) -> bool:
        """Whether it is told texts."""
        return bool(getattr(self.model, "text", None))

    @property
    def guidable(self) -> bool:
        return isinstance(self.model, Diffusion) and self.model.guidable

    @cached_property
    def classes(self) -> tuple[tuple[int, str], ...]:
        """The classes that samples can be drawn of, by number and name; none where it is told no class alone."""
        count = getattr(self.model, "num_classes", 0)
        if not count or self.told or isinstance(self.model, Translates):
            return ()
        names = self.names
        return tuple((i, names[i] if i < len(names) else str(i)) for i in range(count))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.experiment.data.class_names)

    @cached_property
    def samples(self) -> bool:
        """Whether its samples need nothing but keys and what its examples give."""
        apart = isinstance(self.model, Speaks | RadianceField | RendersViews) or writes(self.run.path)
        return not apart and type(self.model).sample is not GenerativeModel.sample

    @cached_property
    def sizeless(self) -> bool:
        """Whether its networks have the same parameters for pictures of other sizes."""
        model = self.model
        if not (isinstance(model, Diffusion) and len(model.shape) == 3 and self.told):
            return False
        height, width, channels = model.shape
        batch: dict[str, Any] = dict(self.examples)
        made = []
        for shape in (model.shape, (2 * height, 2 * width, channels)):
            try:
                other = replace(model, shape=shape)
                other.network.check(shape)
                batch["x"] = jax.ShapeDtypeStruct((len(batch["x"]), *shape), "float32")
                made.append(jax.tree.map(np.shape, jax.eval_shape(other.init, jax.random.key(0), batch).params))
            except UserError:
                return False
        return made[0] == made[1]


@dataclass(frozen=True)
class Kept(Asked):
    """What was asked, of a run that may have been restored before."""

    memory: Memory = field(default_factory=Memory)
    restored: list[Trained] = field(default_factory=list)
    """What was restored last, for what its command is to pin."""

    def restore(self) -> Trained:
        options = self.options
        trained = self.memory.restore(self.run, self.experiment, options.step, options.best, options.adapters)
        self.restored[:] = [trained]
        return trained


# --- options of the page ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading(SpeakOptions):
    text: str = "The birch canoe slid on the smooth planks."
    """What is read out."""
    out: str = ""


def read_out(asked: Asked) -> None:
    speak_to(asked, [asked.options.text], [Path(asked.options.out) / SPOKEN])


def turn(asked: Asked) -> None:
    """The film of `jaxgen render`, which is all that the page shows of it."""
    rendering.check(asked.experiment, asked.options)
    if not asked.options.turntable:
        raise UserError("turntable is 0: 1 frame or more are expected")
    film = rendering.turntable(asked.restore(), asked.options.turntable, asked.options.size)
    save_picture(Path(asked.options.out) / "turntable.gif", film)


# --- tasks --------------------------------------------------------------------------------------------------------

FEW = {"num": 16}


@dataclass(frozen=True)
class Task:
    """One thing that the page does."""

    name: str
    says: str
    command: str
    options: type
    does: Callable[[Asked], None]
    able: Callable[[Subject], bool]
    """Whether a run can."""
    hides: tuple[str, ...] = ()
    first: Mapping[str, Any] = field(default_factory=dict)
    """What the form shows at first, where that is not the option's default."""
    pictures: tuple[str, ...] = ()
    """Options that name pictures, which are given as such."""
    always: Mapping[str, Any] = field(default_factory=dict)
    """Options that the page sets by itself."""

    def possible(self, subject: Subject, others: "list[Subject]") -> bool:
        return self.able(subject) and (self.options is not GuideOptions or bool(_runs(ScoresText, subject, others)))

    def controls(self, subject: Subject, others: "list[Subject]") -> list[Control]:
        """others: all runs of the page."""
        choices: dict[str, Any] = {"cond": subject.classes} if subject.classes else {}
        if self.options is Reading and (found := _runs(Vocodes, subject, others)):
            choices["vocoder"] = (("", "none"), *found)
        if self.options is GuideOptions:
            choices["clip"] = _runs(ScoresText, subject, others)
        known = {**FITTING[Common], **FITTING.get(self.options, {})}
        unfit = [name for name, fits in known.items() if not fits(subject)]
        hidden = [*self.hides, *self.pictures, *unfit]
        made = controls(self.options, choices, hidden)
        first = {**self.first, **({"clip": choices["clip"][0][0]} if "clip" in choices else {})}
        return [replace(one, default=first[one.name]) if one.name in first else one for one in made]

    def shape(self, subject: Subject, options: Any) -> tuple[int, ...] | None:
        """(H, W, C) of the picture that is given, None for any."""
        if isinstance(options, RestoreOptions):
            return options.shape(subject.model, subject.experiment.codec)
        if isinstance(subject.model, Translates):
            return None
        shape = editing.shape_of(subject.model, subject.experiment.codec)
        return (*options.sides, shape[-1]) if options.sides else shape

    def size(self, subject: Subject) -> tuple[int, ...] | None:
        """Height and width in which a given picture is shown, None for its own."""
        if isinstance(subject.model, Translates | Continues):
            return None
        if isinstance(subject.model, Infills):
            return editing.shape_of(subject.model, subject.experiment.codec)[:2]
        return tuple(subject.experiment.codec.raw_shape(subject.model.shape)[:2])  # pyright: ignore

    def words(self, subject: Subject, flags: list[str], options: Any) -> list[str]:
        """The command after `jaxgen`."""
        if isinstance(options, Reading):
            if options.text.startswith("-") or not options.text.strip():
                raise UserError("the text is empty or looks like a flag: begin it with a letter")
            return ["speak", subject.path, options.text, SPOKEN, *flags]
        return [self.command, subject.path, *flags]


def _is_diffusion(subject: Subject) -> bool:
    return isinstance(subject.model, Diffusion)


FITTING: dict[type, dict[str, Callable[[Subject], bool]]] = {
    Common: {
        "best": lambda subject: bool(subject.experiment.best),
        "adapters": lambda subject: bool(subject.experiment.lora.rank),
    },
    SampleOptions: {
        "prompt": lambda subject: subject.told,
        "negative": lambda subject: subject.told and subject.guidable,
        "guidance": lambda subject: subject.guidable,
        "steps": _is_diffusion,
        "sampler": _is_diffusion,
        "resample": _is_diffusion,
        "size": lambda subject: subject.sizeless,
        "level": lambda _: False,  # of a cascade, whose runs the page does not chain
    },
    WriteOptions: {"beams": lambda subject: isinstance(subject.model, GPT)},
}
"""Fields of options that not every run has a use for."""


def _runs(kind: type, subject: Subject, others: list[Subject]) -> tuple[tuple[str, str], ...]:
    """The other runs of the page with a capability, by path and name."""
    return tuple((one.path, one.name) for one in others if one is not subject and isinstance(one.model, kind))


PLAIN = ("strength", "resample")
STILL = (*PLAIN, "given")


def _samples(subject: Subject) -> bool:
    return subject.samples


def _walks(subject: Subject) -> bool:
    return subject.samples and subject.draws_images and isinstance(subject.model, Interpolates | HasLatents)


def _restores(subject: Subject) -> bool:
    pixels = type(subject.experiment.codec) is Pixels and subject.edits_images
    return isinstance(subject.model, Restores) and pixels and not subject.told


def _guides(subject: Subject) -> bool:
    moved = isinstance(subject.model, HasLatents | Steers) and subject.edits_images
    return moved and not subject.told and not isinstance(subject.model, Translates)


TASKS = (
    Task("draw", "Samples of a seed; each depends on its own number alone.", "sample", SampleOptions, sample, _samples,
         (*STILL, "between"), FEW),
    Task("write", "Text that goes on from a prompt.", "sample", WriteOptions, write, lambda s: s.writes),
    Task("read out", "A text, spoken.", "speak", Reading, read_out, lambda s: isinstance(s.model, Speaks)),
    Task("walk", "Rows of pictures from one sample to another.", "sample", SampleOptions, sample, _walks, STILL,
         {"num": 24, "between": 8}),
    Task("vary", "Pictures like a given one.", "sample", SampleOptions, sample,
         lambda s: s.edits_images and isinstance(s.model, Varies),
         ("resample", "given", "between"), {"num": 8}, ("image",)),
    Task("fill in", "What is painted over is drawn anew, to go with the rest.", "sample", SampleOptions, sample,
         lambda s: s.edits_images and isinstance(s.model, Inpaints | Infills),
         ("strength", "given", "between"), {"num": 8}, ("image", "mask")),
    Task("translate", "A picture for a picture.", "sample", SampleOptions, sample,
         lambda s: isinstance(s.model, Translates), (*STILL, "between", "cond"), {"num": 1}, ("image",),
         {"files": False}),  # which are written anyway
    Task("continue", "A clip, such as a GIF, from its first frames on.", "sample", SampleOptions, sample,
         lambda s: isinstance(s.model, Continues), (*PLAIN, "between"), {"num": 4}, ("clip",)),
    Task("restore", "Pictures that may be behind one that lost something.", "restore", RestoreOptions, restore,
         _restores, (), {}, ("image",)),
    Task("guide", "Pictures that a CLIP finds near to a text.", "guide", GuideOptions, guide, _guides),
    Task("turn", "A film around the scene.", "render", RenderOptions, turn,
         lambda s: isinstance(s.model, RadianceField | RendersViews),
         ("split", "limit", "lattice", "level", "lpips_net"), {"turntable": 24}, (), {"limit": 1}),
)  # fmt: skip


def options_of(task: Task, subject: Subject, values: Mapping[str, Any]) -> Any:
    """The options of a task by the values that its form gave."""
    known = {one.name for one in fields(task.options)}
    each = {"files": True} if "files" in known and subject.draws_images else {}
    return task.options(**{**each, **task.always}, **values)
