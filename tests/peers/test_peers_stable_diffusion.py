"""Stable Diffusion 1.x against diffusers and transformers, on random weights of tiny sizes: networks and files."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from peers import stable_diffusion as tiny  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402

from jaxgen.errors import UserError  # noqa: E402
from jaxgen.weights import autoencoder_kl  # noqa: E402
from jaxgen.weights import stable_diffusion as sd  # noqa: E402
from jaxgen.weights.stable_diffusion_names import unet_to_file  # noqa: E402

torch.set_num_threads(1)
# Torch's arrays do not know of NumPy 2's keyword; what diffusers itself warns of is not ours either.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
UNET, VAE = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """The pipeline and its folder."""
    folder = tmp_path_factory.mktemp("sd")
    return tiny.pipeline(folder), folder / "sd"


@pytest.fixture(scope="module")
def found(theirs):
    return sd.read(theirs[1])


def nchw(x):
    return torch.tensor(x.transpose(0, 3, 1, 2))


def same(ours, answer):
    answer = answer.detach().numpy()
    answer = answer.transpose(0, 2, 3, 1) if answer.ndim == 4 else answer
    assert answer.std() > 0.1
    np.testing.assert_allclose(ours, answer, atol=1e-4 * np.abs(answer).max())


def equal(one, two):
    leaves = [jax.tree_util.tree_flatten_with_path(tree)[0] for tree in (one.params, two.params)]
    for (path, a), (other, b) in zip(*leaves, strict=True):
        assert path == other
        np.testing.assert_array_equal(a, b)
    assert (one.unet, one.text, one.vae) == (two.unet, two.text, two.vae)


@pytest.mark.parametrize("size", [(8, 12), (7, 5)])
def test_unet(size, theirs, found):
    """Of sides that halve, and of odd ones."""
    x, context, t = tiny.normal(2, *size, 4), tiny.normal(2, 6, tiny.WIDTH, seed=1), np.array([3.0, 981.0], np.float32)
    params = {"params": found.params["unet"]}
    ours = jax.jit(lambda p, x, t, c: found.unet.apply(p, x, t, 4, context=c))(params, x, t, context)
    same(ours, theirs[0].unet(nchw(x), torch.tensor(t), torch.tensor(context)).sample)


def test_padding_of_a_context_can_be_masked(found):
    x, context, t = tiny.normal(2, 8, 8, 4), tiny.normal(2, 6, tiny.WIDTH, seed=1), np.array([3.0, 981.0], np.float32)
    mask = np.arange(6) < np.array([[2], [6]])
    apply = jax.jit(lambda c, m: found.unet.apply({"params": found.params["unet"]}, x, t, 4, context=c, context_mask=m))
    base = np.asarray(apply(context, mask))
    np.testing.assert_allclose(apply(np.where(mask[..., None], context, 9), mask), base, atol=1e-5)
    assert np.abs(np.asarray(apply(context, np.ones_like(mask))) - base)[0].max() > 1e-3


def test_text_encoder(theirs, found):
    """Padding is text: its features are given too, after the last norm."""
    tokens = theirs[0].tokenizer(["a red dragon", ""], padding="max_length", max_length=tiny.WINDOW).input_ids
    ours = found.text.apply({"params": found.params["text"]}, jnp.asarray(tokens), method="features")
    same(ours, theirs[0].text_encoder(torch.tensor(tokens)).last_hidden_state)


def test_first_stage(theirs, found):
    x, z = tiny.normal(2, 16, 16, 3), tiny.normal(2, 8, 8, 4)
    params = {"params": found.params["vae"]}
    same(found.vae.apply(params, x, method="encode")[0], theirs[0].vae.encode(nchw(x)).latent_dist.mean)
    same(found.vae.apply(params, z, method="decode"), theirs[0].vae.decode(nchw(z)).sample)


def single_file(folder, found, prefix="text_model."):
    """The tensors of a folder under the names of the single file."""
    unet, vae, text = (load_file(folder / name) for name in (UNET, VAE, TEXT))
    out = {sd.UNET + unet_to_file(name, found.unet.blocks, found.unet.attention): a for name, a in unet.items()}
    out |= {autoencoder_kl.PREFIX + name: a for name, a in autoencoder_kl.to_ldm(vae).items()}
    out |= {f"{sd.TEXT}{prefix}{name.removeprefix('text_model.')}": a for name, a in text.items()}
    # What files of CompVis' code hold besides.
    out[f"{sd.TEXT}text_model.embeddings.position_ids"] = np.arange(tiny.WINDOW)[None]
    return out | {"betas": np.zeros(1000, np.float32), "model_ema.decay": np.zeros((), np.float32)}


@pytest.mark.parametrize("prefix", ["text_model.", ""])
def test_a_single_file_is_read_as_the_folder(prefix, theirs, found, tmp_path):
    """Its names of the U-Net are those that diffusers' own conversion knows."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    tensors = single_file(theirs[1], found, prefix)
    converted = convert_ldm_unet_checkpoint(
        {k: torch.tensor(a) for k, a in tensors.items()}, dict(theirs[0].unet.config)
    )
    state = theirs[0].unet.state_dict()
    assert converted.keys() == state.keys()
    assert all(torch.equal(converted[name], state[name]) for name in state)
    save_file(tensors, tmp_path / "model.safetensors")
    read = sd.read(tmp_path / "model.safetensors")
    equal(read, found)
    assert (read.scale, read.side, read.sampler) == (0.18215, 64, "pndm")


def test_half_precision_is_read_as_f32(theirs, found, tmp_path):
    shutil.copytree(theirs[1], tmp_path / "sd")
    for name in (UNET, VAE, TEXT):
        file = tmp_path / "sd" / name
        half = {name: a.astype(np.float16) for name, a in load_file(file).items()}
        save_file(half, file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
        file.unlink()
    read = sd.read(tmp_path / "sd")
    for a, b in zip(jax.tree.leaves(read.params), jax.tree.leaves(found.params), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a, b.astype(np.float16).astype(np.float32))


def test_what_is_written_loads_in_diffusers_and_gives_the_same(theirs, found, tmp_path):
    vocabulary = tiny.vocabulary()
    out = tmp_path / "out"
    sd.write(out, found, vocabulary.start, vocabulary.end, vocabulary.write(out / "tokenizer"))
    back = tiny.loaded(out)
    settings = {"num_inference_steps": 3, "height": 16, "width": 16, "output_type": "np"}
    images = []
    for pipeline in (theirs[0], back):
        generator = torch.Generator().manual_seed(0)
        images.append(pipeline("a red dragon", negative_prompt="ugly", generator=generator, **settings).images)
    np.testing.assert_array_equal(*images)
    assert type(back.scheduler).__name__ == "PNDMScheduler"
    assert back.scheduler.config.skip_prk_steps and not back.scheduler.config.set_alpha_to_one
    equal(sd.read(out), found)
    for part in ("unet", "vae"):
        new, old = (json.loads((place / part / "config.json").read_text()) for place in (out, theirs[1]))
        assert {k: v for k, v in new.items() if k in old and k != "_diffusers_version" and v != old[k]} == {}


@pytest.mark.parametrize(("part", "change", "words"), [
    ("unet", {"use_linear_projection": True}, "use_linear_projection True, Stable Diffusion 1.x has False"),
    ("unet", {"attention_head_dim": [5, 10]}, r"attention_head_dim \[5, 10\]: a number"),
    ("unet", {"addition_embed_type": "text_time"}, "addition_embed_type 'text_time', Stable Diffusion 1.x has None"),
    ("unet", {"down_block_types": ["DownBlock2D"] * 2}, "up_block_types"),
    ("unet", {"block_out_channels": "wide"}, "block_out_channels 'wide': a list of numbers"),
    ("unet", {"norm_num_groups": 31}, "a multiple of heads = 8 and of groups = 31"),
    ("vae", {"scaling_factor": None}, "scaling_factor None: a number above 0"),
    ("vae", {"shift_factor": 0.1}, "shift_factor 0.1, Stable Diffusion 1.x has None"),
    ("text_encoder", {"model_type": "t5"}, "is of 't5', clip_text_model is expected"),
    ("scheduler", {"prediction_type": "v_prediction"}, "prediction_type 'v_prediction', Stable Diffusion 1.x has 'eps"),
    ("scheduler", {"beta_start": 2.0}, "beta_start 2.0: a number between 0 and 1"),
])  # fmt: skip
def test_configurations_of_other_models_are_refused(part, change, words, theirs, tmp_path):
    shutil.copytree(theirs[1], tmp_path / "sd")
    file = tmp_path / "sd" / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(UserError, match=words):
        sd.read(tmp_path / "sd")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "scheduler"])
def test_a_folder_that_lacks_a_part_is_refused(part, theirs, tmp_path):
    shutil.copytree(theirs[1], tmp_path / "sd")
    if part != "scheduler":
        (file,) = (tmp_path / "sd" / part).glob("*.safetensors")
        file.rename(file.with_suffix(".bin"))
        with pytest.raises(UserError, match=f"{file.stem}.bin, a pickle, which runs code"):
            sd.read(tmp_path / "sd")
        file.with_suffix(".bin").unlink()
        with pytest.raises(UserError, match=f"lacks {file.name}"):
            sd.read(tmp_path / "sd")
    shutil.rmtree(tmp_path / "sd" / part)
    with pytest.raises(UserError, match=f"lacks {part}: the folder"):
        sd.read(tmp_path / "sd")
    (tmp_path / "sd" / ("text_encoder_2" if part == "unet" else "image_encoder")).mkdir()
    if part in ("unet", "text_encoder"):
        with pytest.raises(UserError, match=r"as SDXL|as image variations"):
            sd.read(tmp_path / "sd")


def test_other_tensors_are_refused(theirs, found, tmp_path):
    tensors, file = single_file(theirs[1], found), tmp_path / "model.safetensors"
    first = f"{sd.UNET}input_blocks.0.0.weight"

    def refused(words, change=None, without=()):
        kept = {k: a for k, a in tensors.items() if not k.startswith(tuple(without))}
        save_file({**kept, **(change or {})}, file)
        with pytest.raises(UserError, match=words):
            sd.read(file)

    wide = np.zeros((32, 9, 3, 3), np.float32)
    refused("9 channels at its input, as networks of in-painting", {first: wide})
    refused("8 channels at its input, 4 are expected", {first: wide[:, :8]})
    refused("as SDXL", {"conditioner.embedders.0.x": wide})
    refused("as SD 2 or of image variations", {"cond_stage_model.model.x": wide})
    refused("lacks first_stage_model", without=[autoencoder_kl.PREFIX])
    refused("lacks cond_stage_model.transformer", without=[sd.TEXT])
    refused("lacks model.diffusion_model", without=[sd.UNET])
    refused("lacks out.2.bias: it is truncated", without=[f"{sd.UNET}out.2.bias"])
    refused("has no U-Net of Stable Diffusion", without=[f"{sd.UNET}input_blocks.1.0"])
    refused("has label_emb.0.weight, which", {f"{sd.UNET}label_emb.0.weight": wide})
    refused("out/bias|conv_out/bias", {f"{sd.UNET}out.2.bias": np.zeros(3, np.float32)})
    refused("not finite", {f"{sd.UNET}out.2.bias": np.full(4, np.nan, np.float32)})
    refused("which the text network of a CLIP lacks", {f"{sd.TEXT}text_projection.weight": wide})
    for name in ("model.ckpt", "model.pt"):
        (tmp_path / name).write_bytes(b"\x80\x02}")
        with pytest.raises(UserError, match=r"is a pickle, which runs code as it is loaded: pass the \.safetensors"):
            sd.read(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read"):
        sd.read(tmp_path / "none.safetensors")
