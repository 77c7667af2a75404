"""The loop: restore, train, log, save, sample. It knows no family, only the five nouns."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from jaxgen import cli, core, parallel
from jaxgen.checkpoint import Checkpoints
from jaxgen.core import INIT, TRAIN, TrainState
from jaxgen.data.feed import feed
from jaxgen.errors import UserError, nearest
from jaxgen.experiment import Experiment
from jaxgen.interrupt import Interrupt
from jaxgen.log import Clock, Log, NonFinite
from jaxgen.parallel import Layout
from jaxgen.runfolder import RunFolder, disk_errors, environment_line
from jaxgen.trace import Trace
from jaxgen.use import loaded_codec, save_pictures, score

MAX_ROLLBACKS = 3


def initial_state(experiment: Experiment, codec: Any, layout: Layout | None = None) -> TrainState:
    """The state at step 0, from the batch of step 0."""
    batch = experiment.data.batch_at(experiment.seed, 0, experiment.batch_size)
    return core.init(experiment.compute_model, core.run_key(experiment.seed, INIT), batch, codec, layout)


def saved_state(
    experiment: Experiment,
    batch: dict[str, np.ndarray],
    codec: Any,
    checkpoints: Checkpoints,
    step: int | None = None,
    layout: Layout | None = None,
    optimizer: bool = True,
) -> TrainState:
    """The newest intact checkpoint of a run, or that of `step`; any raw batch tells the shapes. It may have been saved
    on another mesh. optimizer: whether its state is wanted too, as for more training."""
    like = core.abstract_state(experiment.compute_model, batch, codec)
    like = like if layout is None else layout.like(like)
    return checkpoints.restore(like, step, optimizer=optimizer)


def open_run(experiment: Experiment, out: Path, facts: dict[str, Any] | None, codec: Any) -> RunFolder:
    """The run's folder with what a reader needs before the first step. Raises UserError when it is another run's."""
    run = RunFolder(out)
    run.create(experiment)
    run.keep_codec(codec.provenance)
    count = min(experiment.num_samples, experiment.data.count("test"))
    batch = next(experiment.data.padded_batches(count, "test"))[0]
    run.keep_examples(batch)
    run.keep_files(experiment.data.files())
    params = core.abstract_state(experiment.compute_model, batch, codec).params
    counts = {name: core.count_params(tree) for name, tree in params.items()}
    run.write_environment({"seed": experiment.seed, "params": counts, **(facts or {})})
    return run


def train(
    experiment: Experiment,
    out: Path,
    facts: dict[str, Any] | None = None,
    max_hours: float = 0.0,
    profile: int = 0,
) -> str | None:
    """Trains `experiment` in the folder `out`, or goes on with what is there, and leaves a report.

    facts: what else environment.json should say. max_hours: stops at the end of the call during which that much time
    has passed. profile: calls to trace with jax.profiler. Returns why the run stopped early, or None when it is
    complete. Raises UserError for bad input, before any compute.
    """
    from jaxgen.report import write_report

    experiment.check()
    layout = Layout.make(experiment.mesh, experiment.batch_size, experiment.parts)
    codec = loaded_codec(RunFolder(out), experiment, layout)
    parallel.on_main(lambda: open_run(experiment, out, facts, codec))
    run, clock = RunFolder(out), Clock()
    checkpoints = Checkpoints(run.checkpoints, experiment.keep)
    with disk_errors(run.path), Interrupt(max_hours) as interrupt, checkpoints:
        while True:
            if checkpoints.steps():
                state = saved_state(experiment, run.examples(), codec, checkpoints, layout=layout)
                checkpoints.set_aside(int(state.step))
                run.note(int(state.step), "resumed", environment_line())
            else:
                state = initial_state(experiment, codec, layout)
            try:
                state, stopped = _train(
                    experiment, codec, run, state, checkpoints, interrupt, clock, profile, layout
                )  # fmt: skip
                break
            except NonFinite as error:
                checkpoints.wait()
                last = max(checkpoints.steps(), default=0)
                parallel.on_main(lambda error=error, last=last: roll_back(experiment, run, last, error))
        if stopped is None:
            save_pictures(run, experiment, codec, state, final=True, layout=layout)
    if parallel.is_main():
        with disk_errors(run.path):
            print(f"report: {write_report(run.path)}")
    return stopped


def _train(
    experiment: Experiment,
    codec: Any,
    run: RunFolder,
    state: TrainState,
    checkpoints: Checkpoints,
    interrupt: Interrupt,
    clock: Clock,
    profile: int,
    layout: Layout | None,
) -> tuple[TrainState, str | None]:
    """From `state` to the last step: the state there, or where it was interrupted, and by what."""
    model, key = experiment.compute_model, core.run_key(experiment.seed, TRAIN)
    start = int(state.step)
    stop = max(start, experiment.steps)
    data, calls = _feed(experiment, run, start, stop, layout)
    if layout is not None:
        key = layout.put(key, layout.everywhere)
    skip, poll = experiment.on_nonfinite == "skip", parallel.Poll()
    # The log waits for what is queued as it closes, so it is the first to.
    with Trace(run.path, profile) as trace, Log(run, experiment, start, clock) as log:
        for batches in calls:
            trace.call(state)
            state, metrics = core.train_steps(model, state, key, batches, codec, data, skip, layout)
            # Handing over the last call's numbers only now keeps one call queued while they are written.
            log.add(metrics)
            # Counted here: reading state.step would wait for the call just queued.
            step = log.queued
            reason = interrupt.reason
            reason = (reason or "another process") if poll.ask(reason is not None) else None
            if step % experiment.save_every == 0 or step == stop or reason:
                log.flush()
                due = step % experiment.save_every == 0 or step == stop
                checkpoints.save(state, score(experiment, state, codec, run, layout) if due else None)
            if reason and step != stop:
                return state, reason
            if step % experiment.sample_every == 0 and step != stop:
                save_pictures(run, experiment, codec, state, final=False, layout=layout)
    return state, None


def _feed(experiment: Experiment, run: RunFolder, start: int, stop: int, layout: Layout | None) -> tuple[Any, Iterator]:
    """Data on the device, or None, and what each call gets, laid out on the mesh."""
    parallel.on_main(lambda: run.forget_after(start))
    # Data in an order that a rolled-back run has not tried yet; noise and parameters stay those of the seed.
    order = experiment.seed + 1_000_003 * run.rollbacks(start)
    size = experiment.batch_size
    rows = None if layout is None else layout.rows(size)
    data, calls = feed(experiment.data, order, size, experiment.steps_per_call, start, stop, experiment.preload, rows)
    if layout is None:
        return data, calls
    return layout.put(data, layout.everywhere), (layout.put_rows(call, size) for call in calls)


def roll_back(experiment: Experiment, run: RunFolder, last: int, error: NonFinite) -> None:
    """Notes a non-finite number and clears the way for another try from the checkpoint of step `last`. Raises UserError
    when there is to be none."""
    where = f"{error} of {run.path}"
    if experiment.on_nonfinite == "stop":
        run.note(error.step, "nonfinite", f"{error}; stopped, the last checkpoint is of step {last}")
        raise UserError(f"{where}; the last checkpoint is of step {last}: lower the learning rate or clip gradients")
    if run.rollbacks(last) >= MAX_ROLLBACKS:
        run.note(error.step, "nonfinite", f"{error}; gave up after {MAX_ROLLBACKS} rollbacks to step {last}")
        raise UserError(f"{where}, after {MAX_ROLLBACKS} rollbacks: lower the learning rate or clip gradients")
    run.note(last, "rollback", f"{error}; back to step {last} with another data order")
    print(f"{error}: back to step {last} with another data order", file=sys.stderr)


# --- the command line of an experiment script -----------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """What a script takes beside its experiment."""

    out: str = ""
    """Run folder; runs/SCRIPT-PRESET-SEED when empty. An existing run of the same experiment goes on."""
    seeds: int = 1
    """Train this many seeds from `seed` on in one program, each in a folder of its own within the run folder."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that the next start is faster."""
    max_hours: float = 0.0
    """Save and stop once this much time has passed; 0 for no limit."""
    profile: int = 0
    """Calls to trace with jax.profiler, from the second on."""
    coordinator: str = ""
    """For a run of several processes: HOST:PORT of process 0, or `auto` where the cluster tells all three."""
    num_processes: int = 1
    process_id: int = 0


def main(presets: dict[str, Experiment], doc: str | None = None, argv: list[str] | None = None) -> None:
    """`python experiments/SCRIPT.py PRESET [flags]`: trains a preset, its every field a flag."""
    script = Path(sys.argv[0])
    cli.run(lambda: _main(presets, doc, sys.argv[1:] if argv is None else argv, script))


def _main(presets: dict[str, Experiment], doc: str | None, argv: list[str], script: Path) -> None:
    import tyro

    from jaxgen.seeds import train_seeds

    if not argv or argv[0] in ("-h", "--help"):
        print(f"{(doc or '').strip()}\n\nusage: {script.name} PRESET [flags]\npresets: {', '.join(presets)}")
        print(f"flags: {script.name} PRESET --help")
        return
    name, *flags = argv
    if name not in presets:
        raise UserError(f"preset {name!r} is unknown{nearest(name, presets)}: choose one of {', '.join(presets)}")

    @dataclass(frozen=True)
    class Args:
        experiment: Annotated[Experiment, tyro.conf.arg(name="")]
        options: Annotated[Options, tyro.conf.arg(name="")]

    args = cli.parse(Args, Args(presets[name], Options()), flags, f"{script.name} {name}", doc)
    experiment, options = args.experiment, args.options
    processes = (options.coordinator, options.num_processes, options.process_id)
    cli.start_jax(options.device, options.compilation_cache, experiment.mesh, processes, options.seeds)
    out = Path(options.out or f"runs/{script.stem}-{name}-{experiment.seed}")
    began = time.monotonic()
    facts = {"experiment": script.stem, "preset": name}
    if options.seeds != 1:
        stopped = train_seeds(experiment, options.seeds, out, facts, options.max_hours)
    else:
        stopped = train(experiment, out, facts, options.max_hours, options.profile)
    if parallel.is_main():
        print(f"{time.monotonic() - began:.0f} s in all")
    if stopped:
        print(f"stopped by {stopped}, saved in {out}: the same command goes on from there")
        if stopped in ("SIGINT", "SIGTERM"):
            sys.exit(130 if stopped == "SIGINT" else 143)
