"""Prepared sets of tensorflow-datasets (array_record): found on disk, checked, and read without TensorFlow.

The disk is looked at first, for which neither the network nor tensorflow_datasets is needed.
"""

import contextlib
import dataclasses
import difflib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxgen.errors import UserError
from jaxgen.runtime.progress import say
from jaxgen.runtime.reading import check_regular, read_json, read_text, user_path

EMBEDDED = "or use an embedded set, `emoji` or `digits`"
MOST_JSON = 1 << 24
"""Bytes of features.json and dataset_info.json."""
MOST_CLASSES = 1 << 20
LIBRARY = "tensorflow_datasets."


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A set on disk. features: what a record holds, by name. splits: names of its parts."""

    folder: Path
    features: dict[str, dict[str, Any]]
    splits: tuple[str, ...]

    def class_names(self, label_key: str) -> tuple[str, ...]:
        """The names of the classes of a feature, their numbers if they have no names, () if it holds no class."""
        label = self.features.get(label_key, {}).get("classLabel")
        if label is None:
            return ()
        try:
            count = int(label["numClasses"])
        except (TypeError, KeyError, ValueError) as error:
            raise self._error(f"no number of classes for {label_key!r}") from error
        if not 0 < count <= MOST_CLASSES:
            raise self._error(f"{count} classes")
        file = self.folder / f"{label_key}.labels.txt"
        if os.path.lexists(file):
            return tuple(read_text(file, most=MOST_JSON).split("\n")[:count])
        return tuple(str(i) for i in range(count))

    def channels(self, image_key: str) -> int:
        """Channels of the pictures of a feature: 1, 3 or 4. Raises UserError for pictures that are not 8-bit."""
        image = self.features[image_key].get("image", {})
        try:
            dtype = image.get("dtype", "uint8")
            channels = int((image.get("shape", {}).get("dimensions") or ["3"])[-1])
        except (TypeError, AttributeError, ValueError, IndexError, KeyError) as error:
            raise self._error(f"no shape for {image_key!r}") from error
        if dtype != "uint8":
            raise UserError(f"{self.folder} has {dtype!r:.40} pictures, uint8 is needed: choose another set")
        return channels if channels in (1, 4) else 3

    def records(self, split: str) -> Any:
        """The records of a split by index, as bytes: parsing them is three times as fast as the library's decoding."""
        import tensorflow_datasets as tfds

        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        builder = tfds.builder_from_directory(self.folder)
        # Its parameters are hidden by a decorator.
        return builder.as_data_source(split=split, deserialize_method=raw)  # pyright: ignore[reportCallIssue]

    def _error(self, fault: str) -> UserError:
        return UserError(f"{self.folder / 'features.json'} has {fault}: prepare the set again")


def prepared(name: str, data_dir: str | None, download: bool, embedded: str = EMBEDDED) -> Prepared:
    """A prepared set. One that is not on disk is prepared first, if `download` allows it.

    embedded: the sets to use instead, for errors. Raises UserError if the name is unknown, the set cannot be prepared,
    or its description is damaged.
    """
    match = re.fullmatch(r"(\w+)((?:/[\w.+-]+)?)(?::(\d+\.\d+\.\d+))?", name)
    if not match:
        raise UserError(f"TFDS name is {name!r}: expected name, name/config or name/config:1.0.0, such as cifar10")
    base, config, version = match[1], match[2].lstrip("/"), match[3]
    root = user_path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    try:
        # Since Python 3.13, `glob` passes over what it cannot read.
        with contextlib.suppress(FileNotFoundError):
            os.listdir(root)
        versions = [
            tuple(map(int, info.parent.name.split(".")))
            for info in (root / base / config).glob("*/dataset_info.json")
            if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name) and version in (None, info.parent.name)
        ]
    except OSError as error:
        raise UserError(f"{root} cannot be read ({error.strerror}): name another folder of prepared sets") from error
    if versions:
        return _described(root / base / config / ".".join(map(str, max(versions))))
    return _described(_prepare(name, base, root, download, embedded))


def _prepare(name: str, base: str, root: Path, download: bool, embedded: str) -> Path:
    import tensorflow_datasets as tfds

    known = tfds.list_builders(with_community_datasets=False)
    if base not in known:
        close = difflib.get_close_matches(base, known, n=3)
        hint = f" (did you mean {' or '.join(close)}?)" if close else ""
        raise UserError(f"tensorflow-datasets has no set {base!r}{hint}: correct the name, {embedded}")
    advice = (
        f"on a machine with network and TensorFlow, prepare it with tfds.builder({name!r},"
        f" file_format='array_record').download_and_prepare(), and copy it to {root / base}, {embedded}"
    )
    try:
        builder = tfds.builder(name, data_dir=str(root), file_format="array_record")
        folder = Path(builder.data_path)
        # A name without its config, or without a version, can stand for a set that is there.
        if (folder / "dataset_info.json").exists():
            return folder
        if not download:
            raise UserError(f"{name} is not prepared in {root} and --data.no-download refuses to download it: {advice}")
        size = _download_size(tfds.builder_cls(base))
        say(f"downloading {name} ({size}) to {root}; --data.no-download refuses")
        # Check the network first, as tensorflow-datasets retries for minutes without one.
        import requests

        requests.head("https://storage.googleapis.com", timeout=3)
        builder.download_and_prepare()
    except UserError:
        raise
    # Errors from missing TensorFlow, network or disk space have no common type.
    except Exception as error:
        tried = f"{name} is not prepared in {root} and preparing it failed ({summary(error)})"
        raise UserError(f"{tried}: {advice}") from error
    return folder


def _download_size(builder: Any) -> str:
    """The size of all files of a builder, which may be of more than one config."""
    size = sum(info.size or 0 for info in (builder.url_infos or {}).values())
    if not size:
        return "of unknown size"
    return f"{size / 2**30:.1f} GiB at most" if size >= 1 << 30 else f"{size / 2**20:.1f} MiB at most"


def _described(folder: Path) -> Prepared:
    """The set in a folder, checked before tensorflow-datasets opens its files."""
    try:
        files = [file for file in folder.iterdir() if not file.is_dir()]
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}): prepare the set again") from error
    for file in files:  # of which a pipe would be waited for
        check_regular(file)
    info = folder / "dataset_info.json"
    match read_json(info, MOST_JSON):
        case {"splits": list(splits)} if all(isinstance(s, dict) and isinstance(s.get("name"), str) for s in splits):
            names = tuple(split["name"] for split in splits)
        case _:
            raise UserError(f"{info} is not a description of a set: prepare the set again")
    file = folder / "features.json"
    value = read_json(file, MOST_JSON)
    _check_classes(value, file)
    match value:
        case {"featuresDict": {"features": dict(features)}} if all(isinstance(f, dict) for f in features.values()):
            return Prepared(folder, features, names)
    raise UserError(f"{file} is not a list of features: prepare the set again")


def _check_classes(value: Any, file: Path) -> None:
    """Raises UserError for a class outside the library: it imports the modules that a set's features name."""
    if isinstance(value, dict):
        for key in ("pythonClassName", "python_class_name", "type"):
            if isinstance(name := value.get(key), str) and not name.startswith(LIBRARY):
                raise UserError(f"{file} would import {name!r:.80}, not of tensorflow-datasets: prepare the set again")
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_classes(part, file)  # not deeper than the reader allows


def parser() -> Callable[[bytes], Any]:
    """From a record's bytes to its tf.train.Example."""
    from tensorflow_datasets.proto import tf_example_pb2

    # Protobuf creates the class on import.
    return tf_example_pb2.Example.FromString  # pyright: ignore[reportAttributeAccessIssue]


def read_texts(name: str, data_dir: str | None, download: bool) -> list[str]:
    """The texts of a prepared set with the feature `text`: of train, validation and test, in this order."""
    found = prepared(name, data_dir, download, "or use the embedded text, `docs`")
    if "text" not in found.features:
        raise UserError(f"{name} has no feature 'text': it has {', '.join(found.features)}")
    parse, texts = parser(), []
    try:
        for split in (s for s in ("train", "validation", "test") if s in found.splits):
            for record in found.records(split):
                texts.append(parse(record).features.feature["text"].bytes_list.value[0].decode())
    # Errors of readers, protobuf and the set's own code have no common type.
    except Exception as error:
        raise UserError(f"{found.folder} cannot be read ({summary(error)}): prepare it as array_record") from error
    return texts


def summary(error: BaseException, limit: int = 160) -> str:
    """The first line of an error, truncated: messages of tensorflow-datasets list every set there is."""
    text = str(error).strip().split("\n", 1)[0]
    return f"{type(error).__name__}: {text[:limit]}" if text else type(error).__name__
