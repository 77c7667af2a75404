"""Compressed files that are damaged or made to do harm: the right pixels, or one line that names the file."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hostile import PEAK
from markov import Markov, drawn, started

from jaxgen.data import Digits
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.inference import compression
from jaxgen.inference.compression import (
    HEAD,
    MAGIC,
    VERSION,
    _varints,
    compress,
    decompress,
    decompress_file,
    fingerprint,
)  # fmt: skip
from jaxgen.ops.rans import PRECISION, TOTAL, Encoder
from jaxgen.runs.restore import Trained


@pytest.fixture(scope="module")
def trained():
    model = Markov()
    experiment = Experiment(model=model, data=Digits())
    return Trained(experiment, experiment.codec, started(model))


def file_of(mark: bytes, *numbers: int, code: bytes = bytes(range(32))) -> bytes:
    return HEAD.pack(MAGIC, VERSION, mark, 0) + _varints(list(numbers)) + code


def damaged(mark: bytes, whole: bytes) -> dict[str, bytes]:
    """By name; whole: a file of three images of 8 x 8 pixels."""
    start = HEAD.size
    return {
        "empty": b"",
        "picture": b"\x89PNG\r\n\x1a\n" + bytes(40),
        "zeros": bytes(5000),
        "head alone": whole[:start],
        "version": whole[:3] + b"\x02" + whole[4:],
        "2^62 images": file_of(mark, 1 << 62, 8, 8, 1, 1, 0),
        "10^6 images": file_of(mark, 10**6, 8, 8, 1, 1, 0),
        "60,000 images": file_of(mark, 60_000, 8, 8, 1, 4, 0),
        "10,000 images": file_of(mark, 10_000, 8, 8, 1, 4, 0),
        "most images of much code": file_of(mark, 65_537, 8, 8, 1, 1, 0, code=bytes(4000)),
        "no images": file_of(mark, 0, 8, 8, 1, 0, 0),
        "2^62 lanes": file_of(mark, 1 << 62, 8, 8, 1, 1 << 62, 0),
        "more lanes than images": file_of(mark, 2, 8, 8, 1, 3, 0),
        "more lanes than code": file_of(mark, 9, 8, 8, 1, 9, 0),
        "no lanes": file_of(mark, 2, 8, 8, 1, 0, 0),
        "2^62 labels": file_of(mark, 1 << 62, 8, 8, 1, 1, 1 << 62),
        "more labels than bytes": file_of(mark, 1000, 8, 8, 1, 1, 1000),
        "large label": file_of(mark, 1, 8, 8, 1, 1, 1, 1 << 40),
        "label of a model without": file_of(mark, 1, 8, 8, 1, 1, 1, 3),
        "other shape": file_of(mark, 1, 1 << 31, 1 << 31, 1, 1, 0),
        "endless number": HEAD.pack(MAGIC, VERSION, mark, 0) + b"\xff" * 40,
        "odd length": whole + b"\0",
        "more code": whole + bytes(8),
        **{f"cut at {part}": whole[:part] for part in (1, start - 1, start + 3, start + 8, len(whole) - 4)},
    }


def test_damaged_files_end_in_one_line(trained, tmp_path):
    mark = fingerprint(trained.experiment, trained.state)
    pixels, _ = drawn(trained.model, trained.state, 3)
    whole = compress(trained.model, trained.state, pixels, mark)
    cases = damaged(mark, whole)
    assert len(cases) >= 25
    rng = np.random.default_rng(0)
    for i in range(20):
        place, bit = rng.integers(len(whole)), 1 << rng.integers(8)
        cases[f"bit {i}"] = whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :]
    for name, data in cases.items():
        (file := tmp_path / f"{name}.jxg").write_bytes(data)
        with pytest.raises(UserError) as error:
            decompress_file(trained, file, tmp_path / "out.png")
        assert str(error.value).startswith(str(file)) and "\n" not in str(error.value), name
    assert not (tmp_path / "out.png").exists()


def test_only_regular_files_are_opened(trained, tmp_path):
    os.mkfifo(pipe := tmp_path / "pipe.jxg")
    (loop := tmp_path / "loop.jxg").symlink_to(loop)
    for file in (pipe, loop, tmp_path, Path("/dev/zero"), tmp_path / "no.jxg", tmp_path / ("x" * 300)):
        with pytest.raises(UserError) as error:
            decompress_file(trained, file, tmp_path / "out.png")
        assert str(error.value).startswith(str(file)) and "\n" not in str(error.value)
    with (large := tmp_path / "large.jxg").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match=r"large\.jxg has 1099511627776 bytes, at most"):
        decompress_file(trained, large, tmp_path / "out.png")


def test_places_are_tried_before_decoding(trained, tmp_path, monkeypatch):
    mark = fingerprint(trained.experiment, trained.state)
    pixels, _ = drawn(trained.model, trained.state, 2)
    for name, images in (("one", pixels[:1]), ("two", pixels)):
        (tmp_path / f"{name}.jxg").write_bytes(compress(trained.model, trained.state, images, mark))
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr(compression, "decode", None)
    for name, out in (
        ("one", "a.jpg"),
        ("one", "folder.png"),
        ("one", "file/a.png"),
        ("two", "file"),
        ("two", "file/a"),
    ):
        with pytest.raises(UserError) as error:
            decompress_file(trained, tmp_path / f"{name}.jxg", tmp_path / out)
        assert str(tmp_path / out) in str(error.value)


def test_no_more_symbols_fit_into_a_code_than_is_assumed():
    """Bits that symbols of the highest possible frequency take, in the states and words of the code."""
    for levels, num in ((256, 100_000), (2, 100_000)):
        encoder, frequency = Encoder(), np.full(1, TOTAL - (levels - 1), np.uint64)
        encoder.state[:] += np.uint64(12_345)
        before = np.log2(float(encoder.state[0]))
        for _ in range(num):
            encoder.push(np.zeros(1, np.uint64), frequency)
        words = (len(encoder.finish()) - 8) // 4
        bits = np.log2(float(encoder.state[0])) + 32 * words - before
        assert bits > 0.995 * num * (PRECISION - np.log2(TOTAL - (levels - 1)))


def test_many_certain_images_fit(trained):
    """A model that is nearly sure of every pixel takes 8 bytes for them all, which are no bomb."""
    model = Markov(shape=(2, 2, 1))
    table = np.full((1, 256, 256), -50, np.float32)
    table[..., 0] = 50
    state = trained.state.replace(params={"table": table})
    pixels = np.zeros((5000, 2, 2, 1), np.uint8)
    data = compress(model, state, pixels)
    assert len(data) < 40
    np.testing.assert_array_equal(decompress(model, state, data), pixels)


def test_sizes_are_bounded_by_memory_and_by_the_format(trained, monkeypatch):
    monkeypatch.setattr(compression, "MOST_IMAGES", 4)
    with pytest.raises(UserError, match=r"5 images .* a file holds 1 to 4: use several"):
        compress(trained.model, trained.state, np.zeros((5, 8, 8, 1), np.uint8))
    monkeypatch.setattr(compression, "memory", lambda: 1 << 14)
    with pytest.raises(UserError, match="GiB of memory"):
        compress(trained.model, trained.state, np.zeros((4, 8, 8, 1), np.uint8))


MEASURE = f"""{PEAK}
import sys
from pathlib import Path
import numpy as np
from markov import Markov, started
from jaxgen.errors import UserError
from jaxgen.inference.compression import compress, decompress
model = Markov(shape=(2, 2, 1))
state = started(model)
images = np.zeros((3, 2, 2, 1), np.uint8)
decompress(model, state, compress(model, state, images))
before = peak()
for file in sys.argv[1:]:
    try:
        decompress(model, state, Path(file).read_bytes(), b"mark")
    except UserError:
        continue
    raise AssertionError(file)
print((peak() - before) // 1024)
"""


def test_bombs_take_less_than_a_gibibyte(tmp_path):
    """The most images that a few bytes can ask for are decoded until the code ends."""
    for i, num in enumerate((1 << 62, 10**6, 65_536, 40_000)):
        (tmp_path / f"{i}.jxg").write_bytes(file_of(b"mark", num, 2, 2, 1, 4, 0))
    files = sorted(str(file) for file in tmp_path.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *files], capture_output=True, text=True, cwd=ROOT, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1024
