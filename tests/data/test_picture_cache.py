"""The cache of decoded pictures: written once by one process, whole or not at all, and read row by row."""

import dataclasses
import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from picture_folders import forget, write_noise
from PIL import Image

from jaxgen.data import ImageFolder, image_folder, picture_cache
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.models.classifier import Classifier

COUNT, SIZE = 40, 8


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Pictures of two classes, as many in train as `COUNT`, that are not kept in memory."""
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "cache"))
    write_noise(tmp_path / "pictures", COUNT, 2, classes="ab")
    forget()
    yield ImageFolder(folder=str(tmp_path / "pictures"), size=SIZE)
    forget()


@pytest.fixture
def large(data, monkeypatch):
    monkeypatch.setattr(image_folder, "IN_MEMORY", 0)
    return data


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "images").iterdir())


def truth(data: ImageFolder) -> np.ndarray:
    """uint8[N, size, size, 3] by Pillow alone."""
    root = Path(data.folder)
    return np.stack([np.asarray(Image.open(f)) for f in sorted((root / "train").glob("*/[0-9]*.png"), key=str)])


def test_pictures_are_decoded_once(large, tmp_path, monkeypatch, capsys):
    (tmp_path / "pictures" / "train" / "a" / "bad.png").write_bytes(b"no")
    monkeypatch.setattr(picture_cache, "CHUNK", 1)  # several chunks
    large, indices = dataclasses.replace(large, skip_corrupt=True), np.array([5, 0, 5, 17, 39])
    for turn in range(2):
        forget()
        read = large.load("train")
        assert len(read) == COUNT and read.nbytes == COUNT * (SIZE * SIZE * 3 + 4)
        batch = read.take(indices)
        expected = np.array([int(name == "b") for name in sorted("ab" * (COUNT // 2))])
        np.testing.assert_array_equal(batch["cond"], expected[indices])
        assert len(files(tmp_path)) == 1
        said = capsys.readouterr().err
        assert ("decoding" in said and "1 of 41 pictures are left out" in said) if not turn else said == ""
        np.testing.assert_array_equal(batch["x"], truth(large)[indices])


def test_a_changed_picture_is_decoded_again(large, tmp_path):
    before = large.load("train").take(np.arange(COUNT))["x"]
    Image.fromarray(np.zeros((SIZE, SIZE, 3), np.uint8)).save(tmp_path / "pictures" / "train" / "a" / "0.png")
    forget()
    after = large.load("train").take(np.arange(COUNT))["x"]
    assert before[0].any() and not after[0].any()
    np.testing.assert_array_equal(before[1:], after[1:])


@pytest.mark.parametrize("size", [0, 100, COUNT * (SIZE * SIZE * 3 + 1) + 1])
def test_a_damaged_file_is_written_again(size, large, tmp_path):
    large.load("train")
    (file,) = files(tmp_path)
    os.truncate(file, size)
    forget()
    np.testing.assert_array_equal(large.load("train").take(np.arange(COUNT))["x"], truth(large))
    assert files(tmp_path) == [file]


def test_a_file_that_loses_its_end_while_it_is_read_is_one_line(large, tmp_path):
    read = large.load("train")
    (file,) = files(tmp_path)
    os.truncate(file, 100)
    with pytest.raises(UserError, match="lost its end") as error:
        read.take(np.arange(2))
    assert str(file) in str(error.value) and "\n" not in str(error.value)


@contextmanager
def no_room(most: int) -> Iterator[None]:
    """No file may have more than `most` bytes: as on a full disk, a write takes a part and the next one fails."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("most", [1000, COUNT * SIZE * SIZE * 3 + 1])
def test_a_full_disk_is_one_line_and_leaves_nothing(most, large, tmp_path):
    with no_room(most), pytest.raises(UserError, match=r"File too large.*GiB.*JAXGEN_CACHE") as error:
        large.load("train")
    assert "\n" not in str(error.value)
    assert [f.suffix for f in files(tmp_path)] == [".lock"]
    np.testing.assert_array_equal(large.load("train").take(np.arange(COUNT))["x"], truth(large))
    assert [f.suffix for f in files(tmp_path)] == [".pixels"]


def test_a_write_that_takes_a_part_goes_on(tmp_path):
    array, taken = np.arange(1000, dtype=np.uint8).reshape(10, 100), bytearray()

    def write(part):
        taken.extend(part[:7])
        return min(7, len(part))

    picture_cache._all(write, array)
    assert bytes(taken) == array.tobytes()


def test_corrupt_pictures_leave_nothing(large, tmp_path):
    bad = tmp_path / "pictures" / "train" / "a" / "bad.png"
    bad.write_bytes(b"no")
    with pytest.raises(UserError, match=r"bad\.png"):
        large.load("train")
    assert [f.suffix for f in files(tmp_path)] == [".lock"]


def test_labels_that_are_read_from_the_disk_are_checked_too(large):
    model = Classifier(shape=(SIZE, SIZE, 3), num_classes=2)
    experiment = Experiment(
        model=model, data=large, batch_size=4, steps=2, steps_per_call=1, log_every=1, save_every=1, sample_every=1
    )
    experiment.check()
    (Path(large.folder) / "train" / "c").mkdir()
    Image.fromarray(np.zeros((SIZE, SIZE, 3), np.uint8)).save(Path(large.folder) / "train" / "c" / "0.png")
    forget()
    with pytest.raises(UserError, match=r"label 2 is out of range"):
        experiment.check()


# Each decoded picture is a line on stdout, so that a test sees who decodes what.
PROGRAM = """
import sys, time
from jaxgen.data import ImageFolder, image_folder
image_folder.IN_MEMORY = 0
read = image_folder._read
def slow(data, file):
    print(file.name, flush=True)
    time.sleep(float(sys.argv[2]))
    return read(data, file)
image_folder._read = slow
x = ImageFolder(folder=sys.argv[1], size=8).load("train").take(__import__("numpy").arange(40))["x"]
print("sum", int(x.sum()))
"""


def another(data: ImageFolder, seconds: float) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, data.folder, str(seconds)], **pipes)


def test_of_two_processes_that_start_at_once_one_decodes(data, tmp_path):
    processes = [another(data, 0.1) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    decoded = sorted(len(out.splitlines()) - 1 for out, _ in said)
    assert decoded == [0, COUNT]
    assert {out.splitlines()[-1] for out, _ in said} == {f"sum {truth(data).sum()}"}
    assert len(files(tmp_path)) == 1


def test_what_a_killed_process_left_is_removed_and_decoded_by_the_one_that_waits(data, tmp_path):
    first = another(data, 30)
    assert first.stdout is not None and first.stdout.readline().endswith(".png\n")
    second = another(data, 0)
    assert second.stderr is not None and "waiting for another process" in second.stderr.readline()
    assert [f.suffix for f in files(tmp_path)] == [".partial", ".lock"]
    first.send_signal(signal.SIGKILL)
    first.communicate()
    out, _ = second.communicate(timeout=60)
    assert second.returncode == 0 and len(out.splitlines()) == COUNT + 1
    assert [f.suffix for f in files(tmp_path)] == [".pixels"]


def test_a_file_system_without_locks_is_used_all_the_same(large, tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(picture_cache.fcntl, "flock", none)
    (folder := tmp_path / "cache" / "images").mkdir(parents=True)
    np.testing.assert_array_equal(large.load("train").take(np.arange(COUNT))["x"], truth(large))
    assert [f.suffix for f in folder.iterdir()] == [".pixels"]
