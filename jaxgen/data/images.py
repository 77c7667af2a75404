"""Image sets: two embedded ones, and any image set of tensorflow-datasets, read without TensorFlow."""

import dataclasses
import difflib
import functools
import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

from jaxgen.data.dataset import Batch, Dataset, RandomAccess, check_split
from jaxgen.errors import UserError, nearest

THREADS = min(16, os.cpu_count() or 1)


def area_resize(x: np.ndarray, size: int) -> np.ndarray:
    """Mean over the area each output pixel covers, fractions of pixels included.

    x: float[..., S, S, C], square. Returns float[..., size, size, C] of the same dtype, not rounded.
    """
    side = x.shape[-2]
    edges = np.arange(size + 1) * (side / size)
    pixel = np.arange(side)
    # weight[i, j]: the part of output pixel i that input pixel j covers; each row sums to one.
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weight = (np.clip(overlap, 0, None) * (size / side)).astype(x.dtype)
    rows = np.tensordot(weight, x, axes=(1, x.ndim - 3))  # [size, ..., S, C]
    return np.moveaxis(np.tensordot(weight, rows, axes=(1, x.ndim - 2)), (0, 1), (-2, -3))


# ---------------------------------------------------------------------------------------------- emoji

EMOJI = pathlib.Path(__file__).parent / "emoji"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Emoji(Dataset):
    """1,906 Noto emoji, embedded, over white: x uint8[N, size, size, 3], cond int32[N] by `label`.

    About one in ten is held out as "test", chosen by a hash of its code point, so that neither order nor the
    choice of `groups` moves a picture from one split to the other.

    Raises:
      UserError: on use, when `size`, `label` or a name in `groups` is unknown.
    """

    size: Literal[64, 32, 16] = 32
    """Side in pixels; below 64 each pixel is the mean of a square of the original."""
    label: Literal["group", "subgroup", "none"] = "group"
    """What `cond` says: one of 9 groups, one of 98 subgroups, or nothing."""
    groups: tuple[str, ...] = ()
    """Only these groups, such as ("Smileys & Emotion",); all when empty."""

    def load(self, split: str) -> Batch:
        if self.size not in (64, 32, 16):
            raise UserError(f"Emoji size is {self.size}: choose 64, 32 or 16")
        chosen = self._indices(split)
        x = _emoji_pixels(self.size)[chosen]
        if self.label == "none":
            return {"x": x}
        entries, names = _emoji_entries(), self.class_names
        cond = np.array([names.index(entries[i][self.label]) for i in chosen], np.int32)
        return {"x": x, "cond": cond}

    @property
    def class_names(self) -> tuple[str, ...]:
        if self.label == "none":
            return ()
        if self.label not in ("group", "subgroup"):
            raise UserError(f"Emoji label is {self.label!r}: choose group, subgroup or none")
        entries = _emoji_entries()
        return tuple(dict.fromkeys(entries[i][self.label] for i in self._indices("all")))

    def names(self, split: str = "train") -> tuple[str, ...]:
        """A caption for each example, in example order: "grinning face", "flag: norway", ..."""
        entries = _emoji_entries()
        return tuple(entries[i]["name"].lower() for i in self._indices(split))

    def _indices(self, split: str) -> list[int]:
        entries = _emoji_entries()
        known = tuple(dict.fromkeys(e["group"] for e in entries))
        for group in self.groups:
            if group not in known:
                raise UserError(
                    f"Emoji group is {group!r}{nearest(group, known)}: choose from {', '.join(known)}"
                )
        groups = self.groups or known
        check_split(split)
        held_out = {"train": (False,), "test": (True,), "all": (False, True)}[split]
        return [
            i
            for i, e in enumerate(entries)
            if e["group"] in groups and _emoji_held_out(e["unified"]) in held_out
        ]


def _emoji_held_out(unified: str) -> bool:
    return int.from_bytes(hashlib.sha256(unified.encode()).digest()[:8], "big") % 10 == 0


@functools.lru_cache(maxsize=1)
def _emoji_entries() -> tuple[dict[str, str], ...]:
    return tuple(json.loads((EMOJI / "emoji.json").read_text(encoding="utf-8")))


@functools.lru_cache(maxsize=2)
def _emoji_pixels(size: int) -> np.ndarray:
    """uint8[N, size, size, 3], every emoji over white."""

    def read(path: pathlib.Path) -> np.ndarray:
        with Image.open(path) as image:
            sheet = np.asarray(image.convert("RGBA"))
        rows, cols = sheet.shape[0] // 64, sheet.shape[1] // 64
        pictures = sheet.reshape(rows, 64, cols, 64, 4).swapaxes(1, 2).reshape(rows * cols, 64, 64, 4)
        colour, alpha = pictures[..., :3].astype(np.float32), pictures[..., 3:].astype(np.float32)
        # 255 times the picture over white: whole numbers below 2^16, and the weights are powers of two, so
        # f32 holds every intermediate value exactly and the one rounding is the last.
        over_white = colour * alpha + 255 * (255 - alpha)
        return np.rint(area_resize(over_white, size) / 255).astype(np.uint8)

    from PIL import Image  # here, as start-up should not pay for it

    with ThreadPoolExecutor(THREADS) as pool:
        pictures = np.concatenate(list(pool.map(read, sorted(EMOJI.glob("sheet-*.webp")))))
    return pictures[: len(_emoji_entries())]  # the last sheet is filled up


# --------------------------------------------------------------------------------------------- digits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits(Dataset):
    """scikit-learn's 8 x 8 digits: x uint8[N, 8, 8, 1], cond int32[N]; 1,437 to train, 360 to test.

    The source's values v = 0..16 become rint(v * 255 / 16); rint(x * 16 / 255) gets them back without loss.
    The split is stratified: of the digits sorted by class (ties in source order), each fifth is test.
    """

    def load(self, split: str) -> Batch:
        from sklearn.datasets import load_digits  # here, as it takes a second to import

        source = load_digits()
        x = np.rint(source.images * 255 / 16).astype(np.uint8)[..., None]
        cond = source.target.astype(np.int32)
        test = np.zeros(len(cond), bool)
        test[np.argsort(cond, kind="stable")[::5]] = True
        chosen = {"train": ~test, "test": test, "all": np.ones_like(test)}[split]
        return {"x": x[chosen], "cond": cond[chosen]}

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple("0123456789")


# ------------------------------------------------------------------------------- tensorflow-datasets

IN_MEMORY = 2 << 30  # bytes, decoded; larger sets are read from disk example by example

CACHE_FORMAT = 1  # raise it when decoding changes

EMBEDDED = "or use an embedded set, `emoji` or `digits`"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TFDS(Dataset):
    """An image set of tensorflow-datasets (array_record): x uint8[N, H, W, C], cond int32[N] if labelled.

    A set of less than 2 GiB decoded is held in memory and its arrays are kept in $JAXGEN_CACHE or
    ~/.cache/jaxgen, which makes the second start quick; a larger one is read from its record files as it
    goes.

    Raises:
      UserError: on use: the name, the splits or the keys are unknown; the set is not prepared and cannot be;
        a record is corrupt; or the pictures are not all of one size and `size` is None.
    """

    name: str
    """Such as "mnist", "cifar10" or "name/config:1.0.0"."""
    data_dir: str | None = None
    """Where sets are prepared; $TFDS_DATA_DIR or ~/tensorflow_datasets when None."""
    train: str = "train"
    """What "train" means, in tensorflow-datasets' syntax: "train[:90%]"."""
    test: str = "test"
    """What "test" means."""
    image_key: str = "image"
    """The feature that holds the picture."""
    label_key: str = "label"
    """The feature that holds the class; "" for no labels. Ignored where the set has no such feature."""
    size: int | None = None
    """When set, pictures are cropped to their central square and resized to this side by area."""

    def load(self, split: str) -> Batch | RandomAccess:
        if self.size is not None and self.size < 1:
            raise UserError(f"TFDS size is {self.size}: give a side in pixels, such as 64, or None")
        spec = {"train": self.train, "test": self.test, "all": f"{self.train}+{self.test}"}[split]
        folder = _prepared(self.name, self.data_dir)
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
        folder = _prepared(self.name, self.data_dir)
        # Read from the set's own files, as importing tensorflow_datasets takes most of a second.
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
        raise UserError(f"{file} is no list of features ({_line(e)}): prepare the set again") from e


def _line(error: BaseException, limit: int = 160) -> str:
    """The first line of an error, cut short: those of tensorflow-datasets list every set there is."""
    text = str(error).strip().split("\n", 1)[0]
    return f"{type(error).__name__}: {text[:limit]}" if text else type(error).__name__


def _prepared(name: str, data_dir: str | None) -> pathlib.Path:
    """The folder of a prepared set, prepared now if need be and possible."""
    match = re.fullmatch(r"(\w+)((?:/[\w.+-]+)?)(?::(\d+\.\d+\.\d+))?", name)
    if not match:
        raise UserError(f"TFDS name is {name!r}: expected name, name/config or name/config:1.0.0, as cifar10")
    base, config, version = match[1], match[2].lstrip("/"), match[3]
    root = pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    # On disk first: this needs neither the network nor the import of tensorflow_datasets.
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
        f"prepare it where there is network and TensorFlow with tfds.builder({name!r},"
        f" file_format='array_record').download_and_prepare() and copy it to {root / base}, {EMBEDDED}"
    )
    try:
        builder = tfds.builder(name, data_dir=str(root), file_format="array_record")
        if not builder.data_path.joinpath("dataset_info.json").exists():
            # Asked beforehand, as tensorflow-datasets retries for minutes when there is no network.
            import requests

            requests.head("https://storage.googleapis.com", timeout=3)
            builder.download_and_prepare()
    # What goes wrong without TensorFlow, network or disk space has no common type.
    except Exception as e:
        tried = f"{name} is not prepared in {root} and preparing it failed ({_line(e)})"
        raise UserError(f"{tried}: {advice}") from e
    return pathlib.Path(builder.data_path)


class _Records:
    """RandomAccess over the record files of a prepared set; decodes with Pillow, in threads."""

    def __init__(self, dataset: TFDS, folder: pathlib.Path, spec: str):
        import tensorflow_datasets as tfds
        from tensorflow_datasets.proto import tf_example_pb2

        self.parse = tf_example_pb2.Example.FromString
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
            raise UserError(f"{dataset.name} has {image['dtype']} pictures, uint8 is needed: choose another")
        channels = int((image.get("shape", {}).get("dimensions") or ["3"])[-1])
        self.mode = {1: "L", 4: "RGBA"}.get(channels, "RGB")
        try:
            builder = tfds.builder_from_directory(folder)
            # Raw bytes, parsed below: the library's own decoding takes three times as long.
            raw = tfds.decode.DeserializeMethod.RAW_BYTES
            self.source = builder.as_data_source(split=spec, deserialize_method=raw)
        except NotImplementedError as e:
            raise UserError(
                f"{folder} is not in array_record format: prepare it again with"
                f" tfds.builder({dataset.name!r}, file_format='array_record'), {EMBEDDED}"
            ) from e
        except Exception as e:
            splits = ", ".join(_splits(folder)) or "none"
            raise UserError(
                f"{dataset.name} split {spec!r} cannot be opened ({_line(e)}): it has the splits {splits};"
                f" set train and test to those, or prepare it again"
            ) from e
        self.shape = self.take(np.arange(1))["x"].shape[1:] if len(self.source) else (0, 0, 0)
        self.nbytes = len(self.source) * int(np.prod(self.shape))

    def __len__(self) -> int:
        return len(self.source)

    def take(self, indices: np.ndarray) -> Batch:
        indices = [int(i) for i in indices]
        if not indices:
            return {"x": np.zeros((0, 1, 1, 1), np.uint8)}
        # A few hundred records a task: large enough to spare overhead, small enough to spread over threads.
        runs = [indices[i : i + 256] for i in range(0, len(indices), 256)]
        with ThreadPoolExecutor(THREADS) as pool:
            examples = [example for run in pool.map(self._read, runs) for example in run]
        shapes = {x.shape for x, _ in examples}
        if len(shapes) > 1:
            small, large = min(shapes), max(shapes)
            raise UserError(
                f"{self.dataset.name} split {self.spec!r} has pictures of differing size:"
                f" {small[0]}x{small[1]} and {large[0]}x{large[1]}; set size, such as 64, to crop and resize"
            )
        batch = {"x": np.stack([x for x, _ in examples])}
        if "cond" in self.keys.values():
            batch["cond"] = np.array([label for _, label in examples], np.int32)
        return batch

    def _read(self, indices: list[int]) -> list[tuple[np.ndarray, int]]:
        try:
            return [self._decode(record) for record in self.source.__getitems__(indices)]
        except Exception:  # some record of these is corrupt: go one by one to say which
            return [self._read_one(i) for i in indices]

    def _read_one(self, index: int) -> tuple[np.ndarray, int]:
        try:
            return self._decode(self.source[index])
        # Readers, protobuf and Pillow's plugins have no common error for bad bytes.
        except Exception as e:
            raise UserError(
                f"{self.dataset.name} split {self.spec!r} has a corrupt record at index {index} ({_line(e)}):"
                f" prepare the set again, {EMBEDDED}"
            ) from e

    def _decode(self, record: bytes) -> tuple[np.ndarray, int]:
        from PIL import Image

        feature = self.parse(record).features.feature
        with Image.open(io.BytesIO(feature[self.dataset.image_key].bytes_list.value[0])) as image:
            x = np.asarray(image.convert(self.mode))
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
    """The decoded arrays of one split as .npy files; a failure to read or write means no cache, no error."""

    def __init__(self, dataset: TFDS, folder: pathlib.Path, spec: str):
        # The sizes of the record files stand in for their content: a set prepared anew is read anew.
        files = sorted((f.name, f.stat().st_size) for f in folder.iterdir() if "record" in f.name)
        key = [
            CACHE_FORMAT,
            folder.parts[-3:],
            spec,
            dataset.size,
            dataset.image_key,
            dataset.label_key,
            files,
        ]
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:20]
        root = pathlib.Path(os.environ.get("JAXGEN_CACHE") or "~/.cache/jaxgen").expanduser()
        self.folder = root / "tfds" / f"{dataset.name.replace('/', '-').replace(':', '-')}-{digest}"

    def read(self) -> Batch | None:
        try:
            data = {f.stem: np.load(f, allow_pickle=False) for f in sorted(self.folder.glob("*.npy"))}
        except (OSError, ValueError, EOFError):
            return None
        if "x" not in data or any(len(array) != len(data["x"]) for array in data.values()):
            return None
        return {"x": data.pop("x"), **data}

    def write(self, data: Batch) -> None:
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
            # What is there could not be read; and the folder appears whole or not at all.
            shutil.rmtree(self.folder, ignore_errors=True)
            partial.rename(self.folder)
        except OSError:  # disk full, or another process was first
            shutil.rmtree(partial, ignore_errors=True)
