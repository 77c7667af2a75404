"""A trained sampler as a file that needs jax alone: weights, codec and random numbers inside, raw data out.

What is written is `jax.export`'s portable StableHLO for each platform, with a symbolic number of samples. One function:
`(seed: u32[], index: u32[n][, cond]) -> samples [n, ...]`, where sample `index[i]` of a seed is the picture that
`jaxgen sample` gives at that place.

jax.export promises that a file is read by the versions of jax that appear in the six months after it was written.
Beside it stands which jax wrote it, by which calling convention, and when that promise ends.
"""

import calendar
import zipfile
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import flatbuffers
import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.tree_util import keystr

from jaxgen import core
from jaxgen.core.configuration import to_json
from jaxgen.errors import UserError
from jaxgen.runs.environment import environment
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import Trained
from jaxgen.runtime.files import check_output, replacing, write_bytes, write_text

PLATFORMS = ("cpu", "cuda", "tpu")
PROMISED_MONTHS = 6
"""For which jax.export promises that newer versions of jax read a file."""
MAX_BYTES = 2**31 - 2**20  # flatbuffers, which jax.export writes, ends at 2 GiB

SCRIPT = '''"""Draws {what}.

    python sample.py {usage}    # needs jax and nothing else; writes samples.npy{files}

{made}
"""
import sys
from pathlib import Path
import numpy as np
here = Path(__file__).resolve().parent
sys.path.append(str(here / "flatbuffers.zip"))  # what jax.export reads its files with, for where it is not installed
from jax import export, tree
try:
    sampler = export.deserialize(bytearray((here / "sampler.bin").read_bytes()))
except Exception as error:  # of a version of jax that is too new, or of a damaged file
    sys.exit(f"sampler.bin cannot be read ({{error}}). " + __doc__.splitlines()[-1] + " Export the run again.")
seed, num = int(sys.argv[1]), int(sys.argv[2])
def repeated(rows):
    return np.resize(rows, (num, *rows.shape[1:]))
np.save("samples.npy", sampler.call(np.uint32(seed), np.arange(num, dtype=np.uint32){cond}))
'''
LABELS = ", repeated(np.int32(sys.argv[3].split(',')))"
ARRAYS = ", tree.map(lambda place: repeated(np.load(sys.argv[place])), {places})"


def export_sampler(trained: Trained, platforms: tuple[str, ...] = PLATFORMS) -> export.Exported:
    """The run's sampler as described above.

    Raises UserError for an unknown platform, more weights than the format holds, a condition that the model refuses, or
    a sampler that fixes its number of samples or does not lower for a platform.
    """
    for platform in platforms:
        if platform not in PLATFORMS:
            raise UserError(f"platform {platform!r} is unknown: choose from {', '.join(PLATFORMS)}")
    # One copy of the parameters: a sampler that reads another asks for what is not in the file.
    state = trained.state
    state = state.replace(params=state.sampling_params, ema=None, opt_state=None)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    if size > MAX_BYTES:
        raise UserError(f"the weights are {size / 2**30:.1f} GiB, the format of jax.export ends at 2 GiB")
    model, codec = trained.model, trained.codec
    cond = model.sample_cond(2, trained.examples)
    model.check_cond(cond)

    def sampler(seed: jax.Array, index: jax.Array, *cond: Any) -> jax.Array:
        keys = core.fold_each(core.run_key(seed, core.SAMPLE), index)
        # Not by core.sample_program: a program within another has all its arguments written, read or not.
        x = model.sample(state, keys, cond[0] if cond else None)
        return x if codec is None else codec.decode(x)

    (n,) = export.symbolic_shape("n")

    def symbolic(array: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((n, *array.shape[1:]), array.dtype)

    arguments = [jax.ShapeDtypeStruct((), jnp.uint32), jax.ShapeDtypeStruct((n,), jnp.uint32)]
    arguments += [] if cond is None else [jax.tree.map(symbolic, cond)]
    try:
        # The check takes keys that were split at a symbolic shape for used ones.
        with jax.debug_key_reuse(False):
            return export.export(jax.jit(sampler), platforms=platforms)(*arguments)
    except (NotImplementedError, ValueError, TypeError) as error:
        name, reason = type(model).__name__, " ".join(str(error).split())[:300]
        raise UserError(f"the sampler of {name} cannot be exported for {', '.join(platforms)}: {reason}") from error


def export_run(trained: Trained, out: Path, platforms: tuple[str, ...] = PLATFORMS) -> str:
    """Writes the sampler of a run into `out`, and sampler.json with where it comes from; returns what was written in a
    line. Raises UserError as `export_sampler`, or if `out` cannot be written to."""
    check_output(out, folder=True)
    exported = export_sampler(trained, platforms)
    name = f"samples of {trained.name} at step {trained.step}"
    made = written_by(exported, datetime.now(UTC).date())
    usage = write_sampler(out, exported, name, trained.experiment.model.sample_cond(2, trained.examples))
    facts = {"step": trained.step, "parameters": trained.state.sampling_field}
    facts |= {"platforms": exported.platforms, "arguments": [str(a) for a in exported.in_avals]}
    facts |= {"result": [str(a) for a in exported.out_avals], "experiment": to_json(trained.experiment)}
    RunFolder(out).write_json("sampler.json", {**facts, "format": made, "environment": environment()})
    until = f"newer versions of jax are promised to read it until {made['promised_until']}"
    return f"{name} for {', '.join(exported.platforms)}: python {out / 'sample.py'} {usage} ({until})"


def promised_until(made: date) -> date:
    """The last day of jax.export's promise for a file written on that day: six months later."""
    years, month = divmod(made.month - 1 + PROMISED_MONTHS, 12)
    year, month = made.year + years, month + 1
    return date(year, month, min(made.day, calendar.monthrange(year, month)[1]))


def written_by(exported: export.Exported, made: date) -> dict[str, str | int]:
    """The jax that wrote a sampler, its calling convention, the day and the day on which the promise ends."""
    return {
        "jax": jax.__version__,
        "calling_convention": exported.calling_convention_version,
        "made": made.isoformat(),
        "promised_until": promised_until(made).isoformat(),
    }


def write_sampler(out: Path, exported: export.Exported, what: str, cond: Any) -> str:
    """Writes sampler.bin, the script that calls it, and the reader that the script may lack. Returns the arguments that
    the script takes.

    cond: a condition of the sampler, to see what the script has to read: classes from its command line, arrays from
    .npy files.
    """
    write_bytes(out / "sampler.bin", exported.serialize())
    usage, files, argument = "SEED NUM", "", ""
    if is_labels(cond):
        usage, argument = f"{usage} CLASS[,CLASS...]", LABELS
    elif cond is not None:
        paths, structure = jax.tree_util.tree_flatten_with_path(cond)
        arrays = {f"{keystr(path, simple=True, separator='-') or 'cond'}.npy": array for path, array in paths}
        usage = " ".join([usage, *arrays])
        files = "".join(
            f"\n    # {name}: {a.dtype}, rows of shape {a.shape[1:]}, as of sample_cond" for name, a in arrays.items()
        )
        argument = ARRAYS.format(places=jax.tree.unflatten(structure, range(3, 3 + len(arrays))))
    by = written_by(exported, datetime.now(UTC).date())
    made = (
        f"sampler.bin was written on {by['made']} by jax {by['jax']}, calling convention {by['calling_convention']}; "
        f"newer versions are promised to read it until {by['promised_until']}."
    )
    script = SCRIPT.format(what=_quoted(what), usage=usage, files=files, cond=argument, made=made)
    write_text(out / "sample.py", script)
    package = Path(str(flatbuffers.__file__)).parent
    zipped = replacing(out / "flatbuffers.zip")
    with zipped as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(package.glob("*.py")):
            archive.write(file, f"flatbuffers/{file.name}")
    return usage


def _quoted(text: str) -> str:
    """Text within a docstring, where quotes, backslashes and line ends would be code."""
    return text.encode("unicode_escape").decode().replace('"', '\\"')


def is_labels(cond: Any) -> bool:
    """Whether a condition is one class for each sample."""
    return isinstance(cond, jax.Array | np.ndarray) and cond.ndim == 1 and jnp.issubdtype(cond.dtype, jnp.integer)
