"""Files of LoRA as adapters of a run, and back; a run with its adapters merged: see `jaxgen weights`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jaxgen.core.model import GenerativeModel
from jaxgen.core.types import TrainState
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.models.diffusion import Diffusion
from jaxgen.models.gpt import GPT
from jaxgen.nets.clip import TextTower
from jaxgen.nets.unet_sd import SDUNet
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.initial import begin
from jaxgen.runs.restore import Trained, check_new, open_run, restore
from jaxgen.weights import gpt2, lora
from jaxgen.weights.lora import Form, Slots
from jaxgen.weights.stable_diffusion_lora import lora_slots


def import_lora(file: Path, run: Path, out: Path) -> None:
    """Makes `out` a run at step 0 of the run `run` with the adapters in a file, apart from what they adapt: to use or
    to train on. Raises UserError for a file that is none of LoRA, or of another base."""
    check_new(out)
    base = restore(RunFolder(run))
    trees, settings = lora.fitted(
        lora.read(file, slots := slots_of(base.model)), slots, base.state.sampling_params, str(file)
    )
    experiment = replace(base.experiment, init=str(run.absolute()), lora=settings, trainable="")

    def with_adapters(state: TrainState) -> TrainState:
        params = {name: {**tree, "lora": _arrays(trees[name])} for name, tree in state.params.items()}
        ema = state.ema and {name: {**tree, "lora": _arrays(trees[name])} for name, tree in state.ema.items()}
        return state.replace(params=params, ema=ema)

    _new_run(experiment, base, out, file.name, with_adapters)


def export_lora(run: Path, file: Path, form: Form | None = None) -> None:
    """Writes the newest adapters of a run, averaged ones where it has them, as a file. form: the usual one of the
    model's peers if None. Raises UserError for a run without adapters, or whose kernels have no names there."""
    folder = RunFolder(run)
    experiment = folder.experiment()
    if not experiment.lora.rank:
        raise UserError(f"{run} has no adapters: it was trained without --lora.rank")
    slots = slots_of(experiment.model)
    gpt = isinstance(experiment.model, GPT)
    form = form or ("peft" if gpt else "diffusers")
    lora.check_place(file, form)
    found = restore(folder, experiment, adapters=None)
    lora.write(file, lora.pairs_of(found.state.sampling_params, slots), form, transposed=gpt)


def merge_lora(run: Path, out: Path) -> None:
    """Makes `out` a run at step 0 whose kernels are those of a run with its adapters added. Raises UserError for a run
    without any."""
    check_new(out)
    if not RunFolder(run).experiment().lora.rank:
        raise UserError(f"{run} has no adapters: it was trained without --lora.rank")
    base = restore(RunFolder(run))
    _new_run(replace(base.experiment, init=str(run.absolute())), base, out, str(run), lambda state: state)


def slots_of(model: GenerativeModel) -> Slots:
    """The kernels of a model by the names of modules in files of LoRA. Raises UserError for a model that has none."""
    if isinstance(model, GPT):
        return gpt2.lora_slots(model.network)
    if isinstance(model, Diffusion) and isinstance(model.network, SDUNet):
        return lora_slots(model.network, model.text if isinstance(model.text, TextTower) else None)
    raise UserError(f"{type(model).__name__} has no peers that share files of LoRA: GPT-2 and Stable Diffusion have")


def _new_run(
    experiment: Experiment, base: Trained, out: Path, source: str, change: Callable[[TrainState], TrainState]
) -> None:
    run = open_run(experiment, out, {"source": source}, base.codec)
    state = change(begin(experiment, base.codec, run=run))
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save(state)


def _arrays(tree: Any) -> Any:
    return {name: _arrays(part) if isinstance(part, dict) else jnp.array(part) for name, part in tree.items()}
