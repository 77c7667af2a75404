"""Texts as the tokens of a run that is told captions."""

from collections.abc import Sequence

import numpy as np

from jaxgen.data import Captioned
from jaxgen.data.clip_tokenizer import ClipBPE, framed
from jaxgen.data.t5_tokenizer import Unigram
from jaxgen.data.tokenizers import MOST_VOCABULARY, Tokenizer
from jaxgen.runs.restore import Trained
from jaxgen.runtime.reading import read_text


def caption_tokenizer(trained: Trained) -> tuple[Tokenizer, int, int]:
    """The tokenizer that the run was trained with, and the tokens that start (negative for none) and end a text: the
    one that the run keeps, so that its data need not be there."""
    data = trained.experiment.data
    assert isinstance(data, Captioned)
    kept = trained.folder and trained.folder.path / "caption_tokenizer.json"
    if data.tokenizer == "bytes" or kept is None or not kept.exists():
        return data.caption_tokenizer
    kind = Unigram if data.tokenizer == "t5" else ClipBPE
    tokenizer = kind.of(read_text(kept, most=2 * MOST_VOCABULARY), str(kept))
    return tokenizer, tokenizer.start, tokenizer.end


def caption_tokens(trained: Trained, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """`text` i32[N, window] and `text_mask` of texts, and what else the run's model is told of them."""
    data = trained.experiment.data
    assert isinstance(data, Captioned)
    more = data.beside(texts, trained.folder and trained.folder.path)
    return framed(*caption_tokenizer(trained), texts, data.window) | more
