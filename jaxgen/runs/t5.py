"""T5's published encoder as the text network of a diffusion model: a file for --init."""

from pathlib import Path

import jax

from jaxgen.nets.t5 import T5Encoder
from jaxgen.optim import path_name
from jaxgen.runs.initial import FORMAT
from jaxgen.runtime.files import check_output, disk_errors, write_tensors
from jaxgen.weights import t5


def import_text(folder: Path, file: Path) -> T5Encoder:
    """Writes the encoder in `folder` as the parameters `text` of a model whose field `text` is the network returned.
    Raises UserError for a folder without one, and before it is read where `file` cannot be written."""
    check_output(file, folder=False)
    found = t5.read(folder)
    leaves = jax.tree_util.tree_leaves_with_path({"text": found.params})
    with disk_errors():
        arrays = {path_name(path): leaf for path, leaf in leaves}
        write_tensors(file, arrays, {"format": FORMAT, "source": folder.name, "step": "0"})
    return found.network


def flags(network: T5Encoder) -> str:
    """The fields of a network that differ from those of T5-small, as the last flags of a command."""
    own = T5Encoder()
    names = ("vocab", "width", "depth", "heads", "each", "hidden", "buckets", "most")
    said = [f"--model.text.{n} {getattr(network, n)}" for n in names if getattr(network, n) != getattr(own, n)]
    said += ["--model.text.gated"] if network.gated else []
    return " ".join(["model.text:t5-encoder", *said] if said else [])
