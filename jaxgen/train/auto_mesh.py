"""The mesh that `--mesh auto` stands for: chosen once, before training, and written into the run's experiment."""

import os
from dataclasses import replace

import jax

from jaxgen.core.flops import CONVOLUTION, flops_by_kind
from jaxgen.core.mesh import size
from jaxgen.experiment import AUTO, Experiment

MOSTLY = 0.5
"""Share of a step's arithmetic in convolutions above which a CPU is split into devices."""


def cpu_devices(mesh: str) -> int:
    """How many devices a CPU must be split into for a mesh, before jax starts: a device a core for `auto`."""
    return (os.cpu_count() or 1) if mesh == AUTO else size(mesh)


def settled(experiment: Experiment) -> tuple[Experiment, str]:
    """A checked experiment with a fixed mesh, and a line that says why it was chosen, "" if the mesh was given.

    `auto`, and no mesh on a host with several accelerators, become data=N, where N divides the batch. N counts all
    accelerators. On a CPU it counts the cores if most of a step's arithmetic is in convolutions: XLA runs a convolution
    of up to 64 channels on one core of each device, but spreads matrix products over all cores by itself.
    """
    several = jax.default_backend() != "cpu" and len(jax.devices()) > 1
    if jax.process_count() > 1 or not (experiment.mesh == AUTO or (several and not experiment.mesh)):
        return experiment, ""
    here = len(jax.devices())
    why = f"all {here} devices"
    if jax.default_backend() == "cpu":
        share = convolution_share(experiment)
        why = f"{share:.0%} of a step's arithmetic is in convolutions"
        here = here if share > MOSTLY else 1
    count = max(n for n in range(1, here + 1) if experiment.batch_size % (n * experiment.parts) == 0)
    return replace(experiment, mesh=f"data={count}"), f"mesh auto: data={count} ({why})"


def convolution_share(experiment: Experiment) -> float:
    """The share of convolutions in the arithmetic of a training step, in [0, 1]."""
    raw = experiment.data.batch_at(experiment.seed, 0, experiment.batch_size)
    arguments = experiment.step_arguments(raw, experiment.codec.load())
    counts = flops_by_kind(experiment.compute_model.train_step, *arguments)
    return counts[CONVOLUTION] / max(1.0, sum(counts.values()))
