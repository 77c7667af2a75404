"""`jaxgen sample` of a run that writes text: goes on from a prompt, shown as it is written."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TextIO

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Le

from jaxgen import core
from jaxgen.core.capabilities import WritesText
from jaxgen.core.keys import sample_keys
from jaxgen.core.ranges import Depth, OptionalDepth, Samples, Seed
from jaxgen.core.types import PyTree, TrainState
from jaxgen.data.tokenizers import Tokenizer, from_json
from jaxgen.errors import UserError
from jaxgen.inference.sampling import in_one
from jaxgen.models import gpt
from jaxgen.models.decoding.beam import beam_search
from jaxgen.models.decoding.speculative import speculate
from jaxgen.models.gpt import GPT
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import Trained
from jaxgen.runtime.files import write_text
from jaxgen.runtime.reading import read_text

PART = 16
"""Tokens written in one compiled call, or somewhat more: few enough to look like a stream."""


def tokenizer_of(run: RunFolder) -> Tokenizer:
    """The tokenizer that the run was trained with. Raises UserError when it is not there."""
    file = run.path / "tokenizer.json"
    return from_json(read_text(file), str(file))


@partial(jax.jit, static_argnums=(0, 2, 4))
def _begin(model: WritesText, params: PyTree, num: int, cond: PyTree, tokens: int) -> Any:
    return model.begin(params, num, cond, tokens)


@partial(jax.jit, static_argnums=(0, 5), donate_argnums=2)
def _write(model: WritesText, params: PyTree, writer: Any, keys: jax.Array, first: jax.Array, num: int) -> Any:
    return model.write(params, writer, keys, first, num)


def stream(
    model: WritesText, state: TrainState, tokenizer: Tokenizer, prompt: np.ndarray, seed: int, index: int = 0
) -> Iterator[str]:
    """What sample `index` of a seed writes after the prompt, i32[P], piece by piece."""
    params = state.sampling_params
    cond = gpt.prompts([prompt], model.window)
    size = -(-PART // model.together) * model.together
    total = -(-model.num_tokens // size) * size  # whole parts: a shorter last one would be a program of its own
    writer = _begin(model, params, 1, cond, total)
    drawn, shown = np.zeros(0, np.int32), len(tokenizer.decode(prompt))
    for first in range(0, total, size):
        # Keys anew for each call: one array of them is to be used once.
        keys = core.sample_keys(seed, 1, index)
        writer, part = _write(model, params, writer, keys, jnp.int32(first), size)
        drawn = np.concatenate([drawn, np.asarray(part[0])])[: model.num_tokens]
        whole, drawn = drawn, _until(model.decoding.end, drawn)
        over = len(drawn) < len(whole) or len(whole) == model.num_tokens
        # With the prompt: a letter of several bytes may begin in it. One that is not whole yet waits.
        text = tokenizer.decode(np.concatenate([prompt, drawn]))
        text = text if over else text.rstrip("\ufffd")
        if len(text) > shown:
            yield text[shown:]
            shown = len(text)
        if over:
            return


@dataclass(frozen=True)
class Writing:
    """What to write: samples 0 to num - 1 of a seed after a prompt."""

    prompt: str | None = None
    """None: each sample starts from the first token of a held-out example."""
    seed: Seed = 0
    num: Samples = 1
    tokens: Annotated[int, Ge(0), Le(1_000_000)] = 0
    """Of each; the model's own number when 0."""
    beams: OptionalDepth = 0
    """Beam search: the `num` likeliest of this many continuations are written instead of drawn ones; 0 draws."""
    draft: Trained | None = None
    """A smaller model of the same tokenizer, for speculative decoding: it drafts what the model then checks."""
    draft_tokens: Depth = 4
    """Tokens drafted at a time."""


def write_samples(trained: Trained, writing: Writing, folder: Path, show: TextIO | None = None) -> Path:
    """Samples of text, to `show` (the terminal when None) and to samples.txt in the folder. Drawn ones are shown piece
    by piece. Raises UserError for a model that writes no text, a prompt that cannot be gone on from, or a draft or
    beams that do not fit."""
    model, num = trained.model, writing.num
    if not isinstance(model, WritesText):
        raise UserError(f"{type(model).__name__} does not write text token by token: name a run of experiments/gpt.py")
    model, output = with_tokens(model, writing.tokens), show or sys.stdout
    tokenizer = tokenizer_of(trained.run)
    prompt = writing.prompt
    starts = trained.examples["x"][:, :1] if prompt is None else tokenizer.encode(prompt)[None]
    model.check_cond(gpt.prompts(list(starts), model.window))
    if writing.beams or writing.draft:
        texts = _whole_texts(trained, model, tokenizer, starts, writing)
        print(in_one(texts) if num > 1 else texts[0], file=output, end="" if num > 1 else "\n")
    else:
        texts = _streamed_texts(trained, model, tokenizer, starts, writing, output)
    write_text(folder / "samples.txt", in_one(texts))
    return folder / "samples.txt"


def _until(end: int, tokens: np.ndarray) -> np.ndarray:
    """The tokens before the first `end`, all of them if it is not among them."""
    ends = np.flatnonzero(tokens == end)
    return tokens[: ends[0]] if len(ends) else tokens


def _streamed_texts(
    trained: Trained, model: WritesText, tokenizer: Tokenizer, starts: np.ndarray, writing: Writing, show: TextIO
) -> list[str]:
    """Drawn texts, each shown piece by piece as it is written."""
    texts = []
    for index in range(writing.num):
        tokens = starts[index % len(starts)]
        began = tokenizer.decode(tokens)
        if writing.num > 1:
            print(f"--- {index} ---", file=show)
        print(began, end="", flush=True, file=show)
        parts = [began]
        for part in stream(model, trained.state, tokenizer, tokens, writing.seed, index):
            print(part, end="", flush=True, file=show)
            parts.append(part)
        print(file=show, flush=True)
        texts.append("".join(parts))
    return texts


def _whole_texts(
    trained: Trained, model: WritesText, tokenizer: Tokenizer, starts: np.ndarray, writing: Writing
) -> list[str]:
    """Texts by beam search, or by speculative decoding."""
    num = writing.num
    if not isinstance(model, GPT) or (writing.beams and writing.draft):
        raise UserError("beams and a draft are two ways for a GPT to write: choose one")
    if writing.beams:
        if num > writing.beams:
            raise UserError(f"num is {num} of {writing.beams} beams: ask for as many texts at most")
        starts = starts[:1]
        found, _ = beam_search(model, trained.state, gpt.prompts(list(starts), model.window), writing.beams)
        rows = found[0, :num]
    else:
        draft = writing.draft
        assert draft is not None
        if not isinstance(draft.model, GPT) or tokenizer_of(draft.run).to_json() != tokenizer.to_json():
            raise UserError(f"{draft.run.path} was not trained with the same tokenizer: name another draft")
        starts = np.stack([starts[i % len(starts)] for i in range(num)])
        cond, keys = gpt.prompts(list(starts), model.window), sample_keys(writing.seed, num)
        rows, _ = speculate(model, trained.state, draft.model, draft.state, keys, cond, writing.draft_tokens)
    texts = []
    for i, row in enumerate(np.asarray(rows)):
        prompt = starts[i % len(starts)]
        drawn = row[len(prompt) :][: model.num_tokens]  # what follows is padding
        texts.append(tokenizer.decode(np.concatenate([prompt, _until(model.decoding.end, drawn)])))
    return texts


def with_tokens(model: WritesText, tokens: int) -> WritesText:
    """The model that writes so many tokens; its own number when 0."""
    if not tokens:
        return model
    assert is_dataclass(model) and not isinstance(model, type)  # every model is a frozen dataclass
    return replace(model, decoding=replace(model.decoding, tokens=tokens))
