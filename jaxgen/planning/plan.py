"""A plan: whether an experiment's programs fit a machine, and how fast they could be there at best."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax

from jaxgen.core.ema import AVERAGES
from jaxgen.core.mesh import AXES, parse
from jaxgen.errors import UserError
from jaxgen.experiment import AUTO, Experiment
from jaxgen.planning.compiling import Program, Target, bytes_of, check_state
from jaxgen.planning.machines import GIB, Machine

ROOM = 0.95
"""Of a device's memory that programs may take: the rest is for the runtime, collectives and fragments."""
DEFAULT_SHARE = 0.75
"""Of a GPU's memory that jax takes when it starts, unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise."""


@dataclass(frozen=True)
class Bound:
    """The least time of one step, or of one call of the sampler, in seconds: each device's arithmetic at its peak, its
    memory traffic at full bandwidth, and what it sends over its links; the longest of these, as if they overlapped."""

    arithmetic: float
    memory: float
    links: float

    @property
    def seconds(self) -> float:
        return max(self.arithmetic, self.memory, self.links)

    @property
    def share(self) -> float:
        """Of the peak of arithmetic that could be reached, in [0, 1]."""
        return self.arithmetic / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Part:
    """A program of a plan. times: steps, or samples, in a call."""

    name: str
    program: Program
    bound: Bound | None
    times: int
    fits: bool

    @property
    def turns(self) -> int:
        """How often the call does what its bound is of: a step, or all samples at once."""
        return _turns(self.name, self.times)


@dataclass(frozen=True)
class Plan:
    """What `jaxgen plan` prints and writes."""

    script: str
    preset: str
    experiment: Experiment
    machine: Machine
    state: dict[str, int]
    parts: tuple[Part, ...]
    stand_ins: tuple[str, ...]
    """What was taken for data or runs that are not here, a line each."""

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self.stand_ins, *_notes(self.parts, self.state, self.machine))

    @property
    def fits(self) -> bool:
        return all(part.fits for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        experiment, machine = self.experiment, self.machine
        return {
            "script": self.script, "preset": self.preset, "machine": str(machine), "mesh": experiment.mesh,
            "batch_size": experiment.batch_size, "precision": experiment.precision, "remat": experiment.remat,
            "accumulate": getattr(experiment.model, "accumulate", 1), "fits": self.fits,
            "memory_of_a_device": machine.chip.memory, "state_of_a_device": self.state,
            "programs": {part.name: _part(part) for part in self.parts}, "notes": list(self.notes),
            "jax": jax.__version__,
        }  # fmt: skip

    def lines(self) -> Iterator[str]:
        """The plan as text."""
        chip, experiment = self.machine.chip, self.experiment
        yield f"{self.script} {self.preset} on {self.machine}, mesh {experiment.mesh or 'of one device'}"
        state = ", ".join(f"{name} {size / GIB:.2f}" for name, size in self.state.items())
        yield f"  state of a device: {state} GiB"
        for part in self.parts:
            memory = part.program.memory
            fits = "fits" if part.fits else "DOES NOT FIT"
            yield f"  {part.name}: {fits}: {memory.needed / GIB:.2f} of {chip.memory / GIB:.1f} GiB a device"
            yield (
                f"    in {memory.arguments / GIB:.2f}, temporary {memory.temporaries / GIB:.2f}, new "
                f"{memory.outputs / GIB:.2f}, code {memory.code / GIB:.2f} GiB; {part.program.seconds:.0f} s to compile"
            )
            if bound := part.bound:
                what = "a step" if part.name == "train" else f"{part.times} samples"
                yield (
                    f"    {what}: at least {bound.seconds * 1e3:.3g} ms (arithmetic {bound.arithmetic * 1e3:.3g}, "
                    f"memory {bound.memory * 1e3:.3g}, links {bound.links * 1e3:.3g}), at most {bound.share:.0%} of "
                    f"the peak of {self.machine.peak(experiment.precision) / 1e12:.0f} T operations/s"
                )
            for e in part.program.traffic.exchanges if part.program.traffic else ():
                count, sent = e.count / part.turns, e.sent / part.turns
                yield f"    {e.kind} among {e.group}: {count:g} times, {sent / 1e6:.3g} MB sent"
        for note in self.notes:
            yield f"  {note}"


def _part(part: Part) -> dict[str, Any]:
    program = part.program
    found: dict[str, Any] = {
        "fits": part.fits, "memory": asdict(program.memory), "times": part.times,
        "operations": program.operations, "compile_seconds": round(program.seconds, 1),
    }  # fmt: skip
    if program.traffic and part.bound:
        found["moved"] = program.traffic.moved
        found["exchanges"] = [asdict(exchange) for exchange in program.traffic.exchanges]
        found["bound"] = {**asdict(part.bound), "seconds": part.bound.seconds, "share_of_peak": part.bound.share}
    return found


def plan(experiment: Experiment, machine: Machine, devices: list[Any], script: str = "", preset: str = "") -> Plan:
    """The plan of a training call.

    devices: `machine.devices()`. Raises UserError for a mesh or settings that do not go together.
    """
    experiment = on_all(experiment, machine)
    target = Target.of(experiment, machine, devices)
    check_state(target)
    train = _planned("train", target.train_steps(), experiment.steps_per_call, experiment, machine)
    state = target.state
    optimizer = {name: tree for name, tree in state.opt_state.items() if name != AVERAGES}
    averages = (state.ema, state.opt_state.get(AVERAGES))
    sizes = {"parameters": state.params, "averages": averages, "optimizer": optimizer, "rest": state.extra}
    own = {name: bytes_of(tree) for name, tree in sizes.items() if jax.tree.leaves(tree)}
    return Plan(script, preset, experiment, machine, own, (train,), target.notes)


def with_sampler(found: Plan, devices: list[Any], samples: int) -> Plan:
    """The plan with one of a call that draws so many samples."""
    program = Target.of(found.experiment, found.machine, devices).sample(samples)
    part = _planned("sample", program, samples, found.experiment, found.machine)
    return replace(found, parts=(*found.parts, part))


def on_all(experiment: Experiment, machine: Machine) -> Experiment:
    """The experiment with a mesh of the whole machine; data parallel if none was given. Raises UserError for a mesh of
    another size."""
    mesh = "" if experiment.mesh == AUTO else experiment.mesh
    if not mesh:
        return replace(experiment, mesh=f"data={machine.count}" if machine.count > 1 else "")
    count = math.prod(parse(mesh).values())
    if count != machine.count:
        raise UserError(
            f"mesh {mesh} is of {count} devices, {machine} of {machine.count}: the nearest is "
            f"{_nearest(parse(mesh), machine.count)}"
        )
    return experiment


def _nearest(sizes: dict[str, int], count: int) -> str:
    """The mesh of `count` devices nearest to these sizes."""

    def far(mesh: dict[str, int]) -> tuple[bool, float]:
        away = {axis: abs(math.log(mesh[axis] / sizes[axis])) for axis in AXES}
        return away["tensor"] > 0, sum(away.values())

    return text(min(meshes(count), key=far))


def meshes(count: int) -> Iterator[dict[str, int]]:
    """Every mesh of `count` devices."""
    for data in range(1, count + 1):
        for fsdp in range(1, count // data + 1 if count % data == 0 else 1):
            if count // data % fsdp == 0:
                yield {"data": data, "fsdp": fsdp, "tensor": count // data // fsdp}


def text(mesh: dict[str, int]) -> str:
    """A mesh as --mesh takes it."""
    return ",".join(f"{axis}={size}" for axis, size in mesh.items() if size > 1)


def _turns(name: str, times: int) -> int:
    return times if name == "train" else 1


def _planned(name: str, program: Program, times: int, experiment: Experiment, machine: Machine) -> Part:
    fits = program.memory.needed <= ROOM * machine.chip.memory
    if program.traffic is None:
        return Part(name, program, None, times, False)
    turns = _turns(name, times)
    links = math.fsum(e.sent / machine.link(e.span) for e in program.traffic.exchanges)
    bound = Bound(
        program.operations / machine.count / machine.peak(experiment.precision) / turns,
        program.traffic.moved / machine.chip.bandwidth / turns, links / turns,
    )  # fmt: skip
    return Part(name, program, bound, times, fits)


def _notes(parts: tuple[Part, ...], state: dict[str, int], machine: Machine) -> Iterator[str]:
    if not all(part.fits for part in parts):
        yield "what does not fit may with other meshes, --remat or gradients in parts: --search tries them"
    needed = max(part.program.memory.needed for part in parts)
    if machine.chip.platform == "cuda" and DEFAULT_SHARE < needed / machine.chip.memory <= ROOM:
        yield f"more than jax takes by default: set XLA_PYTHON_CLIENT_MEM_FRACTION={ROOM}"
    train = parts[0].program
    if train.traffic and train.memory.aliased < sum(state.values()):
        lost = sum(state.values()) - train.memory.aliased
        yield f"{lost / GIB:.2f} GiB of the state are not updated in place: the old and the new lie side by side"
