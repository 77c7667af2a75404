"""Published weights: a public PyTorch file is converted once into a safetensors file of ours.

Nothing is downloaded: the user passes the file. Results computed with weights name them by `Weights.provenance`.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.errors import UserError, nearest
from jaxgen.runtime.files import check_output
from jaxgen.runtime.reading import opened, user_path
from jaxgen.weights import inception, lpips, store, torch_file, torchvision
from jaxgen.weights.store import Weights, content_hash
from jaxgen.weights.torch_layers import StateDict

__all__ = ["KINDS", "Kind", "Weights", "content_hash", "convert", "load"]


@dataclass(frozen=True)
class Kind:
    """How one network's weights are read.

    published: names of the public files, by the first digits of their SHA-256. template: the shapes of the parameters.
    convert: from the tensors of a file to the parameters by path.
    """

    published: dict[str, str]
    template: Callable[[], dict[str, Any]]
    convert: Callable[[StateDict], dict[str, np.ndarray]]

    def known(self, sha256: str) -> str | None:
        """The name of the published file with this hash, None for an unknown file."""
        return next((name for start, name in self.published.items() if sha256.startswith(start)), None)


KINDS = {
    "inception": Kind(inception.PUBLISHED, inception.template, inception.convert),
    "alexnet": Kind(torchvision.ALEXNET_PUBLISHED, torchvision.alexnet_template, torchvision.alexnet),
    "vgg16": Kind(torchvision.VGG16_PUBLISHED, torchvision.vgg16_template, torchvision.vgg16),
    "vgg16_fc2": Kind(torchvision.VGG16_PUBLISHED, torchvision.vgg16_fc2_template, torchvision.vgg16_fc2),
    "lpips_alex": Kind(lpips.ALEX_PUBLISHED, partial(lpips.template, lpips.ALEX), lpips.convert),
    "lpips_vgg": Kind(lpips.VGG_PUBLISHED, partial(lpips.template, lpips.VGG), lpips.convert),
}


def kind_of(name: str) -> Kind:
    """The entry of KINDS. Raises UserError for an unknown name."""
    if name not in KINDS:
        raise UserError(f"weights {name!r} are unknown{nearest(name, KINDS)}: choose {', '.join(KINDS)}")
    return KINDS[name]


def convert(kind: str, source: Path | str, out: Path | str) -> Weights:
    """Converts a public PyTorch file into the safetensors file `out`, and returns the weights.

    Raises UserError if the file is missing, belongs to another network, has other tensors than the network, or is
    damaged, and before reading it if `out` cannot be written. A name such as alexnet-owt-7be5be79.pth contains the
    first digits of the SHA-256, which are checked.
    """
    rules, source, out = kind_of(kind), user_path(source), user_path(out)
    check_output(out, folder=False)
    try:
        with opened(source) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except UserError as error:
        raise UserError(f"{error}, or pass the public file {' or '.join(rules.published.values())}") from error
    if out.exists() and out.samefile(source):
        raise UserError(f"{source} would be replaced by what it is converted into: name another file OUT")
    in_name = re.search(r"-([0-9a-f]{8,64})\.pth$", source.name)
    if in_name and not sha256.startswith(in_name[1]):
        raise UserError(f"{source} has SHA-256 {sha256[:12]}..., not the one in its name: download it again")
    for other, their_rules in KINDS.items():
        if their_rules.known(sha256) and not rules.known(sha256):
            raise UserError(f"{source} is the published {other}, not {kind}: jaxgen weights convert {other} ...")
    tensors = StateDict(torch_file.read(source), str(source))
    try:
        with np.errstate(over="raise", invalid="raise"):
            arrays = rules.convert(tensors)
    except UserError:
        raise
    except FloatingPointError as error:
        raise UserError(f"{source} has numbers that cannot be converted ({error}): download it again") from error
    except (ValueError, IndexError) as error:  # from axes that a tensor lacks
        raise UserError(f"{source} has tensors of other shapes ({error}): pass the file of that network") from error
    tensors.check_empty()
    expected = store.flatten_shapes(rules.template())
    store.check_arrays(arrays, expected, str(source))
    store.save(out, kind, arrays, source.name, sha256, rules.known(sha256) is not None)
    return load(kind, out)


def load(kind: str, file: Path | str) -> Weights:
    """The weights that `convert` wrote to `file`.

    Raises UserError if they are missing, of another kind, damaged, or not those of the network.
    """
    return store.load(file, kind, store.flatten_shapes(kind_of(kind).template()))
