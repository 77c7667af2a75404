"""Text to tokens and back: bytes, characters, numbers, byte-pair encoding. A run keeps its tokenizer as JSON."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.errors import UserError
from jaxgen.runtime.reading import parse_json, read_json, read_text

END = "<|endoftext|>"
"""GPT-2's token that ends a text."""
MOST_VOCABULARY = 1 << 24
"""Bytes of a vocabulary, of merges, or of a definition of both: a million tokens."""


class Tokenizer:
    """The interface of all tokenizers, with `size` tokens numbered from 0."""

    size: int
    end: int = -1
    """The token that ends a text, negative if there is none."""

    def encode(self, text: str) -> np.ndarray:
        """The tokens, int32[T]. Raises UserError for text without a token, or that is no Unicode."""
        raise NotImplementedError

    def decode(self, tokens: Any) -> str:
        """The text of a sequence of integers; values out of range are replaced or left out."""
        raise NotImplementedError

    def lengths(self) -> np.ndarray:
        """int32[size]: the number of UTF-8 bytes that each token stands for."""
        raise NotImplementedError

    def to_json(self) -> str:
        """The definition that `from_json` reads."""
        raise NotImplementedError


@dataclass(frozen=True)
class Bytes(Tokenizer):
    """The bytes of UTF-8."""

    size: int = 256

    def encode(self, text: str) -> np.ndarray:
        # Bytes that are not UTF-8 arrive as surrogates, and are restored.
        return np.frombuffer(check_utf8(text, "surrogateescape"), np.uint8).astype(np.int32)

    def decode(self, tokens: Any) -> str:
        return bytes(int(t) & 255 for t in tokens).decode("utf-8", "replace")

    def lengths(self) -> np.ndarray:
        return np.ones(256, np.int32)

    def to_json(self) -> str:
        return json.dumps({"kind": "bytes"})


@dataclass(frozen=True)
class Characters(Tokenizer):
    """The characters of the corpus, in code point order."""

    characters: str

    @property
    def size(self) -> int:
        return len(self.characters)

    @functools.cached_property
    def _table(self) -> np.ndarray:
        table = np.full(0x110000, -1, np.int32)
        table[[ord(c) for c in self.characters]] = np.arange(len(self.characters))
        return table

    def encode(self, text: str) -> np.ndarray:
        tokens = self._table[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)]
        if len(tokens) and tokens.min() < 0:
            unknown = text[int(np.argmin(tokens))]
            raise UserError(f"the character {unknown!r} is not in the corpus: leave it out, or train on bytes")
        return tokens

    def decode(self, tokens: Any) -> str:
        return "".join(self.characters[int(t)] if 0 <= int(t) < self.size else "\ufffd" for t in tokens)

    def lengths(self) -> np.ndarray:
        return np.array([len(c.encode("utf-8", "surrogatepass")) for c in self.characters], np.int32)

    def to_json(self) -> str:
        return json.dumps({"kind": "characters", "characters": self.characters})


@dataclass(frozen=True)
class Numbers(Tokenizer):
    """Tokens without a vocabulary: the text is their numbers, between spaces."""

    size: int

    def encode(self, text: str) -> np.ndarray:
        for word in text.split():
            if not word.isdecimal() or len(word) > 8 or int(word) >= self.size:
                raise UserError(f"the token {word!a:.20} is no number from 0 to {self.size - 1}, as this model's are")
        return np.array(text.split(), np.int32)

    def decode(self, tokens: Any) -> str:
        return "".join(f"{int(t)} " for t in tokens)

    def lengths(self) -> np.ndarray:
        return np.array([len(f"{n} ") for n in range(self.size)], np.int32)

    def to_json(self) -> str:
        return json.dumps({"kind": "numbers", "size": self.size})


class BPE(Tokenizer):
    """Byte-level byte-pair encoding (arXiv:1508.07909, as in GPT-2), by the package `tokenizers`."""

    def __init__(self, backend: Any, definition: str = ""):
        """backend: the package's tokenizer. definition: its own one if empty."""
        self.backend, self.definition = backend, definition or backend.to_str()
        self.size = backend.get_vocab_size()
        end = backend.token_to_id(END)
        self.end = -1 if end is None else end

    @classmethod
    def of(cls, definition: str, where: str) -> "BPE":
        """Reads what `to_json` keeps. Raises UserError for a tokenizer that is not byte-level, or is damaged."""
        match parse_json(definition, where):
            case {
                "normalizer": None, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
                "decoder": {"type": "ByteLevel"}, "added_tokens": list(added),
                "model": {"type": "BPE", "vocab": dict(vocabulary), "merges": list(merges)},
            } if all(isinstance(token, dict) and token.get("content") == END for token in added):  # fmt: skip
                # Older versions of the package write "a b", newer ones ["a", "b"].
                pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]
                return cls(_byte_level(vocabulary, pairs, bool(added), where), definition)
        raise UserError(f"{where} does not define byte-level byte-pair encoding: restore it, or train again")

    @classmethod
    def train(cls, text: str, size: int) -> "BPE":
        """Learns at most `size` tokens from the text, deterministically. Raises UserError for a size below 257."""
        package = bpe_package()
        if size < 257:
            raise UserError(f"vocab_size is {size}: at least 257 is expected, the bytes and one pair of them")
        tokenizer = package.Tokenizer(package.models.BPE())
        tokenizer.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = package.decoders.ByteLevel()
        alphabet = package.pre_tokenizers.ByteLevel.alphabet()
        size = min(size, len(alphabet) + 4 * len(text))  # for which the package reserves memory
        trainer = package.trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
        # Line by line, since the package counts the words of several sequences in parallel.
        tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
        return cls(tokenizer)

    @classmethod
    def gpt2(cls, folder: Path) -> "BPE":
        """Reads GPT-2's vocab.json and merges.txt. Raises UserError if they are missing or of another form."""
        files = folder / "vocab.json", folder / "merges.txt"
        try:
            vocabulary, lines = read_json(files[0], MOST_VOCABULARY), read_text(files[1], most=MOST_VOCABULARY)
        except UserError as error:
            raise UserError(f"{error}, or pass the folder of GPT-2's vocab.json and merges.txt") from error
        if not isinstance(vocabulary, dict):
            raise UserError(f"{files[0]} does not map tokens to numbers: pass GPT-2's own")
        merges = [line.split(" ") for line in lines.split("\n") if line and not line.startswith("#version")]
        return cls(_byte_level(vocabulary, merges, END in vocabulary, " and ".join(map(str, files))))

    def encode(self, text: str) -> np.ndarray:
        check_utf8(text)  # for the package's own error names nothing
        return np.array(self.backend.encode(text).ids, np.int32)

    def decode(self, tokens: Any) -> str:
        return self.backend.decode([int(t) for t in tokens if 0 <= int(t) < self.size], skip_special_tokens=False)

    def lengths(self) -> np.ndarray:
        # In the vocabulary each character stands for one byte; the end token stands for none.
        return np.array(
            [0 if i == self.end else len(self.backend.id_to_token(i) or "") for i in range(self.size)], np.int32
        )

    def to_json(self) -> str:
        return json.dumps({"kind": "bpe", "definition": self.definition})


def from_json(text: str, where: str = "tokenizer.json") -> Tokenizer:
    """The tokenizer that `to_json` wrote. Raises UserError for anything else; `where` names the file in the message."""
    if len(text) > 2 * MOST_VOCABULARY:  # a definition's quotes are escaped
        raise UserError(f"{where} has {len(text)} characters, no tokenizer has as many: restore it")
    match value := parse_json(text, where):
        case {"kind": "bytes"}:
            return Bytes()
        case {"kind": "numbers", "size": int(size)} if 0 < size <= MOST_VOCABULARY and not isinstance(size, bool):
            return Numbers(size)
        case {"kind": "characters", "characters": str(characters)}:
            if not characters or len(set(characters)) < len(characters):
                raise UserError(f"{where} has no characters, or one of them twice: restore it, or train again")
            try:
                return Characters(check_utf8(characters).decode())
            except UserError as error:
                raise UserError(f"{where} has a character that is none ({error}): restore it") from error
        case {"kind": "bpe", "definition": str(definition)}:
            return BPE.of(definition, where)
    kind = value.get("kind") if isinstance(value, dict) else None
    raise UserError(f"{where} has kind {kind!r:.60}: bytes, characters, numbers or bpe is expected")


def check_utf8(text: str, errors: str = "strict") -> bytes:
    try:
        return text.encode("utf-8", errors)
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text has {text[error.start]!a} at character {error.start}, half of a pair: save it again as UTF-8"
        ) from error


def _byte_level(vocabulary: dict[str, Any], merges: list[Any], end: bool, where: str) -> Any:
    """The package's tokenizer in GPT-2's form. end: whether END is a token that no text is merged into.

    merges: pairs of tokens, the first to be merged first. Raises UserError, which names `where`, for what the package
    would panic of, or would leave out of the text.
    """
    package = bpe_package()
    fault = _fault(vocabulary, merges, set(package.pre_tokenizers.ByteLevel.alphabet()))
    if not fault and end and END not in vocabulary:
        fault = f"no token {END}"
    if fault:
        raise UserError(f"{where} cannot be used as a vocabulary ({fault}): restore it")
    tokenizer = package.Tokenizer(package.models.BPE(vocabulary, [tuple(pair) for pair in merges]))
    tokenizer.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = package.decoders.ByteLevel()
    if end:
        tokenizer.add_special_tokens([END])
    return tokenizer


def numbering_fault(vocabulary: dict[str, Any]) -> str:
    """What is wrong with the numbers of a vocabulary's tokens, '' for nothing."""
    numbers = list(vocabulary.values())
    if not all(type(n) is int for n in numbers) or sorted(numbers) != list(range(len(numbers))):
        return f"tokens that are not numbered from 0 to {len(numbers) - 1}"
    return ""


def merges_fault(vocabulary: dict[str, Any], merges: Sequence[Any]) -> str:
    """What is wrong with the merges of a vocabulary, '' for nothing."""
    for pair in merges:
        two = isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair)
        if not two or not {*pair, "".join(pair)} <= vocabulary.keys():
            return f"a merge of what are no tokens, {pair!a:.60}"
    return ""


def _fault(vocabulary: dict[str, Any], merges: list[Any], alphabet: set[str]) -> str:
    """What is wrong with a vocabulary, '' for nothing. alphabet: the characters that stand for the 256 bytes."""
    if fault := numbering_fault(vocabulary):
        return fault
    if missing := alphabet - vocabulary.keys():
        return f"no token for the byte that is written {min(missing)}"
    if "" in vocabulary:
        return "an empty token"
    if unknown := set().union(*vocabulary) - alphabet:
        return f"the character {min(unknown)!a}, which stands for no byte"
    return merges_fault(vocabulary, merges)


def bpe_package() -> Any:
    """The package `tokenizers`. Raises UserError where it is not installed."""
    try:
        import tokenizers
    except ImportError as error:
        raise UserError("byte-pair encoding needs the package tokenizers: pip install 'jaxgen[text]'") from error
    return tokenizers
