"""Prompts, texts and pictures with weights, as embeddings of a trained CLIP."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.capabilities import ScoresText
from jaxgen.core.types import PyTree
from jaxgen.data import Captioned
from jaxgen.errors import UserError
from jaxgen.models.clip_guidance import Targets, weighted
from jaxgen.models.conditions import label_of
from jaxgen.runs.captions import caption_tokenizer, caption_tokens
from jaxgen.runs.restore import Trained
from jaxgen.runtime.picture import read_picture
from jaxgen.runtime.reading import read_lines, user_path


@dataclass(frozen=True)
class Part:
    """A text, or a picture's file, and how much it counts; less than 0 to keep away from it."""

    text: str
    weight: float = 1.0
    picture: bool = False

    def __str__(self) -> str:
        return self.text if self.weight == 1 else f"{self.text}:{self.weight:g}"


Prompt = tuple[Part, ...]
"""What one picture is to show."""


def part(words: str, picture: bool = False) -> Part:
    """Of TEXT or TEXT:WEIGHT. Raises UserError for one without text, or whose weight is 0 or not finite."""
    text, weight = words, 1.0
    if found := re.fullmatch(r"(.*):\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*", words, re.DOTALL):
        text, weight = found[1], float(found[2])
    if not text.strip():
        raise UserError(f"the prompt {words!r} has no text: write TEXT, or TEXT:WEIGHT as 'a red dragon:0.5'")
    if weight == 0 or not np.isfinite(weight):
        raise UserError(f"the prompt {words!r} has weight {weight:g}: leave it out, or weigh it by another number")
    return Part(text.strip(), weight, picture)


def parts_of(line: str) -> Prompt:
    """Of a prompt with bars between its parts, as 'a red dragon | blurred:-0.5'. Raises UserError as `part` does."""
    return tuple(part(words) for words in line.split("|"))


def read_prompts(file: Path) -> list[Prompt]:
    """A prompt a line, of parts between bars as 'a red dragon | blurred:-0.5'. Raises UserError where there is none."""
    return [parts_of(line) for line in read_lines(file, "prompts")]


def check_clip(trained: Trained) -> ScoresText:
    """The run's model, known to embed texts and pictures. Raises UserError for a run of another kind."""
    model = trained.model
    if not isinstance(model, ScoresText) or not isinstance(trained.experiment.data, Captioned):
        name = type(trained.experiment.model).__name__
        what = "one of experiments/clip.py, or of jaxgen weights import-clip"
        raise UserError(f"{trained.name} is a run of {name}, which embeds no text: name {what}")
    return model


def captions(trained: Trained, cond: PyTree) -> list[str]:
    """The captions that samples drawn under `cond` are told; none of a run that is told no text."""
    if not (isinstance(cond, dict) and "text" in cond and isinstance(trained.experiment.data, Captioned)):
        return []
    tokenizer, start, _ = caption_tokenizer(trained)
    text = np.asarray(cond["text"])
    mask = np.asarray(cond.get("text_mask", np.ones(text.shape, bool)))
    # Without the start and the end.
    return [tokenizer.decode(tokens[seen][int(start >= 0) : -1]) for tokens, seen in zip(text, mask)]


def asked_texts(trained: Trained, cond: PyTree) -> list[str]:
    """What samples drawn under `cond` were asked to show: their captions, or the names of their classes; none of a run
    that has no words for it."""
    data = trained.experiment.data
    if said := captions(trained, cond):
        return said
    classes, labels = getattr(trained.model, "num_classes", 0), label_of(cond)
    if not classes or len(data.class_names) != classes or labels is None or labels.ndim != 1:
        return []
    return [data.class_names[int(label)] if label >= 0 else "" for label in np.asarray(labels)]


@partial(jax.jit, static_argnums=0)
def _embed_text(model: Any, params: PyTree, text: jax.Array, mask: jax.Array) -> jax.Array:
    return model.embed_text(params, text, mask)


@partial(jax.jit, static_argnums=0)
def _embed_images(model: Any, params: PyTree, images: jax.Array) -> jax.Array:
    return model.embed_images(params, images.astype(jnp.float32) / 127.5 - 1)


def embed_texts(trained: Trained, texts: Sequence[str]) -> np.ndarray:
    """Unit vectors f32[N, D]."""
    model, tokens = check_clip(trained), caption_tokens(trained, texts)
    return np.asarray(_embed_text(model, trained.state.sampling_params, tokens["text"], tokens["text_mask"]))


def embed_images(trained: Trained, images: np.ndarray, batch: int = 256) -> np.ndarray:
    """Unit vectors f32[N, D] of images uint8[N, H, W, 1 or 3]."""
    model, parts = check_clip(trained), []
    images = np.broadcast_to(images, (*images.shape[:3], model.shape[2]))
    for first in range(0, len(images), batch):
        some = images[first : first + batch]
        padded = np.resize(some, (min(batch, len(images)), *some.shape[1:]))  # the last batch is not compiled anew
        parts.append(np.asarray(_embed_images(model, trained.state.sampling_params, padded))[: len(some)])
    return np.concatenate(parts)


def targets(trained: Trained, prompts: Sequence[Prompt]) -> Targets:
    """The embeddings and weights of prompts, [N, M] for the M parts of the longest."""
    size = max(map(len, prompts))
    texts = list(dict.fromkeys(one.text for prompt in prompts for one in prompt if not one.picture))
    found: dict[tuple[str, bool], np.ndarray] = {}
    if texts:
        found |= {(text, False): vector for text, vector in zip(texts, embed_texts(trained, texts))}
    for file in dict.fromkeys(one.text for prompt in prompts for one in prompt if one.picture):
        pixels = read_picture(user_path(file), check_clip(trained).shape[2])
        found[file, True] = embed_images(trained, pixels[None])[0]
    vectors = np.zeros((len(prompts), size, len(next(iter(found.values())))), np.float32)
    weights = np.zeros((len(prompts), size), np.float32)
    for i, prompt in enumerate(prompts):
        for j, one in enumerate(prompt):
            vectors[i, j], weights[i, j] = found[one.text, one.picture], one.weight
    return Targets(jnp.asarray(vectors), jnp.asarray(weights))


def similarities(trained: Trained, images: np.ndarray, wanted: Targets) -> np.ndarray:
    """sum_m w_m cos(u, t_m) / sum_m |w_m|, f32[N], of images uint8[N, H, W, C] and the targets of each."""
    cosines = jnp.einsum("nd,nmd->nm", embed_images(trained, images), wanted.vectors)
    return np.asarray(weighted(cosines, wanted))
