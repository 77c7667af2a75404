"""Samplers by the names that users of Stable Diffusion know, with the times that go with each."""

from dataclasses import replace
from typing import Any, Literal, get_args

from jaxgen.errors import UserError, nearest
from jaxgen.ops.pndm import PNDM
from jaxgen.ops.samplers import DDIM, Ancestral, DPMSolverPP, Euler, Heun, Sampler
from jaxgen.ops.schedules import ScaledLinear, Schedule

Name = Literal["ddim", "pndm", "euler", "euler-ancestral", "heun", "dpm++"]
LEADING, TO_FIRST = {"spacing": "leading", "end": "data"}, {"spacing": "leading", "end": "first"}
SAMPLERS: dict[Name, tuple[type[Sampler], dict[str, Any]]] = {
    "ddim": (DDIM, TO_FIRST),
    "pndm": (PNDM, TO_FIRST),
    "euler": (Euler, LEADING),
    "euler-ancestral": (Ancestral, LEADING),  # the same method, in units of x / alpha
    "heun": (Heun, LEADING),
    "dpm++": (DPMSolverPP, {"spacing": "karras", "end": "data"}),
}
"""The sampler, and the fields of a `ScaledLinear` schedule: diffusers' defaults for Stable Diffusion 1.x."""


def named_sampler(name: str, steps: int, before: Sampler, schedule: Schedule) -> tuple[Sampler, Schedule]:
    """The sampler of a name and the schedule as it wants it; other schedules than `ScaledLinear` stay as they are.

    steps: as many as `before` has when 0. before: its clip stays. Raises UserError for an unknown name.
    """
    if name not in SAMPLERS:
        names = get_args(Name)
        raise UserError(f"the sampler {name!r} is unknown{nearest(name, names)}: choose one of {', '.join(names)}")
    kind, fields = SAMPLERS[name]
    sampler = kind(steps=steps or before.steps, clip=before.clip)
    return sampler, replace(schedule, **fields) if isinstance(schedule, ScaledLinear) else schedule


def name_of(sampler: Sampler) -> Name | None:
    """The name of a sampler, None if it has none."""
    return next((name for name, (kind, _) in SAMPLERS.items() if type(sampler) is kind), None)
