"""An experiment's programs, compiled for a machine that is not here."""

import math
import re
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, SingleDeviceSharding

from jaxgen.core import compiled
from jaxgen.core.codec import Codec
from jaxgen.core.compiled import abstract_state
from jaxgen.core.flops import flops_of
from jaxgen.core.keys import TRAIN, run_key, sample_keys
from jaxgen.core.mesh import Layout, divisible
from jaxgen.core.types import PyTree
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.planning.machines import (
    GIB,
    NO_TILE,
    WITHOUT_TRITON,
    Machine,
    compiler_options,
    larger,
    without_cpu_flags,
)  # fmt: skip
from jaxgen.planning.shapes import raw_batch
from jaxgen.planning.traffic import Traffic, traffic

RAN_OUT = re.compile(r"temporaries \(([\d.]+)([KMGT]?)\) exceeds|Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm")
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True)
class Memory:
    """Bytes on each device. arguments: what the program reads, its state and batches. outputs: new arrays that it
    returns, without those that take an argument's place. code: of the program, where the compiler tells. needed: all of
    it at the program's peak. Of a program that its compiler refuses, arguments are its state alone."""

    needed: int
    arguments: int = 0
    outputs: int = 0
    temporaries: int = 0
    code: int = 0
    aliased: int = 0


@dataclass(frozen=True)
class Program:
    """A compiled program. operations: of matrix products and convolutions, all devices together. seconds: it took to
    compile."""

    memory: Memory
    operations: float
    traffic: Traffic | None
    seconds: float


@dataclass(frozen=True)
class Target:
    """What programs are compiled for: an experiment with its mesh on a machine's devices."""

    experiment: Experiment
    machine: Machine
    devices: list[Any]
    layout: Layout | None
    batch: PyTree
    codec: Codec
    notes: tuple[str, ...]

    @classmethod
    def of(cls, experiment: Experiment, machine: Machine, devices: list[Any]) -> "Target":
        """Raises UserError for a mesh that the machine or the batch does not fit, and for settings that do not go
        together."""
        batch, codec, notes = raw_batch(experiment)
        layout = Layout.make(experiment.mesh, experiment.batch_size, experiment.parts, devices)
        return cls(experiment, machine, devices, layout, batch, codec, tuple(notes))

    @cached_property
    def state(self) -> PyTree:
        """Shapes of the train state, where its arrays lie."""
        model = self.experiment.compute_model
        state = abstract_state(model, self.batch, self.codec)
        return self.placed(state) if self.layout is None else self.layout.like(state)

    def placed(self, tree: PyTree, where: NamedSharding | None = None) -> PyTree:
        """Shapes of arrays on one device, or on all as `where` says, else whole on each."""
        layout = self.layout
        if layout is None:
            sharding: Any = SingleDeviceSharding(self.devices[0])
        else:
            sharding = where or layout.everywhere
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree)

    def train_steps(self) -> Program:
        """One call of `steps_per_call` steps on batches that the host sends."""
        experiment, layout = self.experiment, self.layout
        calls = experiment.steps_per_call
        batches = jax.tree.map(lambda a: jax.ShapeDtypeStruct((calls, *a.shape), a.dtype), self.batch)
        traced = compiled.train_steps.trace(
            experiment.compute_model, self.state, self.placed(jax.eval_shape(lambda: run_key(0, TRAIN))),
            self.placed(batches, None if layout is None else layout.batch(1)),
            self.placed(experiment.data.augmented(self.codec)), None, experiment.on_nonfinite == "skip", layout,
        )  # fmt: skip
        return self._compiled(traced)

    def sample(self, num: int) -> Program:
        """`num` samples in one call."""
        layout = self.layout
        num = divisible(num, layout)
        keys = jax.eval_shape(lambda: sample_keys(0, num))
        cond = self.experiment.model.sample_cond(num, _zeros(self.batch))
        where = None if layout is None else layout.batch()
        traced = compiled.sample_program.trace(
            self.experiment.compute_model, self.state, self.placed(keys, where), self.placed(cond, where),
            self.placed(self.codec),
        )  # fmt: skip
        return self._compiled(traced)

    def _executable(self, lowered: Any) -> Any:
        options = compiler_options(self.machine.chip)
        with without_cpu_flags():
            try:
                return lowered.compile(compiler_options=options)
            except Exception as error:
                if NO_TILE not in str(error):
                    raise
                return lowered.compile(compiler_options=options | WITHOUT_TRITON)

    def _compiled(self, traced: Any) -> Program:
        began, platform = time.perf_counter(), self.machine.chip.platform
        operations = math.fsum(flops_of(traced.jaxpr).values())
        lowered = traced.lower(lowering_platforms=(platform,))
        try:
            program = self._executable(lowered)
        except Exception as error:  # the compiler for TPUs refuses what does not fit, and says how much it would take
            if not (found := RAN_OUT.search(str(error))):
                raise
            number, unit = found[1] or found[3], found[2] or found[4]
            temporaries = int(float(number) * UNITS[unit or ""])
            arguments = bytes_of(self.state)
            memory = Memory(temporaries + arguments, arguments=arguments, temporaries=temporaries)
            return Program(memory, operations, None, time.perf_counter() - began)
        seconds, stats = time.perf_counter() - began, program.memory_analysis()
        parts = {
            "arguments": stats.argument_size_in_bytes, "temporaries": stats.temp_size_in_bytes,
            "outputs": stats.output_size_in_bytes - stats.alias_size_in_bytes,
            "code": stats.generated_code_size_in_bytes,
        }  # fmt: skip
        memory = Memory(sum(parts.values()), **parts, aliased=stats.alias_size_in_bytes)
        return Program(memory, operations, traffic(program.as_text()), seconds)


def _zeros(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), tree)


def bytes_of(tree: PyTree) -> int:
    """Bytes on each device of arrays whose shapes say where they lie."""

    def one(leaf: Any) -> int:
        return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize

    return sum(map(one, jax.tree.leaves(tree)))


def check_state(target: Target) -> None:
    """Raises UserError for a state that no device of the machine could hold a share of, before anything is compiled."""
    needed, machine = bytes_of(target.state), target.machine
    if needed > machine.chip.memory:
        whole = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(target.state))
        enough = larger(machine, 2 * whole)  # half of the memory is for all else
        how = f"--on {enough} --mesh fsdp={enough.count}" if enough else "a machine with more memory"
        raise UserError(
            f"the state takes {needed / GIB:,.1f} GiB on each of {machine}, which has "
            f"{machine.chip.memory / GIB:,.1f}: choose {how}"
        )
