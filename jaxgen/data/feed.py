"""How batches reach the device: gathered there when the data fits, prefetched in threads when it does not."""

import functools
from collections.abc import Iterator

import jax
import numpy as np

from jaxgen.data.dataset import Batch, Dataset, take
from jaxgen.errors import UserError


def feed(
    dataset: Dataset,
    seed: int,
    batch_size: int,
    steps_per_call: int,
    start: int,
    stop: int,
    budget: int = 1 << 30,
    rows: np.ndarray | None = None,
) -> tuple[dict[str, jax.Array] | None, Iterator[np.ndarray] | Iterator[Batch]]:
    """What a loop needs for the steps from `start` to `stop`, K = steps_per_call at a time.

    Returns:
      (data, iterator). When the training arrays take at most `budget` bytes, `data` holds them on the device
      and the iterator yields int32[K, B] indices to gather there; else `data` is None and it yields raw
      batches with arrays [K, B, ...]. Either way step s gets exactly `dataset.batch_at(seed, s, batch_size)`.
      With `rows`, only those places of each batch are read, and `data` stays on the host: the caller lays it out.

    Raises:
      UserError: stop - start is not a multiple of K (a shorter last call would compile a second program), or
        the batch does not fit the data.
    """
    if steps_per_call < 1 or start < 0 or stop < start or (stop - start) % steps_per_call:
        raise UserError(
            f"steps {start} to {stop} do not split into calls of {steps_per_call}:"
            f" steps_per_call must be 1 or more and divide {stop - start}"
        )
    dataset.indices_at(seed, start, batch_size)  # the error about sizes comes before anything is moved
    arrays = dataset.arrays("train")
    firsts = range(start, stop, steps_per_call)
    if isinstance(arrays, dict) and sum(a.nbytes for a in arrays.values()) <= budget:
        indices = functools.partial(_indices, dataset, seed, batch_size, steps_per_call, rows)
        return jax.device_put(arrays) if rows is None else arrays, map(indices, firsts)
    return None, _prefetched(dataset, seed, batch_size, steps_per_call, rows, firsts)


def _indices(
    dataset: Dataset, seed: int, batch_size: int, steps_per_call: int, rows: np.ndarray | None, first: int
) -> np.ndarray:
    steps = range(first, first + steps_per_call)
    indices = np.stack([dataset.indices_at(seed, step, batch_size) for step in steps])
    return indices if rows is None else indices[:, rows]


def _prefetched(
    dataset: Dataset, seed: int, batch_size: int, steps_per_call: int, rows: np.ndarray | None, firsts: range
) -> Iterator[Batch]:
    import grain  # here, as it takes a second to import and resident data never needs it

    arrays = dataset.arrays("train")

    def stacked(first: int) -> Batch:
        batches = [take(arrays, i) for i in _indices(dataset, seed, batch_size, steps_per_call, rows, first)]
        return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}

    # grain is the prefetcher only: which examples, in which order, is batch_at's matter alone. One call's
    # batches are read by one thread; a few threads suffice, as each holds a whole stack in memory.
    calls = grain.MapDataset.range(firsts.start, firsts.stop, firsts.step).map(stacked)
    return iter(calls.to_iter_dataset(grain.ReadOptions(num_threads=4, prefetch_buffer_size=4)))
