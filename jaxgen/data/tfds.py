"""Image sets of tensorflow-datasets, read without TensorFlow."""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jaxgen.core.ranges import PathName, Size
from jaxgen.core.types import RawBatch
from jaxgen.data.dataset import Dataset, RandomAccess
from jaxgen.data.embedded import area_resize
from jaxgen.data.prepared import EMBEDDED, Prepared, parser, prepared, summary
from jaxgen.errors import UserError, nearest
from jaxgen.runtime.cache import cache_folder, private_folder
from jaxgen.runtime.picture import eight_bits, flat, open_picture
from jaxgen.runtime.reading import read_array

THREADS = min(16, os.cpu_count() or 1)

IN_MEMORY = 2 << 30  # bytes, decoded; larger sets are read from disk example by example

CACHE_FORMAT = 2  # to be raised when decoding changes


@dataclasses.dataclass(frozen=True, kw_only=True)
class TFDS(Dataset):
    """An image set of tensorflow-datasets (array_record): x uint8[N, H, W, C], cond int32[N] if labelled.

    A set on disk is used without the network. One that is not is downloaded, which is said first, with its size.

    A set of less than 2 GiB decoded is held in memory, and its arrays are kept in the cache folder, so that the next
    start is fast. A larger set is read from its record files on demand.

    Raises:
      UserError: on use: the name, the splits or the keys are unknown; the set is not prepared and cannot or may not be;
        its description or a record is damaged; or the pictures differ in size and `size` is None.
    """

    name: str
    """Such as "mnist", "cifar10" or "name/config:1.0.0"."""
    data_dir: PathName | None = None
    """The folder of prepared sets; $TFDS_DATA_DIR or ~/tensorflow_datasets if None."""
    download: bool = True
    """Download the set and prepare it if it is not there (--data.download); --data.no-download refuses."""
    train: str = "train"
    """The part of the set that is "train", in tensorflow-datasets' syntax, such as "train[:90%]"."""
    test: str = "test"
    """The part of the set that is "test"."""
    image_key: str = "image"
    """The feature that holds the picture."""
    label_key: str = "label"
    """The feature that holds the class; "" for no labels. Ignored if the set has no such feature."""
    size: Size | None = None
    """If set, pictures are cropped to their central square and resized to this side by area."""

    def load(self, split: str) -> RawBatch | RandomAccess:
        if self.size is not None and self.size < 1:
            raise UserError(f"TFDS size is {self.size}: give a side in pixels, such as 64, or None")
        spec = {"train": self.train, "test": self.test, "all": f"{self.train}+{self.test}"}[split]
        found = prepared(self.name, self.data_dir, self.download)
        cached = _Cache(self, found.folder, spec)
        data = cached.read()
        if data is None:
            source = _Records(self, found, spec)
            if source.nbytes >= IN_MEMORY:
                return source
            data = source.take(np.arange(len(source)))
            cached.write(data)
        return data

    @property
    def class_names(self) -> tuple[str, ...]:
        # From the set's own files, as importing tensorflow_datasets takes most of a second.
        return prepared(self.name, self.data_dir, self.download).class_names(self.label_key)


class _Records:
    """RandomAccess to the record files of a prepared set, decoded by Pillow in threads."""

    def __init__(self, dataset: TFDS, found: Prepared, spec: str):
        self.parse = parser()
        self.dataset, self.spec = dataset, spec
        features = found.features
        if dataset.image_key not in features:
            near = nearest(dataset.image_key, features)
            raise UserError(
                f"{dataset.name} has no feature {dataset.image_key!r}{near}: set image_key to one of"
                f" {', '.join(features)}"
            )
        self.keys = {dataset.image_key: "x"}
        if "classLabel" in features.get(dataset.label_key, {}):
            self.keys[dataset.label_key] = "cond"
        self.channels = found.channels(dataset.image_key)
        try:
            self.source = found.records(spec)
        except NotImplementedError as e:
            raise UserError(
                f"{found.folder} is not in array_record format: prepare it again with"
                f" tfds.builder({dataset.name!r}, file_format='array_record'), {EMBEDDED}"
            ) from e
        except Exception as e:
            splits = ", ".join(found.splits) or "none"
            raise UserError(
                f"{dataset.name} split {spec!r} cannot be opened ({summary(e)}): it has the splits {splits};"
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

    def _read(self, indices: list[int]) -> list[tuple[np.ndarray, np.int32]]:
        try:
            return [self._decode(record) for record in self.source.__getitems__(indices)]
        except Exception:  # one of these records is corrupt: read them one by one to name it
            return [self._read_one(i) for i in indices]

    def _read_one(self, index: int) -> tuple[np.ndarray, np.int32]:
        try:
            return self._decode(self.source[index])
        # Errors of readers, protobuf and Pillow's plugins on bad bytes have no common type.
        except Exception as e:
            raise UserError(
                f"{self.dataset.name} split {self.spec!r} has a corrupt record at index {index} ({summary(e)}):"
                f" prepare the set again, {EMBEDDED}"
            ) from e

    def _decode(self, record: bytes) -> tuple[np.ndarray, np.int32]:
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
        # Converted here: a label beyond int32 is a corrupt record.
        return x, np.int32(feature[self.dataset.label_key].int64_list.value[0] if labelled else 0)


class _Cache:
    """The decoded arrays of one split as .npy files. Files that are damaged or cannot be written are no error."""

    def __init__(self, dataset: TFDS, folder: pathlib.Path, spec: str):
        # The sizes of the record files stand in for their content: a set that was prepared again is read again.
        files = sorted((f.name, f.stat().st_size) for f in folder.iterdir() if "record" in f.name)
        features = (dataset.size, dataset.image_key, dataset.label_key)
        key = [CACHE_FORMAT, folder.parts[-3:], spec, *features, files]
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:20]
        self.folder = cache_folder() / "tfds" / f"{dataset.name.replace('/', '-').replace(':', '-')}-{digest}"

    def read(self) -> RawBatch | None:
        try:
            data = {f.stem: read_array(f) for f in sorted(self.folder.glob("*.npy"))}
        except (OSError, UserError):
            return None
        kinds = {name: (array.dtype, array.ndim) for name, array in data.items()}
        whole = {"x": (np.dtype(np.uint8), 4), "cond": (np.dtype(np.int32), 1)}
        if "x" not in kinds or not kinds.items() <= whole.items() or len({len(array) for array in data.values()}) > 1:
            return None
        return {"x": data.pop("x"), **data}

    def write(self, data: RawBatch) -> None:
        root = private_folder("tfds")
        if root is None:
            return
        try:
            partial = pathlib.Path(tempfile.mkdtemp(prefix=".partial-", dir=root))
        except OSError:  # disk full
            return
        try:
            for name, array in data.items():
                np.save(partial / f"{name}.npy", array, allow_pickle=False)
            # A folder that exists could not be read. The new one appears whole or not at all.
            shutil.rmtree(self.folder, ignore_errors=True)
            partial.rename(self.folder)
        except OSError:  # disk full, or another process was first
            shutil.rmtree(partial, ignore_errors=True)
