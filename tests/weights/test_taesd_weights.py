"""Tiny autoencoders: published weights give PyTorch's pictures, serve as a first stage, and bad files are one line."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from messages import one_line
from safetensors.numpy import save_file

import jaxgen
from jaxgen.cli.weights import command as weights
from jaxgen.core import evaluate, sample_keys
from jaxgen.core.capabilities import LatentStage
from jaxgen.data import Emoji, ImageFolder
from jaxgen.errors import UserError
from jaxgen.models.taesd import TAESD
from jaxgen.nets.taesd import TinyAutoencoder
from jaxgen.runs.pretrained import Pretrained
from jaxgen.weights import taesd

TINY = TinyAutoencoder(latent=3, width=4, pool=True)


@pytest.fixture(scope="module")
def published(shared_data):
    folder = shared_data / "taef2"
    if not folder.is_dir():
        pytest.skip("needs the weights of TAEF2")
    return folder


@pytest.fixture(scope="module")
def run(published, tmp_path_factory):
    out = tmp_path_factory.mktemp("taesd") / "run"
    weights(["import-taesd", str(published), str(out)])
    return out


@pytest.mark.parametrize(("name", "least"), [("emoji", 27), ("sprites", 23)])
def test_pictures_come_back_as_in_pytorch(published, run, shared_data, name, least):
    """PSNR of 8-bit pictures to 0.01 dB, and of latents each number."""
    pytest.importorskip("torch").set_num_threads(1)
    from peers.taesd import autoencoder, round_trip

    data = Emoji(size=64) if name == "emoji" else ImageFolder(folder=str(shared_data / "sprites"), size=64)
    x = next(data.padded_batches(24, "test"))[0]["x"]
    codec = Pretrained(run=str(run), form="latents").load()
    z = jax.jit(codec.model.to_latent)(codec.state, x / np.float32(255), jax.random.key(0))
    ours = evaluate(codec.model, codec.state, sample_keys(0, 24), {"x": x}, codec.codec)["psnr"]
    their_z, back = round_trip(autoencoder(published), x)
    np.testing.assert_allclose(z, their_z, atol=2e-4)
    error = np.mean((np.rint(back * 255) - x.astype(np.float64)) ** 2, axis=(1, 2, 3))
    theirs = 10 * np.log10(255**2 / error)
    assert abs(ours.mean() - theirs.mean()) < 0.01
    assert theirs.mean() > least  # trained weights, rightly used


def test_a_run_is_a_first_stage(run):
    stage = jaxgen.load(run)
    assert isinstance(stage.model, TAESD) and isinstance(stage.model, LatentStage)
    assert stage.sample(2, seed=0).shape == (2, 64, 64, 3)
    codec = Pretrained(run=str(run), form="latents").load()
    x = next(Emoji(size=64).padded_batches(2, "test"))[0]["x"]
    z = jax.jit(codec.encode)({"x": x}, jax.random.key(0))["x"]
    assert z.shape == (2, 8, 8, 32) and z.dtype == np.float32
    assert np.mean((np.asarray(jax.jit(codec.decode)(z), float) - x) ** 2) < 400


# --- files of random weights ---


def layout(diffusers):
    """Tensors of a tiny network by their published names."""
    params = TINY.init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))["params"]
    out = {}
    for path, array in flatten_dict(params).items():
        part, layer, *branch, kind = path
        array = np.asarray(array)
        if kind == "kernel":
            array = array.reshape(1, 1, *array.shape)[-1, -1].T[..., None, None] if array.ndim == 2 else array
            array = array.transpose(3, 2, 0, 1) if path[-2][:4] != "pool" else array
        index = int(layer.removeprefix("layer_")) - (diffusers and part == "decoder")
        middle = "".join(f"{b.replace('_', '.')}." for b in branch)
        start = f"{part}.layers." if diffusers else f"{part}."
        out[f"{start}{index}.{middle}{'bias' if kind == 'bias' else 'weight'}"] = np.ascontiguousarray(array)
    return params, out


@pytest.mark.parametrize("diffusers", [False, True])
def test_both_layouts_are_read(tmp_path, diffusers):
    params, tensors = layout(diffusers)
    if diffusers:
        save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    else:
        for part in taesd.PARTS:
            mine = {n.removeprefix(f"{part}."): a for n, a in tensors.items() if n.startswith(part)}
            save_file(mine, tmp_path / f"tiny_{part}.safetensors")
    network, found = taesd.read(tmp_path)
    assert network == TINY
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_sizes_and_flags(tmp_path):
    save_file(layout(True)[1], tmp_path / "tiny.safetensors")
    place, out = str(tmp_path / "tiny.safetensors"), tmp_path / "run"
    for flags, words in (
        (["--size", "60"], "divide by 8"),
        (["--size", "24"], "a multiple of 16"),
        (["--size", "large"], "--size is large"),
        (["--size"], "not --size"),
        (["--size", "9" * 5000], "--size is 99999"),
        (["--sizes", "64"], "not --sizes 64"),
        (["--tile", "-1"], "--tile is -1"),
        (["--size", "0"], "--size is 0"),
    ):
        with pytest.raises(UserError, match=words) as error:
            weights(["import-taesd", place, str(out), *flags])
        one_line(error)
        assert not out.exists()
    weights(["import-taesd", place, str(out), "--tile", "8", "--size", "16"])
    model = json.loads((out / "experiment.json").read_text())["model"]
    assert model["shape"] == [16, 16, 3] and model["tile"] == 8
    assert jaxgen.load(out).sample(1, seed=0).shape == (1, 16, 16, 3)
    with pytest.raises(UserError, match="holds a run already"):
        weights(["import-taesd", place, str(out)])


def test_other_files_are_refused(tmp_path):
    tensors = layout(True)[1]
    with pytest.raises(UserError, match="no tiny autoencoder"):
        taesd.read(tmp_path)
    cases = {
        "lacks": {n: a for n, a in tensors.items() if n != "encoder.layers.1.conv.2.bias"},
        "unknown": {**tensors, "quant_conv.weight": np.zeros((1, 1), np.float32)},
        "has unknown decoder.9": {**tensors, f"decoder.layers.{'9' * 5000}.weight": np.zeros((1, 1), np.float32)},
        "TAESD family": {"weight": np.zeros((1, 1), np.float32)},
        "not finite": {**tensors, "encoder.layers.1.conv.2.bias": np.full(4, np.nan, np.float32)},
        "is expected": {**tensors, "encoder.layers.1.conv.2.bias": np.zeros(5, np.float32)},
    }
    for words, wrong in cases.items():
        save_file(wrong, tmp_path / "one.safetensors")
        with pytest.raises(UserError, match=words) as error:
            taesd.read(tmp_path)
        one_line(error)
    shutil.copy(tmp_path / "one.safetensors", tmp_path / "two.safetensors")
    with pytest.raises(UserError, match="name the file"):
        taesd.read(tmp_path)
    save_file({"0.weight": np.zeros((1, 1, 1, 1), np.float32)}, tmp_path / "x_encoder.safetensors")
    with pytest.raises(UserError, match="x_decoder"):
        taesd.read(tmp_path)
