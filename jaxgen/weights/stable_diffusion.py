"""Weights of Stable Diffusion 1.x in and out: diffusers' folder, and in also the single safetensors file.

A folder has `unet`, `vae`, `text_encoder`, `tokenizer` and `scheduler`, each with its configuration. A single file
holds the three networks under the prefixes of CompVis' code, and no configuration: what no tensor tells of is what all
published files of 1.x have.
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxgen.errors import UserError
from jaxgen.nets.autoencoder_kl import SD_SCALE, KLCoder
from jaxgen.nets.clip import TextTower
from jaxgen.nets.unet_sd import SDUNet
from jaxgen.ops.named_samplers import SAMPLERS, Name
from jaxgen.ops.schedules import ScaledLinear
from jaxgen.runtime import reading
from jaxgen.runtime.files import disk_errors, write_tensors, write_text
from jaxgen.weights import autoencoder_kl, clip_text, store
from jaxgen.weights import stable_diffusion_configs as configs
from jaxgen.weights.stable_diffusion_names import POINTWISE, to_ours, to_theirs, unet_to_diffusers, unet_to_file

Tensors = dict[str, np.ndarray]
PARTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
"""Folders of networks, and the names of their weights."""
VARIANTS = ("", ".fp16", ".non_ema")
UNET, TEXT = "model.diffusion_model.", "cond_stage_model.transformer."
"""Before the names in a single file; `autoencoder_kl.PREFIX` before the first stage's."""
SINGLE_FILE_HEADS, SIDE = 8, 64


@dataclass(frozen=True)
class Published:
    """The networks with their parameters `unet`, `text` and `vae`, and the settings that go with them."""

    unet: SDUNet
    text: TextTower
    vae: KLCoder
    params: dict[str, Any]
    schedule: ScaledLinear = ScaledLinear(**SAMPLERS["pndm"][1])
    """With the times of the sampler."""
    sampler: Name = "pndm"
    """One of `ops.named_samplers`."""
    side: int = SIDE
    """Height and width of the latents that it was trained on."""
    scale: float = SD_SCALE
    """Latents are the first stage's times this."""


# --- reading --------------------------------------------------------------------------------------------------


def read(place: Path) -> Published:
    """The networks in a folder or a single file. Raises UserError if a part is missing, or is of another model."""
    if place.is_dir():
        return _read_folder(place)
    if place.suffix in reading.ARE_PICKLES:
        raise UserError(
            f"{place} is a pickle, which runs code as it is loaded: pass the .safetensors file of the same model, or "
            "the folder that diffusers' save_pretrained writes"
        )
    return _read_file(place)


def _read_folder(folder: Path) -> Published:
    if os.path.lexists(folder / "text_encoder_2"):
        raise UserError(f"{folder} has text_encoder_2, as SDXL: a folder of Stable Diffusion 1.x is expected")
    if os.path.lexists(folder / "image_encoder") and not os.path.lexists(folder / "text_encoder"):
        raise UserError(f"{folder} has image_encoder, as image variations: a folder that is told texts is expected")
    for part in (*PARTS, "scheduler"):
        if not (folder / part).is_dir():
            raise UserError(f"{folder} lacks {part}: the folder that diffusers' save_pretrained writes is expected")
    settings, tensors, files = {}, {}, {}
    for part in (*PARTS, "scheduler"):
        file = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
        settings[part] = configs.read(file)
    unet, side = configs.unet(settings["unet"], folder / "unet" / "config.json")
    groups, scale = configs.vae(settings["vae"], folder / "vae" / "config.json")
    text = clip_text.settings(settings["text_encoder"], folder / "text_encoder" / "config.json")
    schedule, sampler = configs.scheduler(settings["scheduler"], folder / "scheduler" / "scheduler_config.json")
    for part, name in PARTS.items():
        files[part] = _weights(folder / part, name)
        tensors[part] = reading.read_tensors(files[part])[0]
    tower, text_params = clip_text.read(tensors["text_encoder"], files["text_encoder"], **text)
    coder, vae_params = autoencoder_kl.read(tensors["vae"], str(files["vae"]), groups)
    unet_params = _unet(tensors["unet"], unet, str(files["unet"]), lambda name: name, coder.latent, tower.body.width)
    params = {"unet": unet_params, "text": text_params, "vae": vae_params}
    return Published(unet, tower, coder, params, schedule, sampler, side, scale)


def _weights(folder: Path, name: str) -> Path:
    """The file of a network's weights in its folder."""
    for variant in VARIANTS:
        if os.path.lexists(file := folder / f"{name}{variant}.safetensors"):
            return file
    reading.check_pickles(folder, f"{name}.safetensors")
    raise UserError(f"{folder} lacks {name}.safetensors: the folder that diffusers' save_pretrained writes is expected")


def _read_file(file: Path) -> Published:
    tensors = reading.read_tensors(file)[0]
    for beginning, what in (("conditioner.", "SDXL"), ("cond_stage_model.model.", "SD 2 or of image variations")):
        if any(name.startswith(beginning) for name in tensors):
            raise UserError(f"{file} has {beginning}*, as {what}: a file of Stable Diffusion 1.x is expected")

    def part(prefix: str) -> Tensors:
        found = {name.removeprefix(prefix): a for name, a in tensors.items() if name.startswith(prefix)}
        if not found:
            raise UserError(f"{file} lacks {prefix}*: a file of Stable Diffusion 1.x with all its parts is expected")
        return found

    in_file, first_stage = part(UNET), part(autoencoder_kl.PREFIX)
    tower, text_params = clip_text.read(part(TEXT), file)
    coder, vae_params = autoencoder_kl.read(first_stage, str(file))
    unet = _unet_of_file(in_file, file)

    def name_in_file(name: str) -> str:
        return unet_to_file(name, unet.blocks, unet.attention)

    unet_params = _unet(in_file, unet, str(file), name_in_file, coder.latent, tower.body.width)
    return Published(unet, tower, coder, {"unet": unet_params, "text": text_params, "vae": vae_params})


def _unet_of_file(tensors: Tensors, file: Path) -> SDUNet:
    """The U-Net of a single file's tensors, without their prefix: its sizes from a few of them."""

    def numbers(pattern: str) -> list[int]:
        return sorted(int(found[1]) for name in tensors if (found := re.fullmatch(pattern, name)))

    halvings = numbers(r"input_blocks\.(\d+)\.0\.op\.weight")
    blocks = halvings[0] - 1 if halvings else len(numbers(r"input_blocks\.(\d+)\.0\.in_layers\.2\.weight"))
    firsts = [1 + level * (blocks + 1) for level in range(len(halvings) + 1)]
    kernels = [tensors.get(f"input_blocks.{first}.0.in_layers.2.weight") for first in firsts]
    if blocks < 1 or any(kernel is None or kernel.ndim != 4 for kernel in kernels):
        raise UserError(f"{file} has no U-Net of Stable Diffusion 1.x: pass another file")
    attention = tuple(f"input_blocks.{first}.1.norm.weight" in tensors for first in firsts)
    depth = len(numbers(r"middle_block\.1\.transformer_blocks\.(\d+)\.norm1\.weight"))
    return SDUNet(
        widths=tuple(int(kernel.shape[0]) for kernel in kernels if kernel is not None), attention=attention,
        blocks=blocks, heads=SINGLE_FILE_HEADS, depth=max(1, depth),
    )  # fmt: skip


def unet_shapes(unet: SDUNet, channels: int, context: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of the U-Net's parameters by path. context: channels of the embedded tokens."""
    x, tokens = jnp.zeros((1, 8, 8, channels)), jnp.zeros((1, 1, context))
    tree: Any = jax.eval_shape(lambda key: unet.init(key, x, jnp.zeros(1), channels, context=tokens), jax.random.key(0))
    return store.flatten_shapes(tree["params"])


def _unet(
    tensors: Tensors, unet: SDUNet, source: str, in_file: Callable[[str], str], channels: int, context: int
) -> dict[str, Any]:
    """The tree of parameters. in_file: a tensor's name in the file of its name in diffusers."""
    if words := unet.problem():
        raise UserError(f"{source} is of no network: {words}")
    expected = unet_shapes(unet, channels, context)
    names = {path: in_file(unet_to_diffusers(path)) for path in expected}
    _check_channels(tensors, names, source, channels)
    if missing := [name for name in names.values() if name not in tensors]:
        raise UserError(f"{source} lacks {missing[0]}: it is truncated, or not of Stable Diffusion 1.x")
    if unknown := tensors.keys() - set(names.values()):
        raise UserError(f"{source} has {min(unknown)}, which Stable Diffusion 1.x lacks: pass another file")
    out = {path: to_ours(tensors[names[path]], len(leaf.shape)) for path, leaf in expected.items()}
    store.check_arrays(out, expected, source)
    store.check_finite(out, source)
    return unflatten_dict({tuple(path.split("/")): array for path, array in out.items()})


def _check_channels(tensors: Tensors, names: dict[str, str], source: str, channels: int) -> None:
    """Raises UserError for a network that is told more than x_t, by further channels."""
    kernel = tensors.get(names["conv_in/kernel"])
    if kernel is None or kernel.ndim != 4 or (given := kernel.shape[1]) == channels:
        return
    if given == 2 * channels + 1:
        what = "as networks of in-painting, which are told the mask and the masked picture, and are not read: pass the "
        what += f"plain network, which jaxgen sample --image --mask fills in by; it has {channels}"
    else:
        what = f"{channels} are expected, those of the latents: pass another model"
    raise UserError(f"{source} has a U-Net with {given} channels at its input, {what}")


# --- writing --------------------------------------------------------------------------------------------------


def write(folder: Path, published: Published, start: int, end: int, vocabulary: dict[Path, str]) -> None:
    """Writes a folder that diffusers' StableDiffusionPipeline loads.

    start, end: tokens that begin and end a text. vocabulary: contents of the tokenizer's files by place in the folder.
    Raises UserError for a place that cannot be written to, and for a full disk.
    """
    params, text = published.params, published.text
    parts = {
        "unet": unet_tensors(params["unet"]),
        "vae": autoencoder_kl.tensors_of(params["vae"]),
        "text_encoder": clip_text.tensors(text, params["text"]),
    }
    context = text.body.width
    settings = {
        "unet/config.json": configs.of_unet(published.unet, published.vae.latent, context, published.side),
        "vae/config.json": configs.of_vae(published.vae, published.side, published.scale),
        "text_encoder/config.json": clip_text.config(text, start, end),
        "scheduler/scheduler_config.json": configs.of_scheduler(published.schedule, published.sampler),
        "tokenizer/tokenizer_config.json": configs.of_tokenizer(text.window),
        "model_index.json": configs.index(published.sampler),
    }
    with disk_errors():
        for part, tensors in parts.items():
            write_tensors(folder / part / f"{PARTS[part]}.safetensors", tensors, {"format": "pt"})
        for name, value in settings.items():
            write_text(folder / name, json.dumps(value, indent=2) + "\n")
        for file, content in vocabulary.items():
            write_text(file, content)


def unet_tensors(params: dict[str, Any]) -> Tensors:
    """Tensors under diffusers' names of a tree of parameters."""
    flat: Any = flatten_dict(params, sep="/")

    def pointwise(path: str) -> bool:
        return path.endswith(tuple(f"{layer}/kernel" for layer in POINTWISE))

    return {unet_to_diffusers(path): to_theirs(np.asarray(array), pointwise(path)) for path, array in flat.items()}
