"""The loop: restore, train, log, save, sample. It knows no family, only the five nouns."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np

from jaxgen import cli, core
from jaxgen.checkpoint import Checkpoints
from jaxgen.core import INIT, TRAIN, TrainState
from jaxgen.data.feed import feed
from jaxgen.errors import UserError, nearest
from jaxgen.experiment import Experiment
from jaxgen.progress import progress
from jaxgen.runfolder import Clock, RunFolder


def initial_state(experiment: Experiment, codec: Any) -> TrainState:
    """The state at step 0, from the batch of step 0."""
    batch = experiment.data.batch_at(experiment.seed, 0, experiment.batch_size)
    return core.init(experiment.compute_model, core.run_key(experiment.seed, INIT), batch, codec)


def saved_state(
    experiment: Experiment, batch: dict[str, np.ndarray], codec: Any, checkpoints: Checkpoints, step: int | None = None
) -> TrainState:
    """The newest intact checkpoint of a run, or that of `step`; any raw batch tells the shapes."""
    like = core.abstract_state(experiment.compute_model, batch, codec)
    return checkpoints.restore(like, step)


def draw(model: Any, state: TrainState, seed: int, num: int, cond: Any, codec: Any, batch: int = 256) -> np.ndarray:
    """Samples 0 to num - 1 of a seed as raw data, `batch` at a time; the last batch is padded, not recompiled."""
    batch = min(batch, num)
    parts = []
    for first in range(0, num, batch):
        keys = core.sample_keys(seed, batch, first)
        # Past the end, conditions start over: those samples are cut off below.
        some = jax.tree.map(lambda c, first=first: np.take(c, range(first, first + batch), axis=0, mode="wrap"), cond)
        parts.append(np.asarray(core.sample(model, state, keys, some, codec)))
    return np.concatenate(parts)[:num]


def held_out_numbers(
    experiment: Experiment, state: TrainState, codec: Any, seed: int, split: str, limit: int | None, batch: int
) -> tuple[dict[str, dict[str, float]], int]:
    """Mean and standard error of each number of `evaluate`, and over how many examples."""
    totals: dict[str, list[np.ndarray]] = {}
    count = min(limit or sys.maxsize, experiment.data.count(split))
    batch = min(batch, count)
    batches = experiment.data.padded_batches(batch, split, limit)
    for i, (raw, mask) in enumerate(batches):
        keys = core.sample_keys(seed, batch, i * batch, core.EVAL)
        numbers = core.evaluate(experiment.compute_model, state, keys, raw, codec)
        for name, values in numbers.items():
            totals.setdefault(name, []).append(np.asarray(values, np.float64)[mask])
    joined = {name: np.concatenate(parts) for name, parts in totals.items()}
    return {
        name: {"mean": float(v.mean()), "stderr": float(v.std(ddof=1) / len(v) ** 0.5) if len(v) > 1 else 0.0}
        for name, v in joined.items()
    }, count


def save_pictures(run: RunFolder, experiment: Experiment, codec: Any, state: TrainState, final: bool) -> None:
    """A grid of samples and, at the end, what else the family shows."""
    from jaxgen.report import save_picture

    model, folder, batch = experiment.compute_model, run.pictures(int(state.step)), run.examples()
    keys = core.sample_keys(experiment.seed, experiment.num_samples)
    cond = model.sample_cond(experiment.num_samples, batch)
    save_picture(folder / "samples.png", np.asarray(core.sample(model, state, keys, cond, codec)))
    if final:
        some = core.sample_keys(experiment.seed, len(batch["x"]))
        for name, picture in core.pictures(model, state, some, batch, codec).items():
            save_picture(folder / name, np.asarray(picture))


def train(experiment: Experiment, out: Path, facts: dict[str, Any] | None = None) -> TrainState:
    """Trains `experiment` in the folder `out`, or goes on with what is there, and leaves a report.

    facts: what else environment.json should say. Raises UserError for bad input, before any compute.
    """
    from jaxgen.report import write_report

    experiment.check()
    codec = experiment.codec.load()
    run = RunFolder(out)
    run.create(experiment)
    count = min(experiment.num_samples, experiment.data.count("test"))
    run.keep_examples(next(experiment.data.padded_batches(count, "test"))[0])
    model, key = experiment.compute_model, core.run_key(experiment.seed, TRAIN)
    clock = Clock()
    with Checkpoints(run.checkpoints, experiment.keep) as checkpoints:
        if checkpoints.steps():
            state = saved_state(experiment, run.examples(), codec, checkpoints)
            run.append(run.events, [{"step": int(state.step), "event": "resumed", "detail": environment_line()}])
        else:
            state = initial_state(experiment, codec)
        start = int(state.step)
        run.forget_after(start)
        counts = {name: core.count_params(tree) for name, tree in state.params.items()}
        run.write_environment({"seed": experiment.seed, "params": counts, **(facts or {})})

        stop = max(start, experiment.steps)
        data, calls = feed(
            experiment.data, experiment.seed, experiment.batch_size, experiment.steps_per_call, start, stop,
            experiment.preload,
        )  # fmt: skip
        with Log(run, experiment, start, clock) as log:
            for batches in calls:
                state, metrics = core.train_steps(model, state, key, batches, codec, data)
                # Handing over the last call's numbers only now keeps one call queued while they are written.
                log.add(metrics)
                # Counted here: reading state.step would wait for the call just queued.
                step = log.queued
                if step % experiment.save_every == 0 or step == stop:
                    log.flush()
                    checkpoints.save(state)
                if step % experiment.sample_every == 0 and step != stop:
                    save_pictures(run, experiment, codec, state, final=False)
        save_pictures(run, experiment, codec, state, final=True)
    report = write_report(run.path)
    print(f"report: {report}")
    return state


def environment_line() -> str:
    return f"jax {jax.__version__}, {len(jax.devices())} x {jax.devices()[0].device_kind}"


class Log:
    """metrics.jsonl with every step, timing.jsonl and the progress line every `log_every`, TensorBoard."""

    def __init__(self, run: RunFolder, experiment: Experiment, start: int, clock: Clock):
        from tensorboardX import SummaryWriter

        self.run, self.experiment, self.clock = run, experiment, clock
        self.queued = self.written = self.logged = start
        self.pending: list[dict[str, jax.Array]] = []
        self.window: list[dict[str, np.ndarray]] = []
        self.board = SummaryWriter(str(run.path / "tensorboard"), purge_step=start + 1)
        self.progress = progress(experiment.steps, start)
        self.clock.lap()

    def __enter__(self) -> "Log":
        self.progress.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self.flush()
        self.progress.__exit__(*error)
        self.board.close()

    def add(self, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of a call just queued, f32[K] each, and writes those of the calls before it."""
        self.pending.append(metrics)
        self.queued += self.experiment.steps_per_call
        while len(self.pending) > 1:
            self._write(self.pending.pop(0))

    def flush(self) -> None:
        """Waits for what is queued and writes it."""
        while self.pending:
            self._write(self.pending.pop(0))

    def _write(self, metrics: dict[str, jax.Array]) -> None:
        values = jax.device_get(metrics)
        self.run.append_metrics(self.written + 1, values)
        self.window.append(values)
        self.written += self.experiment.steps_per_call
        if self.written % self.experiment.log_every and self.written != self.experiment.steps:
            return
        means = {name: float(np.mean(np.concatenate([w[name] for w in self.window]))) for name in values}
        rate = (self.written - self.logged) / max(self.clock.lap(), 1e-9)
        self.window, self.logged = [], self.written
        timing = {"step": self.written, "steps_per_s": rate, "samples_per_s": rate * self.experiment.batch_size}
        self.run.append(self.run.timing, [{**timing, "time": self.clock.elapsed}])
        for name, value in {**means, "steps_per_s": rate}.items():
            self.board.add_scalar(name, value, self.written)
        self.progress.update(self.written, means, rate, rate * self.experiment.batch_size)


# --- the command line of an experiment script -----------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """What a script takes beside its experiment."""

    out: str = ""
    """Run folder; runs/SCRIPT-PRESET-SEED when empty. An existing run of the same experiment goes on."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that the next start is faster."""


def main(presets: dict[str, Experiment], doc: str | None = None, argv: list[str] | None = None) -> None:
    """`python experiments/SCRIPT.py PRESET [flags]`: trains a preset, its every field a flag."""
    script = Path(sys.argv[0])
    cli.run(lambda: _main(presets, doc, sys.argv[1:] if argv is None else argv, script))


def _main(presets: dict[str, Experiment], doc: str | None, argv: list[str], script: Path) -> None:
    import tyro

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
    cli.start_jax(options.device, options.compilation_cache)
    out = Path(options.out or f"runs/{script.stem}-{name}-{experiment.seed}")
    began = time.monotonic()
    train(experiment, out, {"experiment": script.stem, "preset": name})
    print(f"{time.monotonic() - began:.0f} s in all")
