"""Lossless compression of images by a model that gives one symbol after another its probabilities.

The file: b"JXG", format version u8, mark of the model [4 bytes], CRC-32 of the pixels u32; as varints the number of
images, height, width, channels, lanes of the coder, number of labels, labels; the code of `ops.rans`. Integers are
little-endian. A symbol is a level of one channel of one pixel, or of what the model maps the image to; positions go
over rows, columns and channels, and at each over the images, all of which are coded at once. A file holds at most
MOST_IMAGES images and MOST_SYMBOLS symbols.
"""

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgen.core.coding import EntropyModel, MapsSymbols
from jaxgen.core.configuration import to_json
from jaxgen.core.model import GenerativeModel
from jaxgen.core.types import TrainState
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.inference.images import check_image_output, read_pixels, save_each, save_image
from jaxgen.ops.rans import PRECISION, TOTAL, Decoder, Encoder, quantise, starts
from jaxgen.runs.restore import Trained
from jaxgen.runtime.devices import memory
from jaxgen.runtime.files import check_output, disk_errors, write_bytes
from jaxgen.runtime.picture import ENDINGS
from jaxgen.runtime.reading import read_bytes

MAGIC, VERSION = b"JXG", 1
HEAD = struct.Struct("<3sB4sI")
MOST_IMAGES = 1 << 16
MOST_SYMBOLS = 1 << 27
MOST_BYTES = MOST_SYMBOLS * PRECISION // 8 + MOST_IMAGES * 16  # no symbol takes more than PRECISION bits
ROWS = 4096  # of probabilities that become frequencies at a time
LANE_BITS = 64 * 1000  # of code that a lane is worth: its state takes 64 itself
TRAINING = ("optimizer", "ema_decay", "ema_lengths", "accumulate")  # fields of a model that no probability depends on


def check_model(model: GenerativeModel) -> EntropyModel:
    """The model, known to be one. Raises UserError unless images can be compressed by it."""
    if not isinstance(model, EntropyModel):
        raise UserError(
            f"{type(model).__name__} gives no probabilities of one pixel after another: compress with a run of an "
            f"autoregressive model, such as PixelCNN, or of an integer flow"
        )
    return model


def check_size(model: Any, state: TrainState, num: int, cond: Any = None) -> None:
    """Raises UserError for more images than a file holds, or than can be coded at once in this machine's memory."""
    if not 1 <= num <= MOST_IMAGES or num * math.prod(model.shape) > MOST_SYMBOLS:
        most = min(MOST_IMAGES, MOST_SYMBOLS // math.prod(model.shape))
        raise UserError(f"{num} images of shape {model.shape} are asked for, a file holds 1 to {most}: use several")
    cache = jax.tree.leaves(jax.eval_shape(lambda state: model.code_init(state, num, cond), state))
    needed = sum(math.prod(a.shape) * a.dtype.itemsize for a in cache) + 24 * num * model.code_levels
    if needed > (there := memory()):
        raise UserError(
            f"{num} images at once take {needed / 2**30:.1f} GiB of memory, {there / 2**30:.1f} GiB are there: use "
            "several files with fewer"
        )


def fingerprint(experiment: Experiment, state: TrainState) -> bytes:
    """Four bytes that tell the weights and settings a file was made by from others."""
    model = {name: value for name, value in to_json(experiment.model).items() if name not in TRAINING}
    digest = hashlib.sha256(json.dumps([model, experiment.precision]).encode())
    for path, leaf in jax.tree_util.tree_flatten_with_path((state.sampling_params, state.extra))[0]:
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.digest()[:4]


# --- the walk over symbols, the same for both directions -----------------------------------------------------
_init = partial(jax.jit, static_argnums=(0, 2))(lambda model, state, num, cond: model.code_init(state, num, cond))
_next = partial(jax.jit, static_argnums=0, donate_argnums=2)(lambda model, *args: model.code_next(*args))
_push = partial(jax.jit, static_argnums=0, donate_argnums=2)(lambda model, *args: model.code_push(*args))
_map = partial(jax.jit, static_argnums=0)(lambda model, *args: model.map_symbols(*args))


def _mapped(model: Any, state: TrainState, symbols: np.ndarray, cond: Any, inverse: bool) -> np.ndarray:
    """The symbols of levels, or the levels of symbols, i32[num, D]; levels are their own symbols in most models."""
    if not isinstance(model, MapsSymbols):
        return symbols
    return np.asarray(_map(model, state, symbols.astype(np.int32), cond, np.asarray(inverse)))


def _walk(model: Any, state: TrainState, num: int, cond: Any, choose: Callable[[int, np.ndarray], np.ndarray]) -> None:
    """Calls choose(position, frequencies uint64[num, K]) -> symbols i64[num] at every position in turn. Frequencies
    come from the same programs whether symbols are known beforehand or decoded, so that they are the same to the bit.
    """
    cache = _init(model, state, num, cond)
    for i in range(math.prod(model.shape)):
        position = np.int32(i)
        cache, probabilities = _next(model, state, cache, position)
        rows = np.asarray(probabilities)
        frequencies = np.concatenate([quantise(rows[first : first + ROWS]) for first in range(0, num, ROWS)])
        cache = _push(model, state, cache, position, choose(i, frequencies).astype(np.int32))


def _greys(levels: int) -> np.ndarray:
    """Raw values of the levels, uint8[levels]."""
    return np.rint(np.arange(levels) * (255 / (levels - 1))).astype(np.uint8)


def compress(model: Any, state: TrainState, images: np.ndarray, mark: bytes = bytes(4), cond: Any = None) -> bytes:
    """The file of images uint8[N, *model.shape]. mark: `fingerprint` of the model. cond: i32[N], the classes, where the
    model is conditional.

    Raises UserError for a model that cannot compress, images of another shape, or with values between its levels.
    """
    check_model(model)
    model.check_cond(cond)
    if images.dtype != np.uint8 or images.shape[1:] != tuple(model.shape) or not len(images):
        raise UserError(f"images are {images.dtype}{list(images.shape)}, uint8[N, *{tuple(model.shape)}] is expected")
    check_size(model, state, len(images), cond)
    greys = _greys(model.code_levels)
    symbols = np.minimum(np.searchsorted(greys, images), len(greys) - 1)
    if not np.array_equal(greys[symbols], images):
        raise UserError(
            f"the images have values between the {len(greys)} levels that this model knows: round them first, or "
            f"compress with a model of all 256"
        )
    levels = symbols.reshape(len(images), -1)
    flat = _mapped(model, state, levels, cond, inverse=False)
    if not np.array_equal(_mapped(model, state, flat, cond, inverse=True), levels):
        raise UserError("this machine rounds the model's numbers differently from one time to the next: use a CPU")
    rows, coded = np.arange(len(images)), []

    def known(position: int, frequencies: np.ndarray) -> np.ndarray:
        now = flat[:, position]
        coded.append((starts(frequencies)[rows, now], frequencies[rows, now]))
        return now

    _walk(model, state, len(images), cond, known)
    bits = sum(float(np.sum(PRECISION - np.log2(frequency.astype(np.float64)))) for _, frequency in coded)
    lanes = min(len(images), 1 + int(bits / LANE_BITS))
    encoder = Encoder(lanes)
    for start, frequency in reversed(coded):
        for first in reversed(range(0, len(images), lanes)):
            encoder.push(start[first : first + lanes], frequency[first : first + lanes])
    labels = [] if cond is None else [int(c) for c in cond]
    head = HEAD.pack(MAGIC, VERSION, mark, zlib.crc32(images.tobytes()))
    return head + _varints([*images.shape, lanes, len(labels), *labels]) + encoder.finish()


@dataclass(frozen=True)
class Contents:
    """The parts of a file."""

    shape: tuple[int, ...]
    """(N, H, W, C)."""
    lanes: int
    labels: list[int]
    """One for each image, or none."""
    code: bytes
    checksum: int

    @property
    def cond(self) -> np.ndarray | None:
        return np.asarray(self.labels, np.int32) if self.labels else None


def parse(model: Any, data: bytes, mark: bytes = bytes(4)) -> Contents:
    """The parts of a file that `model` can have written, by far cheaper than `decode`. mark: as for `compress`.

    Raises UserError when it is no such file, was made by another model, or asks for more than its code can hold.
    """
    check_model(model)
    if len(data) < HEAD.size or data[:3] != MAGIC:
        raise UserError("this is no file that `jaxgen compress` wrote: it does not begin with JXG")
    _, version, made_by, checksum = HEAD.unpack_from(data)
    if version != VERSION:
        raise UserError(f"the file has format {version}, this program reads {VERSION}: use the version that wrote it")
    if made_by != mark:
        raise UserError(
            f"the file was made by another model ({made_by.hex()}, this run is {mark.hex()}): name the run and the "
            f"--step that it was compressed with"
        )
    (*shape, lanes, count), place = _read_varints(data, HEAD.size, 6)
    num = shape[0]
    possible = tuple(shape[1:]) == tuple(model.shape) and 1 <= lanes <= num and count in (0, num)
    if not possible or count > len(data) - place:
        raise UserError(f"the file's head is damaged: {num} images of {shape[1:]}, {lanes} lanes, {count} labels")
    labels, place = _read_varints(data, place, count)
    code = data[place:]
    # Bits of a symbol that is as likely as a symbol can be. Rounding in the coder takes a few thousandths of them.
    least = PRECISION - math.log2(TOTAL - (model.code_levels - 1))
    if num * math.prod(model.shape) * least * 0.99 > 8 * len(code):
        raise UserError(f"the file's head is damaged: {num} images do not fit into {len(code)} bytes of code")
    if max(labels, default=0) >= 1 << 31:
        raise UserError(f"the file's head is damaged: it has a label {max(labels)}")
    contents = Contents(tuple(shape), lanes, labels, code, checksum)
    model.check_cond(contents.cond)
    return contents


def decode(model: Any, state: TrainState, contents: Contents) -> np.ndarray:
    """The images of a file's parts, uint8[N, *model.shape]. Raises UserError when it is damaged, or too large."""
    num, lanes, cond = contents.shape[0], contents.lanes, contents.cond
    check_size(model, state, num, cond)
    decoder, found = Decoder(contents.code, lanes), []

    def decoded(position: int, frequencies: np.ndarray) -> np.ndarray:
        now = np.concatenate([decoder.pop(frequencies[first : first + lanes]) for first in range(0, num, lanes)])
        found.append(now.astype(np.uint8))
        return now

    _walk(model, state, num, cond, decoded)
    levels = _mapped(model, state, np.stack(found, axis=-1), cond, inverse=True)
    images = _greys(model.code_levels)[levels].reshape(contents.shape)
    if not decoder.exhausted or zlib.crc32(images.tobytes()) != contents.checksum:
        raise UserError(
            "the pixels do not add up to the file's checksum: it is damaged, or was made on another kind of machine, "
            "where the same model's probabilities differ in the last bit"
        )
    return images


def decompress(model: Any, state: TrainState, data: bytes, mark: bytes = bytes(4)) -> np.ndarray:
    """The images of a file, uint8[N, *model.shape]. Raises UserError as `parse` and `decode` do."""
    return decode(model, state, parse(model, data, mark))


# --- files ----------------------------------------------------------------------------------------------------
def _varints(values: list[int]) -> bytes:
    """Seven bits a byte, the lowest first, the eighth set where more follow."""
    out = bytearray()
    for value in values:
        while value >= 128:
            out.append(value & 127 | 128)
            value >>= 7
        out.append(value)
    return bytes(out)


def _read_varints(data: bytes, place: int, count: int) -> tuple[list[int], int]:
    """`count` of them from `place` on, and where they end."""
    values = []
    for _ in range(count):
        value = shift = 0
        while True:
            if place >= len(data) or shift > 56:
                raise UserError("the file's head is damaged: a number in it does not end")
            byte, place = data[place], place + 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        values.append(value)
    return values, place


def check_place(out: Path) -> None:
    """Raises UserError for a file that cannot be written, or that the last of some pictures seems to be."""
    check_output(out, folder=False)
    if out.suffix.lower() in ENDINGS:
        raise UserError(f"{out} would be overwritten, and not by a picture: put the file to write last, as out.jxg")


def compress_files(trained: Trained, pictures: list[Path], out: Path, cond: Sequence[int] = ()) -> str:
    """Writes the pictures' file and says how large it is; cond: classes, repeated to the number of pictures. Raises
    UserError as `compress`, `read_pixels` and `check_place` do, before it computes."""
    check_place(out)
    model, shape = trained.model, check_model(trained.model).shape
    if len(pictures) > MOST_IMAGES:
        raise UserError(f"{len(pictures)} pictures are given, a file holds at most {MOST_IMAGES}: use several")
    images = np.stack([read_pixels(picture, shape) for picture in pictures])
    before = sum(picture.stat().st_size for picture in pictures)
    labels = np.resize(np.asarray(cond, np.int32), len(images)) if len(cond) else None
    if labels is not None and model.sample_cond(1, {"x": images}) is None:
        raise UserError("cond was given, but the model is not conditional: leave it out")
    data = compress(model, trained.state, images, fingerprint(trained.experiment, trained.state), labels)
    with disk_errors():
        write_bytes(out, data)
    return f"{out}: {len(data)} bytes, {8 * len(data) / images.size:.4g} bits per dimension; {before} bytes before"


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Puts the name of the file that was read before an error."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def decompress_file(trained: Trained, file: Path, out: Path) -> str:
    """Writes the picture of a file, or into the folder `out` several, and says what it wrote. Raises UserError as
    `decompress` does, and before it computes where `out` cannot be written."""
    data, mark = read_bytes(file, MOST_BYTES), fingerprint(trained.experiment, trained.state)
    with _naming(file):
        contents = parse(trained.model, data, mark)
    if contents.shape[0] > 1:
        check_output(out, folder=True)
    else:
        check_image_output(out)
    with _naming(file):
        images = decode(trained.model, trained.state, contents)
    if len(images) > 1:
        save_each(out, images)
    else:
        save_image(images[0], out)
    return f"{len(images)} of {' x '.join(map(str, images.shape[1:3]))} pixels: {out}"
