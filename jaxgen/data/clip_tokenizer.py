"""CLIP's tokenizer: byte-pair encoding within words, whose last token ends in </w>, between a start and an end token.

Text is normalized as by transformers' CLIPTokenizer: NFC, white space to single spaces, lower case. OpenAI's cleaning
comes before, see `clean`.
"""

import gzip
import html
import json
import re
import unicodedata
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.data.tokenizers import MOST_VOCABULARY, Tokenizer, bpe_package, check_utf8, merges_fault, numbering_fault
from jaxgen.errors import UserError
from jaxgen.runtime.reading import opened, parse_json, read_json, read_text, why

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What a word is: section 2.4's code."""
MERGES = "bpe_simple_vocab_16e6.txt.gz"
"""OpenAI's and open_clip's vocabulary, where there is no folder of vocab.json and merges.txt."""
MOST_MERGES = 49_152 - 256 - 2
"""Merges that OpenAI's file is read up to; it holds five times as many."""


class ClipBPE(Tokenizer):
    """CLIP's byte-pair encoding, by the package `tokenizers`. `encode` gives the tokens between start and end."""

    def __init__(self, vocabulary: dict[str, int], merges: Sequence[tuple[str, str]], where: str = "the vocabulary"):
        """Raises UserError, which names `where`, for a vocabulary that is not of CLIP's form."""
        package = bpe_package()
        if fault := _fault(vocabulary, merges):
            raise UserError(f"{where} is not CLIP's ({fault}): restore it")
        self.vocabulary, self.merges = vocabulary, tuple(merges)
        backend = package.Tokenizer(
            package.models.BPE(vocabulary, list(merges), end_of_word_suffix=WORD_END, unk_token=END)
        )
        backend.normalizer = _normalizer(package)
        backend.pre_tokenizer = _pre_tokenizer(package)
        backend.add_special_tokens([START, END])
        self.backend, self.size = backend, len(vocabulary)
        self.start, self.end = vocabulary[START], vocabulary[END]

    @classmethod
    def of_merges(cls, merges: Sequence[tuple[str, str]], where: str = "the vocabulary") -> "ClipBPE":
        """Tokens are numbered as in OpenAI's code: bytes, bytes that end words, merges, start and end."""
        alphabet = byte_characters()
        tokens = [*alphabet, *(c + WORD_END for c in alphabet), *("".join(pair) for pair in merges), START, END]
        return cls({token: i for i, token in enumerate(dict.fromkeys(tokens))}, merges, where)

    @classmethod
    def read(cls, place: Path) -> "ClipBPE":
        """The vocabulary in a folder of vocab.json and merges.txt, or of tokenizer.json as newer versions of
        transformers write it, or in a file of merges such as open_clip's bpe_simple_vocab_16e6.txt.gz, whose first line
        is no merge; or a run's. Raises UserError for anything else."""
        if (file := place / "caption_tokenizer.json").exists():  # of a run
            return cls.of(read_text(file), str(file))
        if not place.is_dir():
            lines = _text(place).split("\n")[1 : MOST_MERGES + 1]
            return cls.of_merges(_pairs(lines, place), str(place))
        if not (place / "vocab.json").exists() and (file := place / "tokenizer.json").exists():
            return cls._of_tokenizers(read_json(file, MOST_VOCABULARY), file)
        vocabulary, text = read_json(place / "vocab.json", MOST_VOCABULARY), read_text(place / "merges.txt")
        if not isinstance(vocabulary, dict):
            raise UserError(f"{place / 'vocab.json'} does not map tokens to numbers: pass CLIP's own")
        lines = [line for line in text.split("\n") if not line.startswith("#version")]
        return cls(vocabulary, _pairs(lines, place / "merges.txt"), str(place))

    @classmethod
    def _of_tokenizers(cls, value: Any, file: Path) -> "ClipBPE":
        """Of the contents of a tokenizer.json, the package tokenizers' own form."""
        match value:
            case {"model": {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": dict(vocab), "merges": list(merges)}}:
                # Older versions write both tokens of a merge as one text.
                pairs: list[Any] = [m.split(" ") if isinstance(m, str) else m for m in merges]
                return cls(vocab, [tuple(p) if isinstance(p, list) else p for p in pairs], str(file))
        raise UserError(f"{file} is not of CLIP's byte-pair encoding: restore it")

    @classmethod
    def train(cls, texts: Sequence[str], size: int) -> "ClipBPE":
        """Learns at most `size` tokens from texts, deterministically. Raises UserError for a size below 515."""
        package = bpe_package()
        least = 2 * 256 + 2
        if size <= least:
            raise UserError(f"vocab_size is {size}: more than {least} are expected, two for each byte, start and end")
        backend = package.Tokenizer(package.models.BPE(end_of_word_suffix=WORD_END))
        backend.normalizer, backend.pre_tokenizer = _normalizer(package), _pre_tokenizer(package)
        alphabet = byte_characters()
        size = min(size, least + 4 * sum(map(len, texts)))  # for which it reserves memory
        # Bytes that end words are numbered beforehand: the package would number them in the order of a hash table, that
        # of another training differs, and of pairs that are equally frequent the numbers decide.
        trainer = package.trainers.BpeTrainer(
            vocab_size=size, initial_alphabet=alphabet, end_of_word_suffix=WORD_END, show_progress=False,
            special_tokens=[c + WORD_END for c in alphabet],
        )  # fmt: skip
        backend.train_from_iterator(map(clean, texts), trainer)
        merges = [tuple(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]
        return cls.of_merges(merges[: size - least])

    @classmethod
    def of(cls, definition: str, where: str = "tokenizer.json") -> "ClipBPE":
        """Reads what `to_json` wrote."""
        match parse_json(definition, where):
            case {"kind": "clip", "vocabulary": dict(vocabulary), "merges": list(merges)}:
                return cls(vocabulary, [tuple(m) if isinstance(m, list) else m for m in merges], where)
        raise UserError(f"{where} does not define CLIP's byte-pair encoding: restore it")

    def encode(self, text: str) -> np.ndarray:
        check_utf8(text)
        return np.array(self.backend.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, tokens: Any) -> str:
        inverse = {i: token for token, i in self.vocabulary.items()}
        bytes_of = {c: b for b, c in _bytes_by_character()}
        text = "".join(
            inverse[int(t)] for t in tokens if 0 <= int(t) < self.size and int(t) not in (self.start, self.end)
        )
        words = (bytes(bytes_of[c] for c in word).decode("utf-8", "replace") for word in text.split(WORD_END))
        return " ".join(words).strip()

    def lengths(self) -> np.ndarray:
        lengths = np.zeros(self.size, np.int32)
        for token, i in self.vocabulary.items():
            lengths[i] = 0 if token in (START, END) else len(token.removesuffix(WORD_END))
        return lengths

    def to_json(self) -> str:
        return json.dumps({"kind": "clip", "vocabulary": self.vocabulary, "merges": [list(m) for m in self.merges]})

    def write(self, folder: Path) -> dict[Path, str]:
        """vocab.json and merges.txt as transformers reads them: contents by file."""
        merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in self.merges)])
        return {folder / "vocab.json": json.dumps(self.vocabulary), folder / "merges.txt": merges + "\n"}


def clean(text: str) -> str:
    """OpenAI's cleaning: entities of HTML, ligatures, curly quotes and characters of full width become plain ones, C1
    controls what Windows-1252 has there, other controls and escapes of terminals go, then upper case and outer space.

    The package ftfy, by which OpenAI does so, also guesses in which wrong encoding a text was read; this does not."""
    text = text if "<" in text else html.unescape(text)  # as ftfy, that takes a text with < for source code
    text = TERMINAL.sub("", text).translate(REPAIRS).translate(REPAIRS)  # twice: \x92 is a curly quote
    text = html.unescape(html.unescape(unicodedata.normalize("NFC", text)))
    return text.strip().lower()


def _repairs() -> dict[int, str | None]:
    """What `clean` replaces characters by, None to leave them out."""
    controls = [*range(9), 11, *range(14, 32), 127, *range(0x206A, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFD)]
    ligatures = [0x132, 0x133, 0x149, *range(0x1C4, 0x1CD), *range(0x1F1, 0x1F4), *range(0xFB00, 0xFB07)]
    compatible = {c: unicodedata.normalize("NFKC", chr(c)) for c in (*ligatures, 0x3000, *range(0xFF01, 0xFFF0))}
    windows = {c: bytes([c]).decode("cp1252", "ignore") or chr(c) for c in range(0x80, 0xA0)}
    quotes = dict.fromkeys(map(ord, "\u02bc\u2018\u2019\u201a\u201b"), "'")
    quotes |= dict.fromkeys(range(0x201C, 0x2020), '"')
    return {**compatible, **windows, **quotes, **dict.fromkeys(controls)}


TERMINAL = re.compile("\x1b\\[[0-9;]*[a-zA-Z]")
REPAIRS = _repairs()


def byte_characters() -> list[str]:
    """The characters that stand for the 256 bytes in a vocabulary, in the order of its tokens."""
    return [character for _, character in _bytes_by_character()]


def _bytes_by_character() -> list[tuple[int, str]]:
    """Visible Latin-1 characters stand for themselves and come first, those from 256 on for the other bytes."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in visible]
    return [(b, chr(b)) for b in visible] + [(b, chr(256 + i)) for i, b in enumerate(others)]


def _normalizer(package: Any) -> Any:
    parts = package.normalizers
    return parts.Sequence([parts.NFC(), parts.Replace(package.Regex(r"\s+"), " "), parts.Lowercase()])


def _pre_tokenizer(package: Any) -> Any:
    parts = package.pre_tokenizers
    split = parts.Split(package.Regex(WORDS), behavior="removed", invert=True)
    return parts.Sequence([split, parts.ByteLevel(add_prefix_space=False)])


def _text(file: Path) -> str:
    """The text of a file, compressed by gzip or not."""
    with opened(file) as source:
        if source.peek(2)[:2] != b"\x1f\x8b":
            return read_text(file, most=MOST_VOCABULARY)
        try:
            with gzip.open(source) as stream:
                data = stream.read(MOST_VOCABULARY + 1)
            if len(data) > MOST_VOCABULARY:
                raise UserError(f"{file} holds more than {MOST_VOCABULARY} bytes, no vocabulary has as many")
            return data.decode()
        except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
            raise UserError(f"{file} cannot be read as a vocabulary ({why(error)}): restore it") from error


def _pairs(lines: list[str], file: Path) -> list[tuple[str, str]]:
    pairs = [tuple(line.split(" ")) for line in lines if line]
    if bad := next((pair for pair in pairs if len(pair) != 2), None):
        raise UserError(f"{file} has a line that is no merge of two tokens, {' '.join(bad)!a:.60}: restore it")
    return [(a, b) for a, b in pairs]


def _fault(vocabulary: dict[str, Any], merges: Sequence[Any]) -> str:
    """What is wrong with a vocabulary, '' for nothing."""
    if fault := numbering_fault(vocabulary):
        return fault
    alphabet = byte_characters()
    wanted = {START, END, *alphabet, *(c + WORD_END for c in alphabet)}
    if missing := wanted - vocabulary.keys():
        return f"no token {min(missing)!a}"
    known = set(alphabet)
    if wrong := [t for t in vocabulary if t not in (START, END) and not known.issuperset(t.removesuffix(WORD_END))]:
        return f"the token {wrong[0]!a:.60}, which stands for no bytes"
    return merges_fault(vocabulary, merges)


# --- texts of one length --------------------------------------------------------------------------------------


def framed(tokenizer: Tokenizer, start: int, end: int, texts: Sequence[str], window: int) -> dict[str, np.ndarray]:
    """text: i32[N, window], the start, the tokens of each cleaned text, cut so that the end fits, the end, and zeros;
    text_mask: bool[N, window], false for those zeros. start: negative for texts that are as they are, and have none."""
    text, mask = np.zeros((len(texts), window), np.int32), np.zeros((len(texts), window), bool)
    for i, words in enumerate(texts):
        tokens = [start, *tokenizer.encode(clean(words))[: window - 2], end]
        if start < 0:
            tokens = [*tokenizer.encode(words)[: window - 1], end]
        text[i, : len(tokens)], mask[i, : len(tokens)] = tokens, True
    return {"text": text, "text_mask": mask}
