"""Pictures of prompts by a diffusion model that was trained on texts: conditions, settings of sampling, other sizes."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import numpy as np
from annotated_types import Ge, Le

from jaxgen.core.model import GenerativeModel
from jaxgen.core.ranges import OptionalSteps
from jaxgen.data import Captioned
from jaxgen.data.clip_tokenizer import clean
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.models.diffusion import Diffusion
from jaxgen.models.student import Student
from jaxgen.ops.named_samplers import Name, named_sampler
from jaxgen.runs.captions import caption_tokenizer, caption_tokens
from jaxgen.runs.pretrained import Loaded
from jaxgen.runs.restore import Trained

NOTHING: Mapping[str, Any] = {}
SIDES = re.compile(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?")


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Diffusion models: settings of sampling, instead of the run's own."""

    guidance: Annotated[float, Ge(0), Le(1000)] | None = None
    """Scale of guidance by the class or the prompt: 1 is without, more keeps nearer to it."""
    steps: OptionalSteps = 0
    """Steps of the sampler; as many as it has when 0."""
    sampler: Name | Literal[""] = ""
    """Which sampler; on a schedule as Stable Diffusion's with the times that go with it (dpm++ with Karras')."""
    size: str = ""
    """HEIGHTxWIDTH of the pictures in pixels, or one number for both, for networks that are of no size."""

    def problem(self) -> str | None:
        if self.size and not SIDES.fullmatch(self.size):
            return f"size is {self.size!r}: HEIGHTxWIDTH in pixels, such as 512x768, is expected"

    @property
    def sides(self) -> tuple[int, int] | None:
        """Height and width."""
        found = SIDES.fullmatch(self.size)
        return (int(found[1]), int(found[2] or found[1])) if found else None


def drawing(experiment: Experiment, wanted: Drawing) -> Experiment:
    """The experiment with these settings but the size. Raises UserError for another model than of diffusion."""
    model = experiment.model
    flags = {"guidance": wanted.guidance is not None, "steps": wanted.steps, "sampler": wanted.sampler}
    given = [name for name, value in (*flags.items(), ("size", wanted.size)) if value]
    if isinstance(model, Student) and given == ["steps"]:
        return dataclasses.replace(experiment, model=model.in_steps(wanted.steps))
    if given and not isinstance(model, Diffusion):
        raise UserError(f"{type(model).__name__} is no diffusion model, which --{given[0]} is for: leave it out")
    if not isinstance(model, Diffusion) or not any(flags.values()):
        return experiment
    sampler, schedule = model.sampler, model.schedule
    if wanted.sampler:
        sampler, schedule = named_sampler(wanted.sampler, wanted.steps, sampler, schedule)
    elif wanted.steps:
        sampler = dataclasses.replace(sampler, steps=wanted.steps)
    scale = model.guidance.scale if wanted.guidance is None else wanted.guidance
    guidance = dataclasses.replace(model.guidance, scale=scale)
    sampler.table(schedule)  # which refuses what does not go together
    model = dataclasses.replace(model, sampler=sampler, schedule=schedule, guidance=guidance)
    return dataclasses.replace(experiment, model=model)


# --- sizes ----------------------------------------------------------------------------------------------------


def resized(trained: Trained, height: int, width: int) -> Trained:
    """The run as it draws pictures of another size: those of its first stage where it has one.

    Raises UserError where the sides do not divide as the networks need, a network is of one size, or no pictures are
    drawn.
    """
    model, codec = trained.experiment.model, trained.codec
    assert isinstance(model, Diffusion)
    if len(model.shape) != 3:
        raise UserError(f"{trained.name} draws no pictures, which --size is for: leave it out")
    if isinstance(codec, Loaded):
        stage = codec.model
        factor = stage.shape[0] // model.shape[0]
        if height % factor or width % factor:
            raise UserError(f"the size is {height}x{width}: sides that divide by {factor} are expected")
        stage = dataclasses.replace(stage, shape=(height, width, stage.shape[-1]))
        codec = dataclasses.replace(codec, model=stage)
        height, width = height // factor, width // factor
    model = dataclasses.replace(model, shape=(height, width, model.shape[-1]))
    model.network.check(model.shape)
    experiment = dataclasses.replace(trained.experiment, model=model)
    _check_sizeless(trained, experiment.compute_model, model.shape)
    return dataclasses.replace(trained, experiment=experiment, codec=codec)


def _check_sizeless(trained: Trained, model: GenerativeModel, shape: tuple[int, ...]) -> None:
    """Raises UserError unless `model`, of x of `shape`, has the parameters that the run has."""
    batch: dict[str, Any] = dict(trained.examples)
    batch["x"] = jax.ShapeDtypeStruct((len(batch["x"]), *shape), "float32")
    new = jax.eval_shape(model.init, jax.random.key(0), batch).params
    if jax.tree.map(np.shape, new) != jax.tree.map(np.shape, trained.state.params):
        raise UserError(f"{trained.name} has parameters for pictures of one size: leave --size out")


# --- prompts --------------------------------------------------------------------------------------------------


def check_told(experiment: Experiment, name: str) -> None:
    """Raises UserError unless the experiment's model is told texts. name: of its run."""
    if not getattr(experiment.model, "text", None) or not isinstance(experiment.data, Captioned):
        raise UserError(
            f"{name} is a run of {type(experiment.model).__name__} that is told no texts: --prompt needs one that is, "
            "as of experiments/text_to_image.py"
        )


def conditions(
    trained: Trained, prompts: Sequence[str], num: int, negative: str | None = None, given: Mapping[str, Any] = NOTHING
) -> dict[str, Any]:
    """Conditions of `num` samples: the prompts in turn, each for a run of samples, and the negative text of all.
    given: what else of a condition the model is told, by name, [num, ...] each.

    Raises UserError for a model that is told no texts, more prompts than samples, and a negative text without guidance.
    """
    check_told(trained.experiment, trained.name)
    if num < len(prompts):
        raise UserError(f"num is {num}, and there are {len(prompts)} prompts: ask for a sample of each, or more")
    model: Any = trained.model
    which = by_prompt(num, len(prompts))
    told = {name: array[which] for name, array in caption_tokens(trained, prompts).items()}
    cond: dict[str, Any] = {**given, **told}
    if model.num_classes:
        cond["label"] = np.full(num, -1, np.int32)
    if negative is not None:
        if model.guidance.scale == 1:
            raise UserError("--negative was given, but guidance leads away from it, and is 1: pass --guidance 4, say")
        away = caption_tokens(trained, [negative])
        cond |= {name.replace("text", "negative"): np.repeat(array, num, axis=0) for name, array in away.items()}
    model.check_cond(cond)
    return cond


def by_prompt(num: int, prompts: int) -> np.ndarray:
    """Which prompt each of `num` samples is of, i32[num]: as many for each as can be, one after another."""
    return (np.arange(num) * prompts // max(num, prompts)).astype(np.int32)


def cut_off(trained: Trained, text: str) -> str:
    """What of a text the model is not told, as it has more tokens than the model knows; "" where all fits."""
    data, (tokenizer, start, _) = trained.experiment.data, caption_tokenizer(trained)
    assert isinstance(data, Captioned)
    if start < 0:
        return tokenizer.decode(tokenizer.encode(text)[data.window - 1 :])
    return tokenizer.decode(tokenizer.encode(clean(text))[data.window - 2 :])
