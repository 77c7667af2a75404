"""Autoencoders of latent diffusion as runs and back: diffusers' folder, a single file, and what is refused."""

import json

import jax
import numpy as np
import pytest
from conftest import first_stage
from messages import one_line
from safetensors.numpy import save_file

import jaxgen
from jaxgen.cli.weights import command as weights
from jaxgen.errors import UserError
from jaxgen.nets.autoencoder_kl import KLCoder
from jaxgen.weights import autoencoder_kl

NETWORK = KLCoder(widths=(32, 32, 64), blocks=1, latent=2)
FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def tensors():
    params = NETWORK.init(jax.random.key(0), np.zeros((1, 4, 4, 3), np.float32))["params"]
    return autoencoder_kl.tensors_of(params)


def test_a_run_goes_out_and_comes_in_again(tmp_path):
    """With its scale, and at another size."""
    run = first_stage("runs/autoencoder_kl-smoke-0", tmp_path)
    weights(["export-vae", str(run), str(tmp_path / "vae")])
    config = json.loads((tmp_path / "vae" / "config.json").read_text())
    assert config["scaling_factor"] == 1.0 and config["sample_size"] == 16 and config["norm_num_groups"] == 4
    (tmp_path / "vae" / "config.json").write_text(json.dumps({**config, "scaling_factor": 0.25}))
    weights(["import-vae", str(tmp_path / "vae"), str(tmp_path / "again"), "--size", "32"])
    before, after = jaxgen.load(run), jaxgen.load(tmp_path / "again")
    assert after.model.generator == before.model.generator
    assert after.model.shape == (32, 32, 3) and after.model.scale == 0.25
    jax.tree.map(np.testing.assert_array_equal, after.state.params["gen"], before.state.sampling_params["gen"])
    assert np.isfinite(after.evaluate(limit=4, batch=4)["psnr"]["mean"])
    with pytest.raises(UserError, match="holds a run already"):
        weights(["export-vae", str(run), str(tmp_path / "vae")])


def test_the_first_stage_of_a_single_file_is_read(tensors, tmp_path):
    single = {f"{autoencoder_kl.PREFIX}{name}": a for name, a in autoencoder_kl.to_ldm(tensors).items()}
    save_file({**single, "model.diffusion_model.out.2.bias": np.zeros(4, np.float32)}, tmp_path / "sd.safetensors")
    weights(["import-vae", str(tmp_path / "sd.safetensors"), str(tmp_path / "run"), "--size", "16"])
    run = jaxgen.load(tmp_path / "run")
    assert run.model.generator == NETWORK and run.model.scale == 0.18215
    found = autoencoder_kl.tensors_of(run.state.params["gen"]["network"])
    assert found.keys() == tensors.keys() and all(np.array_equal(found[name], tensors[name]) for name in found)


def test_other_weights_are_refused(tensors):
    kernel = tensors["encoder.down_blocks.0.resnets.0.conv1.weight"]
    some = "decoder.mid_block.attentions.0.to_k.weight"
    cases = {
        "lacks decoder/mid_block_attentions_0/to_k/kernel": {n: a for n, a in tensors.items() if n != some},
        "has unknown encoder/down_blocks_0_attentions_0/to_q/kernel": {
            **tensors, "encoder.down_blocks.0.attentions.0.to_q.weight": tensors[some],
        },
        "not finite": {**tensors, some: np.full_like(tensors[some], np.inf)},
        "is expected": {**tensors, some: tensors[some][:3]},
        "widths has 11 entries": {
            **tensors, **{f"encoder.down_blocks.{i}.resnets.0.conv1.weight": kernel for i in range(11)},
        },
        "has unknown encoder": {**tensors, f"encoder.{'9' * 5000}.weight": kernel},
        "lacks levels": {n: a for n, a in tensors.items() if not n.startswith("encoder.down_blocks.0")},
        "an AutoencoderKL is expected": {"weight": np.zeros(3, np.float32)},
        "multiples of groups": {
            n: a[:20] if n == "encoder.down_blocks.1.resnets.0.conv1.weight" else a for n, a in tensors.items()
        },
    }  # fmt: skip
    for words, wrong in cases.items():
        with pytest.raises(UserError, match=words) as error:
            autoencoder_kl.read(wrong, "file")
        one_line(error)
    autoencoder_kl.read({**tensors, "loss.logvar": np.zeros((), np.float32)}, "file")


def test_other_places_are_refused(tensors, tmp_path):
    out = tmp_path / "run"
    folder = tmp_path / "vae"
    folder.mkdir()

    def refused(words, *flags):
        with pytest.raises(UserError, match=words) as error:
            weights(["import-vae", str(tmp_path), str(out), *flags])
        one_line(error)
        assert not out.exists()

    refused("vae has no AutoencoderKL: config.json and diffusion")
    save_file(tensors, folder / FILE)
    refused("vae has no AutoencoderKL")
    (folder / "config.json").write_text(json.dumps({"use_quant_conv": False}))
    refused("use_quant_conv")
    (folder / "config.json").write_text("{}")
    refused("divide by 4", "--size", "18")
    refused("--size is 12345", "--size", "12345")
    refused("import-vae takes --size N", "--seed", "1")
    with pytest.raises(UserError, match="is of VAE, an AutoencoderKL is expected"):
        weights(["export-vae", str(first_stage("runs/vae-smoke-0", tmp_path)), str(tmp_path / "other")])
