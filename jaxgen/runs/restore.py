"""The only place where a run is opened and what it has learnt is read back.

The loop, the command line, first stages, scores and benchmarks all work on a `Trained`: an experiment with its codec
loaded and a state.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jaxgen.core import compiled
from jaxgen.core.codec import Codec
from jaxgen.core.keys import INIT, run_key
from jaxgen.core.mesh import Layout
from jaxgen.core.model import GenerativeModel, count_params
from jaxgen.core.types import PyTree, RawBatch, TrainState
from jaxgen.data import Dataset
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.nets.lora import LoRA, merged_networks
from jaxgen.optim import trained
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.marks import keep_marks
from jaxgen.runtime.files import check_output
from jaxgen.runtime.processes import whole
from jaxgen.weights.store import tree_hash

MEASURED, MEASURED_BY = 1024, 64
"""Training examples that a codec measures as a run begins, and how many at a time."""


@dataclass(frozen=True, eq=False)
class Trained:
    """An experiment and what it has learnt: a value, like its state.

    codec: loaded. folder: of the run, None where nothing was written. layout: the mesh that the state and the codec's
    arrays lie on, None for one device.
    """

    experiment: Experiment
    codec: Codec
    state: TrainState
    folder: RunFolder | None = None
    layout: Layout | None = None

    @cached_property
    def model(self) -> GenerativeModel:
        """The model as it computes: in the experiment's precision."""
        return self.experiment.compute_model

    @property
    def step(self) -> int:
        """Steps of training."""
        return int(self.state.step)

    @property
    def run(self) -> RunFolder:
        """The run's folder. Raises UserError where nothing was written."""
        if self.folder is None:
            raise UserError("this run was trained in memory and has no folder: name one with fit(..., out=...)")
        return self.folder

    @property
    def name(self) -> str:
        """Of the run's folder, or of the model where there is none."""
        return self.folder.path.resolve().name if self.folder else type(self.experiment.model).__name__

    @cached_property
    def weights(self) -> str:
        """A hash of the parameters that samples are drawn with. Multi-host: every process is to ask for it."""
        return tree_hash(whole(self.state.sampling_params))[:16]

    @cached_property
    def examples(self) -> RawBatch:
        """The first held-out examples, raw."""
        return self.folder.examples() if self.folder else held_out_examples(self.experiment)

    def merged(self, strength: float = 1.0) -> "Trained":
        """The same with adapters (`nets.lora`) added to the kernels that they adapt: what a run is used by. strength: a
        factor of what they add."""
        if not self.experiment.lora.rank:
            return self
        params, ema = (tree and merged_networks(tree, strength) for tree in (self.state.params, self.state.ema))
        experiment = replace(self.experiment, lora=LoRA())
        return replace(self, experiment=experiment, state=self.state.replace(params=params, ema=ema))

    def to(self, experiment: Experiment) -> "Trained":
        """The same state under other settings of sampling, say."""
        return replace(self, experiment=experiment)


def check_chosen(step: int | None, best: bool) -> None:
    """Raises UserError for both a step and the best checkpoint."""
    if best and step is not None:
        raise UserError(f"step {step} and the best checkpoint were asked for: leave one out")


def restore(
    run: RunFolder,
    experiment: Experiment | None = None,
    *,
    step: int | None = None,
    best: bool = False,
    layout: Layout | None = None,
    adapters: float | None = 1.0,
) -> Trained:
    """A run for use: the newest intact checkpoint, that of `step`, or the best one, without the optimizer's state.

    experiment: the run's own where None; another may differ in what training does not depend on. adapters: with what
    strength they are added to the kernels that they adapt, 1 as trained; None keeps them apart. Raises UserError where
    there is no run, no checkpoint, or not the one that is asked for, for both a step and the best one, and for a
    strength where there are no adapters.
    """
    check_chosen(step, best)
    experiment = experiment or run.experiment()
    if adapters not in (1.0, None) and not experiment.lora.rank:
        raise UserError(f"{run.path} has no adapters, whose strength would be {adapters}: it was trained without LoRA")
    codec = loaded_codec(run, experiment, layout)
    if not run.checkpoints.is_dir():
        raise UserError(f"{run.path} has no checkpoints: train it first")
    with Checkpoints(run.checkpoints) as checkpoints:
        step = checkpoints.best() if best else step
        state = saved_state(experiment, run.examples(), codec, checkpoints, step, layout, optimizer=False)
    trained = Trained(experiment, codec, state, run, layout)
    return trained if adapters is None else trained.merged(adapters)


def held_out_examples(experiment: Experiment) -> RawBatch:
    """The first held-out examples of the data, raw, as many as there are samples in a grid."""
    count = min(experiment.num_samples, experiment.data.count("test"))
    return next(experiment.data.padded_batches(count, "test"))[0]


def loaded_codec(run: RunFolder | None, experiment: Experiment, layout: Layout | None = None) -> Codec:
    """The experiment's codec with what it reads from files in place, the same that the run began with, or that it
    begins with now."""
    record = run.codec_record() if run else None
    codec = experiment.codec.load(record)
    if record is None:
        codec = codec.measured(_to_measure(experiment.data))
    return codec if layout is None else layout.put(codec, layout.everywhere)


def _to_measure(data: Dataset) -> Iterator[RawBatch]:
    """Batches of training examples, read only as they are asked for: most codecs measure nothing, and a run is used
    where its data are not."""
    size = min(MEASURED_BY, data.count("train"))
    for step in range(-(-MEASURED // size)):
        yield data.batch_at(0, step, size)


def initial_state(experiment: Experiment, codec: Codec, layout: Layout | None = None) -> TrainState:
    """The state at step 0, from the batch of step 0."""
    batch = experiment.data.batch_at(experiment.seed, 0, experiment.batch_size)
    return compiled.init(experiment.compute_model, run_key(experiment.seed, INIT), batch, codec, layout)


def saved_state(
    experiment: Experiment,
    batch: RawBatch,
    codec: Codec,
    checkpoints: Checkpoints,
    step: int | None = None,
    layout: Layout | None = None,
    optimizer: bool = True,
) -> TrainState:
    """The newest intact checkpoint of a run, or that of `step`; any raw batch tells the shapes. It may have been saved
    on another mesh. optimizer: whether its state is wanted too, as for more training."""
    like = compiled.abstract_state(experiment.compute_model, batch, codec)
    like = like if layout is None else layout.like(like)
    return checkpoints.restore(like, step, optimizer=optimizer)


def open_run(experiment: Experiment, out: Path, facts: dict[str, Any] | None, codec: Codec) -> RunFolder:
    """The run's folder with what a reader needs before the first step. Raises UserError when it is another run's."""
    run = prepare_run(experiment, out, codec)
    run.record(experiment, {**run_facts(experiment, run.examples(), codec), **(facts or {})})
    return run


def check_new(out: Path) -> None:
    """Raises UserError unless `out` is an empty folder, or one that can be made."""
    check_output(out, folder=True)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} holds a run already, or other files: name a new folder")


def import_params(experiment: Experiment, params: PyTree, out: Path, source: str) -> None:
    """Makes `out` a run at step 0 of parameters that come from elsewhere, to use or train on as any other. source:
    where they come from."""
    run = open_run(experiment, out, {"source": source}, experiment.codec)
    opt_state = {"all": experiment.model.optimizer.start(params)}  # pyright: ignore[reportAttributeAccessIssue]
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save(TrainState(step=jnp.int32(0), params=params, opt_state=opt_state))


def prepare_run(experiment: Experiment, out: Path, codec: Codec) -> RunFolder:
    """The run's folder with what restoring a state and sampling need; what is there and readable stays as it is. Raises
    UserError when it is another run's."""
    run = RunFolder(out)
    run.create(experiment)
    run.keep_codec(codec.provenance)
    keep_marks(run, experiment.data)
    run.keep_examples(held_out_examples(experiment))
    run.keep_files(experiment.data.files_to_keep())
    return run


def run_facts(experiment: Experiment, batch: RawBatch, codec: Codec) -> dict[str, Any]:
    """What environment.json says of every run: its seed, and the numbers of parameters of its networks."""
    model = experiment.compute_model
    params = compiled.abstract_state(model, batch, codec).params
    facts = {"seed": experiment.seed, "params": {name: count_params(tree) for name, tree in params.items()}}
    if model.trainable:
        facts["trained_params"] = count_params(trained(params, model.trainable))
    return facts
