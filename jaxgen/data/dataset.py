"""Data as a pure function of (seed, step): no iterator, so nothing of it needs saving.

The stream of examples is one permutation of the split per epoch, end to end. With N examples and batches of
B, place i of step s is position p = s * B + i of that stream: epoch p // N, offset p % N. So an epoch holds
every example exactly once, a batch may straddle two epochs, and no batch ever has another shape.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np

from jaxgen.errors import UserError, nearest

SPLITS = ("train", "test", "all")

Batch = dict[str, np.ndarray]


@runtime_checkable
class RandomAccess(Protocol):
    """Examples too large for memory, read by index."""

    nbytes: int
    """Estimated size of all of them, decoded."""

    def __len__(self) -> int: ...

    def take(self, indices: np.ndarray) -> Batch:
        """The examples at `indices` (int[B]), each array with leading axis B, in that order."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """Base of all data sets. A subclass adds its configuration as fields, hashable values only, and `load`.

    Equal data sets share one copy of the arrays: what `load` returns is cached by (data set, split).
    """

    def load(self, split: str) -> Batch | RandomAccess:
        """Read one split: `x` (uint8[N, H, W, C] or f32[N, D]) and, where labelled, `cond` (int32[N])."""
        raise NotImplementedError

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each value of `cond`; empty when unlabelled."""
        return ()

    @property
    def num_classes(self) -> int:
        """How many values `cond` can take; 0 when unlabelled."""
        return len(self.class_names)

    @property
    def modes(self) -> tuple[np.ndarray, float] | None:
        """Centres f64[K, D] and standard deviation of the mixture of Gaussians that the data is, None where it is none:
        samples are counted by it."""
        return None

    @property
    def vocab(self) -> int:
        """How many tokens the data is made of; 0 where it is not of tokens."""
        return 0

    def files(self) -> dict[str, str]:
        """What a run keeps of the data to read its own samples by, text by file name."""
        return {}

    def texts(self, raw: np.ndarray) -> list[str] | None:
        """Raw samples as text, None where they are none."""
        return None

    @property
    def frame(self) -> tuple[int, int] | None:
        """Height and width of the pictures whose pixels the examples are, where they are no more than that: held-out
        ones come picture by picture, row by row."""
        return None

    def arrays(self, split: str = "train") -> Batch | RandomAccess:
        """The loaded split, read once per process. The arrays are read-only, as everyone shares them.

        Raises:
          UserError: the split is unknown or holds no examples.
        """
        return _load(self, split)

    def count(self, split: str = "train") -> int:
        """Number of examples in the split."""
        return _size(self.arrays(split))

    def indices_at(self, seed: int, step: int, batch_size: int, split: str = "train") -> np.ndarray:
        """int32[B]: which examples make up the batch of `step`, in order.

        Raises:
          UserError: the batch is empty or larger than the split, or the seed or step is negative.
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
        # B <= N, so a batch touches two epochs at most.
        head = _permutation(seed, epoch, n)[start : start + batch_size]
        if len(head) == batch_size:
            return head.copy()
        return np.concatenate([head, _permutation(seed, epoch + 1, n)[: batch_size - len(head)]])

    def batch_at(self, seed: int, step: int, batch_size: int, split: str = "train") -> Batch:
        """The batch of `step`, leading axis B: a pure function, the same on any machine and in any order."""
        return take(self.arrays(split), self.indices_at(seed, step, batch_size, split))

    def padded_batches(
        self, batch_size: int, split: str = "test", limit: int | None = None
    ) -> Iterator[tuple[Batch, np.ndarray]]:
        """The first `limit` examples (all by default) once each, in order, as (batch, mask: bool[B]).

        The last batch is filled up with copies of the last example, mask False, so that all have one shape
        and a compiled function sees one program.
        """
        if batch_size < 1 or (limit is not None and limit < 1):
            raise UserError(f"batch_size is {batch_size} and limit is {limit}: both must be 1 or more")
        data = self.arrays(split)
        n = _size(data) if limit is None else min(limit, _size(data))
        for start in range(0, n, batch_size):
            indices = np.arange(start, start + batch_size)
            yield take(data, np.minimum(indices, n - 1)), indices < n


def check_split(split: str) -> None:
    if split not in SPLITS:
        raise UserError(f"split is {split!r}{nearest(split, SPLITS)}: choose one of {', '.join(SPLITS)}")


def take(data: Batch | RandomAccess, indices: np.ndarray) -> Batch:
    """The examples at `indices`, of arrays or of a RandomAccess."""
    if isinstance(data, dict):
        return {name: array[indices] for name, array in data.items()}
    return data.take(indices)


def _size(data: Batch | RandomAccess) -> int:
    return len(data["x"]) if isinstance(data, dict) else len(data)


# Few entries: an experiment holds one or two data sets of three splits, and each entry may be gigabytes.
@functools.lru_cache(maxsize=8)
def _load(dataset: Dataset, split: str) -> Batch | RandomAccess:
    check_split(split)
    data = dataset.load(split)
    if _size(data) == 0:
        raise UserError(f"split {split!r} of {dataset} has 0 examples, 1 or more are needed: change it")
    if isinstance(data, dict):
        for array in data.values():
            array.flags.writeable = False
    return data


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    # SeedSequence hashes the pair, so neighbouring seeds and epochs share no stream, as a sum of the two
    # would.
    order = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch]))).permutation(n)
    order = order.astype(np.int32)
    order.flags.writeable = False
    return order
