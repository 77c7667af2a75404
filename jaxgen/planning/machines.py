"""Accelerators that programs are planned for: what their makers publish, and XLA's description of each."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import jax
from jax.experimental import topologies

from jaxgen.errors import UserError, nearest

GIB = 1 << 30
HOST_GPUS = 8
"""GPUs of one host, joined by NVLink; hosts are joined by the network."""
NETWORK = 50e9
"""Bytes a second that one GPU sends to another host: 400 Gbit/s."""
MOST = 256
"""Devices of a machine."""


@dataclass(frozen=True)
class Cores:
    """What XLA must know of a GPU to compile for it."""

    name: str
    capability: tuple[int, int]
    count: int
    fpus: int
    clock: float
    cache: int
    shared: int
    threads: int = 2048
    extended: bool = False
    """Whether the instructions of this capability alone are there, as sm_90a."""


@dataclass(frozen=True)
class Chip:
    """One device. memory: bytes a program can use. bf16, f32: floating-point operations a second of matrix products in
    each type, as jax computes them by default (f32 as TF32 on GPUs, in bf16 passes on TPUs). bandwidth: bytes a second
    of its memory. link: bytes a second to its neighbours, one way, all links together."""

    platform: Literal["cuda", "tpu"]
    memory: int
    bf16: float
    f32: float
    bandwidth: float
    link: float
    cores: Cores | None = None
    slices: tuple[tuple[int, ...], ...] = ()
    """Of TPUs: the axes of each slice that is sold, from the smallest on."""


def _gpu(memory: float, bf16: float, bandwidth: float, link: float, cores: Cores) -> Chip:
    return Chip("cuda", int(memory * GIB), bf16 * 1e12, bf16 * 0.5e12, bandwidth * 1e9, link * 1e9, cores)


def _tpu(memory: float, bf16: float, bandwidth: float, link: float, slices: tuple[tuple[int, ...], ...]) -> Chip:
    return Chip("tpu", int(memory * GIB), bf16 * 1e12, bf16 * 1e12, bandwidth * 1e9, link * 1e9, None, slices)


PLANES = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
CUBES = ((1, 1, 1), (2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4), (4, 4, 8), (4, 8, 8))


# Memory and cores as OpenXLA describes them, rates of dense products as NVIDIA's and Google's data sheets have them.
CHIPS = {
    "a100": _gpu(79.3, 312, 2039, 300, Cores("NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 1.41, 41_943_040, 167_936)),
    "a100_40": _gpu(39.6, 312, 1555, 300, Cores("NVIDIA A100-SXM4-40GB", (8, 0), 108, 64, 1.41, 41_943_040, 167_936)),
    "h100": _gpu(
        79.1, 989, 3352, 450,
        Cores("NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 1.98, 52_428_800, 233_472, extended=True),
    ),
    "h200": _gpu(
        141.0, 989, 4800, 450,
        Cores("NVIDIA H200 141GB HBM3e", (9, 0), 132, 128, 1.98, 52_428_800, 233_472, extended=True),
    ),
    "b200": _gpu(
        178.4, 2250, 7672, 900,
        Cores("NVIDIA B200", (10, 0), 148, 128, 1.965, 132_644_864, 233_472, extended=True),
    ),
    "rtx4090": _gpu(
        23.6, 165, 1008, 32, Cores("NVIDIA GeForce RTX 4090", (8, 9), 128, 128, 2.52, 75_497_472, 102_400, 1536)
    ),
    "v5e": _tpu(15.75, 197, 819, 200, PLANES),
    "v5p": _tpu(95.0, 459, 2765, 600, CUBES),
    "v6e": _tpu(31.25, 918, 1640, 400, PLANES),
}  # fmt: skip


@contextmanager
def without_cpu_flags() -> Iterator[None]:
    """While entered, XLA_FLAGS has none of the CPU's, at which libtpu ends the process as it reads them: when it is
    loaded and when it first compiles. The CPU's compiler has read them before."""
    jax.devices()
    before = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = " ".join(flag for flag in before.split() if not flag.startswith("--xla_cpu"))
    try:
        yield
    finally:
        os.environ["XLA_FLAGS"] = before  # of processes that this one starts


@dataclass(frozen=True)
class Machine:
    """`name` of CHIPS, and how many of it: a number of GPUs, or the axes of a slice of TPUs."""

    name: str
    shape: tuple[int, ...]

    @property
    def chip(self) -> Chip:
        return CHIPS[self.name]

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.name}:{'x'.join(map(str, self.shape))}"

    def devices(self) -> list[Any]:
        """Devices that programs can be compiled for and not run on. Raises UserError without the compiler for it."""
        chip = self.chip
        if chip.platform == "tpu":
            # Without these, libtpu asks the cloud's metadata server which TPU is here.
            os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
            os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
            os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # several plans at once: no TPU is shared
            one = {"chips_per_host_bounds": (1,) * 3} if self.count == 1 else {}
            described: dict[str, Any] = {"topology_name": str(self), **one}
        else:
            hosts = -(-self.count // HOST_GPUS)
            topology = f"1x{hosts}x{self.count // hosts}"
            described = {"topology_name": "", "target_config": target_config(chip), "topology": topology}
        try:
            with without_cpu_flags():
                found = topologies.get_topology_desc(platform=chip.platform, **described).devices
        except (RuntimeError, NotImplementedError, ValueError, AssertionError, KeyError) as error:
            extra = "plan-tpu" if chip.platform == "tpu" else "plan-gpu"
            raise UserError(
                f"nothing here compiles for {self} ({str(error).splitlines()[0][:120]}): pip install 'jaxgen[{extra}]'"
            ) from error
        return list(found)

    def peak(self, precision: str) -> float:
        """Floating-point operations a second of one device in `precision`, float32 or bfloat16."""
        return self.chip.bf16 if precision == "bfloat16" else self.chip.f32

    def link(self, span: int) -> float:
        """Bytes a second and device that devices exchange at most which are part of `span` neighbours in a row."""
        between = self.chip.platform == "cuda" and span > HOST_GPUS
        return NETWORK if between else self.chip.link


def machine(text: str) -> Machine:
    """`h100:8`, `v5e:4x4`, or `a100` for one. Raises UserError for a name or a shape that is not sold."""
    name, _, shape = text.partition(":")
    if name not in CHIPS:
        raise UserError(f"machine {name!r} is unknown{nearest(name, CHIPS)}: choose one of {', '.join(CHIPS)}")
    chip = CHIPS[name]
    parts = shape.split("x") if shape else ["1"]
    if not all(part.isdecimal() and 0 < len(part) < 6 and int(part) > 0 for part in parts):
        raise UserError(f"machine {text!r} has the shape {shape!r}: a number is expected, as in {name}:8, or a grid")
    sizes = tuple(map(int, parts))
    if chip.platform == "cuda":
        count = math.prod(sizes)
        if count > MOST or (count > HOST_GPUS and count % HOST_GPUS):
            near = min(MOST, max(HOST_GPUS, round(count / HOST_GPUS) * HOST_GPUS))
            raise UserError(
                f"{text} is of {count} GPUs: up to {HOST_GPUS}, or a multiple of that up to {MOST}, are expected, as "
                f"{name}:{near}"
            )
        return Machine(name, (count,))
    if len(sizes) == 1:  # v5e:16 is the slice of so many
        sizes = next((s for s in chip.slices if math.prod(s) == sizes[0]), sizes)
    if sizes not in chip.slices:
        near = min(chip.slices, key=lambda s: abs(math.log(math.prod(s) / math.prod(sizes))))
        raise UserError(f"{text} is no slice of {name}: the nearest is {Machine(name, near)}")
    return Machine(name, sizes)


def larger(than: Machine, needed: int) -> Machine | None:
    """The smallest machine of the same chips that has `needed` bytes in all; None where none is sold."""
    counts = ((1,), (2,), (4,), (8,), *((n,) for n in range(16, MOST + 1, HOST_GPUS)))
    found = (Machine(than.name, shape) for shape in than.chip.slices or counts)
    return next((one for one in found if one.count * than.chip.memory >= needed), None)


def target_config(chip: Chip) -> str:
    """XLA's GpuTargetConfigProto of a GPU, as text."""
    cores = chip.cores
    assert cores is not None, "a TPU is described by its slice"
    major, minor = cores.capability
    extension = "ACCELERATED_FEATURES" if cores.extended else "NONE"
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: {cores.threads}
  shared_memory_per_block: 49152 shared_memory_per_core: {cores.shared}
  shared_memory_per_block_optin: {cores.shared - 1024}
  core_count: {cores.count} fpus_per_core: {cores.fpus} clock_rate_ghz: {cores.clock} l2_cache_size: {cores.cache}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: {int(chip.bandwidth)} device_memory_size: {chip.memory}
  cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {extension} }}
  name: "{cores.name}" driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{cores.name}"
"""


def compiler_options(chip: Chip) -> dict[str, Any]:
    """Options to compile for a device that is not here: GPUs' kernels cannot be tried out."""
    return {"xla_gpu_autotune_level": 0, "xla_backend_optimization_level": 0} if chip.platform == "cuda" else {}


WITHOUT_TRITON: dict[str, Any] = {"xla_gpu_enable_triton_gemm": False}
"""Further options where no tile of Triton's suits a product as it is, which trying kernels out would have passed over:
cuBLAS takes all products then."""
NO_TILE = "find output tile sizes"
"""Of the compiler's message in that case."""


def quiet() -> None:
    """Keeps jax to the CPU, so that no plugin looks for a device. To be called before jax starts."""
    jax.config.update("jax_platforms", "cpu")
