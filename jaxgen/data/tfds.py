"""Image sets of tensorflow-datasets, read without TensorFlow."""

import dataclasses
import difflib
import hashlib
import json
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxgen.core.types import RawBatch
from jaxgen.data.dataset import Dataset, RandomAccess
from jaxgen.data.embedded import area_resize
from jaxgen.errors import UserError, nearest
from jaxgen.runtime.cache import cache_folder
from jaxgen.runtime.picture import eight_bits, flat, open_picture

THREADS = min(16, os.cpu_count() or 1)

IN_MEMORY = 2 << 30  # bytes, decoded; larger sets are read from disk example by example

CACHE_FORMAT = 2  # to be raised when decoding changes

EMBEDDED = "or use an embedded set, `emoji` or `digits`"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TFDS(Dataset):
    """An image set of tensorflow-datasets (array_record): x uint8[N, H, W, C], cond int32[N] if labelled.

    A set of less than 2 GiB decoded is held in memory, and its arrays are kept in the cache folder, so that the next
    start is fast. A larger set is read from its record files on demand.

    Raises:
      UserError: on use: the name, the splits or the keys are unknown; the set is not prepared and cannot be; a record
        is corrupt; or the pictures differ in size and `size` is None.
    """

    name: str
    """Such as "mnist", "cifar10" or "name/config:1.0.0"."""
    data_dir: str | None = None
    """The folder of prepared sets; $TFDS_DATA_DIR or ~/tensorflow_datasets if None."""
    train: str = "train"
    """The part of the set that is "train", in tensorflow-datasets' syntax, such as "train[:90%]"."""
    test: str = "test"
    """The part of the set that is "test"."""
    image_key: str = "image"
    """The feature that holds the picture."""
    label_key: str = "label"
    """The feature that holds the class; "" for no labels. Ignored if the set has no such feature."""
    size: int | None = None
    """If set, pictures are cropped to their central square and resized to this side by area."""

    def load(self, split: str) -> RawBatch | RandomAccess:
        if self.size is not None and self.size < 1:
            raise UserError(f"TFDS size is {self.size}: give a side in pixels, such as 64, or None")
        spec = {"train": self.train, "test": self.test, "all": f"{self.train}+{self.test}"}[split]
        folder = prepared_folder(self.name, self.data_dir)
        cached = _Cache(self, folder, spec)
        data = cached.read()
        if data is None:
            source = _Records(self, folder, spec)
            if source.nbytes >= IN_MEMORY:
                return source
            data = source.take(np.arange(len(source)))
            cached.write(data)
        return data

    @property
    def class_names(self) -> tuple[str, ...]:
        folder = prepared_folder(self.name, self.data_dir)
        # From the set's own files, as importing tensorflow_datasets takes most of a second.
        feature = _features(folder).get(self.label_key, {})
        if "classLabel" not in feature:
            return ()
        count = int(feature["classLabel"]["numClasses"])
        file = folder / f"{self.label_key}.labels.txt"
        if file.is_file():
            return tuple(file.read_text(encoding="utf-8").split("\n")[:count])
        return tuple(str(i) for i in range(count))


def _features(folder: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "features.json").read_text(encoding="utf-8"))["featuresDict"]["features"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        file = folder / "features.json"
        raise UserError(f"{file} is not a list of features ({_summary(e)}): prepare the set again") from e


def _summary(error: BaseException, limit: int = 160) -> str:
    """The first line of an error, truncated: messages of tensorflow-datasets list every set there is."""
    text = str(error).strip().split("\n", 1)[0]
    return f"{type(error).__name__}: {text[:limit]}" if text else type(error).__name__


def prepared_folder(name: str, data_dir: str | None) -> pathlib.Path:
    """The folder of a prepared set. A set that is not prepared is prepared first, if possible."""
    match = re.fullmatch(r"(\w+)((?:/[\w.+-]+)?)(?::(\d+\.\d+\.\d+))?", name)
    if not match:
        raise UserError(f"TFDS name is {name!r}: expected name, name/config or name/config:1.0.0, such as cifar10")
    base, config, version = match[1], match[2].lstrip("/"), match[3]
    root = pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    # Look on disk first: this needs neither the network nor tensorflow_datasets.
    versions = [
        tuple(map(int, info.parent.name.split(".")))
        for info in (root / base / config).glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name) and version in (None, info.parent.name)
    ]
    if versions:
        return root / base / config / ".".join(map(str, max(versions)))
    return _prepare(name, base, root)


def _prepare(name: str, base: str, root: pathlib.Path) -> pathlib.Path:
    import tensorflow_datasets as tfds

    known = tfds.list_builders(with_community_datasets=False)
    if base not in known:
        close = difflib.get_close_matches(base, known, n=3)
        hint = f" (did you mean {' or '.join(close)}?)" if close else ""
        raise UserError(f"tensorflow-datasets has no set {base!r}{hint}: correct the name, {EMBEDDED}")
    advice = (
        f"on a machine with network and TensorFlow, prepare it with tfds.builder({name!r},"
        f" file_format='array_record').download_and_prepare(), and copy it to {root / base}, {EMBEDDED}"
    )
    try:
        builder = tfds.builder(name, data_dir=str(root), file_format="array_record")
        if not builder.data_path.joinpath("dataset_info.json").exists():
            # Check the network first, as tensorflow-datasets retries for minutes without one.
            import requests

            requests.head("https://storage.googleapis.com", timeout=3)
            builder.download_and_prepare()
    # Errors from missing TensorFlow, network or disk space have no common type.
    except Exception as e:
        tried = f"{name} is not prepared in {root} and preparing it failed ({_summary(e)})"
        raise UserError(f"{tried}: {advice}") from e
    return pathlib.Path(builder.data_path)


def _raw_records(folder: pathlib.Path, split: str) -> Any:
    """The records of a split by index, as bytes: parsing them here is three times as fast as the library's decoding."""
    import tensorflow_datasets as tfds

    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    # Its parameters are hidden by a decorator.
    return tfds.builder_from_directory(folder).as_data_source(split=split, deserialize_method=raw)  # pyright: ignore[reportCallIssue]


def _record_parser() -> Callable[[bytes], Any]:
    """From a record's bytes to its tf.train.Example."""
    from tensorflow_datasets.proto import tf_example_pb2

    # Protobuf creates the class on import.
    return tf_example_pb2.Example.FromString  # pyright: ignore[reportAttributeAccessIssue]


def read_texts(name: str, data_dir: str | None) -> list[str]:
    """The texts of a prepared set with the feature `text`: of train, validation and test, in this order."""
    folder = prepared_folder(name, data_dir)
    if "text" not in _features(folder):
        raise UserError(f"{name} has no feature 'text': it has {', '.join(_features(folder))}")
    parse, texts = _record_parser(), []
    try:
        for split in (s for s in ("train", "validation", "test") if s in _splits(folder)):
            for record in _raw_records(folder, split):
                texts.append(parse(record).features.feature["text"].bytes_list.value[0].decode())
    # Errors of readers, protobuf and the set's own code have no common type.
    except Exception as e:
        raise UserError(f"{folder} cannot be read ({_summary(e)}): prepare it again as array_record") from e
    return texts


class _Records:
    """RandomAccess to the record files of a prepared set, decoded by Pillow in threads."""

    def __init__(self, dataset: TFDS, folder: pathlib.Path, spec: str):
        self.parse = _record_parser()
        self.dataset, self.spec = dataset, spec
        features = _features(folder)
        if dataset.image_key not in features:
            near = nearest(dataset.image_key, features)
            raise UserError(
                f"{dataset.name} has no feature {dataset.image_key!r}{near}: set image_key to one of"
                f" {', '.join(features)}"
            )
        self.keys = {dataset.image_key: "x"}
        if "classLabel" in features.get(dataset.label_key, {}):
            self.keys[dataset.label_key] = "cond"
        image = features[dataset.image_key].get("image", {})
        if image.get("dtype", "uint8") != "uint8":
            raise UserError(f"{dataset.name} has {image['dtype']} pictures, uint8 is needed: choose another set")
        channels = int((image.get("shape", {}).get("dimensions") or ["3"])[-1])
        self.channels = channels if channels in (1, 4) else 3
        try:
            self.source = _raw_records(folder, spec)
        except NotImplementedError as e:
            raise UserError(
                f"{folder} is not in array_record format: prepare it again with"
                f" tfds.builder({dataset.name!r}, file_format='array_record'), {EMBEDDED}"
            ) from e
        except Exception as e:
            splits = ", ".join(_splits(folder)) or "none"
            raise UserError(
                f"{dataset.name} split {spec!r} cannot be opened ({_summary(e)}): it has the splits {splits};"
                f" set train and test to these, or prepare it again"
            ) from e
        self.shape = self.take(np.arange(1))["x"].shape[1:] if len(self.source) else (0, 0, 0)
        self.nbytes = len(self.source) * int(np.prod(self.shape))

    def __len__(self) -> int:
        return len(self.source)

    def take(self, indices: np.ndarray) -> RawBatch:
        places = [int(i) for i in indices]
        if not places:
            return {"x": np.zeros((0, 1, 1, 1), np.uint8)}
        # A few hundred records per task: enough to hide its overhead, few enough to spread over the threads.
        chunks = [places[i : i + 256] for i in range(0, len(places), 256)]
        with ThreadPoolExecutor(THREADS) as pool:
            examples = [example for chunk in pool.map(self._read, chunks) for example in chunk]
        shapes = {x.shape for x, _ in examples}
        if len(shapes) > 1:
            small, large = min(shapes), max(shapes)
            raise UserError(
                f"{self.dataset.name} split {self.spec!r} has pictures of differing size:"
                f" {small[0]}x{small[1]} and {large[0]}x{large[1]}; set size, such as 64, to crop and resize them"
            )
        batch = {"x": np.stack([x for x, _ in examples])}
        if "cond" in self.keys.values():
            batch["cond"] = np.array([label for _, label in examples], np.int32)
        return batch

    def _read(self, indices: list[int]) -> list[tuple[np.ndarray, int]]:
        try:
            return [self._decode(record) for record in self.source.__getitems__(indices)]
        except Exception:  # one of these records is corrupt: read them one by one to name it
            return [self._read_one(i) for i in indices]

    def _read_one(self, index: int) -> tuple[np.ndarray, int]:
        try:
            return self._decode(self.source[index])
        # Errors of readers, protobuf and Pillow's plugins on bad bytes have no common type.
        except Exception as e:
            raise UserError(
                f"{self.dataset.name} split {self.spec!r} has a corrupt record at index {index} ({_summary(e)}):"
                f" prepare the set again, {EMBEDDED}"
            ) from e

    def _decode(self, record: bytes) -> tuple[np.ndarray, int]:
        feature = self.parse(record).features.feature
        where = "its picture"
        picture = eight_bits(open_picture(feature[self.dataset.image_key].bytes_list.value[0], where), where)
        x = np.asarray(picture.convert("RGBA") if self.channels == 4 else flat(picture, self.channels))
        x = x.reshape(*x.shape[:2], -1)
        if self.dataset.size is not None:
            side = min(x.shape[:2])
            top, left = (x.shape[0] - side) // 2, (x.shape[1] - side) // 2
            square = x[top : top + side, left : left + side].astype(np.float32)
            x = np.rint(area_resize(square, self.dataset.size)).astype(np.uint8)
        labelled = "cond" in self.keys.values()
        return x, feature[self.dataset.label_key].int64_list.value[0] if labelled else 0


def _splits(folder: pathlib.Path) -> list[str]:
    try:
        info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
        return [split["name"] for split in info["splits"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


class _Cache:
    """The decoded arrays of one split as .npy files. A file that cannot be read or written is not an error."""

    def __init__(self, dataset: TFDS, folder: pathlib.Path, spec: str):
        # The sizes of the record files stand in for their content: a set that was prepared again is read again.
        files = sorted((f.name, f.stat().st_size) for f in folder.iterdir() if "record" in f.name)
        features = (dataset.size, dataset.image_key, dataset.label_key)
        key = [CACHE_FORMAT, folder.parts[-3:], spec, *features, files]
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:20]
        self.folder = cache_folder() / "tfds" / f"{dataset.name.replace('/', '-').replace(':', '-')}-{digest}"

    def read(self) -> RawBatch | None:
        try:
            data = {f.stem: np.load(f, allow_pickle=False) for f in sorted(self.folder.glob("*.npy"))}
        except (OSError, ValueError, EOFError):
            return None
        if "x" not in data or any(len(array) != len(data["x"]) for array in data.values()):
            return None
        return {"x": data.pop("x"), **data}

    def write(self, data: RawBatch) -> None:
        try:
            root = self.folder.parent.parent
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.parent.mkdir(mode=0o700, exist_ok=True)
            partial = pathlib.Path(tempfile.mkdtemp(prefix=".partial-", dir=self.folder.parent))
        except OSError:
            return
        try:
            for name, array in data.items():
                np.save(partial / f"{name}.npy", array, allow_pickle=False)
            # A folder that exists could not be read. The new one appears whole or not at all.
            shutil.rmtree(self.folder, ignore_errors=True)
            partial.rename(self.folder)
        except OSError:  # disk full, or another process was first
            shutil.rmtree(partial, ignore_errors=True)
