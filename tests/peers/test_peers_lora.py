"""LoRA beside PEFT: its adapters of GPT-2 give the same logits here, and ours give them there."""

import warnings
from contextlib import suppress
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
from peers.inception import import_torchvision  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of their own imports
    with suppress(ImportError):
        import_torchvision()
    pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    from transformers import GPT2Config, GPT2LMHeadModel

from jaxgen import load  # noqa: E402
from jaxgen.cli.weights import command as weights  # noqa: E402
from jaxgen.nets.lora import LoRA  # noqa: E402
from jaxgen.runs.restore import run_facts  # noqa: E402
from jaxgen.weights import gpt2  # noqa: E402

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore")  # of theirs
TOKENS = np.random.default_rng(0).integers(0, 11, (3, 16))


def logits(model) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(torch.tensor(TOKENS)).logits.numpy()


def ours(run) -> np.ndarray:
    return run.model.network.apply({"params": run.state.params["network"]}, jnp.asarray(TOKENS))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    config = GPT2Config(vocab_size=11, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    weights(["import-gpt2", str(folder / "model.safetensors"), str(folder / "run")])
    return folder


def there(base):
    return GPT2LMHeadModel.from_pretrained(base)


@pytest.mark.parametrize("rslora", [False, True])
def test_adapters_come_in_from_peft_and_go_back(base, tmp_path, rslora):
    settings = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=["c_attn", "c_fc", "c_proj"], rank_pattern={"h.1.mlp.c_fc": 2},
        alpha_pattern={"h.0.attn.c_attn": 7}, use_rslora=rslora, fan_in_fan_out=True,
    )  # fmt: skip
    model = peft.get_peft_model(there(base), settings)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.copy_(0.3 * torch.randn_like(p))
    model.save_pretrained(tmp_path / "adapter")
    weights(["import-lora", str(tmp_path / "adapter"), str(base / "run"), str(tmp_path / "run")])
    run, expected = load(tmp_path / "run"), logits(model)
    assert np.abs(expected - logits(there(base))).max() > 0.1
    np.testing.assert_allclose(ours(run), expected, atol=1e-5)
    # Merged kernels, one by one.
    whole = model.merge_and_unload()
    gpt2.write(tmp_path / "merged" / "model.safetensors", run.model.network, run.state.params)
    back = GPT2LMHeadModel.from_pretrained(tmp_path / "merged")
    for (name, a), b in zip(whole.named_parameters(), back.parameters()):
        np.testing.assert_allclose(a.detach(), b.detach(), atol=1e-6, err_msg=name)
    weights(["export-lora", str(tmp_path / "run"), str(tmp_path / "out" / "adapter_model.safetensors")])
    read = peft.PeftModel.from_pretrained(there(base), tmp_path / "out")
    np.testing.assert_allclose(logits(read), expected, atol=1e-5)


def test_parameters_count_alike(base):
    """r (in + out) of each module."""
    model = peft.get_peft_model(there(base), peft.LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True))
    run = load(base / "run")
    experiment = replace(run.experiment, init=str(base / "run"), lora=LoRA(rank=4, targets="qkv"))
    facts = run_facts(experiment, run.examples, run.codec)
    assert facts["trained_params"] == model.get_nb_trainable_parameters()[0]


# --- Stable Diffusion -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory):
    """A folder of a tiny Stable Diffusion, and our run of it."""
    pytest.importorskip("diffusers")
    from peers import stable_diffusion as tiny_sd

    folder = tmp_path_factory.mktemp("sd")
    tiny_sd.pipeline(folder, layers_per_block=1)
    weights(["import-sd", str(folder / "sd"), str(folder / "run")])
    return folder, tiny_sd


def noises(pipeline, encoder=None) -> np.ndarray:
    """What the U-Net predicts of a text, which its own encoder embeds, or another pipeline's."""
    with torch.no_grad():
        context = (encoder or pipeline).text_encoder(torch.tensor(TEXT))[0]
        return pipeline.unet(torch.tensor(X.transpose(0, 3, 1, 2)), torch.tensor([7]), context).sample.numpy()


X, TEXT = np.random.default_rng(1).normal(size=(1, 8, 8, 4)).astype(np.float32), np.arange(1, 9)[None]


def our_noises(run) -> np.ndarray:
    trained = load(run)
    params, model = trained.state.sampling_params, trained.model
    context = model.text.apply({"params": params["text"]}, jnp.asarray(TEXT), None, method="features")
    out = model.network.apply({"params": params["network"]}, jnp.asarray(X), jnp.float32([7.0]), 4, context=context)
    return np.asarray(out).transpose(0, 3, 1, 2)


def test_stable_diffusions_adapters_come_in_and_go_out(diffusion, tmp_path):
    folder, tiny_sd = diffusion
    pipeline = tiny_sd.loaded(folder / "sd")
    layers = {"unet": ["to_q", "to_v", "to_out.0", "conv1", "proj_in", "ff.net.2"], "text_encoder": ["q_proj", "fc1"]}
    states = {}
    torch.manual_seed(1)
    for part, targets in layers.items():
        module = getattr(pipeline, part)
        module.add_adapter(peft.LoraConfig(r=2, lora_alpha=2, target_modules=targets))
        with torch.no_grad():
            for name, p in module.named_parameters():
                if "lora_" in name:
                    p.copy_(0.2 * torch.randn_like(p))
        states[part] = tiny_sd.diffusers.utils.convert_state_dict_to_diffusers(peft.get_peft_model_state_dict(module))
    pipeline.save_lora_weights(
        tmp_path / "theirs", unet_lora_layers=states["unet"], text_encoder_lora_layers=states["text_encoder"]
    )
    expected = noises(pipeline)
    plain = noises(tiny_sd.loaded(folder / "sd"))
    assert np.abs(expected - plain).max() > 0.05
    np.testing.assert_allclose(our_noises(folder / "run"), plain, atol=1e-4)
    weights(["import-lora", str(tmp_path / "theirs"), str(folder / "run"), str(tmp_path / "run")])
    np.testing.assert_allclose(our_noises(tmp_path / "run"), expected, atol=1e-4)
    for form in ("diffusers", "kohya"):
        file = tmp_path / form / "pytorch_lora_weights.safetensors"
        weights(["export-lora", str(tmp_path / "run"), str(file), form])
        back = tiny_sd.loaded(folder / "sd")
        back.load_lora_weights(file.parent)
        # diffusers leaves the text encoder's attention in kohya's files out.
        encoder = pipeline if form == "kohya" else None
        np.testing.assert_allclose(noises(back, encoder), expected, atol=1e-4)
        weights(["import-lora", str(file), str(folder / "run"), str(tmp_path / f"{form}-run")])
        np.testing.assert_allclose(our_noises(tmp_path / f"{form}-run"), expected, atol=1e-4)
