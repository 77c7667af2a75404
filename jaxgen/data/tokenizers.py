"""Text to tokens and back: bytes, characters, byte-pair encoding. A run keeps its tokenizer as JSON."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.errors import UserError


class Tokenizer:
    """The interface of all tokenizers, with `size` tokens numbered from 0."""

    size: int
    end: int = -1
    """The token that ends a text, negative if there is none."""

    def encode(self, text: str) -> np.ndarray:
        """The tokens, int32[T]. Raises UserError for text without a token."""
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
        return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8).astype(np.int32)

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


class BPE(Tokenizer):
    """Byte-level byte-pair encoding (arXiv:1508.07909, as in GPT-2), by the package `tokenizers`."""

    def __init__(self, definition: str):
        self.definition = definition
        try:
            self.backend = _package().Tokenizer.from_str(definition)
        except UserError:
            raise
        except Exception as error:  # the package raises plain Exception
            raise UserError(f"the tokenizer's definition cannot be read ({error}): restore tokenizer.json") from error
        self.size = self.backend.get_vocab_size()
        end = self.backend.token_to_id("<|endoftext|>")
        self.end = -1 if end is None else end

    @classmethod
    def train(cls, text: str, size: int) -> "BPE":
        """Learns at most `size` tokens from the text, deterministically. Raises UserError for a size below 257."""
        package = _package()
        if size < 257:
            raise UserError(f"vocab_size is {size}: at least 257 is expected, the bytes and one pair of them")
        tokenizer = package.Tokenizer(package.models.BPE())
        tokenizer.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = package.decoders.ByteLevel()
        alphabet = package.pre_tokenizers.ByteLevel.alphabet()
        trainer = package.trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
        # Line by line, since the package counts the words of several sequences in parallel.
        tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
        return cls(tokenizer.to_str())

    @classmethod
    def gpt2(cls, folder: Path) -> "BPE":
        """Reads GPT-2's vocab.json and merges.txt. Raises UserError if they are missing or of another form."""
        package = _package()
        files = [folder / "vocab.json", folder / "merges.txt"]
        for file in files:
            if not file.is_file():
                raise UserError(f"{file} is not a file: pass the folder of GPT-2's vocab.json and merges.txt")
        try:
            tokenizer = package.Tokenizer(package.models.BPE.from_file(*map(str, files)))
        except Exception as error:
            raise UserError(f"{folder} does not hold a vocabulary of GPT-2's form ({error})") from error
        tokenizer.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = package.decoders.ByteLevel()
        if "<|endoftext|>" in tokenizer.get_vocab():
            tokenizer.add_special_tokens(["<|endoftext|>"])
        return cls(tokenizer.to_str())

    def encode(self, text: str) -> np.ndarray:
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
    try:
        match value := json.loads(text):
            case {"kind": "bytes"}:
                return Bytes()
            case {"kind": "characters", "characters": str(characters)}:
                return Characters(characters)
            case {"kind": "bpe", "definition": str(definition)}:
                return BPE(definition)
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{where} cannot be read ({error}): restore it, or train again") from error
    kind = value.get("kind") if isinstance(value, dict) else None
    raise UserError(f"{where} has kind {kind!r}: bytes, characters or bpe is expected")


def _package() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise UserError("byte-pair encoding needs the package tokenizers: pip install 'jaxgen[text]'") from error
    return tokenizers
