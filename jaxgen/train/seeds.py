"""Many seeds of a small model in one program: lane i is the run of `seed` + i, in a folder of its own.

Each lane's folder is an ordinary run folder, so that it can be sampled from, evaluated and gone on with alone.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen.core import compiled
from jaxgen.core.codec import Codec
from jaxgen.core.configuration import located
from jaxgen.core.keys import TRAIN, run_key
from jaxgen.core.types import TrainState
from jaxgen.data.feed import BatchPlan, feed
from jaxgen.errors import UserError
from jaxgen.experiment import AUTO, Experiment
from jaxgen.inference.held_out import evaluation, held_out_numbers
from jaxgen.inference.pictures import save_pictures
from jaxgen.report import write_report
from jaxgen.report.seeds import write_seeds_report
from jaxgen.runs.checkpoint import Checkpoints, saved_steps
from jaxgen.runs.environment import environment_line
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.initial import begin, check_init
from jaxgen.runs.lock import locked
from jaxgen.runs.log import Clock, Delayed, Log, NonFinite, means
from jaxgen.runs.restore import Trained, loaded_codec, prepare_run, run_facts
from jaxgen.runs.snapshots import Snapshots
from jaxgen.runtime.interrupt import Interrupt
from jaxgen.runtime.progress import Silent, progress, say
from jaxgen.train.best import best_score
from jaxgen.train.encoding import encoded_once
from jaxgen.train.loop import roll_back

PyTree = Any


@dataclass(frozen=True)
class Lane:
    """One seed of the run."""

    experiment: Experiment
    run: RunFolder
    checkpoints: Checkpoints
    facts: dict[str, Any] = field(default_factory=dict)

    def trained(self, codec: Codec, state: TrainState) -> Trained:
        return Trained(self.experiment, codec, state, self.run).merged()


def train_seeds(
    experiment: Experiment, count: int, out: Path, facts: dict[str, Any] | None = None, max_hours: float = 0.0
) -> str | None:
    """Trains `count` seeds from `experiment.seed` on, in folders `out`/seedN, and writes `out`/seeds.json and a report
    with mean and 95 % confidence interval over seeds of every metric.

    The lanes lie on as many devices as divide their number. Pictures are made at the end only. Returns why it stopped
    early, or None. Raises UserError for bad input, before any compute.
    """
    experiment = located(experiment)
    _check(experiment, count, out)
    _check_saved(range(experiment.seed, experiment.seed + count), out)
    each = [replace(experiment, seed=seed) for seed in range(experiment.seed, experiment.seed + count)]
    runs = [RunFolder(out / f"seed{one.seed}") for one in each]
    for one, run in zip(each, runs):
        run.check(one)
        check_init(one, run)
    codec = loaded_codec(runs[0], experiment)
    stopped = None
    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(locked(run.path))
        interrupt = stack.enter_context(Interrupt(max_hours))
        lanes = []
        for one, run in zip(each, runs):
            prepare_run(one, run.path, codec)
            said = {**run_facts(one, run.examples(), codec), **(facts or {}), "seeds": count}
            checkpoints = stack.enter_context(Checkpoints(run.checkpoints, experiment.keep))
            lanes.append(Lane(one, run, checkpoints, said))
        while True:
            try:
                states, stopped = _train(lanes, codec, _start(lanes, codec), interrupt)
                break
            except _LaneNonFinite as bad:
                for lane in lanes:
                    lane.checkpoints.wait()
                last = _common_steps(lanes)[-1] if _common_steps(lanes) else 0
                roll_back(bad.lane.experiment, bad.lane.run, last, bad.error)
        if stopped is None and not all(_finished(lane, int(states[0].step)) for lane in lanes):
            _finish(lanes, codec, states)
        for lane in lanes:
            write_report(lane.run.path)
        print(f"report: {write_seeds_report(out)}")
    return stopped


def _finished(lane: Lane, step: int) -> bool:
    return (lane.run.path / "evaluation.json").exists() and lane.run.pictures(step).is_dir()


def _check(experiment: Experiment, count: int, out: Path) -> None:
    if count < 2:
        raise UserError(f"seeds is {count}: 2 or more are trained at once, one without --seeds")
    if experiment.mesh not in ("", AUTO) or jax.process_count() > 1:
        raise UserError("--seeds lays its lanes over the devices of one process itself: leave --mesh out")
    if experiment.keep < 2:
        # Lanes are saved one after the other: between two of them the step before is the one that all have.
        raise UserError(f"keep is {experiment.keep}, 2 is expected: --seeds goes on from a step that all seeds saved")
    if (out / "experiment.json").exists():
        raise UserError(f"{out} holds a run of one seed: choose another folder with --out")
    experiment.check()


def _check_saved(seeds: range, out: Path) -> None:
    """Raises UserError if some seeds have checkpoints but no step was saved by all: a start from step 0 would lose
    them."""
    saved = {seed: saved_steps(RunFolder(out / f"seed{seed}").checkpoints) for seed in seeds}
    steps = set().union(*saved.values())
    if not steps or set.intersection(*map(set, saved.values())):
        return
    begun = all((out / f"seed{seed}" / "experiment.json").exists() for seed in seeds)
    if begun and len(steps) == 1:  # stopped in the middle of the first save, there is nothing to lose yet
        return
    found = "; ".join(f"seed {seed}: {', '.join(map(str, saved[seed])) or 'none'}" for seed in seeds)
    newest = {seed: max(saved[seed], default=0) for seed in seeds}
    first, *more = behind = [seed for seed in seeds if newest[seed] == min(newest.values())]
    together = more and behind == list(range(first, first + len(behind)))
    flags = f"--seeds {len(behind)} --out {out}" if together else f"--out {out / f'seed{first}'}"
    raise UserError(
        f"no step was saved by all seeds in {out} ({found}): train those behind by themselves first, as with --seed "
        f"{first} {flags}, or choose another folder with --out"
    )


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
    feeds = []
    every = np.arange(lanes[0].experiment.batch_size)  # asked for by rows, data is not put on the device by each lane
    for lane in lanes:
        lane.run.forget_after(start)
        e = lane.experiment
        order = e.seed + 1_000_003 * lane.run.rollbacks(start)
        plan = BatchPlan(
            seed=order, batch_size=e.batch_size, steps_per_call=e.steps_per_call, start=start, stop=stop
        )  # fmt: skip
        feeds.append(feed(e.data, plan, e.preload, every))
    calls = (jax.tree.map(lambda *a: np.stack(a), *some) for some in zip(*(calls for _, calls in feeds)))
    return feeds[0][0], calls


def _train(
    lanes: list[Lane], codec: Codec, states: list[TrainState], interrupt: Interrupt
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
    del states  # here and below: a second copy of every lane
    step, every = start, experiment.snapshots_every
    with _Logs(lanes, start) as logs:
        for batches in calls:
            batches = jax.device_put(batches, where)
            stacked, metrics = compiled.train_seeds(
                model, stacked, keys, batches, training_codec, data, skip, where.mesh
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


class _Logs(Delayed):
    """The lanes' logs behind one progress line."""

    def __init__(self, lanes: list[Lane], start: int):
        super().__init__()
        self.lanes = lanes
        self.experiment = lanes[0].experiment
        self.step = self.shown = start
        self.clock = Clock()
        self.logs = [Log(lane.run, lane.experiment, start, Clock(), Silent()) for lane in lanes]
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
                log.add({name: rows[i] for name, rows in values.items()})
                log.flush()
            except NonFinite as error:
                raise _LaneNonFinite(lane, error) from error
        self.step += self.experiment.steps_per_call
        if self.step % self.experiment.log_every == 0 or self.step == self.experiment.steps:
            rate = (self.step - self.shown) / max(self.clock.lap(), 1e-9)
            self.shown = self.step
            self.progress.update(self.step, means(values), rate, rate * self.experiment.batch_size * len(self.lanes))
