"""The mesh, and where needed the settings that save memory, with which an experiment's step is fastest on a machine."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from jaxgen.core.mesh import parse
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.planning.compiling import Target, bytes_of
from jaxgen.planning.machines import GIB, Machine
from jaxgen.planning.plan import ROOM, Plan, meshes, plan, text

MOST_TENSOR = 8
"""Devices that share one layer: those of a host."""


def search(
    experiment: Experiment, machine: Machine, devices: list[Any], script: str, preset: str, say: Callable[[str], None]
) -> Plan:
    """The plan of the fastest step that fits, by its bound. `say` is told of each that was compiled.

    Batches keep their size, which the result depends on. What saves memory is tried only while nothing fits: first
    gradients in more parts, then recomputing activations too. Layers are split over devices only where parameters split
    over all of them are not enough. Raises UserError if nothing fits.
    """
    tried: list[str] = []

    def note(line: str) -> None:
        tried.append(line)
        say(line)

    for tensor in (1, *(n for n in (2, 4, MOST_TENSOR) if machine.count % n == 0)):
        shapes = [mesh for mesh in meshes(machine.count) if mesh["tensor"] == tensor]
        for remat in (False, True):
            if remat and (experiment.remat or not experiment.can_remat):
                continue
            chosen = (replace(experiment, mesh=text(mesh), remat=remat or experiment.remat) for mesh in shapes)
            found = [_in_parts(one, machine, devices, script, preset, note) for one in chosen]
            if fitting := [one for one in found if one]:
                return min(fitting, key=_seconds)
    raise UserError(
        f"{script} {preset} fits no mesh of {machine}" + (f" ({tried[-1]})" if tried else "") + ": choose a larger "
        "machine, or a smaller --batch-size"
    )


def _in_parts(
    experiment: Experiment, machine: Machine, devices: list[Any], script: str, preset: str, say: Callable[[str], None]
) -> Plan | None:
    """The plan with the fewest parts of a batch that fits; None if none does."""
    model: Any = experiment.model
    parts, room = _parts(experiment), ROOM * machine.chip.memory
    while parts:
        chosen = experiment
        if hasattr(model, "accumulate"):
            chosen = replace(experiment, model=replace(model, accumulate=parts[0]))
        state = bytes_of(Target.of(chosen, machine, devices).state)
        if state > room:
            say(f"{_name(chosen)}: the state alone takes {state / GIB:.1f} GiB a device")
            return None
        found = plan(chosen, machine, devices, script, preset)
        memory = found.parts[0].program.memory
        if found.fits:
            least = f"{_seconds(found) * 1e3:.3g} ms a step at best"
            say(f"{_name(chosen)}: {memory.needed / GIB:.1f} GiB a device, {least}")
            return found
        say(f"{_name(chosen)}: {memory.needed / GIB:.1f} GiB a device, does not fit")
        # Temporaries shrink with a part at most: fewer parts than this cannot fit.
        enough = parts[0] * (memory.needed - state) / max(1.0, room - state)
        parts = [n for n in parts[1:] if n >= enough]
    return None


def _parts(experiment: Experiment) -> list[int]:
    """Numbers of parts that the batch divides into on the experiment's mesh, rising; 1 for a model that cannot."""
    size, sizes = experiment.batch_size, parse(experiment.mesh)
    groups = sizes["data"] * sizes["fsdp"] * experiment.model.neighbours
    most = size if hasattr(experiment.model, "accumulate") else 1
    return [n for n in range(1, most + 1) if size % (n * groups) == 0]


def _name(experiment: Experiment) -> str:
    parts = getattr(experiment.model, "accumulate", 1)
    settings = [experiment.mesh or "one device", *(["remat"] if experiment.remat else [])]
    return ", ".join([*settings, *([f"in {parts} parts"] if parts > 1 else [])])


def _seconds(plan: Plan) -> float:
    bound = plan.parts[0].bound
    return bound.seconds if bound else math.inf
