"""Image sets of tensorflow-datasets: pictures come back exactly, are cached, and bad sets are refused."""

import dataclasses
import io
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from messages import one_line

from jaxgen import data
from jaxgen.data import tfds
from jaxgen.errors import UserError

TFDS_DIR = ROOT.parent / "shared/data/tfds"
needs_mnist = pytest.mark.skipif(
    not (TFDS_DIR / "mnist").is_dir(),
    reason=f"no prepared MNIST at {TFDS_DIR.name}/mnist beside the repository",
)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "cache"))


@needs_mnist
def test_mnist_and_its_cache(tmp_path, monkeypatch):
    d = data.TFDS(name="mnist", data_dir=str(TFDS_DIR), train="train[:20%]")
    read = d.load("test")
    assert read["x"].shape == (10_000, 28, 28, 1) and read["x"].dtype == np.uint8
    assert read["cond"].dtype == np.int32 and d.num_classes == 10
    known = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(read["cond"]).tolist() == known
    assert abs(read["x"].mean() / 255 - 0.1325) < 1e-3  # the mean everyone quotes for the test images
    assert d.load("train")["x"].shape == (12_000, 28, 28, 1)

    for folder in [tmp_path / "cache", *(tmp_path / "cache").rglob("*/")]:
        if folder.is_dir():
            assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(tfds, "_Records", None)  # a second reading would fail
    start = time.perf_counter()
    again = d.load("test")
    assert time.perf_counter() - start < 0.5
    assert list(again) == list(read)
    for name in read:
        np.testing.assert_array_equal(again[name], read[name])


@needs_mnist
def test_nothing_imports_tensorflow_and_start_is_lazy():
    code = f"""
import sys, jaxgen.data as data
heavy = {{"tensorflow_datasets", "grain", "sklearn", "PIL"}} & set(sys.modules)
assert not heavy, heavy
data.TFDS(name="mnist", data_dir={str(TFDS_DIR)!r}, train="train[:100]").batch_at(0, 0, 8)
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


@pytest.fixture
def no_network(monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def test_unknown_and_unprepared_sets_fail_fast(tmp_path, no_network):
    start = time.perf_counter()
    with pytest.raises(UserError, match=r"no set 'mnistt'.*did you mean mnist") as e:
        data.TFDS(name="mnistt", data_dir=str(tmp_path)).count()
    assert "digits" in one_line(e)
    with pytest.raises(UserError, match=r"cifar10 is not prepared in .*download_and_prepare.*emoji") as e:
        data.TFDS(name="cifar10", data_dir=str(tmp_path)).count()
    one_line(e)
    with pytest.raises(UserError, match="expected name, name/config"):
        data.TFDS(name="../mnist", data_dir=str(tmp_path)).count()
    assert time.perf_counter() - start < 5


def png(array: np.ndarray) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


def write_set(folder: pathlib.Path, pictures: list[bytes], labels: list[int] | None = None) -> data.TFDS:
    """A prepared set named `tiny` of these PNG bytes, labelled 0, 1, 0, 1, ... if no labels are given."""
    from array_record.python import array_record_module
    from tensorflow_datasets.proto import tf_example_pb2

    home = folder / "tiny" / "1.0.0"
    home.mkdir(parents=True)
    writer = array_record_module.ArrayRecordWriter(str(home / "tiny-train.array_record-00000-of-00001"), "group_size:1")
    for i, picture in enumerate(pictures):
        example = tf_example_pb2.Example()
        example.features.feature["image"].bytes_list.value.append(picture)
        example.features.feature["label"].int64_list.value.append(labels[i] if labels else i % 2)
        writer.write(example.SerializeToString())
    writer.close()
    package = "tensorflow_datasets.core.features"
    image = {"image": {"dtype": "uint8", "shape": {"dimensions": ["-1", "-1", "3"]}, "encodingFormat": "png"}}
    label = {"classLabel": {"numClasses": "2"}}
    features = {
        "image": {**image, "pythonClassName": f"{package}.image_feature.Image"},
        "label": {**label, "pythonClassName": f"{package}.class_label_feature.ClassLabel"},
    }
    everything = {
        "featuresDict": {"features": features},
        "pythonClassName": f"{package}.features_dict.FeaturesDict",
    }
    (home / "features.json").write_text(json.dumps(everything))
    (home / "label.labels.txt").write_text("cat\ndog\n")
    split = {
        "name": "train",
        "numBytes": "1",
        "shardLengths": [str(len(pictures))],
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    }
    info = {"name": "tiny", "version": "1.0.0", "fileFormat": "array_record", "splits": [split]}
    (home / "dataset_info.json").write_text(json.dumps(info))
    return data.TFDS(name="tiny", data_dir=str(folder))


def random_pictures(*shapes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(256, size=(*shape, 3), dtype=np.uint8) for shape in shapes]


def test_pictures_come_back_exactly(tmp_path):
    pictures = random_pictures(*[(5, 5)] * 300)
    d = write_set(tmp_path, [png(p) for p in pictures])
    np.testing.assert_array_equal(d.arrays()["x"], np.stack(pictures))
    np.testing.assert_array_equal(d.arrays()["cond"], np.arange(300) % 2)
    assert d.class_names == ("cat", "dog")


def test_transparency_is_white(tmp_path):
    pictures = np.zeros((2, 3, 4, 4), np.uint8)
    pictures[1, ..., 3] = 255
    x = write_set(tmp_path, [png(p) for p in pictures]).arrays()["x"]
    assert x.shape == (2, 3, 4, 3) and np.all(x[0] == 255) and np.all(x[1] == 0)


def test_large_set_is_read_as_it_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds, "IN_MEMORY", 100)
    pictures = random_pictures(*[(5, 5)] * 9)
    d = write_set(tmp_path, [png(p) for p in pictures])
    records = d.arrays()
    assert isinstance(records, data.RandomAccess) and len(records) == 9 and records.nbytes == 9 * 75
    batch, order = d.batch_at(0, 0, 4), d.indices_at(0, 0, 4)
    np.testing.assert_array_equal(batch["x"], np.stack(pictures)[order])
    np.testing.assert_array_equal(batch["cond"], order % 2)
    assert not (tmp_path / "cache").exists()


def test_corrupt_record_is_named(tmp_path):
    pictures = [png(p) for p in random_pictures(*[(5, 5)] * 6)]
    pictures[4] = pictures[4][:-30]
    with pytest.raises(UserError, match="tiny split 'train' has a corrupt record at index 4") as e:
        write_set(tmp_path, pictures).arrays()
    one_line(e)


def test_damaged_record_file(tmp_path):
    d = write_set(tmp_path, [png(p) for p in random_pictures(*[(40, 40)] * 20)])
    file = next((tmp_path / "tiny" / "1.0.0").glob("*array_record*"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(UserError, match="tiny split 'train' has a corrupt record at index") as e:
        d.arrays()
    one_line(e)


def test_differing_sizes(tmp_path):
    pictures = random_pictures((6, 10), (8, 4), (4, 4))
    d = write_set(tmp_path, [png(p) for p in pictures])
    with pytest.raises(UserError, match=r"differing size.*set size") as e:
        d.arrays()
    one_line(e)
    x = dataclasses.replace(d, size=2).arrays()["x"]
    squares = [pictures[0][:, 2:8], pictures[1][2:6], pictures[2]]
    for got, square in zip(x, squares, strict=True):
        k = len(square) // 2
        expected = np.rint(square.reshape(2, k, 2, k, 3).mean((1, 3)))
        np.testing.assert_array_equal(got, expected.astype(np.uint8))


def test_wrong_keys_splits_and_formats(tmp_path):
    d = write_set(tmp_path, [png(p) for p in random_pictures((4, 4))])
    with pytest.raises(UserError, match=r"did you mean image\?"):
        dataclasses.replace(d, image_key="imag").arrays()
    with pytest.raises(UserError, match=r"split 'test' cannot be opened.*it has the splits train") as e:
        d.arrays("test")
    one_line(e)
    assert set(dataclasses.replace(d, label_key="").arrays()) == {"x"}
    info = tmp_path / "tiny" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match="not in array_record format") as e:
        dataclasses.replace(d, train="train[:1]").arrays()
    one_line(e)


def test_a_bad_or_unwritable_cache_is_no_error(tmp_path, monkeypatch):
    pictures = random_pictures((4, 4), (4, 4))
    d = write_set(tmp_path, [png(p) for p in pictures])
    d.load("train")
    (file,) = (tmp_path / "cache").rglob("x.npy")
    file.write_bytes(file.read_bytes()[:-10])
    np.testing.assert_array_equal(d.load("train")["x"], np.stack(pictures))
    np.testing.assert_array_equal(np.load(file), np.stack(pictures))  # mended
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "file"))
    np.testing.assert_array_equal(d.load("train")["x"], np.stack(pictures))


# --- sets that are not there --------------------------------------------------------------------------------------


@pytest.fixture
def no_socket(monkeypatch):
    """Any use of the network fails the test."""

    def fail(*args, **kwargs):
        pytest.fail("the network was used")

    for name in ("getaddrinfo", "create_connection", "socket"):
        monkeypatch.setattr(socket, name, fail)


def test_a_refused_download_uses_no_network(tmp_path, no_socket, capsys):
    refusing = data.TFDS(name="cifar10", data_dir=str(tmp_path), download=False)
    for call in (refusing.count, lambda: refusing.class_names):
        with pytest.raises(UserError, match=r"--data\.no-download refuses.*`emoji` or `digits`") as e:
            call()
        one_line(e)
    text = data.Text(source="tiny_shakespeare", data_dir=str(tmp_path), download=False)
    with pytest.raises(UserError, match="or use the embedded text, `docs`") as e:
        text.load("train")
    one_line(e)
    assert not capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_download_is_announced_with_its_size(tmp_path, no_network, capsys):
    with pytest.raises(UserError, match="preparing it failed"):
        data.TFDS(name="cifar10", data_dir=str(tmp_path)).count()
    assert capsys.readouterr().err.splitlines() == [
        f"downloading cifar10 (162.2 MiB at most) to {tmp_path}; --data.no-download refuses"
    ]


def test_a_set_on_disk_uses_no_network(tmp_path, no_socket, monkeypatch, capsys):
    pictures = random_pictures((4, 4), (4, 4))
    write_set(tmp_path, [png(p) for p in pictures])
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    for folder in (str(tmp_path), f"~/{tmp_path.name}"):
        d = data.TFDS(name="tiny", data_dir=folder)
        np.testing.assert_array_equal(d.load("train")["x"], np.stack(pictures))
        assert d.class_names == ("cat", "dog")
    assert not capsys.readouterr().err


def test_data_folders_that_cannot_be_read(tmp_path, no_socket):
    for folder in ("x" * 300, "a\0b", "~no-such-user/x"):
        with pytest.raises(UserError) as e:
            data.TFDS(name="mnist", data_dir=folder, download=False).count()
        one_line(e)


# --- sets that are damaged, or made to harm -----------------------------------------------------------------------


def test_damaged_descriptions(tmp_path):
    d = write_set(tmp_path, [png(p) for p in random_pictures((4, 4))])
    home = tmp_path / "tiny" / "1.0.0"
    for name, near in (
        ("dataset_info.json", b'{"splits": [{}]}'), ("features.json", b'{"featuresDict": {"features": 3}}')
    ):  # fmt: skip
        whole = (home / name).read_bytes()
        for bad in (b"", whole[:-1], b"[" * 100_000, b"\xff", b"null", b"[]", b"{}", near, b"1" * 400):
            (home / name).write_bytes(bad)
            for call in (lambda: d.load("train"), lambda: d.class_names):
                with pytest.raises(UserError) as e:
                    call()
                assert one_line(e).startswith(str(home / name))
        (home / name).unlink()
        if name == "features.json":
            os.mkfifo(home / name)
            with pytest.raises(UserError, match=r"features\.json is a pipe"):
                d.load("train")
            (home / name).unlink()
        (home / name).write_bytes(whole)
    assert len(d.load("train")["x"]) == 1
    os.mkfifo(home / "tiny-test.array_record-00000-of-00001")
    with pytest.raises(UserError, match=r"array_record-00000-of-00001 is a pipe"):
        d.load("train")


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name", "type"])
def test_features_import_no_module_of_their_own(key, tmp_path, monkeypatch):
    """tensorflow-datasets imports whatever module a feature names."""
    d = write_set(tmp_path, [png(p) for p in random_pictures((4, 4))])
    (tmp_path / "harmful_features.py").write_text(f"open({str(tmp_path / 'victim')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "tiny" / "1.0.0" / "features.json"
    whole = json.loads(file.read_text())
    changed = json.loads(file.read_text())
    changed["featuresDict"]["features"]["image"][key] = "harmful_features.Image"
    for features in (changed, {**whole, key: "harmful_features.Image", "content": {}}):
        file.write_text(json.dumps(features))
        with pytest.raises(UserError, match=r"features\.json would import 'harmful_features.Image'") as e:
            d.load("train")
        one_line(e)
    assert not (tmp_path / "victim").exists()


def test_features_without_sense(tmp_path):
    d = write_set(tmp_path, [png(p) for p in random_pictures((4, 4))])
    file = tmp_path / "tiny" / "1.0.0" / "features.json"
    for name, value, words in (
        ("image", {"dtype": "float32"}, "has 'float32' pictures"), ("image", [], "no shape"), ("image", 3, "no shape"),
        ("image", {"shape": {"dimensions": ["x"]}}, "no shape"), ("image", {"shape": 3}, "no shape"),
        ("classLabel", {"numClasses": 10**9}, "1000000000 classes"), ("classLabel", {}, "no number of classes"),
        ("classLabel", 3, "no number"), ("classLabel", {"numClasses": "-1"}, "-1 classes"),
    ):  # fmt: skip
        whole = json.loads(file.read_text())
        changed = json.loads(file.read_text())
        changed["featuresDict"]["features"]["image" if name == "image" else "label"][name] = value
        file.write_text(json.dumps(changed))
        with pytest.raises(UserError, match=words) as e:
            _ = d.load("train") if name == "image" else d.class_names
        one_line(e)
        file.write_text(json.dumps(whole))


def test_a_label_beyond_32_bits_is_a_corrupt_record(tmp_path):
    d = write_set(tmp_path, [png(p) for p in random_pictures((4, 4), (4, 4))], labels=[0, 1 << 40])
    with pytest.raises(UserError, match="corrupt record at index 1"):
        d.load("train")


def test_damaged_caches_are_prepared_anew(tmp_path):
    pictures = random_pictures((4, 4), (4, 4))
    d = write_set(tmp_path, [png(p) for p in pictures])
    d.load("train")
    files = {file.name: file for file in (tmp_path / "cache").rglob("*.npy")}
    shape = b"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 1000000, 1000000), }"
    head = b"\x93NUMPY\x01\x00\x76\x00" + shape.ljust(118)
    for name, file in files.items():
        for bad in (b"", head, file.read_bytes()[:-1], b"PK\x03\x04", npy(np.zeros((2, 4, 4, 3))), npy(np.zeros(2))):
            file.write_bytes(bad)
            read = d.load("train")
            np.testing.assert_array_equal(read["x"], np.stack(pictures))
            np.testing.assert_array_equal(read["cond"], [0, 1])
            assert np.load(file).dtype == read["x" if name == "x.npy" else "cond"].dtype  # mended
    files["x.npy"].unlink()
    os.mkfifo(files["x.npy"])
    np.testing.assert_array_equal(d.load("train")["x"], np.stack(pictures))


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()
