"""T5's tokenizer: SentencePiece's unigram model (arXiv:1808.06226), read from Hugging Face's tokenizer.json."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.data.tokenizers import MOST_VOCABULARY, Tokenizer, bpe_package, check_utf8
from jaxgen.errors import UserError
from jaxgen.runtime.reading import parse_json, read_text

FILE = "tokenizer.json"
END, PADDING = "</s>", "<pad>"


class Unigram(Tokenizer):
    """The package `tokenizers`' unigram model. A text has no start token and ends in `</s>`; padding is token 0."""

    start = -1

    def __init__(self, definition: str, where: str = FILE):
        """definition: the contents of tokenizer.json. Raises UserError, which names `where`, for another tokenizer."""
        package = bpe_package()
        value = parse_json(definition, where)
        model = value.get("model") if isinstance(value, dict) else None
        if not isinstance(model, dict) or model.get("type") != "Unigram":
            raise UserError(f"{where} is no unigram tokenizer such as T5's: restore it")
        try:
            self.backend: Any = package.Tokenizer.from_str(definition)
        except Exception as error:  # the package raises nothing narrower
            raise UserError(f"{where} is damaged ({error}): restore it") from error
        self.backend.no_padding()
        self.backend.no_truncation()
        self.definition = definition
        end, padding = self.backend.token_to_id(END), self.backend.token_to_id(PADDING)
        if end is None or padding != 0:
            raise UserError(f"{where} has {END} as {end} and {PADDING} as {padding}: T5's ends texts, and pads with 0")
        self.end, self.size = end, self.backend.get_vocab_size()

    @classmethod
    def read(cls, place: Path) -> "Unigram":
        """Of a folder with tokenizer.json, or of a run. Raises UserError for anything else."""
        kept = place / "caption_tokenizer.json"
        if kept.exists():
            return cls.of(read_text(kept, most=2 * MOST_VOCABULARY), str(kept))
        file = place / FILE if place.is_dir() else place
        return cls(read_text(file, most=MOST_VOCABULARY), str(file))

    @classmethod
    def of(cls, definition: str, where: str = FILE) -> "Unigram":
        """Reads what `to_json` wrote."""
        match parse_json(definition, where):
            case {"kind": "unigram", "definition": str(inner)}:
                return cls(inner, where)
        raise UserError(f"{where} does not define a unigram tokenizer: restore it")

    def encode(self, text: str) -> np.ndarray:
        check_utf8(text)
        return np.array(self.backend.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, tokens: Any) -> str:
        return self.backend.decode([int(t) for t in tokens if 0 <= int(t) < self.size])

    def lengths(self) -> np.ndarray:
        # In a piece a mark stands for a space, of one byte.
        pieces = [self.backend.id_to_token(i) or "" for i in range(self.size)]
        return np.array([len(piece.replace("\u2581", " ").encode()) for piece in pieces], np.int32)

    def to_json(self) -> str:
        return json.dumps({"kind": "unigram", "definition": self.definition})
