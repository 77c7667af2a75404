"""The state that a new run begins with: at random, or with parameters of another run (`Experiment.init`).

An array is taken where its path and shape are the same here and there. What is not is said, in one line of its own for
each reason, and kept in RUN/init.json beside where the parameters come from.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.codec import Codec
from jaxgen.core.mesh import Layout
from jaxgen.core.types import PyTree, TrainState
from jaxgen.errors import UserError, first_few
from jaxgen.experiment import Experiment
from jaxgen.nets.lora import base_of, is_adapted
from jaxgen.optim import optimizers_of, path_name, trained
from jaxgen.runs.checkpoint import saved_steps
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.packing import placed
from jaxgen.runs.restore import initial_state, restore
from jaxgen.runtime import processes
from jaxgen.runtime.files import check_output, disk_errors, write_tensors
from jaxgen.runtime.reading import read_bytes, read_tensors, user_path
from jaxgen.weights.store import content_hash

FORMAT = "jaxgen parameters 1"
EXTRA = "extra"
"""The first name of what a state has beside parameters: batch statistics, codebooks."""


class Source(NamedTuple):
    """What another run has learnt: arrays by path, and where they come from."""

    arrays: dict[str, np.ndarray]
    record: dict[str, Any]


def begin(
    experiment: Experiment, codec: Codec, layout: Layout | None = None, run: RunFolder | None = None
) -> TrainState:
    """The state of a new run at step 0. run: its folder, which keeps what the state was made from.

    Raises UserError if `experiment.init` is no run and no file of parameters, or nothing of it fits.
    """
    state = initial_state(experiment, codec, layout)
    if not experiment.init:
        return state
    source, model = read_source(user_path(experiment.init)), experiment.compute_model
    state, lines, record = taken_over(state, source, model.trainable)
    if any(optimizer.remembers for optimizer in optimizers_of(model)):
        state = jax.jit(model.restarted, out_shardings=jax.tree.map(lambda a: a.sharding, state))(state)
    lines += _other_tokens(experiment, source.record.get("run"))
    if not record["taken"]:
        raise UserError(
            f"{experiment.init} has nothing of the names and shapes of this model (it has "
            f"{first_few(source.arrays)}): name a run of the same network with --init"
        )
    if processes.is_main():
        print("\n".join(f"{experiment.init}: {line}" for line in lines))
    if run is not None:
        run.write_json("init.json", {**source.record, **record})
        run.note(0, "initialized", f"from {experiment.init}: {'; '.join(lines)}")
    return state


def _other_tokens(experiment: Experiment, run: str | None) -> list[str]:
    """A line for each tokenizer that is not the one with which the parameters were learnt."""
    lines = []
    for name, text in experiment.data.files_to_keep().items() if run else ():
        file = Path(run or "") / name
        if file.exists() and read_bytes(file) != text.encode():
            flag = "--data.tokens-of" if name == "tokenizer.json" else "--data.vocabulary"
            lines.append(f"its {name} is another one, so tokens mean something else here: see {flag}")
    return lines


def check_init(experiment: Experiment, run: RunFolder | None) -> None:
    """Raises UserError unless what a new run starts from can be found. run: its folder, perhaps with checkpoints, which
    it then goes on from."""
    if not experiment.init or (run is not None and saved_steps(run.checkpoints)):
        return
    path = user_path(experiment.init)
    if path.is_dir():
        RunFolder(path).experiment()
        if not saved_steps(path / "checkpoints"):
            raise UserError(f"{path} has no checkpoints: train it first, or name another run with --init")
    elif not path.exists():
        raise UserError(f"init is {experiment.init!r}, which is not there: name a run folder, or a file of parameters")


def read_source(path: Path) -> Source:
    """The parameters that a run samples with and what else its networks keep, or those in a file that `export_params`
    wrote. Raises UserError for anything else."""
    if path.is_dir():
        found = restore(RunFolder(path))
        params = _flat({**found.state.params, **found.state.sampling_params})
        arrays = {**params, **_flat(found.state.extra, EXTRA)}
        return Source(arrays, {"run": str(path), "step": found.step, "sha256": content_hash(params)})
    arrays, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise UserError(
            f"{path} is no file of jaxgen weights export: make published weights a run first, as by jaxgen weights "
            "import-gpt2, and name that with --init"
        )
    return Source(arrays, {"file": str(path), "sha256": content_hash(arrays)})


def export_params(run: Path, file: Path) -> None:
    """Writes the parameters that a run samples with, those of adapters merged, by their paths. Raises UserError where
    that cannot be written, before the run is read."""
    check_output(file, folder=False)
    found = restore(RunFolder(run))
    with disk_errors():
        arrays = _flat({**found.state.params, **found.state.sampling_params})
        write_tensors(file, arrays, {"format": FORMAT, "source": found.name, "step": str(found.step)})


def taken_over(
    state: TrainState, source: Source, trainable: str | None = None
) -> tuple[TrainState, list[str], dict[str, Any]]:
    """A state with what `source` has for it, lines that say what was taken and left, and the same as a record.

    trainable: the pattern of what is trained; arrays that are neither taken nor trained are pointed out.
    """
    taken: list[str] = []
    other: dict[str, str] = {}
    missing: list[str] = []

    def choose(leaf: jax.Array, name: str) -> jax.Array:
        there = source.arrays.get(name)
        if there is None:
            missing.append(name)
        elif there.shape != leaf.shape:
            other[name] = f"{name} {list(there.shape)} there, {list(leaf.shape)} here"
        else:
            taken.append(name)
            return placed(np.asarray(there, leaf.dtype), leaf.sharding)
        return leaf

    def chosen(tree: PyTree, start: str = "") -> PyTree:
        """The arrays of `tree` where `source` has them."""
        begin = f"{start}/" if start else ""
        return jax.tree_util.tree_map_with_path(lambda path, leaf: choose(leaf, begin + path_name(path)), tree)

    params = {}
    for name, tree in state.params.items():
        own = chosen(base_of(tree), name)
        params[name] = {**tree, "base": own} if is_adapted(tree) else own
    extra = chosen(state.extra, EXTRA)
    missing = [name for name in missing if not name.startswith(f"{EXTRA}/")]
    ema = state.ema and {name: jax.tree.map(jnp.copy, params[name]) for name in state.ema}
    unused = [name for name in source.arrays if name not in taken and name not in other]
    unused = [name for name in unused if not name.startswith(f"{EXTRA}/")]

    number = len(taken) + len(other) + len(missing)
    lines = [f"{len(taken)} of {number} arrays are taken from it"]
    for names, words in (
        (other.values(), "begin at random, since their shapes differ"),
        (missing, "begin at random, since it has none"),
        (unused, "of its own are left out"),
        (_fixed(params, {*other, *missing}, trainable), "of those at random are not trained: see --trainable"),
    ):
        if names:
            lines.append(f"{len(names)} {words}: {first_few(names)}")
    record = {"taken": len(taken), "other_shape": [*other.values()], "missing": missing, "left_out": unused}
    return state.replace(params=params, ema=ema, extra=extra), lines, record


def _fixed(params: PyTree, random: set[str], trainable: str | None) -> list[str]:
    """The paths of `random` whose arrays are not trained either."""
    moving = {path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(trained(params, trainable))}
    every = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return [name for name in every if name not in moving and name.replace("/base/", "/", 1) in random]


def _flat(tree: PyTree, start: str = "") -> dict[str, np.ndarray]:
    begin = f"{start}/" if start else ""
    return {begin + path_name(p): np.asarray(leaf) for p, leaf in jax.tree_util.tree_leaves_with_path(tree)}
