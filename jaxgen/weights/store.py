"""Converted weights on disk: safetensors files whose metadata holds their kind, source and hash."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxgen.core.types import PyTree
from jaxgen.errors import UserError
from jaxgen.runtime.files import disk_errors, write_tensors
from jaxgen.runtime.reading import read_tensors, user_path

FORMAT = "jaxgen weights 1"
METADATA = ("kind", "sha256", "source", "source_sha256", "published")

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights of a network, with their provenance.

    params: the tree of parameters. sha256: their content hash, which does not depend on the file.
    """

    kind: str
    params: dict[str, Any]
    sha256: str
    source: str
    """The name of the file they were converted from."""
    source_sha256: str
    published: bool
    """Whether the hash of that file is that of the public one, with which scores in papers are computed."""

    @property
    def provenance(self) -> dict[str, Any]:
        """The facts about the weights to store with every result computed with them."""
        return {
            "kind": self.kind, "sha256": self.sha256, "source": self.source, "source_sha256": self.source_sha256,
            "published": self.published,
        }  # fmt: skip


def content_hash(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over name, dtype, shape and bytes of each array, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def tree_hash(tree: PyTree) -> str:
    """The `content_hash` of the arrays of a tree, named by their paths."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return content_hash({jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves})


def flatten_shapes(tree: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """A tree of shapes as one dict, with the names of a path joined by `/`."""
    flat: Any = flatten_dict(tree, sep="/")
    return flat


def check_arrays(arrays: Mapping[str, Any], expected: Mapping[str, jax.ShapeDtypeStruct], source: str) -> None:
    """Raises UserError unless the arrays have the expected names, shapes and dtypes. source: the file they are from."""
    missing, unknown = expected.keys() - arrays.keys(), arrays.keys() - expected.keys()
    for problem, names in (("lacks", missing), ("has unknown", unknown)):
        if names:
            first = sorted(names)
            more = f" and {len(first) - 1} more" if len(first) > 1 else ""
            raise UserError(f"{source} {problem} {first[0]:.200}{more}: pass the file of that network")
    for name, leaf in expected.items():
        if arrays[name].shape != leaf.shape or arrays[name].dtype != leaf.dtype:
            found, wanted = (f"{a.dtype}{list(a.shape)}" for a in (arrays[name], leaf))
            raise UserError(f"{source}: {name} is {found}, {wanted} is expected: pass the file of that network")


def check_finite(arrays: Mapping[str, np.ndarray], source: str) -> None:
    """Raises UserError for numbers that are not finite. source: the file that they are from."""
    if wrong := [name for name, array in arrays.items() if not np.all(np.isfinite(array))]:
        raise UserError(f"{source} has numbers in {wrong[0]} that are not finite: download it again")


def save(path: Path, kind: str, arrays: Arrays, source: str, source_sha256: str, published: bool) -> str:
    """Writes the arrays to a file atomically, and returns their content hash. Raises UserError where it cannot."""
    sha256 = content_hash(arrays)
    metadata = {
        "format": FORMAT, "kind": kind, "sha256": sha256, "source": source, "source_sha256": source_sha256,
        "published": json.dumps(published),
    }  # fmt: skip
    with disk_errors():
        write_tensors(path, arrays, metadata)
    return sha256


def load(path: Path | str, kind: str, expected: Mapping[str, jax.ShapeDtypeStruct]) -> Weights:
    """The weights in a file that `save` wrote.

    Raises UserError if the file is missing, was written by something else, is of another kind, has other tensors than
    expected, or does not match its hash.
    """
    path = user_path(path)
    convert = f"convert the public file: jaxgen weights convert {kind} FILE OUT"
    try:
        arrays, metadata = read_tensors(path)
    except UserError as error:
        raise UserError(f"{error}, or {convert}") from error
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path} was not written by jaxgen weights convert: {convert}")
    if missing := [name for name in METADATA if name not in metadata]:
        raise UserError(f"{path} does not say its {missing[0]}: {convert}")
    if metadata["kind"] != kind:
        raise UserError(f"{path} holds weights of {metadata['kind']!r:.60}, not {kind}: pass another file")
    check_arrays(arrays, expected, str(path))
    if content_hash(arrays) != metadata["sha256"]:
        raise UserError(f"{path} is damaged: its numbers do not match their hash; convert it again")
    params = unflatten_dict({tuple(name.split("/")): array for name, array in arrays.items()})
    return Weights(
        kind, params, metadata["sha256"], metadata["source"], metadata["source_sha256"],
        metadata["published"] == json.dumps(True),
    )  # fmt: skip
