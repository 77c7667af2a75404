"""What attention keeps: temporaries of its compiled forward and backward pass, by the number of queries.

    python benchmarks/attention_memory.py                           # for the CPU
    python benchmarks/attention_memory.py --machines cpu v5e:4x4 h100:8

Nothing is run. Programs for machines that are not here need the extras plan-tpu and plan-gpu; each device has one
example, the batch being split over all. `kept` is what attention of all queries at once takes. What a TPU
holds on its cores is not counted: at few queries this is all.
"""

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import common
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgen.cli import parse
from jaxgen.ops.attention import attention
from jaxgen.ops.attention_blocks import Seen, whole
from jaxgen.planning.machines import compiler_options, machine, quiet


@dataclass(frozen=True)
class Options:
    machines: tuple[str, ...] = ("cpu",)
    """cpu, and those of `jaxgen plan --on`."""
    lengths: tuple[int, ...] = (1024, 2048, 4096, 8192)
    """Queries, and as many keys."""
    heads: int = 12
    dim: int = 64
    """Channels of a head."""
    out: str = ""
    """JSON file; benchmarks/results/attention-memory.json when empty."""


def temporaries(where: str, length: int, options: Options, plain: bool) -> int:
    """Bytes a device of the gradients of causal attention."""
    on = None if where == "cpu" else machine(where)
    platform, settings = ("cpu", {}) if on is None else (on.chip.platform, compiler_options(on.chip))
    devices = jax.devices()[:1] if on is None else on.devices()
    split = NamedSharding(Mesh(np.array(devices), ("data",)), PartitionSpec("data"))
    dtype = jnp.float32 if on is None else jnp.bfloat16
    shape = (len(devices), length, options.heads, options.dim)
    args = [jax.ShapeDtypeStruct(shape, dtype, sharding=split)] * 3
    way = functools.partial(whole, seen=Seen(causal=True)) if plain else functools.partial(attention, causal=True)

    def gradients(*args: jax.Array) -> tuple[jax.Array, ...]:
        return jax.grad(lambda *a: jnp.sum(jnp.sin(way(*a)), dtype=jnp.float32), (0, 1, 2))(*args)

    lowered = jax.jit(gradients).trace(*args).lower(lowering_platforms=(platform,))
    memory = lowered.compile(compiler_options=settings).memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes


def measure(options: Options, rows: common.Rows) -> None:
    for where in options.machines:
        for length in options.lengths:
            case = f"{where}, {length} queries"
            sizes = {
                "temporary_bytes": functools.partial(temporaries, where, length, options, False),
                "kept_bytes": functools.partial(temporaries, where, length, options, True),
            }
            rows.add(
                case,
                lambda w=where, n=length, s=sizes: {"on": w, "length": n, **{name: size() for name, size in s.items()}},
            )


COLUMNS = {
    "MiB": lambda r: common.megabytes(r["temporary_bytes"]),
    "kept": lambda r: common.megabytes(r["kept_bytes"]),
}


def main(args: Sequence[str] | None = None) -> None:
    quiet()
    options = parse.parse(Options, Options(), sys.argv[1:] if args is None else args, "attention_memory.py", __doc__)
    out = options.out or common.RESULTS / "attention-memory.json"
    rows = common.rows(out, "temporaries of attention", COLUMNS, options)
    measure(options, rows)
    rows.finish("temporaries of attention")


if __name__ == "__main__":
    parse.run(main)
