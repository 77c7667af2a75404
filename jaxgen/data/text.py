"""Text as windows of tokens: from a file or folder, Python's own help, or tensorflow-datasets' tiny_shakespeare.

The first nine tenths of the text are "train", the rest "test", as in nanoGPT. Examples are windows of `block` + 1
tokens, of which `block` are predicted.

Files are UTF-8. A byte-order mark at the beginning of a file is left out. All other characters are kept as they are:
NUL and other control characters, both kinds of line ends, byte-order marks further on. With `tokenizer` bytes, a file
may hold any bytes.
"""

import codecs
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from jaxgen.core.ranges import Count, PathName, Place, Size, Vocabulary
from jaxgen.core.types import RawBatch
from jaxgen.data.dataset import Dataset, check_split
from jaxgen.data.prepared import read_texts
from jaxgen.data.tokenizers import BPE, Bytes, Characters, Tokenizer, from_json
from jaxgen.errors import UserError, nearest
from jaxgen.runtime.cache import private_folder
from jaxgen.runtime.files import replacing
from jaxgen.runtime.reading import opened, read_text, user_path

NAMED = ("docs", "tiny_shakespeare")
PIECE = 1 << 22  # bytes read and tokenized at a time
LARGE = 1 << 26  # bytes; the tokens of a text this large are kept in a file and read from there
CACHE_FORMAT = 3  # to be raised when tokenization changes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(Dataset):
    """x: int32[N, block + 1] tokens; bytes: int32[N], the length in UTF-8 of the last `block` of them.

    Raises:
      UserError: on use, if the source is missing, is not text, or has characters without a token.
    """

    source: Annotated[str, Place(NAMED)] = "docs"
    """One of: docs (Python's help topics, half a million characters), tiny_shakespeare (from tensorflow-datasets), a
    file, or a folder, whose .txt files are read in the order of their names, those of its folders too. Hidden files and
    folders, whose names begin with a dot, are passed over. Each text is followed by the tokenizer's end token, if it
    has one."""
    tokenizer: Literal["bytes", "characters", "bpe"] = "characters"
    vocab_size: Vocabulary = 1024
    """With bpe: the vocabulary size to learn from the train split."""
    gpt2: PathName = ""
    """With bpe: the folder of GPT-2's vocab.json and merges.txt, to use that vocabulary instead."""
    tokens_of: PathName = ""
    """A run, whose tokenizer is used whatever `tokenizer` says, as where it is fine-tuned to another text."""
    block: Size = 64
    """Tokens predicted per example."""
    stride: Count = 1
    """Distance in tokens between the starts of training examples. Test examples start every `block` tokens, so that
    each token is predicted once."""
    data_dir: PathName | None = None
    """The folder where tensorflow-datasets keeps its sets; its own default if None."""
    download: bool = True
    """Download tiny_shakespeare if it is not prepared there (--data.download); --data.no-download refuses."""

    def load(self, split: str) -> "Windows":
        check_split(split)
        if self.block < 1 or self.stride < 1:
            raise UserError(f"block is {self.block}, stride is {self.stride}: both must be 1 or more")
        tokens = _encoded(*self._tokens)
        cut = len(tokens) * 9 // 10
        part = {"train": tokens[:cut], "test": tokens[cut:], "all": tokens}[split]
        stride = self.block if split == "test" else self.stride
        return Windows(part, self.block, stride, self.corpus_tokenizer.lengths())

    @property
    def corpus_tokenizer(self) -> Tokenizer:
        """The tokenizer; its vocabulary comes from the corpus unless it is given."""
        return _tokenizer(*self._tokens)

    @property
    def _tokens(self) -> tuple[str, "Corpus", int, str, str]:
        return self.tokenizer, self._corpus, self.vocab_size, self.gpt2, self.tokens_of

    @property
    def vocab(self) -> int:
        return self.corpus_tokenizer.size

    def files_to_keep(self) -> dict[str, str]:
        return {"tokenizer.json": self.corpus_tokenizer.to_json()}

    def texts(self, raw: np.ndarray) -> list[str]:
        # End tokens that pad a finished sample are left out; an end token within the text, as in a prompt, stays.
        tokenizer = self.corpus_tokenizer
        padding = np.logical_and.accumulate(raw[:, ::-1] == tokenizer.end, axis=1).sum(axis=1)
        return [tokenizer.decode(row[: len(row) - count]) for row, count in zip(raw, padding)]

    @property
    def _corpus(self) -> "Corpus":
        if self.source in NAMED:
            return Corpus(self.source, (), self.data_dir, self.download)
        if not self.source:
            raise UserError(f"no text was given: pass --data.source with a file or folder, or {' or '.join(NAMED)}")
        path = user_path(self.source)
        found = _visible_texts(path) if os.path.isdir(path) else [path] if os.path.exists(path) else []
        if not found:
            near = nearest(self.source, NAMED)
            what = "has no .txt file" if os.path.isdir(path) else f"is not a file or folder{near}"
            raise UserError(f"text source {self.source!r} {what}: pass a text, or choose {' or '.join(NAMED)}")
        return Corpus("", tuple(map(_stats, found)))


def _visible_texts(folder: Path) -> list[Path]:
    """The .txt files of a folder, however deep, in order."""
    files = (file for file in folder.rglob("*") if file.suffix.lower() == ".txt" and not file.is_dir())
    return sorted(f for f in files if not any(part.startswith(".") for part in f.relative_to(folder).parts))


def _stats(file: Path) -> tuple[str, int, int]:
    """Path, size and modification time, which stand in for the content: a file that was rewritten is read again."""
    with opened(file) as source:
        stats = os.fstat(source.fileno())
    return str(file), stats.st_size, stats.st_mtime_ns


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A text, identified by its name or by its files: path, size and modification time of each."""

    name: str
    stats: tuple[tuple[str, int, int], ...]
    data_dir: str | None = None
    download: bool = True

    @property
    def nbytes(self) -> int:
        return sum(size for _, size, _ in self.stats)

    def pieces(self, strict: bool) -> Iterator[str]:
        """The text in pieces of whole lines, unless a line is longer than a piece. strict: whether bytes that are not
        UTF-8 raise a UserError."""
        for text in self.texts(strict):
            yield from text

    def texts(self, strict: bool) -> Iterator[Iterator[str]]:
        """The pieces of each file, or of the named text."""
        if self.name == "docs":
            from pydoc_data.topics import topics

            yield iter(["\n\n".join(topics.values())])
        elif self.name:
            yield iter(read_texts(self.name, self.data_dir, self.download))
        for file, _, _ in self.stats:
            yield _file_pieces(file, strict)


def _file_pieces(file: str, strict: bool) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("strict" if strict else "surrogateescape")
    with opened(Path(file)) as source:
        place = len(codecs.BOM_UTF8) if source.peek(3).startswith(codecs.BOM_UTF8) else 0
        source.seek(place)
        while True:
            data = source.read(PIECE) + source.readline(PIECE)
            place -= len(decoder.getstate()[0])  # bytes of a character that the last piece cut
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                where = f"{error.reason} at byte {place + error.start}"
                raise UserError(f"{file} is not UTF-8 text ({where}): choose --data.tokenizer bytes") from error
            yield text
            if not data:
                return
            place = source.tell()


class Windows:
    """RandomAccess to windows of `block` + 1 tokens, one every `stride` tokens. lengths: bytes of each token."""

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
def _tokenizer(kind: str, corpus: Corpus, vocab_size: int, gpt2: str, run: str) -> Tokenizer:
    if run:
        file = user_path(run) / "tokenizer.json"
        return from_json(read_text(file), str(file))
    match kind:
        case "bytes":
            return Bytes()
        case "characters":
            return Characters("".join(sorted(set().union(*map(set, corpus.pieces(strict=True))))))
        case "bpe" if gpt2:
            return BPE.gpt2(user_path(gpt2))
        case "bpe":
            text = "".join(corpus.pieces(strict=True))
            return BPE.train(text[: len(text) * 9 // 10], vocab_size)
    raise UserError(f"tokenizer is {kind!r}: choose bytes, characters or bpe")


# A small cache: each entry is a whole corpus, shared by all splits.
@functools.lru_cache(maxsize=2)
def _encoded(kind: str, corpus: Corpus, vocab_size: int, gpt2: str, run: str) -> np.ndarray:
    """All tokens of a corpus: in memory, or memory-mapped from a cached file if the corpus is large."""
    tokenizer = _tokenizer(kind, corpus, vocab_size, gpt2, run)
    dtype = np.dtype(np.uint16 if tokenizer.size <= 1 << 16 else np.uint32)

    def parts() -> Iterator[np.ndarray]:
        for text in corpus.texts(strict=not isinstance(tokenizer, Bytes)):
            for piece in text:
                yield tokenizer.encode(piece).astype(dtype)
            if tokenizer.end >= 0:
                yield np.array([tokenizer.end], dtype)

    folder = private_folder("text") if corpus.nbytes >= LARGE else None
    if folder is None:
        return np.concatenate([np.zeros(0, dtype), *parts()])
    key = json.dumps([CACHE_FORMAT, corpus.stats, tokenizer.to_json()])
    file = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:20]}.tokens"
    if not file.is_file():
        try:
            with replacing(file) as partial, partial.open("wb") as out:
                for part in parts():
                    out.write(part.tobytes())
        except OSError as error:
            raise UserError(f"tokens of a large text cannot be kept in {file.parent}: {error.strerror}") from error
    return np.memmap(file, dtype, "r")
