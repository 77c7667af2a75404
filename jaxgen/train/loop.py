"""The loop: restore, train, log, save, sample. It knows no family, only the five nouns."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgen.core import compiled
from jaxgen.core.codec import Codec
from jaxgen.core.configuration import located
from jaxgen.core.keys import TRAIN, run_key
from jaxgen.core.mesh import Layout
from jaxgen.core.types import TrainState
from jaxgen.data.feed import BatchPlan, feed
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.inference.pictures import save_pictures
from jaxgen.report import write_report
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.environment import environment_line
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.initial import begin, check_init
from jaxgen.runs.lock import locked
from jaxgen.runs.log import Clock, Log, NonFinite, Watch
from jaxgen.runs.restore import Trained, loaded_codec, prepare_run, run_facts, saved_state
from jaxgen.runs.snapshots import Snapshots
from jaxgen.runtime import processes
from jaxgen.runtime.interrupt import Interrupt
from jaxgen.runtime.profiler import Trace
from jaxgen.runtime.progress import say
from jaxgen.train.auto_mesh import settled
from jaxgen.train.best import best_score
from jaxgen.train.encoding import encoded_once

MAX_ROLLBACKS = 3


@dataclass(frozen=True, eq=False)
class Session:
    """What a process needs to train a run."""

    experiment: Experiment
    codec: Codec
    run: RunFolder
    checkpoints: Checkpoints
    interrupt: Interrupt
    clock: Clock
    facts: dict[str, Any]
    layout: Layout | None = None
    profile: int = 0

    def trained(self, state: TrainState) -> Trained:
        return Trained(self.experiment, self.codec, state, self.run, self.layout).merged()


def train(
    experiment: Experiment,
    out: Path,
    facts: dict[str, Any] | None = None,
    max_hours: float = 0.0,
    profile: int = 0,
) -> str | None:
    """Trains `experiment` in the folder `out`, or resumes the run there, and writes a report.

    facts: what else environment.json should say. max_hours: stops at the end of the call during which that much time
    has passed. profile: calls to trace with jax.profiler. Returns why the run stopped early, or None when it is
    complete. Raises UserError for bad input, before any compute.
    """
    experiment, layout, facts = _ready(experiment, facts or {})
    run, clock = RunFolder(out), Clock()
    processes.on_main(lambda: run.check(experiment))
    check_init(experiment, run)
    codec = loaded_codec(run, experiment, layout)
    with ExitStack() as stack:
        processes.on_main(lambda: stack.enter_context(locked(run.path)))
        processes.on_main(lambda: prepare_run(experiment, out, codec))
        facts = {**run_facts(experiment, run.examples(), codec), **facts}
        interrupt = stack.enter_context(Interrupt(max_hours))
        checkpoints = stack.enter_context(Checkpoints(run.checkpoints, experiment.keep))
        session = Session(experiment, codec, run, checkpoints, interrupt, clock, facts, layout, profile)
        while True:
            try:
                state, stopped = _train(session, _start(session))
                break
            except NonFinite as error:
                checkpoints.wait()
                last = max(checkpoints.steps(), default=0)
                processes.on_main(lambda error=error, last=last: roll_back(experiment, run, last, error))
        # A run that had nothing left to train has them, unless it was killed as it ended.
        if stopped is None and processes.any_process(not run.pictures(int(state.step)).is_dir()):
            save_pictures(session.trained(state), final=True)
        if processes.is_main():
            print(f"report: {write_report(run.path)}")
    return stopped


def _ready(experiment: Experiment, facts: dict[str, Any]) -> tuple[Experiment, Layout | None, dict[str, Any]]:
    """The experiment, checked, with a fixed mesh; the layout on that mesh; and facts, with why the mesh was chosen."""
    experiment = located(experiment)
    experiment.check()
    experiment, why = settled(experiment)
    if why:
        print(why)
        facts = {**facts, "mesh": why}
    return experiment, Layout.make(experiment.mesh, experiment.batch_size, experiment.parts), facts


def _train_key(experiment: Experiment, layout: Layout | None) -> jax.Array:
    """The key of training, on every device of the mesh."""
    key = run_key(experiment.seed, TRAIN)
    return key if layout is None else layout.put(key, layout.everywhere)


def _start(session: Session) -> TrainState:
    """The newest checkpoint's state, or the one of step 0."""
    experiment, run, checkpoints = session.experiment, session.run, session.checkpoints
    if not checkpoints.steps():
        processes.on_main(lambda: checkpoints.report_lost(say))
        checkpoints.set_aside(-1)
        return begin(experiment, session.codec, session.layout, run)
    state = saved_state(experiment, run.examples(), session.codec, checkpoints, layout=session.layout)
    if int(state.step) >= experiment.steps:
        return state
    checkpoints.set_aside(int(state.step))
    run.note(int(state.step), "resumed", environment_line())
    return state


def _train(session: Session, state: TrainState) -> tuple[TrainState, str | None]:
    """Trains from `state` to the last step. Returns the final state, and what interrupted training or None."""
    experiment, run, layout = session.experiment, session.run, session.layout
    model, key = experiment.compute_model, _train_key(experiment, layout)
    training_codec = experiment.data.augmented(session.codec)
    start, stop = int(state.step), experiment.steps
    if start >= stop:
        if processes.is_main():
            print(f"nothing is to be done: {run.path} has {start} steps, {stop} are asked for")
        return state, None
    processes.on_main(lambda: run.forget_after(start))
    processes.on_main(lambda: run.record(experiment, session.facts))
    # Data in an order that a rolled-back run has not tried yet; noise and parameters stay those of the seed.
    order = experiment.seed + 1_000_003 * run.rollbacks(start)
    data, calls, training_codec = _feed(experiment, training_codec, order, start, stop, layout)
    skip, poll = experiment.on_nonfinite == "skip", processes.Poll()
    snapshots, every = Snapshots(run), experiment.snapshots_every
    # The log waits for what is queued as it closes, so it is the first to.
    with Trace(run.path, session.profile) as trace, Log(run, experiment, start, session.clock) as log:
        for batches in calls:
            trace.call(state)
            state, metrics = compiled.train_steps(model, state, key, batches, training_codec, data, skip, layout)
            # Handing over the last call's numbers only now keeps one call queued while they are written.
            log.add(metrics)
            # Counted here: reading state.step would wait for the call just queued.
            step = log.queued
            reason = session.interrupt.named(poll.ask(session.interrupt.code))  # all stop for what one was told
            if step % experiment.save_every == 0 or step == stop or reason:
                log.flush()
                due = step % experiment.save_every == 0 or step == stop
                score = best_score(session.trained(state)) if due else None
                run.sync()
                session.checkpoints.save(state, score)
            if every and (step % every == 0 or step == stop):
                snapshots.save(model, state)
            if reason and step != stop:
                return state, reason
            if step % experiment.sample_every == 0 and step != stop:
                save_pictures(session.trained(state), final=False)
    return state, None


def train_in_memory(experiment: Experiment) -> Trained:
    """Trains `experiment` and writes nothing. Raises UserError for bad input, before any compute, and for a number that
    is not finite: only a run in a folder can go back to what it saved."""
    experiment, layout, _ = _ready(experiment, {})
    check_init(experiment, None)
    codec = loaded_codec(None, experiment, layout)
    state = begin(experiment, codec, layout)
    model, key = experiment.compute_model, _train_key(experiment, layout)
    training_codec = experiment.data.augmented(codec)
    data, calls, training_codec = _feed(experiment, training_codec, experiment.seed, 0, experiment.steps, layout)
    skip = experiment.on_nonfinite == "skip"
    try:
        with Watch(experiment, 0) as watch:
            for batches in calls:
                state, metrics = compiled.train_steps(model, state, key, batches, training_codec, data, skip, layout)
                watch.add(metrics)
    except NonFinite as error:
        raise UserError(f"{error}: lower the learning rate, clip gradients, or name a folder with out=...") from error
    return Trained(experiment, codec, state, None, layout).merged()


def _feed(
    experiment: Experiment, codec: Codec, order: int, start: int, stop: int, layout: Layout | None
) -> tuple[Any, Iterator, Codec]:
    """The data on the devices, or None, the input of each call, on the mesh, and the codec of these. order: seed of the
    data's order."""
    size = experiment.batch_size
    rows = np.arange(size) if layout is None else layout.rows(size)
    plan = BatchPlan(
        seed=order, batch_size=size, steps_per_call=experiment.steps_per_call, start=start, stop=stop
    )  # fmt: skip
    data, calls = feed(experiment.data, plan, experiment.preload, rows)
    data, codec = encoded_once(data, codec, experiment.preload, layout)
    if layout is None:
        return jax.device_put(data), calls, codec
    return layout.put(data, layout.everywhere), (layout.put_rows(call, size) for call in calls), codec


def roll_back(experiment: Experiment, run: RunFolder, last: int, error: NonFinite) -> None:
    """Records a non-finite number before another attempt from the checkpoint of step `last`. Raises UserError if there
    must be no further attempt."""
    where = f"{error} of {run.path}"
    if experiment.on_nonfinite == "stop":
        run.note(error.step, "nonfinite", f"{error}; stopped, the last checkpoint is of step {last}")
        raise UserError(f"{where}; the last checkpoint is of step {last}: lower the learning rate or clip gradients")
    if run.rollbacks(last) >= MAX_ROLLBACKS:
        run.note(error.step, "nonfinite", f"{error}; gave up after {MAX_ROLLBACKS} rollbacks to step {last}")
        raise UserError(f"{where}, after {MAX_ROLLBACKS} rollbacks: lower the learning rate or clip gradients")
    Snapshots(run).forget_after(last)
    run.note(last, "rollback", f"{error}; back to step {last} with another data order")
    say(f"{error}: back to step {last} with another data order")
