"""The autoencoder of latent diffusion against diffusers' AutoencoderKL: encode, decode, weights in and out."""

import os
import warnings
from contextlib import suppress
from typing import Any

import jax
import numpy as np
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
torch = pytest.importorskip("torch")
from peers.inception import import_torchvision  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # other packages' deprecations, on import alone
    with suppress(ImportError):
        import_torchvision()
    pytest.importorskip("diffusers")
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from safetensors.numpy import load_file, save_file  # noqa: E402

from jaxgen.ops.tiles import tiled  # noqa: E402
from jaxgen.weights import autoencoder_kl  # noqa: E402

# Torch's arrays do not know of NumPy 2's keyword; what diffusers itself warns of is not ours either.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
torch.set_num_threads(1)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def theirs():
    """Three sizes, a shortcut in each part, every parameter random."""
    settings: dict[str, Any] = {
        "block_out_channels": (8, 16, 16), "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
    }  # fmt: skip
    model = AutoencoderKL(**settings, layers_per_block=2, latent_channels=3, norm_num_groups=4)
    for i, (name, p) in enumerate(model.named_parameters()):
        with torch.no_grad():
            noise = torch.tensor(normal(*p.shape, seed=100 + i))
            p.copy_(1 + 0.3 * noise if "norm" in name and "weight" in name else noise / max(1, p[0].numel()) ** 0.5)
    return model.eval()


@pytest.fixture
def saved(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "vae")
    return tmp_path / "vae" / "diffusion_pytorch_model.safetensors"


def test_encode_and_decode(theirs, saved):
    network, params = autoencoder_kl.read(load_file(saved), "file", groups=4)
    x = normal(2, 16, 24, 3)
    mean, logvar = jax.jit(lambda p, x: network.apply({"params": p}, x, method="encode"))(params, x)
    back = jax.jit(lambda p, z: network.apply({"params": p}, z, method="decode"))(params, mean)
    with torch.no_grad():
        latent = theirs.encode(torch.from_numpy(x).permute(0, 3, 1, 2)).latent_dist
        decoded = theirs.decode(latent.mean).sample
    for ours, answer in ((mean, latent.mean), (logvar, latent.logvar), (back, decoded)):
        answer = answer.permute(0, 2, 3, 1).numpy()
        assert answer.std() > 0.1
        np.testing.assert_allclose(ours, answer, atol=1e-4 * np.abs(answer).max())


def test_weights_go_out_as_they_came(theirs, saved, tmp_path):
    """To the bit, and diffusers loads them; in a single file's layout too, which diffusers' own conversion reads."""
    before = load_file(saved)
    network, params = autoencoder_kl.read(before, "file", groups=4)
    after = autoencoder_kl.tensors_of(params)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    save_file(after, saved)
    again = AutoencoderKL.from_pretrained(saved.parent)
    x = torch.from_numpy(normal(1, 3, 8, 8))
    with torch.no_grad():
        np.testing.assert_array_equal(again(x).sample.numpy(), theirs(x).sample.numpy())

    single = {f"first_stage_model.{name}": array for name, array in autoencoder_kl.to_ldm(after).items()}
    single["model.diffusion_model.out.0.weight"] = np.zeros(3, np.float32)
    config = {"down_block_types": (0, 0, 0), "up_block_types": (0, 0, 0)}
    converted = convert_ldm_vae_checkpoint({n: torch.from_numpy(a) for n, a in single.items()}, config)
    assert converted.keys() == before.keys()
    assert all(np.array_equal(before[name].reshape(-1), a.numpy().reshape(-1)) for name, a in converted.items())
    other, same = autoencoder_kl.read(single, "file", groups=4)
    assert other == network
    jax.tree.map(np.testing.assert_array_equal, same, params)


def test_older_names_of_attention(saved):
    tensors = load_file(saved)
    network, params = autoencoder_kl.read(tensors, "file", groups=4)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, array in tensors.items():
        for today, before in old.items():
            name = name.replace(today, before)
        renamed[name] = array
    assert renamed.keys() != tensors.keys()
    other, same = autoencoder_kl.read(renamed, "file", groups=4)
    assert other == network
    jax.tree.map(np.testing.assert_array_equal, same, params)


def test_tiles_are_theirs(theirs, saved):
    """A row of two tiles: theirs adds a third of the overlap alone, from the 13th latent on."""
    network, params = autoencoder_kl.read(load_file(saved), "file", groups=4)
    x = normal(1, 24, 56, 3)
    theirs.enable_tiling()
    try:
        with torch.no_grad():
            latent = theirs.encode(torch.from_numpy(x).permute(0, 3, 1, 2)).latent_dist.mean
            decoded = theirs.decode(latent).sample
    finally:
        theirs.disable_tiling()

    def encode(x):
        return network.apply({"params": params}, x, method="encode")[0]

    def decode(z):
        return network.apply({"params": params}, z, method="decode")

    latent, decoded = (a.permute(0, 2, 3, 1).numpy() for a in (latent, decoded))
    z = jax.jit(lambda x: tiled(encode, x, 8, 4))(x)
    back = jax.jit(lambda z: tiled(decode, z, 8))(latent)
    for ours, answer, shared in ((z, latent, 12), (back, decoded, 48)):
        assert ours.shape == answer.shape
        np.testing.assert_allclose(ours[:, :, :shared], answer[:, :, :shared], atol=1e-4 * np.abs(answer).max())
