"""Captioned pictures with CLIP's embeddings of both, for a prior (`models.clip_prior`) and its decoder.

A trained CLIP embeds all pictures and captions once, as the data is read. Embeddings are unit vectors times sqrt(D), so
that their coordinates have about unit variance. A run remembers which weights made them (RUN/embedder.json): prompts
are embedded by these, or it is said that they are gone.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxgen.core.ranges import CheckpointStep, OptionalSize, PathName
from jaxgen.core.types import RawBatch
from jaxgen.data import Captioned, Dataset, area_resize
from jaxgen.data.tokenizers import Bytes, Tokenizer
from jaxgen.errors import UserError
from jaxgen.inference.prompts import caption_tokenizer, check_clip, embed_images, embed_texts
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import Trained, restore
from jaxgen.runtime.reading import read_json, user_path

FILE = "embedder.json"
"""Of a run: which weights embedded what it was trained on."""
TEXTS = 256
"""Embedded at a time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedded(Captioned):
    """The examples of `data`, with `text_embedding`, f32[N, D], of each caption, beside its tokens. Either x is the
    embedding of the picture, f32[N, D], or x is the picture and `embedding` is that.

    Raises:
      UserError: on use, if `clip` is no run of a CLIP, reads captions in another way, or sees pictures of other
        channels.
    """

    clip: PathName = ""
    """Run of a CLIP, whose tokenizer captions are read by."""
    clip_step: CheckpointStep = -1
    """Its checkpoint; the newest when negative."""
    form: Literal["embeddings", "pictures"] = "embeddings"
    """What x is."""
    size: OptionalSize = 0
    """Height and width of x, if it is a picture: means over squares of what CLIP sees. 0 leaves it as it is."""

    def problem(self) -> str | None:
        if self.shift or self.prior:
            return "shift and prior change pictures after they are embedded: leave both out"
        return super().problem()

    # --- the data ---

    def load(self, split: str) -> RawBatch:
        clip, arrays, captions = self._embedder, self.data.arrays(split), self.data.captions(split)
        if not isinstance(arrays, Mapping):
            raise UserError(f"{type(self.data).__name__} is read by index: embeddings are of data that fits in memory")
        x = arrays["x"]
        pictures = scaled(embed_images(clip, x))
        texts, which = np.unique(captions, return_inverse=True)
        parts = [np.resize(texts[first : first + TEXTS], TEXTS) for first in range(0, len(texts), TEXTS)]
        vectors = np.concatenate([embed_texts(clip, [str(text) for text in part]) for part in parts])
        said = {**self.tokens(captions), "text_embedding": scaled(vectors)[which]}
        labels = {"cond": arrays["cond"]} if "cond" in arrays else {}
        if self.form == "embeddings":
            return {"x": pictures, **labels, **said}
        return {"x": self._shrunk(x), "embedding": pictures, **labels, **said}

    def _shrunk(self, x: np.ndarray) -> np.ndarray:
        """Pictures uint8[N, size, size, C]."""
        if self.size in (0, x.shape[1]):
            return x
        if x.shape[1] != x.shape[2] or self.size > x.shape[1]:
            raise UserError(f"size is {self.size}, pictures are {x.shape[1]} x {x.shape[2]}: give a side below theirs")
        return np.rint(area_resize(x.astype(np.float32), self.size)).astype(np.uint8)

    @property
    def hashed(self) -> Dataset:
        """The pictures: embeddings differ by rounding from machine to machine, and their weights are kept as a hash."""
        return self.data

    def shown(self, samples: np.ndarray) -> np.ndarray:
        """Of embeddings f32[N, D] the pictures, uint8[N, H, W, C], whose own are nearest; other samples as they are."""
        if self.form != "embeddings" or samples.ndim != 2:
            return samples
        known = self.arrays("all")["x"]  # pyright: ignore[reportIndexIssue]: `load` gives arrays
        found = np.argmax(samples @ known.T, axis=1)
        return self.data.arrays("all")["x"][found]  # pyright: ignore[reportIndexIssue]

    # --- the CLIP ---

    @property
    def _embedder(self) -> Trained:
        return self._checked(read_embedder(self.clip, self.clip_step))

    def _checked(self, clip: Trained) -> Trained:
        """Raises UserError for a CLIP that reads captions in another way."""
        other: Any = clip.experiment.data
        if other.tokenizer != self.tokenizer:
            raise UserError(
                f"{clip.name} reads captions as {other.tokenizer}, tokenizer is {self.tokenizer}: pass "
                f"--data.tokenizer {other.tokenizer}"
            )
        return clip

    @property
    def caption_tokenizer(self) -> tuple[Tokenizer, int, int]:
        return caption_tokenizer(self._embedder)

    @property
    def vocab(self) -> int:
        tokenizer, _, end = self.caption_tokenizer
        return end + 1 if isinstance(tokenizer, Bytes) else tokenizer.size

    def files_to_keep(self) -> dict[str, str]:
        clip = self._embedder
        record = {"run": clip.name, "step": clip.step, "weights": clip.weights}
        return {**super().files_to_keep(), FILE: json.dumps(record, indent=2) + "\n"}

    def embedder(self, folder: Path | None) -> str:
        """The hash of the weights that embedded the data of the run in `folder`."""
        kept = _record(folder)
        return kept["weights"] if kept else self._embedder.weights

    def beside(self, texts: Sequence[str], folder: Path | None) -> dict[str, np.ndarray]:
        """`text_embedding` f32[N, D], by the weights that the run in `folder` began with."""
        kept = _record(folder)
        clip = self._checked(read_embedder(self.clip, kept["step"] if kept else self.clip_step))
        if kept and clip.weights != kept["weights"]:
            raise UserError(
                f"{self.clip} has other weights at step {clip.step} than when {folder} began ({clip.weights}, not "
                f"{kept['weights']}): bring those back, or train anew"
            )
        return {"text_embedding": scaled(embed_texts(clip, texts))}


def _record(folder: Path | None) -> dict[str, Any] | None:
    """What a run remembers of its CLIP; None of a run without a folder."""
    return read_json(folder / FILE) if folder and (folder / FILE).exists() else None


def scaled(vectors: np.ndarray) -> np.ndarray:
    """Unit vectors f32[N, D] at norm sqrt(D)."""
    return (vectors * np.sqrt(vectors.shape[-1])).astype(np.float32)


def read_embedder(clip: str, step: int = -1) -> Trained:
    """The run of a CLIP at a step, the newest when negative. Raises UserError where there is none."""
    kept = RunFolder(user_path(clip)).checkpoints
    return _embedder(clip, step, kept.stat().st_mtime_ns if kept.is_dir() else 0)


@functools.lru_cache(maxsize=4)
def _embedder(clip: str, step: int, written: int) -> Trained:
    run = RunFolder(user_path(clip))
    if not clip or not (run.path / "experiment.json").exists():
        named = re.fullmatch(r"clip-(\w+)-(\d+)", run.path.name)
        how = "python experiments/clip.py {} --seed {}".format(*named.groups()) if named else "experiments/clip.py"
        raise UserError(f"data.clip is {clip!r}, no run folder: train it before ({how}), or name another: --data.clip")
    trained = restore(run, step=None if step < 0 else step)
    check_clip(trained)
    return trained
