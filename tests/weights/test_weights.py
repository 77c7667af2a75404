"""Published weights: PyTorch files are read without executing them, converted, checked by hash, or refused."""

import collections
import hashlib
import io
import pickle
import zipfile

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxgen import weights
from jaxgen.cli.weights import command
from jaxgen.errors import UserError
from jaxgen.nets.alexnet import AlexNet
from jaxgen.weights import store, torch_file
from jaxgen.weights.lpips import ALEX

torch = pytest.importorskip("torch")  # writes the files; reading them needs none of it
rng = np.random.default_rng(0)
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
HEADS = {f"lin{i}.model.1.weight": rng.random((1, n, 1, 1), np.float32) for i, n in enumerate(ALEX)}


def torch_save(tensors: dict, path, new: bool = True) -> None:
    state = collections.OrderedDict((name, torch.from_numpy(np.array(t))) for name, t in tensors.items())
    torch.save(state, path, _use_new_zipfile_serialization=new)


@pytest.fixture
def heads(tmp_path):
    """A file with the tensors of LPIPS's heads, not the published ones."""
    torch_save(HEADS, tmp_path / "heads.pth")
    return tmp_path / "heads.pth"


# --- reading ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new", [True, False], ids=["zip", "run"])
def test_every_kind_of_tensor(new, tmp_path):
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    state = collections.OrderedDict(
        plain=base, view=base[1:, ::2], turned=base.permute(2, 0, 1), parameter=torch.nn.Parameter(base[0]),
        scalar=torch.tensor(3), empty=torch.zeros(0, 5), half=base.half(), double=base.double(),
        bfloat16=base.bfloat16(), byte=base.byte(), truth=base > 5,
    )  # fmt: skip
    torch.save(state, tmp_path / "state.pth", _use_new_zipfile_serialization=new)
    read = torch_file.read(tmp_path / "state.pth")
    assert read.keys() == state.keys()
    for name, tensor in state.items():
        assert str(read[name].dtype) == str(tensor.dtype).removeprefix("torch."), name
        np.testing.assert_array_equal(read[name].astype(np.float64), tensor.detach().double().numpy(), name)


def test_modules_are_read(tmp_path):
    """The result of `state_dict` also has metadata."""
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3))
    torch.save(module.state_dict(), tmp_path / "state.pth")
    assert set(torch_file.read(tmp_path / "state.pth")) == set(module.state_dict())


class Harmful:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_nothing_is_called(tmp_path):
    victim = tmp_path / "victim"
    with zipfile.ZipFile(tmp_path / "bad.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"x": Harmful(victim)}, protocol=2))
    (tmp_path / "bad_run.pth").write_bytes(pickle.dumps(Harmful(victim), protocol=2))
    for name in ("bad.pth", "bad_run.pth"):
        with pytest.raises(UserError, match=r"would call io.open"):
            torch_file.read(tmp_path / name)
    assert not victim.exists()


class Storage:
    """Stands for one of four numbers."""


class Tensor:
    """Pickles as a tensor with the given offset, shape and strides."""

    def __init__(self, *numbers):
        self.numbers = numbers

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (Storage(), *self.numbers, False, collections.OrderedDict())


class StoragePickler(pickle.Pickler):
    def persistent_id(self, obj):
        return ("storage", torch.FloatStorage, "0", "cpu", 4) if isinstance(obj, Storage) else None


@pytest.mark.parametrize(
    "numbers",
    [(0, (5,), (1,)), (2, (3,), (1,)), (0, (2, 2), (3, 1)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (10**6,), (0,))],
)
def test_tensors_outside_their_storage(numbers, tmp_path):
    program = io.BytesIO()
    StoragePickler(program, protocol=2).dump({"x": Tensor(*numbers)})
    with zipfile.ZipFile(tmp_path / "bad.pth", "w") as archive:
        archive.writestr("archive/data.pkl", program.getvalue())
        archive.writestr("archive/data/0", np.zeros(4, np.float32).tobytes())
    with pytest.raises(UserError, match=r"damaged.*(shape|storage)"):
        torch_file.read(tmp_path / "bad.pth")


@pytest.mark.parametrize("new", [True, False], ids=["zip", "run"])
def test_truncated_files(new, tmp_path):
    torch_save(HEADS, tmp_path / "heads.pth", new)
    whole = (tmp_path / "heads.pth").read_bytes()
    for part in (1, len(whole) // 3, len(whole) - 100):
        (tmp_path / "heads.pth").write_bytes(whole[:part])
        with pytest.raises(UserError, match=r"damaged|known layout"):
            torch_file.read(tmp_path / "heads.pth")


def test_other_files(tmp_path):
    (tmp_path / "text.pth").write_text("<html>404</html>")
    with pytest.raises(UserError, match="known layout"):
        torch_file.read(tmp_path / "text.pth")
    with pytest.raises(UserError, match="cannot be read"):
        torch_file.read(tmp_path / "none.pth")


# --- converting ---------------------------------------------------------------------------------------------------


def test_round_trip(heads, tmp_path):
    out = tmp_path / "new" / "heads.safetensors"
    converted = weights.convert("lpips_alex", heads, out)
    loaded = weights.load("lpips_alex", out)
    assert loaded.provenance == converted.provenance
    assert loaded.source_sha256 == hashlib.sha256(heads.read_bytes()).hexdigest()
    assert not loaded.published
    for i in range(len(ALEX)):
        np.testing.assert_array_equal(loaded.params[f"lin{i}"], HEADS[f"lin{i}.model.1.weight"].reshape(-1))


def test_content_hash_is_of_the_numbers(heads, tmp_path):
    torch_save(dict(reversed(HEADS.items())), tmp_path / "turned.pth", new=False)
    changed = {**HEADS, "lin0.model.1.weight": HEADS["lin0.model.1.weight"] * np.float32(1.000001)}
    torch_save(changed, tmp_path / "changed.pth")
    same, turned, other = (
        weights.convert("lpips_alex", file, tmp_path / "out.safetensors").sha256
        for file in (heads, tmp_path / "turned.pth", tmp_path / "changed.pth")
    )
    assert same == turned != other


def test_wrong_sources(heads, tmp_path):
    out = tmp_path / "out.safetensors"
    with pytest.raises(UserError, match="did you mean inception"):
        weights.convert("incepton", heads, out)
    with pytest.raises(UserError, match=r"alexnet-owt-7be5be79.pth"):
        weights.convert("alexnet", tmp_path / "none.pth", out)
    with pytest.raises(UserError, match="lacks"):
        weights.convert("inception", heads, out)
    with pytest.raises(UserError, match=r"lin0 is float32\[64\], float32\[512\] is expected|lin1 is"):
        weights.convert("lpips_vgg", heads, out)
    renamed = heads.rename(tmp_path / "alexnet-owt-7be5be79.pth")
    with pytest.raises(UserError, match="not the one in its name"):
        weights.convert("alexnet", renamed, out)
    torch_save({**HEADS, "lin7.bias": np.zeros(1, np.float32)}, tmp_path / "more.pth")
    with pytest.raises(UserError, match=r"unknown lin7.bias"):
        weights.convert("lpips_alex", tmp_path / "more.pth", out)
    torch_save(dict(list(HEADS.items())[1:]), tmp_path / "fewer.pth")
    with pytest.raises(UserError, match="lacks lin0"):
        weights.convert("lpips_alex", tmp_path / "fewer.pth", out)
    uneven = {f"a.bn.{name}": np.ones(4, np.float32) for name in BATCH_NORM}
    torch_save({**uneven, "a.conv.weight": np.ones((3, 3, 3, 3), np.float32)}, tmp_path / "uneven.pth")
    with pytest.raises(UserError, match="tensors of other shapes"):
        weights.convert("inception", tmp_path / "uneven.pth", out)
    assert not out.exists()


def test_wrong_files_to_load(heads, tmp_path):
    out = tmp_path / "out.safetensors"
    weights.convert("lpips_alex", heads, out)
    with pytest.raises(UserError, match=r"No such file.*jaxgen weights convert"):
        weights.load("lpips_alex", tmp_path / "none.safetensors")
    with pytest.raises(UserError, match=r"heads.pth is a pickle, .*jaxgen weights convert"):
        weights.load("lpips_alex", heads)
    with pytest.raises(UserError, match="holds weights of 'lpips_alex', not lpips_vgg"):
        weights.load("lpips_vgg", out)
    arrays = load_file(out)
    save_file(arrays, tmp_path / "plain.safetensors")
    with pytest.raises(UserError, match="not written by jaxgen"):
        weights.load("lpips_alex", tmp_path / "plain.safetensors")

    damaged = bytearray(out.read_bytes())
    damaged[-1] ^= 1
    out.write_bytes(damaged)
    with pytest.raises(UserError, match="do not match their hash"):
        weights.load("lpips_alex", out)


def test_published_files_are_known(monkeypatch, heads, tmp_path):
    """They are recognised by their hash, whatever their names, and are refused as another kind."""
    sha256 = hashlib.sha256(heads.read_bytes()).hexdigest()
    kind = weights.KINDS["lpips_alex"]
    monkeypatch.setitem(weights.KINDS, "lpips_alex", weights.Kind({sha256: "x.pth"}, kind.template, kind.convert))
    assert weights.convert("lpips_alex", heads, tmp_path / "out.safetensors").published
    with pytest.raises(UserError, match="is the published lpips_alex, not lpips_vgg"):
        weights.convert("lpips_vgg", heads, tmp_path / "out.safetensors")


def test_alexnet_converts(tmp_path):
    """Kernels are transposed, tensors that the network lacks are left out, and the result is the network's tree."""
    shapes = store.flatten_shapes(weights.KINDS["alexnet"].template())
    names = {"conv1": 0, "conv2": 3, "conv3": 6, "conv4": 8, "conv5": 10}
    state = {"classifier.1.weight": np.zeros((3, 2), np.float32)}
    for name, place in names.items():
        shape = shapes[f"{name}/kernel"].shape
        state[f"features.{place}.weight"] = rng.standard_normal([shape[i] for i in (3, 2, 0, 1)], np.float32)
        state[f"features.{place}.bias"] = rng.standard_normal(shape[3], np.float32)
    torch_save(state, tmp_path / "alexnet.pth")
    params = weights.convert("alexnet", tmp_path / "alexnet.pth", tmp_path / "out.safetensors").params
    for name, place in names.items():
        np.testing.assert_array_equal(params[name]["kernel"][2, 1], state[f"features.{place}.weight"][:, :, 2, 1].T)
    outputs = jax.eval_shape(AlexNet().apply, {"params": params}, np.zeros((2, 64, 64, 3), np.float32))
    assert [o.shape[-1] for o in outputs] == list(ALEX)


def test_command(heads, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    command(["convert", "lpips_alex", str(heads), str(out)])
    command(["show", "lpips_alex", str(out)])
    printed = capsys.readouterr().out
    assert printed.count(weights.load("lpips_alex", out).sha256) == 2
    assert "NOT a published file" in printed
    command(["--help"])
    assert "pt_inception-2015-12-05-6726825d.pth" in capsys.readouterr().out
    with pytest.raises(UserError, match="other arguments"):
        command(["convert", "inception"])
