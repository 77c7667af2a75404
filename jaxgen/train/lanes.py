"""Small runs trained at once in one program, each in a folder of its own: lanes that differ in their seeds, and in
numbers of the model that the program takes as arrays.

Each lane's folder is an ordinary run folder, so that it can be sampled from, evaluated and gone on with alone.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen.core import compiled
from jaxgen.core.codec import Codec
from jaxgen.core.configuration import field_at
from jaxgen.core.keys import TRAIN, run_key
from jaxgen.core.model import GenerativeModel
from jaxgen.core.types import TrainState
from jaxgen.data.feed import BatchPlan, feed
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.inference.held_out import evaluation, held_out_numbers
from jaxgen.inference.pictures import save_pictures
from jaxgen.optim import Adam, with_optimizers
from jaxgen.report import write_report
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.environment import environment_line
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.initial import begin, check_init
from jaxgen.runs.lock import locked
from jaxgen.runs.log import Clock, Delayed, Log, NonFinite, means
from jaxgen.runs.restore import Trained, loaded_codec, prepare_run, run_facts
from jaxgen.runs.snapshots import Snapshots
from jaxgen.runtime.interrupt import Interrupt
from jaxgen.runtime.progress import Silent, progress, say
from jaxgen.runtime.reading import read_json
from jaxgen.train.best import best_score
from jaxgen.train.encoding import encoded_once
from jaxgen.train.loop import roll_back

PyTree = Any


@dataclass(frozen=True, eq=False)
class Used(Trained):
    """What a lane has learnt. Its optimizers, which no use depends on, are default ones, so that lanes that differ in
    them alone share the programs that evaluate and sample."""

    @cached_property
    def model(self) -> GenerativeModel:
        return with_optimizers(self.experiment.compute_model, lambda _: Adam())


@dataclass(frozen=True)
class Lane:
    """One of the runs."""

    experiment: Experiment
    run: RunFolder
    checkpoints: Checkpoints
    facts: dict[str, Any] = field(default_factory=dict)

    def trained(self, codec: Codec, state: TrainState) -> Trained:
        return Used(self.experiment, codec, state, self.run).merged()


def train_lanes(
    experiments: Sequence[Experiment],
    folders: Sequence[Path],
    interrupt: Interrupt,
    facts: dict[str, Any],
    varied: tuple[str, ...] = (),
    pages: bool = True,
) -> str | None:
    """Trains experiments in their folders at once, or goes on with them from the newest step that all have saved.

    They differ in their seeds, and in the numbers that `varied` names: fields of the model by their dotted paths, with
    which its step can be traced as arrays (`sweep.traced`). pages: whether each gets a report of its own. The lanes lie
    on as many devices as divide their number. Pictures and held-out numbers are made at the end only. Returns why
    training stopped early, or None. Raises UserError for bad input, before any compute.
    """
    runs = [RunFolder(folder) for folder in folders]
    for one, run in zip(experiments, runs):
        run.check(one)
        check_init(one, run)
    codec = loaded_codec(runs[0], experiments[0])
    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(locked(run.path))
        lanes = []
        for one, run in zip(experiments, runs):
            prepare_run(one, run.path, codec)
            said = {**run_facts(one, run.examples(), codec), **facts}
            checkpoints = stack.enter_context(Checkpoints(run.checkpoints, one.keep))
            lanes.append(Lane(one, run, checkpoints, said))
        while True:
            try:
                states, stopped = _train(lanes, codec, _start(lanes, codec), interrupt, varied)
                break
            except _LaneNonFinite as bad:
                for lane in lanes:
                    lane.checkpoints.wait()
                last = _common_steps(lanes)[-1] if _common_steps(lanes) else 0
                roll_back(bad.lane.experiment, bad.lane.run, last, bad.error)
        if stopped is None and not all(_finished(lane, int(states[0].step)) for lane in lanes):
            _finish(lanes, codec, states)
        for lane in lanes if pages else ():
            write_report(lane.run.path)
    return stopped


def _finished(lane: Lane, step: int) -> bool:
    file = lane.run.path / "evaluation.json"
    taken = read_json(file) if file.is_file() else {}
    return (taken.get("split"), taken.get("step")) == ("test", step) and lane.run.pictures(step).is_dir()


def _mesh(count: int) -> NamedSharding:
    """Splits the lanes over the largest number of devices that divides their number."""
    devices = jax.devices()
    most = max(n for n in range(1, len(devices) + 1) if count % n == 0)
    mesh = jax.make_mesh((most,), ("seed",), axis_types=(AxisType.Auto,), devices=devices[:most])
    return NamedSharding(mesh, P("seed"))


def _common_steps(lanes: list[Lane]) -> list[int]:
    """The steps of which every lane has a checkpoint, in rising order."""
    return sorted(set.intersection(*(set(lane.checkpoints.steps()) for lane in lanes)))


def _start(lanes: list[Lane], codec: Codec) -> list[TrainState]:
    """The lanes' states at the newest step for which all have an intact checkpoint, or at step 0 if they share none.

    Raises UserError when no shared one is intact.
    """
    shape = compiled.abstract_state(lanes[0].experiment.compute_model, lanes[0].run.examples(), codec)
    shared = _common_steps(lanes)
    for step in reversed(shared):
        try:
            states = [lane.checkpoints.restore(shape, step) for lane in lanes]
        except UserError as damaged:
            if step == shared[0]:
                raise
            say(f"{damaged}: trying an older one")
            continue
        for lane in lanes if step < lanes[0].experiment.steps else ():
            lane.checkpoints.set_aside(step)
            lane.run.note(step, "resumed", environment_line())
        return states
    for lane in lanes:
        lane.checkpoints.set_aside(-1)
    return [begin(lane.experiment, codec, run=lane.run) for lane in lanes]


def _calls(lanes: list[Lane], start: int, stop: int) -> tuple[PyTree, Iterator[PyTree]]:
    """The data on the host, or None, and the input of each call: indices [S, K, B], or batches [S, K, B, ...]."""
    plans = []
    every = np.arange(lanes[0].experiment.batch_size)  # asked for by rows, data is not put on the device by each lane
    for lane in lanes:
        lane.run.forget_after(start)
        e = lane.experiment
        order = e.seed + 1_000_003 * lane.run.rollbacks(start)
        plans.append(
            BatchPlan(seed=order, batch_size=e.batch_size, steps_per_call=e.steps_per_call, start=start, stop=stop)
        )
    feeds = [feed(lane.experiment.data, one, lane.experiment.preload, every, plans) for lane, one in zip(lanes, plans)]
    calls = (jax.tree.map(lambda *a: np.stack(a), *some) for some in zip(*(calls for _, calls in feeds)))
    return feeds[0][0], calls


def _train(
    lanes: list[Lane], codec: Codec, states: list[TrainState], interrupt: Interrupt, varied: tuple[str, ...] = ()
) -> tuple[list[TrainState], str | None]:
    """Trains all lanes to the last step. Returns their final states, and what interrupted training or None."""
    experiment, where = lanes[0].experiment, _mesh(len(lanes))
    model, skip = experiment.compute_model, experiment.on_nonfinite == "skip"
    training_codec = experiment.data.augmented(codec)
    start, stop = int(states[0].step), experiment.steps
    if start >= stop:
        print(f"nothing is to be done: {lanes[0].run.path.parent} has {start} steps, {stop} are asked for")
        return states, None
    for lane in lanes:
        lane.run.record(lane.experiment, lane.facts)
    data, calls = _calls(lanes, start, stop)
    data, training_codec = encoded_once(data, training_codec, experiment.preload)
    if data is not None:
        data = jax.device_put(data, NamedSharding(where.mesh, P()))
    keys = jax.device_put(jnp.stack([run_key(lane.experiment.seed, TRAIN) for lane in lanes]), where)
    stacked = jax.device_put(jax.tree.map(lambda *a: jnp.stack(a), *states), where)
    numbers = [[field_at(lane.experiment.model, path) for path in varied] for lane in lanes]
    values = jax.device_put(jnp.array(numbers, jnp.float32), where) if varied else None
    del states  # here and below: a second copy of every lane
    step, every = start, experiment.snapshots_every
    with _Logs(lanes, start) as logs:
        for batches in calls:
            batches = jax.device_put(batches, where)
            stacked, metrics = compiled.train_seeds(
                model, stacked, keys, batches, training_codec, data, skip, where.mesh, varied, values
            )
            logs.add(metrics)
            step += experiment.steps_per_call
            reason = interrupt.reason
            due = step % experiment.save_every == 0 or step == stop
            snapshot = bool(every) and (step % every == 0 or step == stop)
            if not (due or snapshot or reason):
                continue
            states = _unstack(stacked)
            if due or reason:
                logs.flush()
                for lane in lanes:
                    lane.checkpoints.wait()  # for all, so that none deletes the last step that they share
                for lane, state in zip(lanes, states):
                    value = best_score(lane.trained(codec, state)) if due else None
                    lane.run.sync()
                    lane.checkpoints.save(state, value)
            for lane, state in zip(lanes, states) if snapshot else ():
                Snapshots(lane.run).save(model, state)
            if reason or step == stop:
                return states, None if step == stop else reason
            del states
    return _unstack(stacked), None


def _unstack(stacked: TrainState) -> list[TrainState]:
    """The state of each lane, on the default device."""
    host = jax.device_get(stacked)
    return [jax.tree.map(lambda a, i=i: jnp.asarray(a[i]), host) for i in range(len(host.step))]


def _finish(lanes: list[Lane], codec: Codec, states: list[TrainState]) -> None:
    """Writes each lane's pictures and held-out numbers; the numbers of as many lanes at a time as there are devices."""
    devices = jax.devices()

    def evaluate(i: int) -> None:
        lane, device = lanes[i], devices[i % len(devices)]
        e, state = lane.experiment, jax.device_put(states[i], device)
        with jax.default_device(device):
            trained = lane.trained(codec, state)
            numbers, count = held_out_numbers(trained, batch=e.batch_size)
            lane.run.write_json("evaluation.json", evaluation(trained, "test", 0, numbers, count))

    with ThreadPoolExecutor(len(devices)) as pool:
        list(pool.map(evaluate, range(len(lanes))))
    for lane, state in zip(lanes, states):
        save_pictures(lane.trained(codec, state), final=True)


class _LaneNonFinite(Exception):
    """A number of one lane is NaN or infinite."""

    def __init__(self, lane: Lane, error: NonFinite):
        self.lane, self.error = lane, error


class _LaneLog(Log):
    """A lane's log. A lane that diverged says so once, and ends none of the others."""

    told = False

    def _give_up(self, step: int, advice: str) -> None:
        if not self.told:
            self.run.note(step, "diverged", advice)
            say(f"{self.run.path} diverged by step {step}, the others go on: {advice}")
        self.told = True


class _Logs(Delayed):
    """The lanes' logs behind one progress line."""

    def __init__(self, lanes: list[Lane], start: int):
        super().__init__()
        self.lanes = lanes
        self.experiment = lanes[0].experiment
        self.step = self.shown = start
        self.clock = Clock()
        self.logs = [_LaneLog(lane.run, lane.experiment, start, Clock(), Silent()) for lane in lanes]
        self.progress = progress(self.experiment.steps, start)

    def __enter__(self) -> "_Logs":
        self.progress.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self.flush()
        for log in self.logs:
            log.__exit__(*error)
        self.progress.__exit__(*error)

    def _write(self, metrics: dict[str, jax.Array]) -> None:
        values = jax.device_get(metrics)
        for i, (lane, log) in enumerate(zip(self.lanes, self.logs)):
            try:
                log.add({name: rows[i] for name, rows in values.items()}, self.asked)
                log.flush()
            except NonFinite as error:
                raise _LaneNonFinite(lane, error) from error
        self.step += self.experiment.steps_per_call
        if self.step % self.experiment.log_every == 0 or self.step == self.experiment.steps:
            rate = (self.step - self.shown) / self.clock.lap(self.asked)
            self.shown = self.step
            self.progress.update(self.step, means(values), rate, rate * self.experiment.batch_size * len(self.lanes))
