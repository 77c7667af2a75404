"""Batches: every epoch holds each example once, batches are pure, and all ways to read them agree."""

import dataclasses

import numpy as np
import pytest
from messages import one_line

from jaxgen import data
from jaxgen.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counter(data.Dataset):
    """x[i] = i, so a batch shows which examples it holds."""

    num: int

    def load(self, split):
        return {
            "x": np.arange(self.num, dtype=np.float32)[:, None],
            "cond": np.arange(self.num, dtype=np.int32),
        }


class Squares:
    """RandomAccess with nothing in memory."""

    nbytes = 1 << 40

    def __len__(self):
        return 23

    def take(self, indices):
        return {"x": (np.asarray(indices, np.float32) ** 2)[:, None]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Disk(data.Dataset):
    def load(self, split):
        return Squares()


# --- the stream of examples ---


@pytest.mark.parametrize(("num", "batch_size"), [(10, 3), (10, 10), (7, 5), (1, 1), (12, 4), (101, 64)])
def test_each_epoch_holds_each_example_once(num, batch_size):
    d, epochs = Counter(num=num), 5
    steps = -(-epochs * num // batch_size)
    batches = [d.indices_at(3, step, batch_size) for step in range(steps)]
    assert all(b.shape == (batch_size,) and b.dtype == np.int32 for b in batches)
    stream = np.concatenate(batches)[: epochs * num].reshape(epochs, num)
    np.testing.assert_array_equal(np.sort(stream, axis=1), np.tile(np.arange(num), (epochs, 1)))


def test_stream_does_not_depend_on_the_batch_size():
    d = Counter(num=10)
    by_three = np.concatenate([d.indices_at(0, step, 3) for step in range(20)])
    by_four = np.concatenate([d.indices_at(0, step, 4) for step in range(15)])
    np.testing.assert_array_equal(by_three, by_four)


def test_batch_is_pure_and_differs_by_seed_and_epoch():
    d = Counter(num=50)
    forward = [d.batch_at(7, step, 8)["cond"] for step in range(20)]
    for step in reversed(range(20)):
        np.testing.assert_array_equal(Counter(num=50).batch_at(7, step, 8)["cond"], forward[step])
    orders = [tuple(d.indices_at(seed, epoch, 50)) for seed in range(4) for epoch in range(4)]
    assert len(set(orders)) == len(orders)


def test_a_returned_batch_cannot_spoil_the_next():
    d = Counter(num=10)
    d.indices_at(0, 0, 10)[:] = 0
    d.batch_at(0, 0, 10)["x"][:] = -1
    assert sorted(d.batch_at(0, 0, 10)["cond"]) == list(range(10))
    with pytest.raises(ValueError, match="read-only"):
        d.arrays()["x"][0] = 1


@pytest.mark.parametrize("batch_size", [0, -1, 11])
def test_batch_size_out_of_range(batch_size):
    with pytest.raises(UserError, match=f"batch_size is {batch_size}.*10 examples.*1 to 10") as e:
        Counter(num=10).batch_at(0, 0, batch_size)
    one_line(e)


def test_bad_arguments_are_one_line_errors():
    with pytest.raises(UserError, match="0 examples"):
        Counter(num=0).count()
    with pytest.raises(UserError, match=r"did you mean train\?"):
        Counter(num=3).count("trian")
    with pytest.raises(UserError, match="step is -1"):
        Counter(num=3).indices_at(0, -1, 2)


@pytest.mark.parametrize(("batch_size", "limit", "expected"), [(4, None, 10), (5, None, 10), (4, 6, 6), (3, 99, 10)])
def test_padded_batches(batch_size, limit, expected):
    seen, pairs = [], list(Counter(num=10).padded_batches(batch_size, limit=limit))
    for batch, mask in pairs:
        assert batch["x"].shape == (batch_size, 1) and mask.shape == (batch_size,) and mask.dtype == bool
        seen += batch["cond"][mask].tolist()
        assert (batch["cond"][~mask] == expected - 1).all()
    assert seen == list(range(expected)) and all(mask.all() for _, mask in pairs[:-1])


# --- feed ---


def test_streamed_equals_resident():
    d = Counter(num=10)
    plan = data.BatchPlan(seed=5, batch_size=4, steps_per_call=3, start=6, stop=30)
    resident, indices = data.feed(d, plan)
    nothing, stacks = data.feed(d, plan, budget=10)
    assert nothing is None
    calls = 0
    for call, (index, stack) in enumerate(zip(indices, stacks, strict=True)):
        assert index.shape == (3, 4) and index.dtype == np.int32 and stack["x"].shape == (3, 4, 1)
        for name in ("x", "cond"):
            np.testing.assert_array_equal(np.asarray(resident[name])[index], stack[name])
        np.testing.assert_array_equal(stack["cond"][1], d.batch_at(5, 6 + 3 * call + 1, 4)["cond"])
        calls += 1
    assert calls == 8


def test_random_access_is_streamed():
    nothing, stacks = data.feed(Disk(), data.BatchPlan(seed=1, batch_size=5, steps_per_call=2, stop=10))
    assert nothing is None
    got = np.concatenate([stack["x"] for stack in stacks])
    np.testing.assert_array_equal(got, np.stack([Disk().batch_at(1, step, 5)["x"] for step in range(10)]))
    assert Disk().count() == 23


def test_feed_errors():
    with pytest.raises(UserError, match="do not split into calls of 3"):
        data.feed(Counter(num=10), data.BatchPlan(seed=0, batch_size=4, steps_per_call=3, stop=10))
    with pytest.raises(UserError, match="batch_size is 11"):
        data.feed(Counter(num=10), data.BatchPlan(seed=0, batch_size=11, stop=1))
