"""Converted weights on disk: safetensors whose metadata says what they are, where they came from and their hash."""

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
from jaxgen.runtime.files import replacing

FORMAT = "jaxgen weights 1"

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Weights:
    """params: the tree of a network. sha256: of its names, shapes and numbers, whatever file they lie in."""

    kind: str
    params: dict[str, Any]
    sha256: str
    source: str
    """Name of the file they were converted from."""
    source_sha256: str
    published: bool
    """Whether that file is, by its hash, the public one that scores in papers were computed with."""

    @property
    def provenance(self) -> dict[str, Any]:
        """What a result computed with these weights must say of them."""
        return {
            "kind": self.kind, "sha256": self.sha256, "source": self.source, "source_sha256": self.source_sha256,
            "published": self.published,
        }  # fmt: skip


def content_hash(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the name, type, shape and bytes of each array, by name."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def tree_hash(tree: PyTree) -> str:
    """`content_hash` of all arrays of a tree, by path."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return content_hash({jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves})


def flatten_shapes(tree: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """A tree of shapes as one dict, names joined by `/`."""
    flat: dict[str, Any] = dict(flatten_dict(tree, sep="/"))
    return flat


def check(arrays: Mapping[str, Any], expected: Mapping[str, jax.ShapeDtypeStruct], what: str) -> None:
    """Raises UserError unless the arrays are those expected, by name, shape and type."""
    missing, unknown = expected.keys() - arrays.keys(), arrays.keys() - expected.keys()
    for problem, names in (("lacks", missing), ("has unknown", unknown)):
        if names:
            first = sorted(names)
            more = f" and {len(first) - 1} more" if len(first) > 1 else ""
            raise UserError(f"{what} {problem} {first[0]}{more}: name the file of that network")
    for name, leaf in expected.items():
        if arrays[name].shape != leaf.shape or arrays[name].dtype != leaf.dtype:
            found, wanted = (f"{a.dtype}{list(a.shape)}" for a in (arrays[name], leaf))
            raise UserError(f"{what}: {name} is {found}, {wanted} is expected: name the file of that network")


def save(path: Path, kind: str, arrays: Arrays, source: str, source_sha256: str, published: bool) -> str:
    """Writes a file, whole or not at all, and returns its content hash."""
    from safetensors.numpy import save_file

    sha256 = content_hash(arrays)
    metadata = {
        "format": FORMAT, "kind": kind, "sha256": sha256, "source": source, "source_sha256": source_sha256,
        "published": json.dumps(published),
    }  # fmt: skip
    try:
        with replacing(path) as partial:
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial, metadata)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}): name another file") from error
    return sha256


def load(path: Path, kind: str, expected: Mapping[str, jax.ShapeDtypeStruct]) -> Weights:
    """The weights in a file that `save` wrote.

    Raises UserError when it is missing, no such file, of another kind, has other tensors than expected, or when its
    numbers do not match their hash.
    """
    from safetensors import SafetensorError, safe_open

    convert = f"convert the public file first: jaxgen weights convert {kind} FILE OUT"
    if not path.is_file():
        raise UserError(f"{path} is no file: name the {kind} weights, or {convert}")
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is no safetensors file ({str(error)[:100]}): {convert}") from error
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path} was not written by jaxgen weights convert: {convert}")
    if metadata["kind"] != kind:
        raise UserError(f"{path} holds weights of {metadata['kind']}, {kind} is expected: name another file")
    check(arrays, expected, str(path))
    if content_hash(arrays) != metadata["sha256"]:
        raise UserError(f"{path} is damaged, its numbers do not match their hash: convert it again")
    params = unflatten_dict({tuple(name.split("/")): array for name, array in arrays.items()})
    return Weights(
        kind, params, metadata["sha256"], metadata["source"], metadata["source_sha256"],
        json.loads(metadata["published"]),
    )  # fmt: skip
