"""Data: every epoch holds each example once, batches are pure, and what is read is what was stored."""

import dataclasses
import hashlib
import io
import json
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT

from jaxgen import data
from jaxgen.data import embedded, tfds
from jaxgen.errors import UserError

TFDS_DIR = ROOT.parent / "shared/data/tfds"
needs_mnist = pytest.mark.skipif(
    not (TFDS_DIR / "mnist").is_dir(),
    reason=f"no prepared MNIST at {TFDS_DIR.name}/mnist beside the repository",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counter(data.Dataset):
    """x[i] = i, so a batch shows which examples it holds."""

    num: int

    def load(self, split):
        return {
            "x": np.arange(self.num, dtype=np.float32)[:, None],
            "cond": np.arange(self.num, dtype=np.int32),
        }


class Squares:
    """RandomAccess with nothing in memory."""

    nbytes = 1 << 40

    def __len__(self):
        return 23

    def take(self, indices):
        return {"x": (np.asarray(indices, np.float32) ** 2)[:, None]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Disk(data.Dataset):
    def load(self, split):
        return Squares()


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 600, text
    return text


# ---------------------------------------------------------------------------------------- the stream


@pytest.mark.parametrize(("num", "batch_size"), [(10, 3), (10, 10), (7, 5), (1, 1), (12, 4), (101, 64)])
def test_each_epoch_holds_each_example_once(num, batch_size):
    d, epochs = Counter(num=num), 5
    steps = -(-epochs * num // batch_size)
    batches = [d.indices_at(3, step, batch_size) for step in range(steps)]
    assert all(b.shape == (batch_size,) and b.dtype == np.int32 for b in batches)
    stream = np.concatenate(batches)[: epochs * num].reshape(epochs, num)
    np.testing.assert_array_equal(np.sort(stream, axis=1), np.tile(np.arange(num), (epochs, 1)))


def test_stream_does_not_depend_on_the_batch_size():
    d = Counter(num=10)
    by_three = np.concatenate([d.indices_at(0, step, 3) for step in range(20)])
    by_four = np.concatenate([d.indices_at(0, step, 4) for step in range(15)])
    np.testing.assert_array_equal(by_three, by_four)


def test_batch_is_pure_and_differs_by_seed_and_epoch():
    d = Counter(num=50)
    forward = [d.batch_at(7, step, 8)["cond"] for step in range(20)]
    for step in reversed(range(20)):
        np.testing.assert_array_equal(Counter(num=50).batch_at(7, step, 8)["cond"], forward[step])
    orders = [tuple(d.indices_at(seed, epoch, 50)) for seed in range(4) for epoch in range(4)]
    assert len(set(orders)) == len(orders)


def test_a_returned_batch_cannot_spoil_the_next():
    d = Counter(num=10)
    d.indices_at(0, 0, 10)[:] = 0
    d.batch_at(0, 0, 10)["x"][:] = -1
    assert sorted(d.batch_at(0, 0, 10)["cond"]) == list(range(10))
    with pytest.raises(ValueError, match="read-only"):
        d.arrays()["x"][0] = 1


@pytest.mark.parametrize("batch_size", [0, -1, 11])
def test_batch_size_out_of_range(batch_size):
    with pytest.raises(UserError, match=f"batch_size is {batch_size}.*10 examples.*1 to 10") as e:
        Counter(num=10).batch_at(0, 0, batch_size)
    one_line(e)


def test_bad_arguments_are_one_line_errors():
    with pytest.raises(UserError, match="0 examples"):
        Counter(num=0).count()
    with pytest.raises(UserError, match=r"did you mean train\?"):
        Counter(num=3).count("trian")
    with pytest.raises(UserError, match="step is -1"):
        Counter(num=3).indices_at(0, -1, 2)


@pytest.mark.parametrize(
    ("batch_size", "limit", "expected"), [(4, None, 10), (5, None, 10), (4, 6, 6), (3, 99, 10)]
)
def test_padded_batches(batch_size, limit, expected):
    seen, pairs = [], list(Counter(num=10).padded_batches(batch_size, limit=limit))
    for batch, mask in pairs:
        assert batch["x"].shape == (batch_size, 1) and mask.shape == (batch_size,) and mask.dtype == bool
        seen += batch["cond"][mask].tolist()
        assert (batch["cond"][~mask] == expected - 1).all()
    assert seen == list(range(expected)) and all(mask.all() for _, mask in pairs[:-1])


# ------------------------------------------------------------------------------------------- feeding


def test_streamed_equals_resident():
    d = Counter(num=10)
    resident, indices = data.feed(d, 5, 4, 3, 6, 30)
    nothing, stacks = data.feed(d, 5, 4, 3, 6, 30, budget=10)
    assert nothing is None
    calls = 0
    for call, (index, stack) in enumerate(zip(indices, stacks, strict=True)):
        assert index.shape == (3, 4) and index.dtype == np.int32 and stack["x"].shape == (3, 4, 1)
        for name in ("x", "cond"):
            np.testing.assert_array_equal(np.asarray(resident[name])[index], stack[name])
        np.testing.assert_array_equal(stack["cond"][1], d.batch_at(5, 6 + 3 * call + 1, 4)["cond"])
        calls += 1
    assert calls == 8


def test_random_access_is_streamed():
    nothing, stacks = data.feed(Disk(), 1, 5, 2, 0, 10)
    assert nothing is None
    got = np.concatenate([stack["x"] for stack in stacks])
    np.testing.assert_array_equal(got, np.stack([Disk().batch_at(1, step, 5)["x"] for step in range(10)]))
    assert Disk().count() == 23


def test_feed_errors():
    with pytest.raises(UserError, match="do not split into calls of 3"):
        data.feed(Counter(num=10), 0, 4, 3, 0, 10)
    with pytest.raises(UserError, match="batch_size is 11"):
        data.feed(Counter(num=10), 0, 11, 1, 0, 1)


# --------------------------------------------------------------------------------------------- emoji


def test_emoji_counts_shapes_and_splits():
    for size in (64, 32, 16):
        d = data.Emoji(size=size)
        x = d.arrays("all")["x"]
        assert x.shape == (1906, size, size, 3) and x.dtype == np.uint8
        assert (x.reshape(1906, -1).min(1) < x.reshape(1906, -1).max(1)).all()  # none is blank
    train, test, both = (set(data.Emoji().names(s)) for s in ("train", "test", "all"))
    assert both == train | test
    assert (d.count("train"), d.count("test")) == (1690, 216)
    assert d.num_classes == 9 and data.Emoji(label="subgroup").num_classes == 98
    cond = d.arrays("all")["cond"]
    assert cond.dtype == np.int32 and set(cond.tolist()) == set(range(9))
    assert set(data.Emoji(label="none").arrays()) == {"x"} and data.Emoji(label="none").num_classes == 0


def test_emoji_split_is_by_hash_and_independent_of_groups():
    entries = json.loads((embedded.EMOJI / "emoji.json").read_text(encoding="utf-8"))
    assert len({e["unified"] for e in entries}) == len(entries)
    held_out = [
        e for e in entries if int(hashlib.sha256(e["unified"].encode()).hexdigest()[:16], 16) % 10 == 0
    ]
    assert [e["name"].lower() for e in held_out] == list(data.Emoji().names("test"))
    food = data.Emoji(groups=("Food & Drink",))
    assert food.class_names == ("Food & Drink",) and food.count("all") == 131
    assert set(food.names("test")) == {e["name"].lower() for e in held_out if e["group"] == "Food & Drink"}
    assert food.arrays("test")["x"].shape[0] == len(food.names("test"))


def test_emoji_errors():
    with pytest.raises(UserError, match=r"did you mean Flags\?") as e:
        data.Emoji(groups=("Flag",)).count()
    one_line(e)
    with pytest.raises(UserError, match="64, 32 or 16"):
        data.Emoji(size=20).count()
    with pytest.raises(UserError, match="group, subgroup or none"):
        data.Emoji(label="kind").count()


def test_emoji_downsample_equals_naive_loop():
    from PIL import Image

    with Image.open(sorted(embedded.EMOJI.glob("sheet-*.webp"))[0]) as image:
        first = np.asarray(image.convert("RGBA"))[:64, :64].astype(np.int64)
    for size in (64, 32, 16):
        k, expected = 64 // size, np.zeros((size, size, 3), np.uint8)
        for i in range(size):
            for j in range(size):
                for c in range(3):
                    total = 0
                    for r in range(k * i, k * i + k):
                        for s in range(k * j, k * j + k):
                            alpha = first[r, s, 3]
                            total += first[r, s, c] * alpha + 255 * (255 - alpha)
                    expected[i, j, c] = round(total / (255 * k * k))
        np.testing.assert_array_equal(data.Emoji(size=size).arrays("all")["x"][0], expected)


@pytest.mark.parametrize(("side", "size"), [(6, 3), (7, 3), (5, 5), (3, 4)])
def test_area_resize_equals_fine_grid(side, size):
    """Repeat every pixel `size` times, then take means of whole boxes: no fractions of pixels."""
    x = np.random.default_rng(0).random((2, side, side, 3))
    fine = x.repeat(size, 1).repeat(size, 2).reshape(2, size, side, size, side, 3)
    np.testing.assert_allclose(data.area_resize(x, size), fine.mean((2, 4)), atol=1e-12)


# ------------------------------------------------------------------------------------ digits and toys


def test_digits():
    from sklearn.datasets import load_digits

    d = data.Digits()
    x = d.arrays("all")["x"]
    assert x.shape == (1797, 8, 8, 1) and x.dtype == np.uint8 and x.max() == 255
    np.testing.assert_array_equal(np.rint(x[..., 0] * (16 / 255)), load_digits().images)
    assert (d.count("train"), d.count("test"), d.num_classes) == (1437, 360, 10)
    assert set(np.bincount(d.arrays("test")["cond"])) <= {35, 36, 37}


TOYS = ("moons", "circles", "gaussians8", "gaussians25", "swissroll", "pinwheel", "checkerboard", "spirals")


@pytest.mark.parametrize("name", TOYS)
def test_toys_are_standardised(name):
    d = data.Toy2D(name=name, num=50_000)
    train, test = d.arrays("train"), d.arrays("test")
    assert train["x"].shape == (50_000, 2) and train["x"].dtype == np.float32
    np.testing.assert_allclose(train["x"].mean(0), 0, atol=0.02)
    np.testing.assert_allclose(train["x"].var(0).mean(), 1, atol=0.02)
    assert not np.isin(train["x"][:, 0], test["x"][:, 0]).all()
    assert d.count("all") == 100_000
    assert d.num_classes == (train["cond"].max() + 1 if "cond" in train else 0)


def test_density_of_the_moons():
    """It sums to one, is that of very many Gaussians along the arcs, and minus its mean over draws is near the entropy
    by the sum."""
    d = data.Toy2D(name="moons")
    side = np.linspace(-3, 3, 161)
    grid = np.stack(np.meshgrid(side, side), -1)
    log_p = d.log_density(grid)
    cell = (side[1] - side[0]) ** 2
    np.testing.assert_allclose(np.exp(log_p).sum() * cell, 1, atol=1e-6)
    entropy = -(np.exp(log_p) * log_p).sum() * cell
    np.testing.assert_allclose(-d.log_density(d.arrays("test")["x"]).mean(), entropy, atol=0.03)

    centre, scale = data.toys.STANDARD["moons"]
    angle = np.pi * (np.arange(20_000) + 0.5) / 20_000
    arc = np.stack([np.cos(angle), np.sin(angle)], -1)
    arcs = np.concatenate([arc, (1, 0.5) - arc])
    points = np.array([[0.0, 0.0], [-1.4, -0.4], [0.1, 1.05], [2.2, 0.3]])
    square = (((points * scale + centre)[:, None] - arcs) ** 2).sum(-1)
    slow = np.logaddexp.reduce(-square / (2 * 0.05**2), axis=1) - np.log(len(arcs) * 2 * np.pi * 0.05**2 / scale**2)
    np.testing.assert_allclose(d.log_density(points), slow, rtol=1e-5)


@pytest.mark.parametrize("name", ["gaussians8", "gaussians25"])
def test_toy_density(name):
    d = data.Toy2D(name=name)
    side = np.linspace(-4, 4, 321)
    density = np.exp(d.log_density(np.stack(np.meshgrid(side, side), -1)))
    np.testing.assert_allclose(density.sum() * (side[1] - side[0]) ** 2, 1, atol=1e-6)
    # -mean log p estimates the entropy: that of one component plus log K, as they hardly overlap.
    std = 0.1 / data.toys.STANDARD[name][1]
    entropy = np.log(d.num_classes) + np.log(2 * np.pi * np.e * std**2)
    np.testing.assert_allclose(-d.log_density(d.arrays()["x"]).mean(), entropy, atol=0.05)


def test_toy_errors():
    with pytest.raises(UserError, match=r"did you mean moons\?"):
        data.Toy2D(name="moon").count()
    with pytest.raises(UserError, match="moons, gaussians8 or gaussians25"):
        data.Toy2D(name="spirals").log_density(np.zeros((1, 2)))


# ------------------------------------------------------------------------------- tensorflow-datasets


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
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60
    )


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


def write_set(folder: pathlib.Path, pictures: list[bytes]) -> data.TFDS:
    """A prepared set named `tiny` of these PNG bytes, labelled 0, 1, 0, 1, ..."""
    from array_record.python import array_record_module
    from tensorflow_datasets.proto import tf_example_pb2

    home = folder / "tiny" / "1.0.0"
    home.mkdir(parents=True)
    writer = array_record_module.ArrayRecordWriter(
        str(home / "tiny-train.array_record-00000-of-00001"), "group_size:1"
    )
    for i, picture in enumerate(pictures):
        example = tf_example_pb2.Example()
        example.features.feature["image"].bytes_list.value.append(picture)
        example.features.feature["label"].int64_list.value.append(i % 2)
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
