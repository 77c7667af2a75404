"""Text as windows of tokens: from a file or folder, the embedded corpus, or tensorflow-datasets' tiny_shakespeare.

The first nine tenths of the text are "train", the rest "test", as nanoGPT has it. Examples are windows of `block` + 1
tokens, so that `block` of them are predicted.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from jaxgen.data.dataset import Dataset, RawBatch, check_split
from jaxgen.data.tfds import read_texts
from jaxgen.data.tokenizers import BPE, Bytes, Characters, Tokenizer
from jaxgen.errors import UserError, nearest
from jaxgen.runtime.files import replacing

NAMED = ("docs", "tiny_shakespeare")
PIECE = 1 << 22  # characters read and tokenized at once
LARGE = 1 << 26  # bytes of text from which on tokens are kept in a file, and read from there
CACHE_FORMAT = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(Dataset):
    """x: int32[N, block + 1] tokens; bytes: int32[N], how many of UTF-8 the last `block` of them stand for.

    Raises:
      UserError: on use, when the source is missing, is no text, or has characters without a token.
    """

    source: str = "docs"
    """docs (Python's own topics of help, half a million characters), tiny_shakespeare (of tensorflow-datasets), a file,
    or a folder, all of whose .txt files are read in the order of their names. After each text comes the tokenizer's end
    token, where it has one."""
    tokenizer: Literal["bytes", "characters", "bpe"] = "characters"
    vocab_size: int = 1024
    """Of bpe: tokens to find in the train split."""
    gpt2: str = ""
    """Of bpe: the folder of GPT-2's vocab.json and merges.txt, to use those instead."""
    block: int = 64
    """Tokens predicted in an example."""
    stride: int = 1
    """Train examples begin at every so many tokens; test examples at every `block`, so that each token counts once."""
    data_dir: str | None = None
    """Where tensorflow-datasets keeps its sets; its own default when None."""

    def load(self, split: str) -> "Windows":
        check_split(split)
        if self.block < 1 or self.stride < 1:
            raise UserError(f"block is {self.block}, stride {self.stride}: both start at 1")
        tokens = _encoded(self.tokenizer, self._corpus, self.vocab_size, self.gpt2)
        cut = len(tokens) * 9 // 10
        part = {"train": tokens[:cut], "test": tokens[cut:], "all": tokens}[split]
        return Windows(part, self.block, self.block if split == "test" else self.stride, self.how.lengths())

    @property
    def how(self) -> Tokenizer:
        """The tokenizer, made from the corpus where it is not given."""
        return _tokenizer(self.tokenizer, self._corpus, self.vocab_size, self.gpt2)

    @property
    def vocab(self) -> int:
        return self.how.size

    def files(self) -> dict[str, str]:
        return {"tokenizer.json": self.how.to_json()}

    def texts(self, raw: np.ndarray) -> list[str]:
        # What a drawn text's end is filled up with is left out; one within it, as of a prompt, stays.
        filled = np.logical_and.accumulate(raw[:, ::-1] == self.how.end, axis=1).sum(axis=1)
        return [self.how.decode(row[: len(row) - count]) for row, count in zip(raw, filled)]

    @property
    def _corpus(self) -> "Corpus":
        if self.source in NAMED:
            return Corpus(self.source, (), self.data_dir)
        if not self.source:
            raise UserError(f"no text was named: pass --data.source with a file or folder, or {' or '.join(NAMED)}")
        path = Path(self.source).expanduser()
        found = sorted(path.rglob("*.txt")) if path.is_dir() else [path] if path.is_file() else []
        if not found:
            near = nearest(self.source, NAMED)
            what = "has no .txt file" if path.is_dir() else f"is no file or folder{near}"
            raise UserError(f"text source {self.source!r} {what}: name a text, or choose {' or '.join(NAMED)}")
        # Size and time stand in for content: a file that was written anew is read anew.
        stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in found]
        return Corpus("", tuple(stats), None)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A text by its name, or by its files: (path, size, time) each."""

    name: str
    stats: tuple[tuple[str, int, int], ...]
    data_dir: str | None

    @property
    def nbytes(self) -> int:
        return sum(size for _, size, _ in self.stats)

    def pieces(self, strict: bool) -> Iterator[str]:
        """The text in pieces that end with a line. strict: whether it has to be UTF-8."""
        for text in self.texts(strict):
            yield from text

    def texts(self, strict: bool) -> Iterator[Iterator[str]]:
        """Each file's pieces; a named text is one."""
        if self.name == "docs":
            from pydoc_data.topics import topics

            yield iter(["\n\n".join(topics.values())])
        elif self.name:
            yield iter(read_texts(self.name, self.data_dir))
        for file, _, _ in self.stats:
            yield _pieces_of(file, strict)


def _pieces_of(file: str, strict: bool) -> Iterator[str]:
    try:
        # Line ends as they are: decoding what was encoded gives back the file.
        with open(file, encoding="utf-8", errors="strict" if strict else "surrogateescape", newline="") as text:
            while lines := text.readlines(PIECE):
                yield "".join(lines)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is no UTF-8 text ({error.reason} at byte {error.start}): choose --data.tokenizer bytes"
        ) from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error


class Windows:
    """RandomAccess over windows of `block` + 1 tokens, one at every `stride`-th. lengths: bytes of each token."""

    def __init__(self, tokens: np.ndarray, block: int, stride: int, lengths: np.ndarray):
        self.tokens, self.block, self.stride, self.lengths = tokens, block, stride, lengths
        self.nbytes = tokens.nbytes

    def __len__(self) -> int:
        return max(0, (len(self.tokens) - self.block - 1) // self.stride + 1)

    def take(self, indices: np.ndarray) -> RawBatch:
        place = np.asarray(indices, np.int64)[:, None] * self.stride + np.arange(self.block + 1)
        x = self.tokens[place].astype(np.int32)
        return {"x": x, "bytes": self.lengths[x[:, 1:]].sum(axis=1, dtype=np.int32)}


@functools.lru_cache(maxsize=4)
def _tokenizer(kind: str, corpus: Corpus, vocab_size: int, gpt2: str) -> Tokenizer:
    match kind:
        case "bytes":
            return Bytes()
        case "characters":
            return Characters("".join(sorted(set().union(*map(set, corpus.pieces(strict=True))))))
        case "bpe" if gpt2:
            return BPE.gpt2(Path(gpt2).expanduser())
        case "bpe":
            text = "".join(corpus.pieces(strict=True))
            return BPE.train(text[: len(text) * 9 // 10], vocab_size)
    raise UserError(f"tokenizer is {kind!r}: choose bytes, characters or bpe")


# Few: an array each, that all splits share.
@functools.lru_cache(maxsize=2)
def _encoded(kind: str, corpus: Corpus, vocab_size: int, gpt2: str) -> np.ndarray:
    """All tokens of a corpus, in memory or, of a large one, in a file that the next run finds again."""
    tokenizer = _tokenizer(kind, corpus, vocab_size, gpt2)
    dtype = np.dtype(np.uint16 if tokenizer.size <= 1 << 16 else np.uint32)

    def parts() -> Iterator[np.ndarray]:
        for text in corpus.texts(strict=kind != "bytes"):
            for piece in text:
                yield tokenizer.encode(piece).astype(dtype)
            if tokenizer.end >= 0:
                yield np.array([tokenizer.end], dtype)

    if corpus.nbytes < LARGE:
        return np.concatenate([np.zeros(0, dtype), *parts()])
    key = json.dumps([CACHE_FORMAT, corpus.stats, tokenizer.to_json()])
    root = Path(os.environ.get("JAXGEN_CACHE") or "~/.cache/jaxgen").expanduser()
    file = root / "text" / f"{hashlib.sha256(key.encode()).hexdigest()[:20]}.tokens"
    if not file.is_file():
        try:
            with replacing(file) as partial, partial.open("wb") as out:
                for part in parts():
                    out.write(part.tobytes())
        except OSError as error:
            raise UserError(f"tokens of a large text cannot be kept in {root}: {error.strerror}") from error
    return np.memmap(file, dtype, "r")
