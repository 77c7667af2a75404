"""Pictures with their captions as tokens, of any data set that has captions."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Le, Lt

from jaxgen.codecs import Augmented
from jaxgen.core.codec import Codec
from jaxgen.core.ranges import PathName, Vocabulary
from jaxgen.core.types import RawBatch
from jaxgen.data.clip_tokenizer import ClipBPE, framed
from jaxgen.data.dataset import Dataset, RandomAccess
from jaxgen.data.embedded import Emoji
from jaxgen.data.image_folder import ImageFolder
from jaxgen.data.prior import WithPrior
from jaxgen.data.t5_tokenizer import Unigram
from jaxgen.data.tokenizers import Bytes, Tokenizer
from jaxgen.errors import UserError
from jaxgen.runtime.reading import user_path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Captioned(Dataset):
    """The examples of `data`, with text: int32[N, window], the tokens of each caption from a start to an end token and
    zeros after it, and text_mask: bool[N, window], false for these.

    Raises:
      UserError: on use, if the data has no captions, or the vocabulary is not CLIP's.
    """

    data: Dataset = dataclasses.field(default_factory=Emoji)
    tokenizer: Literal["bpe", "bytes", "t5"] = "bpe"
    """bpe: CLIP's, learnt from the captions of the train split. bytes: of UTF-8, with a start and an end token. t5:
    that of `vocabulary`, as T5 has it."""
    vocab_size: Vocabulary = 1024
    """With bpe: tokens to learn at most."""
    vocabulary: PathName = ""
    """With bpe: the folder of CLIP's vocab.json and merges.txt, or its bpe_simple_vocab_16e6.txt.gz, to use instead.
    With t5: the folder of T5's tokenizer.json. Or a run, whose tokens are used."""
    window: Annotated[int, Ge(3), Le(65_536)] = 32
    """Tokens of a text, start and end among them; longer ones are cut before the end."""
    template: str = "{}"
    """What is said of a class, as "a photo of a {}", where {} stands for its name."""

    shift: Annotated[int, Ge(0), Le(1_024)] = 0
    """Training moves each picture by up to so many pixels along each axis; edges are reflected."""

    prior: PathName = ""
    """A folder of captioned pictures that training sees beside the data's, as `jaxgen sample BASE --prompt ... --files`
    draws them: the model then keeps what it knows of these captions, arXiv:2208.12242."""
    prior_share: Annotated[float, Gt(0), Lt(1)] = 0.5
    """Of `prior` in what training sees."""

    def problem(self) -> str | None:
        if self.template.count("{}") != 1:
            return f"template is {self.template!r}: one {{}} is expected, for the name of a class"
        if self.tokenizer == "t5" and not self.vocabulary:
            return "tokenizer is t5, but vocabulary is empty: name the folder of T5's tokenizer.json"
        return None

    def load(self, split: str) -> RawBatch | RandomAccess:
        self._check_classes()
        if self.prior and split == "train":
            return self._with_prior()
        text = self.tokens(self.data.captions(split))  # first, as it takes less time to fail than pictures to decode
        arrays = self.data.arrays(split)
        return {**arrays, **text} if isinstance(arrays, Mapping) else _WithText(arrays, text)

    def _with_prior(self) -> "_WithText":
        height, width, channels = self.data.batch_at(0, 0, 1)["x"].shape[1:]
        if height != width:
            raise UserError(f"pictures are {height} x {width}: those of a prior are square")
        prior = ImageFolder(folder=self.prior, size=height, channels=3 if channels == 3 else 1, label="none")
        both = WithPrior(self.data, prior, self.prior_share)
        return _WithText(both, self.tokens(both.captions))

    def tokens(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """`text` and `text_mask` of these texts."""
        tokenizer, start, end = self.caption_tokenizer
        return framed(tokenizer, start, end, texts, self.window)

    def beside(self, texts: Sequence[str], folder: Path | None) -> dict[str, np.ndarray]:
        """What a model is told of texts beside their tokens, by name, as a run in `folder` has it. Nothing, here."""
        return {}

    def class_tokens(self) -> dict[str, np.ndarray]:
        """`text` and `text_mask` of what is said of each class."""
        return self.tokens([self.template.replace("{}", name) for name in self.class_names])

    def _check_classes(self) -> None:
        """Raises UserError where what is said of classes differs only beyond the window."""
        seen: dict[bytes, str] = {}
        if not self.class_names:
            return
        said = self.class_tokens()
        for name, tokens, mask in zip(self.class_names, said["text"], said["text_mask"]):
            other = seen.setdefault(tokens.tobytes(), name)
            if other != name and mask.all():
                raise UserError(
                    f"the classes {other!r} and {name!r} have the same first {self.window} tokens in the template"
                    f" {self.template!r}: pass a larger --data.window, or shorten --data.template"
                )

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.data.class_names

    @property
    def vocab(self) -> int:
        return self.caption_tokenizer[2] + 1 if self.tokenizer == "bytes" else self.caption_tokenizer[0].size

    @property
    def end_token(self) -> int:
        return self.caption_tokenizer[2]

    def files_to_keep(self) -> dict[str, str]:
        return {**self.data.files_to_keep(), "caption_tokenizer.json": self.caption_tokenizer[0].to_json()}

    def augmented(self, codec: Codec) -> Codec:
        codec = self.data.augmented(codec)
        return Augmented(codec, False, self.shift) if self.shift else codec

    def captions(self, split: str = "train") -> tuple[str, ...]:
        loaded = self.arrays(split) if self.prior and split == "train" else None
        both = loaded.data if isinstance(loaded, _WithText) else None
        return both.captions if isinstance(both, WithPrior) else self.data.captions(split)

    @property
    def caption_tokenizer(self) -> tuple[Tokenizer, int, int]:
        """The tokenizer, and the tokens that start (negative for none) and end a text."""
        if self.tokenizer == "bytes":
            return Bytes(), 256, 257
        if self.tokenizer == "t5":
            found = _read_t5(self.vocabulary)
            return found, found.start, found.end
        found = _read(self.vocabulary) if self.vocabulary else _trained(self.data.captions("train"), self.vocab_size)
        return found, found.start, found.end


@functools.lru_cache(maxsize=4)
def _read(place: str) -> ClipBPE:
    return ClipBPE.read(user_path(place))


@functools.lru_cache(maxsize=4)
def _read_t5(place: str) -> Unigram:
    return Unigram.read(user_path(place))


@functools.lru_cache(maxsize=4)
def _trained(captions: tuple[str, ...], size: int) -> ClipBPE:
    if not any(map(str.strip, captions)):
        raise UserError("the captions of the data are empty: there is nothing to learn a vocabulary from")
    return ClipBPE.train(captions, size)


class _WithText:
    """RandomAccess to examples and their text."""

    def __init__(self, data: RandomAccess, text: dict[str, np.ndarray]):
        self.data, self.text = data, text
        self.nbytes = data.nbytes + sum(array.nbytes for array in text.values())

    def __len__(self) -> int:
        return len(self.data)

    def take(self, indices: np.ndarray) -> RawBatch:
        return {**self.data.take(indices), **{name: array[indices] for name, array in self.text.items()}}
