"""A trained sampler as a file that needs jax alone: weights, codec and random numbers inside, raw data out.

What is written is `jax.export`'s portable StableHLO for each platform, with a symbolic number of samples. One function:
`(seed: u32[], index: u32[n][, cond]) -> samples [n, ...]`, where sample `index[i]` of a seed is the picture that
`jaxgen sample` gives at that place.
"""

import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from jaxgen import core
from jaxgen.core import TrainState
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment

PLATFORMS = ("cpu", "cuda", "tpu")
MAX_BYTES = 2**31 - 2**20  # flatbuffers, which jax.export writes, ends at 2 GiB

SCRIPT = '''"""Draws {what}.

    python sample.py SEED NUM{usage}    # needs jax and nothing else; writes samples.npy
"""
import sys
from pathlib import Path
import numpy as np
here = Path(__file__).resolve().parent
sys.path.append(str(here / "flatbuffers.zip"))  # what jax.export reads its files with, for where it is not installed
from jax import export
sampler = export.deserialize(bytearray((here / "sampler.bin").read_bytes()))
seed, num = int(sys.argv[1]), int(sys.argv[2])
np.save("samples.npy", sampler.call(np.uint32(seed), np.arange(num, dtype=np.uint32){cond}))
'''
LABELS = ", np.resize(np.int32(sys.argv[3].split(',')), num)"


def export_sampler(
    experiment: Experiment, state: TrainState, codec: Any, batch: core.Batch, platforms: tuple[str, ...] = PLATFORMS
) -> export.Exported:
    """The experiment's sampler as described above. batch: raw examples, from which a condition's shape is taken.

    Raises UserError for an unknown platform, more weights than the format holds, or a sampler that fixes its number of
    samples or does not lower for a platform.
    """
    for platform in platforms:
        if platform not in PLATFORMS:
            raise UserError(f"platform {platform!r} is unknown: choose from {', '.join(PLATFORMS)}")
    state = state.replace(opt_state=None)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    if size > MAX_BYTES:
        raise UserError(f"the weights are {size / 2**30:.1f} GiB, the format of jax.export ends at 2 GiB")
    model = experiment.compute_model

    def sampler(seed: jax.Array, index: jax.Array, *cond: Any) -> jax.Array:
        keys = core.fold_each(core.run_key(seed, core.SAMPLE), index)
        return core.sample_program(model, state, keys, cond[0] if cond else None, codec)

    (n,) = export.symbolic_shape("n")

    def symbolic(array: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((n, *array.shape[1:]), array.dtype)

    cond = model.sample_cond(2, batch)
    arguments = [jax.ShapeDtypeStruct((), jnp.uint32), jax.ShapeDtypeStruct((n,), jnp.uint32)]
    arguments += [] if cond is None else [jax.tree.map(symbolic, cond)]
    try:
        # The check takes keys that were split at a symbolic shape for used ones.
        with jax.debug_key_reuse(False):
            return export.export(jax.jit(sampler), platforms=platforms)(*arguments)
    except (NotImplementedError, ValueError, TypeError) as error:
        name, reason = type(model).__name__, " ".join(str(error).split())[:300]
        raise UserError(f"the sampler of {name} cannot be exported for {', '.join(platforms)}: {reason}") from error


def write_sampler(out: Path, exported: export.Exported, what: str, labels: bool) -> None:
    """Writes sampler.bin, the script that calls it, and the reader that the script may lack; labels: whether the
    sampler takes classes, which the script then reads from its command line."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "sampler.bin").write_bytes(exported.serialize())
    usage, cond = (" CLASS[,CLASS...]", LABELS) if labels else ("", "")
    (out / "sample.py").write_text(SCRIPT.format(what=what, usage=usage, cond=cond))
    package = Path(find_spec("flatbuffers").origin).parent
    with zipfile.ZipFile(out / "flatbuffers.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(package.glob("*.py")):
            archive.write(file, f"flatbuffers/{file.name}")


def is_labels(cond: Any) -> bool:
    """Whether a condition is one class for each sample."""
    return isinstance(cond, jax.Array | np.ndarray) and cond.ndim == 1 and jnp.issubdtype(cond.dtype, jnp.integer)
