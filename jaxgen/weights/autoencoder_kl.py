"""Weights of `nets.autoencoder_kl` in and out: diffusers' names (AutoencoderKL) and those of latent diffusion's own
files, `first_stage_model.*` of a single file.

Kernels are [out, in, h, w] there. The 1x1 convolutions are [in, out] here, and so is attention, which diffusers has as
[out, in] and the single file as [out, in, 1, 1].
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxgen.errors import UserError
from jaxgen.nets.autoencoder_kl import KLCoder
from jaxgen.weights import store
from jaxgen.weights.torch_layers import kernel

Tensors = dict[str, np.ndarray]
PREFIX = "first_stage_model."
"""Before the names in a single file."""
BESIDES = ("loss.", "model_ema.")
"""The critic and LPIPS that it was trained with, and counts of averaging."""
LEVEL = r"\d{1,3}"
POINTWISE = ("quant_conv", "post_quant_conv", "conv_shortcut")
"""1x1 convolutions there, dense layers here."""
OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Attention of diffusers before 0.18."""
BLOCK_OF_LDM = {"nin_shortcut": "conv_shortcut"}
MIDDLE_OF_LDM = {"block_1": "resnets.0", "attn_1": "attentions.0", "block_2": "resnets.1"}
ATTENTION_OF_LDM = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def read(tensors: Mapping[str, np.ndarray], source: str, groups: int = 32) -> tuple[KLCoder, dict[str, Any]]:
    """The network and its tree of parameters of tensors under the names of either layout, those of a single file with
    or without its prefix. source: the file, for errors. groups: of normalization, which no tensor tells of.

    Raises UserError if tensors are missing, unknown, not finite, or of another network.
    """
    named = to_diffusers(tensors)
    network = _network(named, source, groups)
    expected = parameter_shapes(network)
    out: Tensors = {}
    for name, array in named.items():
        path = _path(name, array)
        dense = path in expected and len(expected[path].shape) == 2
        array = array[:, :, 0, 0] if dense and array.ndim == 4 and array.shape[2:] == (1, 1) else array
        out[path] = kernel(array) if path.endswith("kernel") and array.ndim > 1 else np.asarray(array, np.float32)
    store.check_arrays(out, expected, source)
    store.check_finite(out, source)
    return network, unflatten_dict({tuple(name.split("/")): array for name, array in out.items()})


def tensors_of(params: Mapping[str, Any]) -> Tensors:
    """Tensors under diffusers' names, f32, of a tree of parameters."""
    out, flat = {}, flatten_dict(params, sep="/")
    for path, value in flat.items():
        array, name = np.asarray(value, np.float32), _name(path)
        if path.endswith("kernel"):
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
            if any(f".{layer}." in f".{name}" for layer in POINTWISE):
                array = array[:, :, None, None]
        out[name] = np.ascontiguousarray(array)
    return out


def parameter_shapes(network: KLCoder) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of the parameters by path."""
    side = network.factor
    tree: Any = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, side, side, network.channels)))
    return store.flatten_shapes(tree["params"])


def to_ldm(tensors: Mapping[str, np.ndarray]) -> Tensors:
    """Tensors under diffusers' names as latent diffusion's own files name them, without the prefix of a single file."""
    levels = 1 + max(int(name.split(".")[2]) for name in tensors if name.startswith("decoder.up_blocks."))
    out = {}
    for name, array in tensors.items():
        if ".attentions." in name and array.ndim == 2:
            array = array[:, :, None, None]
        out[_in_ldm(name, levels)] = array
    return out


def to_diffusers(tensors: Mapping[str, np.ndarray]) -> Tensors:
    """Tensors of any layout under the names of today's diffusers; a single file's other parts are left out."""
    if any(name.startswith(PREFIX) for name in tensors):
        tensors = {name.removeprefix(PREFIX): a for name, a in tensors.items() if name.startswith(PREFIX)}
    levels = 1 + max((int(n.split(".")[2]) for n in tensors if re.match(rf"decoder\.up\.{LEVEL}\.", n)), default=0)
    return {_current(_from_ldm(name, levels)): a for name, a in tensors.items() if not name.startswith(BESIDES)}


def _current(name: str) -> str:
    """A name of any version of diffusers in that of today."""
    old = re.fullmatch(r"(.+\.attentions\.0\.)(query|key|value|proj_attn)(\.\w+)", name)
    return f"{old[1]}{OLD[old[2]]}{old[3]}" if old else name


def _from_ldm(name: str, levels: int) -> str:
    """diffusers' name of a tensor of a single file. Its levels of the decoder count from the largest resolution."""
    part, *rest = name.split(".")
    match rest:
        case [("down" | "up") as way, level, "block", i, layer, kind] if re.fullmatch(LEVEL, level):
            level = str(levels - 1 - int(level)) if way == "up" else level
            return f"{part}.{way}_blocks.{level}.resnets.{i}.{BLOCK_OF_LDM.get(layer, layer)}.{kind}"
        case ["down", level, "downsample", "conv", kind]:
            return f"{part}.down_blocks.{level}.downsamplers.0.conv.{kind}"
        case ["up", level, "upsample", "conv", kind] if re.fullmatch(LEVEL, level):
            return f"{part}.up_blocks.{levels - 1 - int(level)}.upsamplers.0.conv.{kind}"
        case ["mid", block, layer, kind] if block in MIDDLE_OF_LDM:
            names = ATTENTION_OF_LDM if block == "attn_1" else BLOCK_OF_LDM
            return f"{part}.mid_block.{MIDDLE_OF_LDM[block]}.{names.get(layer, layer)}.{kind}"
        case ["norm_out", kind]:
            return f"{part}.conv_norm_out.{kind}"
    return name


def _in_ldm(name: str, levels: int) -> str:
    """The inverse of `_from_ldm`."""
    part, *rest = name.split(".")
    block, middle, inner = ({ours: theirs for theirs, ours in names.items()} for names in
                            (BLOCK_OF_LDM, MIDDLE_OF_LDM, ATTENTION_OF_LDM))  # fmt: skip
    match rest:
        case [("down_blocks" | "up_blocks") as way, level, "resnets", i, layer, kind]:
            way, level = way[:-7], str(levels - 1 - int(level)) if way == "up_blocks" else level
            return f"{part}.{way}.{level}.block.{i}.{block.get(layer, layer)}.{kind}"
        case ["down_blocks", level, "downsamplers", "0", "conv", kind]:
            return f"{part}.down.{level}.downsample.conv.{kind}"
        case ["up_blocks", level, "upsamplers", "0", "conv", kind]:
            return f"{part}.up.{levels - 1 - int(level)}.upsample.conv.{kind}"
        case ["mid_block", kinds, i, *layer, kind]:
            names = inner if kinds == "attentions" else block
            return f"{part}.mid.{middle[f'{kinds}.{i}']}.{names.get('.'.join(layer), '.'.join(layer))}.{kind}"
        case ["conv_norm_out", kind]:
            return f"{part}.norm_out.{kind}"
    return name


def _path(name: str, array: np.ndarray) -> str:
    """Our path of a tensor under diffusers' name."""
    name, _, kind = name.rpartition(".")
    kind = "bias" if kind == "bias" else "scale" if "norm" in name.rpartition(".")[2] else "kernel"
    name = name.removesuffix(".conv").replace("to_out.0", "to_out")
    part, _, rest = name.partition(".")
    found = re.fullmatch(r"(\w+_blocks?(?:\.\d+)?\.\w+\.\d+)(?:\.(\w+))?", rest)
    inner = [found[1].replace(".", "_"), *([found[2]] if found[2] else [])] if found else [rest] if rest else []
    return "/".join([part, *inner, kind])


def _name(path: str) -> str:
    """diffusers' name of a parameter: the inverse of `_path`."""
    *outer, kind = path.split("/")
    if len(outer) > 1:
        outer[1] = re.sub(r"_(?=\d|resnets|attentions|downsamplers|upsamplers)", ".", outer[1])
        outer[1] = re.sub(r"(samplers\.\d+)$", r"\1.conv", outer[1])
    name = ".".join(outer).replace("to_out", "to_out.0")
    return f"{name}.{'bias' if kind == 'bias' else 'weight'}"


def _network(named: Tensors, source: str, groups: int) -> KLCoder:
    """The network, by the shapes of a few tensors under diffusers' names."""

    def shape(name: str) -> tuple[int, ...]:
        if name not in named or named[name].ndim != 4 or not named[name].size:
            raise UserError(f"{source} has no {name} of 4 axes: an AutoencoderKL is expected")
        return named[name].shape

    levels = {int(n.split(".")[2]) for n in named if re.match(rf"encoder\.down_blocks\.{LEVEL}\.", n)}
    if levels != set(range(len(levels))) or not levels:
        raise UserError(f"{source} lacks levels of the encoder: an AutoencoderKL is expected")
    widths = tuple(shape(f"encoder.down_blocks.{i}.resnets.0.conv1.weight")[0] for i in range(len(levels)))
    blocks = sum(bool(re.fullmatch(r"encoder\.down_blocks\.0\.resnets\.\d+\.conv1\.weight", name)) for name in named)
    network = KLCoder(
        widths=widths, blocks=blocks, latent=shape("decoder.conv_in.weight")[1],
        channels=shape("encoder.conv_in.weight")[1], groups=groups,
    )  # fmt: skip
    if words := network.problem():
        raise UserError(f"{source} is of no network: {words}")
    return network
