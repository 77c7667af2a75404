"""A chain of runs: what the first draws is the condition of the second, and so on.

A cascade (arXiv:2106.15282) draws a small picture and enlarges it; DALL-E 2 (arXiv:2204.06125) draws an embedding and
a picture of it. Each later stage is a run whose model is a `LaterStage`, and is told the same texts as the first. Stage
k, from 0, draws by seed + k: two networks that start from the same noise would draw what is alike.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import jax
import numpy as np

from jaxgen.core import compiled
from jaxgen.core.cascade import LaterStage, TakesLevel
from jaxgen.core.types import PyTree
from jaxgen.errors import UserError
from jaxgen.inference import prompting
from jaxgen.inference.embedded import Embedded
from jaxgen.inference.prompts import asked_texts
from jaxgen.inference.sampling import draw
from jaxgen.runs.restore import Trained

SEEDS = 1 << 32


def check(stages: Sequence[Trained]) -> None:
    """Raises UserError unless each run but the first goes on from what the one before it draws. Nothing is computed."""
    for before, after in pairwise(stages):
        model = after.model
        if not isinstance(model, LaterStage):
            raise UserError(
                f"{after.name} is a run of {type(model).__name__}, which goes on from nothing that is drawn: name one "
                "of experiments/cascade.py, super_resolution.py or clip_decoder.py"
            )
        given = drawn_shape(before)
        if given != tuple(model.drawn_from):
            raise UserError(
                f"{before.name} draws {list(given)}, {after.name} goes on from {list(model.drawn_from)}: name runs "
                "whose sizes meet"
            )
        first, second = before.experiment.data, after.experiment.data
        if len(given) == 1 and isinstance(first, Embedded) and isinstance(second, Embedded):
            names = [data.embedder(run.folder and run.folder.path) for data, run in ((first, before), (second, after))]
            if names[0] != names[1]:
                raise UserError(
                    f"{before.name} draws embeddings of the CLIP {names[0]}, {after.name} goes on from those of "
                    f"{names[1]}: train both by one"
                )


def drawn_shape(trained: Trained) -> tuple[int, ...]:
    """Of one raw sample of a run."""
    cond = trained.model.sample_cond(1, trained.examples)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    raw = jax.eval_shape(
        lambda *given: compiled.sample_program(trained.model, *given), trained.state, keys, cond, trained.codec
    )
    return tuple(raw.shape[1:])


def at_level(trained: Trained, level: float) -> Trained:
    """The run as it samples with noise of this level, in [0, 1], on what it goes on from. Raises UserError for a model
    that takes none, or less."""
    model = trained.experiment.model
    if not isinstance(model, TakesLevel):
        raise UserError(f"{trained.name} is a run of {type(model).__name__}, which takes no --level: leave it out")
    return trained.to(replace(trained.experiment, model=model.at_level(level)))


def conditions(stage: Trained, raw: np.ndarray, texts: Sequence[str], negative: str | None = None) -> PyTree:
    """The condition of a later stage on what was drawn before, raw [N, ...], of texts: N, or none. Raises UserError for
    a stage that is told texts where there are none."""
    check_told(stage, texts)
    model: Any = stage.model
    given = model.from_drawn(raw)
    if not getattr(model, "text", None):
        return given
    led = negative if model.guidance.scale != 1 else None
    return prompting.conditions(stage, texts, len(raw), led, given)


def check_told(stage: Trained, texts: Sequence[str]) -> None:
    """Raises UserError for a later stage that is told texts where there are none, or classes."""
    if getattr(stage.model, "text", None):
        if not texts:
            raise UserError(f"{stage.name} is told texts, of which the first stage has none: pass --prompt TEXT")
    elif getattr(stage.model, "num_classes", 0):
        raise UserError(f"{stage.name} is told classes: a stage that is told texts, or nothing, is expected")


def continued(
    stages: Sequence[Trained], raw: np.ndarray, seed: int, texts: Sequence[str] = (), negative: str | None = None,
    batch: int = 256,
) -> np.ndarray:  # fmt: skip
    """What the later stages draw one after another from raw samples [N, ...] of the first, raw. `stages` are those
    after the first, which drew by `seed`; sample i depends on raw[i], texts[i] and the seed alone."""
    for k, stage in enumerate(stages, start=1):
        cond = conditions(stage, raw, texts, negative)
        raw = draw(stage, (seed + k) % SEEDS, len(raw), cond, batch)
    return raw


def told(first: Trained, cond: PyTree, prompts: Sequence[str], num: int) -> list[str]:
    """The text of each of `num` samples of a first stage: its prompt as it was given, else its caption or class; none
    where there are no words for it."""
    if prompts:
        return [prompts[int(i)] for i in prompting.by_prompt(num, len(prompts))]
    return asked_texts(first, cond)


def words(first: Trained, later: Sequence[Trained], cond: PyTree, prompts: Sequence[str], num: int) -> Sequence[str]:
    """What `told` gives, for the stages `later`; nothing where there are none. Raises UserError, before anything is
    drawn, for stages that are told what there is not."""
    texts = told(first, cond, prompts, num) if later else ()
    for stage in later:
        check_told(stage, texts)
    return texts
