"""Which families fit a data set, and an experiment of each that costs as much as every other's."""

import dataclasses
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgen import core
from jaxgen.core.keys import INIT, TRAIN
from jaxgen.data import BatchPlan, feed
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment, presets, scripts
from jaxgen.runs.pretrained import NamesRun


@dataclass(frozen=True)
class Family:
    """A row of the comparison. kind: what its claims are about. script: whose preset of the data set's name is trained.
    first: the script of the first stage that it needs, which gets half of its budget. by_element: a sample takes a pass
    of the network for each of its elements, or pixels."""

    name: str
    kind: str
    script: str
    first: str = ""
    by_element: bool = False


FAMILIES = (
    Family("Autoencoder, mixture of its codes", "autoencoder", "autoencoder"),
    Family("VAE", "VAE", "vae"),
    Family("beta-VAE", "VAE", "beta_vae"),
    Family("Conditional VAE", "VAE", "cvae"),
    Family("VQ-VAE and prior", "quantized", "vqvae_prior", "vqvae", by_element=True),
    Family("GAN", "GAN", "gan"),
    Family("Conditional GAN", "GAN", "cgan"),
    Family("DCGAN", "GAN", "dcgan"),
    Family("SNGAN", "GAN", "sngan"),
    Family("WGAN", "GAN", "wgan"),
    Family("WGAN-GP", "GAN", "wgan_gp"),
    Family("StyleGAN2", "GAN", "stylegan2"),
    Family("RealNVP", "flow", "realnvp"),
    Family("Glow", "flow", "glow"),
    Family("Neural spline flow", "flow", "nsf"),
    Family("MAF", "flow", "maf", by_element=True),
    Family("PixelCNN", "autoregressive", "pixelcnn", by_element=True),
    Family("PixelCNN++", "autoregressive", "pixelcnn_pp", by_element=True),
    Family("Image GPT", "autoregressive", "image_gpt", by_element=True),
    Family("Energy-based model", "energy", "ebm"),
    Family("Score matching", "diffusion", "score_matching"),
    Family("DDPM", "diffusion", "ddpm"),
    Family("Improved DDPM", "diffusion", "improved_ddpm"),
    Family("EDM", "diffusion", "edm"),
    Family("Flow matching", "diffusion", "flow_matching"),
    Family("DiT", "diffusion", "dit"),
)
LINES = 20
"""How often a training logs, about."""
SCHEDULED = ("decay_steps", "warmup", "kl_warmup", "half_life")
"""Fields that count steps of training: they shrink and grow with its length."""


def chosen(folder: Path, data: str, wanted: tuple[str, ...] = ()) -> dict[Family, Experiment]:
    """The experiment of each family that has a preset for the data set. wanted: scripts, all when empty. Raises
    UserError for a data set or script that there is none of."""
    there = scripts(folder)
    if unknown := set(wanted) - {family.script for family in FAMILIES}:
        known = ", ".join(family.script for family in FAMILIES)
        raise UserError(f"{', '.join(sorted(unknown))} is no family to compare: choose from {known}")
    if len(wanted) == 1:
        raise UserError(f"one family was named, {wanted[0]}: name two or more, or none for all")
    found = {}
    for family in FAMILIES:
        if family.script in there and (not wanted or family.script in wanted):
            known = presets(there[family.script])
            if data in known and (not family.first or data in presets(there[family.first])):
                found[family] = known[data]
    if len(found) < 2:
        raise UserError(f"{data!r} is no data set that two families have a preset for: choose digits, emoji or mnist")
    return found


def seconds_per_step(experiment: Experiment) -> tuple[float, float, int]:
    """CPU seconds of one step of training once it is compiled, seconds to compile it, and the bytes that it holds at
    its peak. On a GPU or TPU the first are seconds of the clock."""
    model, count = experiment.compute_model, experiment.steps_per_call
    codec, key = experiment.codec.load(), core.run_key(experiment.seed, TRAIN)
    raw = experiment.data.batch_at(experiment.seed, 0, experiment.batch_size)
    state = core.init(model, core.run_key(experiment.seed, INIT), raw, codec)
    plan = BatchPlan(seed=experiment.seed, batch_size=experiment.batch_size, steps_per_call=count, stop=count)
    data, calls = feed(experiment.data, plan, experiment.preload)
    batches = jax.device_put(next(iter(calls)))
    began = time.perf_counter()
    compiled = core.train_steps.lower(model, state, key, batches, codec, data).compile()
    compiling = time.perf_counter() - began
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    times = []
    for _ in range(4):
        began = clock()
        state, metrics = compiled(state, key, batches, codec, data)
        jax.block_until_ready(metrics)
        times.append(clock() - began)
    return float(np.median(times[1:])) / count, compiling, peak_bytes(compiled)


def peak_bytes(compiled: Any) -> int:
    """Bytes of the arguments, results and temporaries that a program holds at once, donated ones counted once."""
    stats = compiled.memory_analysis()
    held = stats.argument_size_in_bytes + stats.output_size_in_bytes + stats.temp_size_in_bytes
    return int(held - stats.alias_size_in_bytes)


def of_length(experiment: Experiment, steps: float) -> Experiment:
    """The experiment with about so many steps, a whole number of calls: its schedules in proportion, saved once, at the
    end."""
    call = experiment.steps_per_call
    calls = max(1, round(steps / call))
    steps = calls * call
    scaled = _scaled(experiment.model, steps / experiment.steps)
    return replace(
        experiment, model=scaled, steps=steps, save_every=steps, sample_every=steps, keep=1, best="",
        log_every=max(1, calls // LINES) * call,
    )  # fmt: skip


def _scaled(value: Any, factor: float) -> Any:
    """A model with the fields of SCHEDULED, wherever they lie in it, times `factor`."""
    changes = {}
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        if field.name in SCHEDULED and inner:
            changes[field.name] = max(1, round(inner * factor))
        elif dataclasses.is_dataclass(inner) and not isinstance(inner, type) and field.init:
            changes[field.name] = _scaled(inner, factor)
    return replace(value, **{name: new for name, new in changes.items() if new is not getattr(value, name)})


def after(experiment: Experiment, first_stage: Path) -> Experiment:
    """The experiment of a second stage with this first stage."""
    assert isinstance(experiment.codec, NamesRun)
    return replace(experiment, codec=replace(experiment.codec, run=str(first_stage)))
