"""How batches reach the device: gathered there if the data fits, else read ahead by threads on the host."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np

from jaxgen.core.types import RawBatch
from jaxgen.data.dataset import Dataset, take
from jaxgen.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """Which batches a training loop takes: those of the steps from `start` to `stop`, `steps_per_call` at a time."""

    seed: int
    """Of the order of examples."""
    batch_size: int
    steps_per_call: int = 1
    """K: steps in one call of the compiled function."""
    start: int = 0
    stop: int

    @property
    def first_steps(self) -> range:
        """The first step of each call."""
        return range(self.start, self.stop, self.steps_per_call)

    def check(self) -> None:
        """Raises UserError unless `stop - start` is a multiple of K: a shorter last call would recompile."""
        start, stop, per_call = self.start, self.stop, self.steps_per_call
        if per_call < 1 or start < 0 or stop < start or (stop - start) % per_call:
            raise UserError(
                f"steps {start} to {stop} do not split into calls of {per_call}:"
                f" steps_per_call must be 1 or more and divide {stop - start}"
            )


def feed(
    dataset: Dataset,
    plan: BatchPlan,
    budget: int = 1 << 30,
    rows: np.ndarray | None = None,
    beside: Sequence[BatchPlan] = (),
) -> tuple[Mapping[str, jax.Array | np.ndarray] | None, Iterator[np.ndarray] | Iterator[RawBatch]]:
    """The training data that the steps of `plan` need, as (data, iterator over calls).

    If the training arrays take at most `budget` bytes, `data` holds them on the device, and the iterator yields the
    indices to gather there, int32[K, B]. Otherwise `data` is None and the iterator yields raw batches with arrays
    [K, B, ...]. In both cases step s gets the examples of `dataset.batch_at(plan.seed, s, plan.batch_size)`, and these
    arrays exactly unless clips are padded: those of one call are padded to the longest of all of them.

    rows: if given, only these rows of each batch are read, and `data` stays on the host for the caller to lay out.
    beside: plans of runs that are trained at once: clips that are padded are padded to the longest of all of them.

    Raises:
      UserError: the steps do not split into calls, or the batch does not fit the data.
    """
    plan.check()
    # Raises the errors about sizes before any data is moved.
    dataset.indices_at(plan.seed, plan.start, plan.batch_size)
    arrays = dataset.arrays("train")
    if isinstance(arrays, Mapping) and sum(a.nbytes for a in arrays.values()) <= budget:
        indices = map(functools.partial(_indices, dataset, plan, rows), plan.first_steps)
        return jax.device_put(arrays) if rows is None else arrays, indices
    return None, _prefetched(dataset, plan, rows, beside)


def _indices(dataset: Dataset, plan: BatchPlan, rows: np.ndarray | None, first: int) -> np.ndarray:
    """int32[K, B], or int32[K, len(rows)]: the examples of the call that begins at step `first`."""
    steps = range(first, first + plan.steps_per_call)
    indices = np.stack([dataset.indices_at(plan.seed, step, plan.batch_size) for step in steps])
    return indices if rows is None else indices[:, rows]


def _prefetched(
    dataset: Dataset, plan: BatchPlan, rows: np.ndarray | None, beside: Sequence[BatchPlan]
) -> Iterator[RawBatch]:
    import grain  # imported here, as it takes a second and resident data does not need it

    arrays = dataset.arrays("train")

    def stacked(first: int) -> RawBatch:
        whole = _indices(dataset, plan, None, first)
        indices = whole if rows is None else whole[:, rows]
        # All steps of the call at once: files are read forwards once, and nothing is copied to be stacked.
        among = [one.reshape(-1) for one in (whole, *(_indices(dataset, other, None, first) for other in beside))]
        batch = take(arrays, indices.reshape(-1), np.concatenate(among))
        return {name: array.reshape(*indices.shape, *array.shape[1:]) for name, array in batch.items()}

    # grain only prefetches; `batch_at` alone decides on examples and order. Each call is read by one thread. A few
    # threads suffice, and more would hold more whole calls in memory.
    first_steps = plan.first_steps
    calls = grain.MapDataset.range(first_steps.start, first_steps.stop, first_steps.step).map(stacked)
    return iter(calls.to_iter_dataset(grain.ReadOptions(num_threads=4, prefetch_buffer_size=4)))
