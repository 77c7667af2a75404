"""Data as a pure function of (seed, step): there is no iterator, so no iterator state to save.

The stream of examples concatenates one permutation of the split per epoch. With N examples and batches of B, row i of
the batch of step s is position p = s * B + i of that stream: epoch p // N, offset p % N. So every epoch holds each
example exactly once, a batch may span two epochs, and all batches have the same shape.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from jaxgen.core.codec import Codec
from jaxgen.core.types import RawBatch
from jaxgen.errors import UserError, nearest

SPLITS = ("train", "test", "all")


@runtime_checkable
class RandomAccess(Protocol):
    """Examples that do not fit in memory and are read by index."""

    nbytes: int
    """Estimated size of all examples, decoded."""

    def __len__(self) -> int: ...

    def take(self, indices: np.ndarray) -> RawBatch:
        """The examples at `indices`, int[B], in that order."""
        ...


@runtime_checkable
class Padded(RandomAccess, Protocol):
    """Examples of different lengths, which are padded together."""

    def take_among(self, indices: np.ndarray, whole: np.ndarray) -> RawBatch:
        """The examples at `indices`, padded as those at `whole`: a part of a batch has the shape of all of it."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """Base of all data sets. A subclass adds its configuration, as fields with hashable values, and `load`.

    Equal data sets share one copy of the arrays: the result of `load` is cached by (data set, split).
    """

    def load(self, split: str) -> RawBatch | RandomAccess:
        """Read one split: `x` (uint8[N, H, W, C] or f32[N, D]) and, where labelled, `cond` (int32[N])."""
        raise NotImplementedError

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each value of `cond`, empty without labels."""
        return ()

    @property
    def num_classes(self) -> int:
        """The number of values that `cond` can take, 0 without labels."""
        return len(self.class_names)

    @property
    def modes(self) -> tuple[np.ndarray, float] | None:
        """If the data is a mixture of Gaussians: its centres f64[K, D] and standard deviation, for mode coverage."""
        return None

    @property
    def vocab(self) -> int:
        """The size of the vocabulary, 0 if the data is not tokens."""
        return 0

    @property
    def end_token(self) -> int:
        """The token that ends each caption, -1 for none."""
        return -1

    def files_to_keep(self) -> dict[str, str]:
        """Files that a run stores in order to decode its samples later: contents by file name."""
        return {}

    def texts(self, raw: np.ndarray) -> list[str] | None:
        """Raw samples as text, None if they are not text."""
        return None

    def augmented(self, codec: Codec) -> Codec:
        """The codec that training encodes batches by, where pictures are changed at random first."""
        return codec

    def captions(self, split: str = "train") -> tuple[str, ...]:
        """A caption for each example, in example order. Raises UserError for data without captions."""
        raise UserError(f"{type(self).__name__} has no captions: choose data that has, as ImageFolder or Emoji")

    @property
    def hashed(self) -> "Dataset":
        """The data that tell whether a run's are still what it began with: itself, but where examples are computed,
        which rounding makes others on another machine."""
        return self

    @property
    def pictured(self) -> bool:
        """Whether x is what samples are to look like, rather than a stand-in where nothing is known of that."""
        return True

    def shown(self, samples: np.ndarray) -> np.ndarray:
        """Raw samples as a picture is to show them: as they are, if they are pictures or points."""
        return samples

    @property
    def picture_size(self) -> tuple[int, int] | None:
        """If each example is one pixel: height and width of the pictures they come from, else None.

        The examples of a held-out split are ordered picture by picture and row by row.
        """
        return None

    def arrays(self, split: str = "train") -> RawBatch | RandomAccess:
        """The split, read once per process. The arrays are read-only because all callers share them.

        Raises:
          UserError: the split is unknown or holds no examples.
        """
        return _load(self, split)

    def count(self, split: str = "train") -> int:
        """The number of examples in the split."""
        return _size(self.arrays(split))

    def indices_at(self, seed: int, step: int, batch_size: int, split: str = "train") -> np.ndarray:
        """int32[B]: the indices of the examples in the batch of `step`.

        Raises:
          UserError: the batch is empty or larger than the split, or the seed or the step is negative.
        """
        n = self.count(split)
        if not 1 <= batch_size <= n:
            raise UserError(
                f"batch_size is {batch_size}, but split {split!r} of {type(self).__name__} has {n} examples:"
                f" choose a batch_size from 1 to {n}"
            )
        if step < 0 or seed < 0:
            raise UserError(f"seed is {seed} and step is {step}: both must be 0 or more")
        epoch, start = divmod(step * batch_size, n)
        # B <= N, so a batch spans at most two epochs.
        head = _permutation(seed, epoch, n)[start : start + batch_size]
        if len(head) == batch_size:
            return head.copy()
        return np.concatenate([head, _permutation(seed, epoch + 1, n)[: batch_size - len(head)]])

    def batch_at(self, seed: int, step: int, batch_size: int, split: str = "train") -> RawBatch:
        """The batch of `step`: a pure function, so the same on any machine and in any order of calls."""
        return take(self.arrays(split), self.indices_at(seed, step, batch_size, split))

    def padded_batches(
        self, batch_size: int, split: str = "test", limit: int | None = None
    ) -> Iterator[tuple[RawBatch, np.ndarray]]:
        """The first `limit` examples (all by default), once each and in order, as (batch, mask: bool[B]).

        The last batch is padded with copies of the last example, where mask is False. All batches thus have one shape,
        and a function of them is compiled once.

        Raises:
          UserError: `batch_size` or `limit` is below 1.
        """
        if batch_size < 1 or (limit is not None and limit < 1):
            raise UserError(f"batch_size is {batch_size} and limit is {limit}: both must be 1 or more")
        data = self.arrays(split)
        n = _size(data) if limit is None else min(limit, _size(data))
        for start in range(0, n, batch_size):
            indices = np.arange(start, start + batch_size)
            yield take(data, np.minimum(indices, n - 1)), indices < n


def in_tenth(name: str) -> bool:
    """Whether an example of this name is of the tenth that is held out: by its hash, whatever other examples there
    are."""
    return _place(name) % 10 == 0


def held_out_tenth(names: Iterable[str]) -> set[str]:
    """The names that are held out: those `in_tenth`, or of few names without any, the one of the smallest hash."""
    names = set(names)
    return {name for name in names if in_tenth(name)} or {min(names, key=_place)}


def _place(name: str) -> int:
    # File names may hold bytes that are not UTF-8.
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big")


def check_split(split: str) -> None:
    """Raises UserError for an unknown split."""
    if split not in SPLITS:
        raise UserError(f"split is {split!r}{nearest(split, SPLITS)}: choose one of {', '.join(SPLITS)}")


def take(data: RawBatch | RandomAccess, indices: np.ndarray, whole: np.ndarray | None = None) -> RawBatch:
    """The examples at `indices` of a loaded split, which may be a part of those at `whole`."""
    if isinstance(data, Mapping):
        return {name: array[indices] for name, array in data.items()}
    if whole is not None and isinstance(data, Padded):
        return data.take_among(indices, whole)
    return data.take(indices)


def _size(data: RawBatch | RandomAccess) -> int:
    return len(data["x"]) if isinstance(data, Mapping) else len(data)


# Few entries: an experiment has one or two data sets of up to three splits, and an entry may take gigabytes.
@functools.lru_cache(maxsize=8)
def _load(dataset: Dataset, split: str) -> RawBatch | RandomAccess:
    check_split(split)
    data = dataset.load(split)
    if _size(data) == 0:
        raise UserError(f"split {split!r} of {dataset} has 0 examples: choose another split or other settings")
    if isinstance(data, Mapping):
        for array in data.values():
            array.flags.writeable = False
    return data


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    # SeedSequence hashes the pair. With seed + epoch, a seed would repeat the orders of its neighbours.
    order = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch]))).permutation(n)
    order = order.astype(np.int32)
    order.flags.writeable = False
    return order
