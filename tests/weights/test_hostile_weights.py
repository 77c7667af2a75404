"""Converted weights, GPT-2's files and places made to harm: each is one line that names it."""

import hashlib
import json
import os
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from messages import one_line
from safetensors.numpy import load_file, save_file
from tiny_gpt import randomised, tiny

from jaxgen import weights
from jaxgen.cli.weights import command
from jaxgen.errors import UserError
from jaxgen.weights import gpt2, store, torch_file


def refused(path: Path, read, *args) -> str:
    """The error of reading a file, known to be one line that begins with its name."""
    with pytest.raises(UserError) as error:
        read(path, *args)
    assert str(error.value).startswith(str(path))
    return one_line(error)


HEADS = {f"lin{i}.model.1.weight": np.ones((1, n, 1, 1), np.float32) for i, n in enumerate((64, 192, 384, 256, 256))}


def torch_save(tensors: dict[str, np.ndarray], path: Path) -> Path:
    torch = pytest.importorskip("torch")
    torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, path)
    return path


def convert(kind: str):
    def call(path: Path):
        return weights.convert(kind, path, Path(tempfile.gettempdir(), "never.safetensors"))

    return call


def test_tensors_that_do_not_fit_each_other(tmp_path):
    """Broadcasting would make arrays of 2^40 numbers of two with 2^20."""
    norm = {f"a.bn.{name}": np.ones(1 << 20, np.float32) for name in ("weight", "bias", "running_mean", "running_var")}
    wide = torch_save({"a.conv.weight": np.ones((1, 1, 1, 1 << 20), np.float32), **norm}, tmp_path / "wide.pth")
    assert "does not fit a" in refused(wide, convert("inception"))
    one = {name: array[:1] - 3 for name, array in norm.items()}
    negative = torch_save({"a.conv.weight": np.ones((1, 1, 1, 1), np.float32), **one}, tmp_path / "negative.pth")
    assert "cannot be converted (invalid value" in refused(negative, convert("inception"))
    flat = torch_save({"lin0.model.1.weight": np.ones((), np.float32)}, tmp_path / "flat.pth")
    assert "lacks lin1" in refused(flat, convert("lpips_alex"))


def test_places_that_cannot_be_written_are_refused_before_the_file_is_read(tmp_path, monkeypatch):
    source = torch_save(HEADS, tmp_path / "heads.pth")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    monkeypatch.setattr(hashlib, "file_digest", None)
    for out in (
        tmp_path, "/dev/null", "/proc/weights", "/proc/no/weights", tmp_path / "loop", tmp_path / "loop" / "x",
        source / "x", tmp_path / ("x" * 300), "a\0b",
    ):  # fmt: skip
        with pytest.raises(UserError) as error:
            weights.convert("lpips_alex", source, out)
        assert "write" in one_line(error) or "NUL" in one_line(error)
    monkeypatch.undo()
    with pytest.raises(UserError, match="would be replaced"):
        weights.convert("lpips_alex", source, source)


def test_home_folders(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch_save(HEADS, tmp_path / "heads.pth")
    command(["convert", "lpips_alex", "~/heads.pth", "~/new/out.safetensors"])
    command(["show", "lpips_alex", "~/new/out.safetensors"])
    assert (tmp_path / "new" / "out.safetensors").is_file()


@pytest.fixture
def converted(tmp_path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and metadata of a file that `convert` would have written."""
    arrays = {f"lin{i}": array.reshape(-1) for i, array in enumerate(HEADS.values())}
    metadata = {
        "format": store.FORMAT, "kind": "lpips_alex", "sha256": store.content_hash(arrays), "source": "alex.pth",
        "source_sha256": "0" * 64, "published": "false",
    }  # fmt: skip
    save_file(arrays, tmp_path / "whole", metadata)
    assert weights.load("lpips_alex", tmp_path / "whole").params["lin0"].shape == (64,)
    return arrays, metadata


def load(path: Path):
    return weights.load("lpips_alex", path)


def test_converted_files_made_to_harm(converted, tmp_path):
    arrays, metadata = converted
    file = tmp_path / "bad.safetensors"
    for name in store.METADATA:
        save_file(arrays, file, {key: value for key, value in metadata.items() if key != name})
        assert f"does not say its {name}" in refused(file, load)
    for change, words in (
        ({"kind": "a\nb" * 999}, "holds weights of 'a"), ({"sha256": "f" * 64}, "damaged"),
        ({"format": "2"}, "was not written"),
    ):  # fmt: skip
        save_file(arrays, file, metadata | change)
        assert words in refused(file, load)
    save_file({**arrays, "lin0": arrays["lin0"].astype(np.float64)}, file, metadata)
    assert "lin0 is float64[64], float32[64] is expected" in refused(file, load)
    whole = (tmp_path / "whole").read_bytes()
    head = json.dumps({"lin0": {"dtype": "F8_E4M3", "shape": [64], "data_offsets": [0, 64]}}).encode()
    shape = json.dumps({"lin0": {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 64]}}).encode()
    for data in (
        b"", whole[:7], whole[:50], whole[:-1], whole + b"x", struct.pack("<Q", 1 << 62) + whole[8:], b"\xff" * 64,
        struct.pack("<Q", len(head)) + head + bytes(64), struct.pack("<Q", len(shape)) + shape + bytes(64),
        struct.pack("<Q", 100_000) + b"[" * 100_000,
    ):  # fmt: skip
        file.write_bytes(data)
        assert "jaxgen weights convert lpips_alex" in refused(file, load)


@pytest.mark.parametrize(
    "read", [torch_file.read, load, convert("vgg16"), gpt2.read_tensors], ids=["torch", "load", "convert", "gpt2"]
)
def test_what_is_no_regular_file(read, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, words in (
        (tmp_path / "pipe", "is a pipe"), (tmp_path, "is a folder"), (Path("/dev/zero"), "is a device"),
        (tmp_path / "loop", "symbolic links"), (tmp_path / "no", "No such file"), (tmp_path / ("x" * 300), "too long"),
    ):  # fmt: skip
        assert words in refused(path, read)


# --- GPT-2's files ------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path) -> Path:
    model = tiny(vocab=270, window=16)
    gpt2.write(tmp_path / "model.safetensors", model.network, randomised(model), model.decoding.end)
    return tmp_path / "model.safetensors"


def test_configurations_made_to_harm(written):
    config = written.parent / "config.json"
    for data, words in (
        (b'{"n_head": 1' + b"0" * 400 + b"}", "as JSON"), (b'{"n_head": 1000000000}', "does not say n_head"),
        (b'{"n_head": -2}', "n_head"), (b'{"n_head": "2"}', "n_head"), (b'{"n_head": 1e999}', "n_head"),
        (b'{"n_head": [2]}', "n_head"), (b"[2]", "n_head"), (b"null", "n_head"), (b"[" * 100_000, "lists"),
        (b"", "JSON"), (b"\xff\xfe{}", "UTF-8"),
        (b'{"n_head": 2, "activation_function": "' + b"x" * 9999 + b'"}', "GPT-2 has gelu_new"),
        (b'{"n_head": 2, "layer_norm_epsilon": NaN}', "layer_norm_epsilon nan"), (b"{}" + b" " * (1 << 21), "at most"),
    ):  # fmt: skip
        config.write_bytes(data)
        assert words in refused(config, lambda _: gpt2.network_of(written))
    config.unlink()
    os.mkfifo(config)
    assert "a pipe" in refused(config, lambda _: gpt2.network_of(written))


def test_tensors_made_to_harm(written, tmp_path):
    tensors = load_file(written)
    network = tiny(vocab=270, window=16).network
    file = tmp_path / "bad.safetensors"
    for change, words in (
        ({"h.99999999999.attn.c_attn.weight": np.ones((2, 2), np.float32)}, "depth 3"),
        ({"h.x.ln_1.weight": np.ones(1, np.float32)}, "GPT-2 lacks"),
        ({"transformer.wte.weight": np.ones((0, 16), np.float32)}, "no matrix wte"),
        ({"transformer.wte.weight": np.ones((270, 0), np.float32)}, "no matrix wte"),
        ({"transformer.wpe.weight": np.ones(16, np.float32)}, "no matrix wpe"),
    ):
        save_file(tensors | change, file)
        assert words in refused(file, gpt2.read, network)


def test_gpt2_files_that_cannot_be_written(written, tmp_path):
    model = tiny(vocab=270, window=16)
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "llama"}')
    for file, words in (
        ("model.bin", "named"), ("config.json", "named"), ("other/model.safetensors", "another model"),
        ("/dev/null", "named"), ("/proc/model.safetensors", "write"), ("model.safetensors/a.safetensors", "write"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words) as error:
            command(["export-gpt2", str(tmp_path / "no run"), str(tmp_path / file)])  # before the run is looked for
        one_line(error)
        with pytest.raises(UserError, match=words):
            gpt2.write(tmp_path / file, model.network, {})
    for out, words in (("other", "other files"), ("model.safetensors", "write"), ("/dev/null", "write")):
        with pytest.raises(UserError, match=words):
            command(["import-gpt2", str(tmp_path / "none"), str(tmp_path), str(tmp_path / out)])
