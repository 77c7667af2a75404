"""Reads and writes CLIP's weights in a folder, in the layout of Hugging Face (model.safetensors, config.json) or of
open_clip (open_clip_model.safetensors, open_clip_config.json).

Tensors of open_clip are first renamed to Hugging Face's. Their kernels are [out, in], one for each block; ours are
[in, out], stacked over blocks, and the channels of qkv are ordered (head, q k or v, channel).
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxgen.errors import UserError
from jaxgen.nets.clip import CLIPNetwork, ImageTower, TextTower, tower
from jaxgen.nets.transformer import Transformer
from jaxgen.runtime import reading
from jaxgen.runtime.files import check_output, disk_errors, write_tensors, write_text
from jaxgen.weights import store
from jaxgen.weights.clip_names import BLOCKS, OURS, OURS_IN_BLOCK, from_huggingface, to_huggingface

Layout = Literal["huggingface", "open_clip"]
FILES: dict[Layout, tuple[str, str]] = {
    "huggingface": ("model.safetensors", "config.json"),
    "open_clip": ("open_clip_model.safetensors", "open_clip_config.json"),
}
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of RGB in [0, 1], over OpenAI's training pictures."""
MOST_CONFIG = 1 << 20  # bytes of a configuration
# Settings of open_clip that no tensor tells of, and what they are for its plain networks.
PLAIN: dict[str, dict[str, Any]] = {
    "vision_cfg": {"pool_type": "tok", "act_kwargs": None, "norm_kwargs": None},
    "text_cfg": {"pool_type": "argmax", "no_causal_mask": False, "act_kwargs": None, "norm_kwargs": None},
}
ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}


@dataclass(frozen=True)
class Published:
    """A network with its parameters, the shape of its pictures, and mean and deviation of their channels in [0, 1]."""

    network: CLIPNetwork
    params: dict[str, Any]
    shape: tuple[int, int, int]
    mean: tuple[float, ...] = MEAN
    deviation: tuple[float, ...] = DEVIATION


# --- reading --------------------------------------------------------------------------------------------------


def read(folder: Path) -> Published:
    """The network in a folder of either layout. Raises UserError if files are missing, or are not CLIP's."""
    found: list[Layout] = [
        layout for layout, (weights, config) in FILES.items()
        if os.path.lexists(folder / config)
        and any(os.path.lexists(folder / name) for name in (weights, f"{weights}.index.json"))
    ]  # fmt: skip
    if not found:
        for weights, config in FILES.values():
            if os.path.lexists(folder / config):
                reading.check_pickles(folder, weights)
        wanted = " or ".join(" and ".join(names) for names in FILES.values())
        raise UserError(f"{folder} has no CLIP: {wanted} are expected")
    weights, config = FILES[layout := found[0]]
    raw, file = reading.read_weights(folder, weights)
    tensors = {name: np.asarray(a, np.float32) for name, a in raw.items()}
    settings = _object(reading.read_json(folder / config, MOST_CONFIG), folder / config)
    if layout == "open_clip":
        network = _network(file, tensors := to_huggingface(tensors), *_open_clip_settings(settings, folder / config))
        pixels = _object(settings.get("preprocess_cfg") or {}, folder / config, "preprocess_cfg")
        names = "mean", "std"
    else:
        tensors = {_current(name): array for name, array in tensors.items()}
        network = _network(file, tensors, *_hf_settings(settings, folder / config))
        other = folder / "preprocessor_config.json"
        pixels = _object(reading.read_json(other, MOST_CONFIG), other) if os.path.lexists(other) else {}
        names = "image_mean", "image_std"
    network, shape = network
    mean, deviation = (
        _colours(pixels.get(name, default), name, folder) for name, default in zip(names, (MEAN, DEVIATION))
    )
    return Published(network, _params(file, tensors, network, shape), shape, mean, deviation)


def _object(value: Any, file: Path, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{file} holds no settings{f' as {name}' if name else ''}: restore it")
    return value


def _colours(value: Any, name: str, folder: Path) -> tuple[float, ...]:
    numbers = isinstance(value, list | tuple) and value and all(isinstance(v, float | int) for v in value)
    if not numbers or (name.endswith("std") and min(value) <= 0):
        raise UserError(f"{folder} says {name} {value!r:.60}, a number for each channel is expected: restore it")
    return tuple(map(float, value))


def _current(name: str) -> str:
    """A name of any version of transformers in that of today."""
    for outer in ("text_model.", "vision_model."):
        name = name.replace(outer * 2, outer)
    return name.replace("pre_layernorm", "pre_layrnorm")


def _hf_settings(config: dict[str, Any], file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """heads, activation and end of both networks: those of pictures, those of text."""
    if config.get("model_type", "clip") != "clip":
        raise UserError(f"{file} is of {config['model_type']!r:.60}, clip is expected")
    both = []
    for part, heads in (("vision", 12), ("text", 8)):
        names = f"{part}_config", f"{part}_config_dict"
        values = {k: v for name in names for k, v in _object(config.get(name) or {}, file, name).items()}
        if (epsilon := values.get("layer_norm_eps", 1e-5)) != 1e-5:
            raise UserError(f"{file} has layer_norm_eps {epsilon!r:.60}, CLIP has 1e-5: such weights cannot be read")
        if (act := values.get("hidden_act", "quick_gelu")) not in ACTIVATIONS:
            raise UserError(f"{file} has hidden_act {act!r:.60}: one of {', '.join(ACTIVATIONS)} is expected")
        end = values.get("eos_token_id", 49_407)
        # 2 stands in files from before transformers 4.32, which looked for the largest token.
        both.append({"heads": values.get("num_attention_heads", heads), "activation": ACTIVATIONS[act],
                     "end": -1 if end == 2 else end})  # fmt: skip
    return both[0], both[1]


def _open_clip_settings(config: dict[str, Any], file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    config = _object(config.get("model_cfg", config), file)
    vision, text = (_object(config.get(name), file, name) for name in ("vision_cfg", "text_cfg"))
    by_end = text.get("pool_type") == "eos"
    for name, values in (("vision_cfg", vision), ("text_cfg", {**text, "pool_type": "argmax"} if by_end else text)):
        for key, plain in PLAIN[name].items():
            if (given := values.get(key) or plain) != plain:
                raise UserError(f"{file} has {name}.{key} {given!r:.60}, not {plain!r}: such weights cannot be read")
    width, each = vision.get("width", 768), vision.get("head_width", 64)
    if not all(isinstance(value, int) and value > 0 for value in (vision.get("layers"), width, each)):
        raise UserError(f"{file} is of another network than a vision transformer: such weights cannot be read")
    activation = "quick_gelu" if config.get("quick_gelu") else "gelu"
    same = {"activation": activation, "end": text.get("eos_id", 2) if by_end else -1}
    return {"heads": width // each, **same}, {"heads": text.get("heads", 8), **same}


def _network(
    file: Path, tensors: dict[str, np.ndarray], vision: dict[str, Any], text: dict[str, Any]
) -> tuple[CLIPNetwork, tuple[int, int, int]]:
    """The network of these tensors, and the shape of its pictures, by the sizes of a few."""

    def shape(name: str, ndim: int) -> tuple[int, ...]:
        if name not in tensors or tensors[name].ndim != ndim or not tensors[name].size:
            raise UserError(f"{file} has no {name} of {ndim} axes: it is truncated, or not CLIP's")
        return tensors[name].shape

    def body(part: str, width: int, causal: bool, settings: dict[str, Any]) -> Any:
        layers = f"{part}_model.encoder.layers"
        depth = sum(n.startswith(f"{layers}.") and n.endswith(".mlp.fc1.weight") for n in tensors)
        hidden, heads = shape(f"{layers}.0.mlp.fc1.weight", 2)[0], settings["heads"]
        if not isinstance(heads, int) or heads < 1:
            raise UserError(f"{file.parent} says that attention of {part} has {heads!r:.20} heads: restore it")
        made = tower(width, depth, heads, causal, settings["activation"])
        return made.clone(hidden=0 if hidden == 4 * width else hidden)

    width, channels, patch, _ = shape("vision_model.embeddings.patch_embedding.weight", 4)
    count = shape("vision_model.embeddings.position_embedding.weight", 2)[0]
    side = round((count - 1) ** 0.5) * patch
    vocab, text_width = shape("text_model.embeddings.token_embedding.weight", 2)
    window = shape("text_model.embeddings.position_embedding.weight", 2)[0]
    end = text["end"]
    if not isinstance(end, int) or not -1 <= end < vocab:
        raise UserError(f"{file.parent} says that texts end in the token {end!r:.20} of {vocab}: restore it")
    network = CLIPNetwork(
        image=ImageTower(patch, body("vision", width, False, vision)),
        text=TextTower(vocab, window, body("text", text_width, True, text), end),
        dim=shape("visual_projection.weight", 2)[0], bias=0.0 if "logit_bias" in tensors else None,
    )  # fmt: skip
    try:
        network.check((side, side, channels))
    except UserError as error:
        raise UserError(f"{file} is of no network: {error}") from error
    return network, (side, side, channels)


def _params(
    file: Path, tensors: dict[str, np.ndarray], network: CLIPNetwork, shape: tuple[int, int, int]
) -> dict[str, Any]:
    """The tree of parameters. Uses `tensors` up."""
    outer = {name: ours for name, ours in OURS.items() if name != "logit_bias" or network.bias is not None}
    bodies = (network.image.body, network.text.body)
    out = taken(file, tensors, outer, [(*places, body) for places, body in zip(BLOCKS.items(), bodies)])
    left = [name for name in tensors if not name.endswith(("position_ids", "attn_mask"))]
    if left:
        raise UserError(f"{file} has {left[0]}, which CLIP lacks: pass another file")
    store.check_arrays(out, parameter_shapes(network, shape), str(file))
    store.check_finite(out, str(file))
    return unflatten_dict({tuple(name.split("/")): array for name, array in out.items()})


Bodies = Sequence[tuple[str, str, Transformer]]
"""Transformers: the beginning of their layers' names in files, the path of their blocks, and the module."""


def taken(
    file: Path, tensors: dict[str, np.ndarray], outer: Mapping[str, str], bodies: Bodies
) -> dict[str, np.ndarray]:
    """Our arrays by path, of Hugging Face's tensors, which are used up. outer: our paths of what is outside of blocks.
    Raises UserError for tensors that are missing, or of other numbers of heads."""

    def take(name: str, ours: str, heads: int = 0) -> np.ndarray:
        if ".qkv." in name:
            each = [take(name.replace(".qkv.", f".{part}_proj."), ours) for part in "qkv"]
            if len({a.shape for a in each}) > 1 or each[0].shape[-1] % heads:
                raise UserError(f"{file} has {name} that are not of {heads} heads: it is of another network")
            split = [a.reshape(*a.shape[:-1], heads, -1) for a in each]
            return np.stack(split, axis=-2).reshape(*each[0].shape[:-1], -1)
        if name not in tensors:
            raise UserError(f"{file} lacks {name}: it is truncated, or of another network")
        array = tensors.pop(name)
        if ours.endswith("patches/kernel"):  # [out, channels, rows, columns]
            return array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])
        return array.T if ours.endswith("kernel") else array.reshape(()) if ours.startswith("logit") else array

    out = {ours: take(name, ours) for name, ours in outer.items()}
    for layers, where, body in bodies:
        for name, ours in OURS_IN_BLOCK.items():
            each = [take(f"{layers}.{i}.{name}", ours, body.heads) for i in range(body.depth)]
            if len({array.shape for array in each}) > 1:
                raise UserError(f"{file} has {name} of several shapes: it is of another network")
            out[f"{where}/{ours}"] = np.stack(each)
    return out


def parameter_shapes(network: CLIPNetwork, shape: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of the parameters by path."""
    tree = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *shape)), jnp.zeros((1, 1), jnp.int32))
    return store.flatten_shapes(tree["params"])


# --- writing --------------------------------------------------------------------------------------------------


def write(folder: Path, clip: Published, layout: Layout = "huggingface", start: int = 0, end: int = -1) -> None:
    """Writes a network as transformers' CLIPModel reads it, or as open_clip does.

    start, end: the tokens that begin and end a text. Raises UserError where `check_place` does, for a network that the
    layout has no place for, and for a full disk.
    """
    check_place(folder, layout)
    check_form(clip, layout)
    network = clip.network
    tensors = _tensors(network, clip.params)
    if layout == "open_clip":
        tensors = from_huggingface(tensors)
        size = {"image_size": clip.shape[0], "patch_size": network.image.patch}
        vision, text, end_at = network.image.body, network.text.body, network.text.end
        # The last token of the vocabulary is the largest of a text, for which older versions look.
        pool = {"pool_type": "eos", "eos_id": end_at} if 0 <= end_at < network.text.vocab - 1 else {}
        config: dict[str, Any] = {
            "model_cfg": {
                "embed_dim": network.dim, "quick_gelu": vision.activation == "quick_gelu",
                "vision_cfg": {**size, "width": vision.width, "layers": vision.depth,
                               "head_width": vision.width // vision.heads, "mlp_ratio": _ratio(vision)},
                "text_cfg": {"context_length": network.text.window, "vocab_size": network.text.vocab,
                             "width": text.width, "heads": text.heads, "layers": text.depth, "mlp_ratio": _ratio(text),
                             **pool},
            },
            "preprocess_cfg": {"mean": clip.mean, "std": clip.deviation},
        }  # fmt: skip
    else:
        config = _hf_config(clip, start, end)
    weights, settings = FILES[layout]
    with disk_errors():
        write_tensors(folder / weights, tensors, {"format": "pt"})
        write_text(folder / settings, json.dumps(config, indent=2) + "\n")
        if layout == "huggingface":
            pixels = {"image_processor_type": "CLIPImageProcessor", "do_resize": True, "do_center_crop": True,
                      "size": {"shortest_edge": clip.shape[0]}, "resample": 3, "do_normalize": True,
                      "crop_size": {"height": clip.shape[0], "width": clip.shape[1]},
                      "image_mean": clip.mean, "image_std": clip.deviation}  # fmt: skip
            write_text(folder / "preprocessor_config.json", json.dumps(pixels, indent=2) + "\n")


def check_place(folder: Path, layout: Layout) -> None:
    """Raises UserError unless `write` can write into a folder, whose files of these names, if any, are a CLIP's."""
    check_output(folder, folder=True)
    config = folder / FILES[layout][1]
    if layout == "huggingface" and config.exists():
        value = reading.read_json(config, MOST_CONFIG)
        if not isinstance(value, dict) or value.get("model_type") != "clip":
            raise UserError(f"{config} is of another model and would be replaced: choose another folder")


def check_form(clip: Published, layout: Layout) -> None:
    """Raises UserError for a network that is not of CLIP's form, or that the layout has no place for."""
    network, problem = clip.network, ""
    bodies = (network.image.body, network.text.body)
    for body in bodies:
        plain = body.pre_norm and body.final_norm and body.bias and not (body.rms or body.swiglu or body.rotary)
        if not (plain and body.groups in (0, body.heads)):
            problem = "blocks with LayerNorm before, biases, and as many key heads as query heads are expected"
    if not network.text.body.causal:
        problem = "a causal transformer of text is expected"
    if clip.shape[0] != clip.shape[1]:
        problem = "square pictures are expected"
    if layout == "huggingface" and network.bias is not None:
        problem = "it has a bias of logits, which CLIPModel lacks: choose open_clip"
    if layout == "huggingface" and network.text.end == 2:
        problem = "texts end in token 2, which for CLIPModel means the largest token: choose open_clip"
    if layout == "open_clip" and {bodies[0].activation, bodies[1].activation} not in ({"gelu"}, {"quick_gelu"}):
        problem = "open_clip has gelu or quick_gelu, alike in both networks"
    if problem:
        raise UserError(f"the network is not of CLIP's form: {problem}")


def _ratio(body: Any) -> float:
    return (body.hidden or 4 * body.width) / body.width


def _hf_config(clip: Published, start: int, end: int) -> dict[str, Any]:
    network = clip.network
    names = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}

    def settings(body: Any) -> dict[str, Any]:
        return {"hidden_size": body.width, "intermediate_size": body.hidden or 4 * body.width,
                "num_hidden_layers": body.depth, "num_attention_heads": body.heads,
                "hidden_act": names[body.activation], "projection_dim": network.dim,
                "layer_norm_eps": 1e-5}  # fmt: skip

    # 2 makes transformers look for the largest token.
    text = {**settings(network.text.body), "vocab_size": network.text.vocab, "bos_token_id": max(0, start),
            "max_position_embeddings": network.text.window, "pad_token_id": max(0, end),
            "eos_token_id": 2 if network.text.end < 0 else network.text.end}  # fmt: skip
    vision = {**settings(network.image.body), "image_size": clip.shape[0], "patch_size": network.image.patch,
              "num_channels": clip.shape[2]}  # fmt: skip
    return {"architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": network.dim, "text_config": text,
            "vision_config": vision}  # fmt: skip


def _tensors(network: CLIPNetwork, params: dict[str, Any]) -> dict[str, np.ndarray]:
    """Hugging Face's tensors of a tree of parameters."""
    bodies = (network.image.body, network.text.body)
    places = [(*places, body) for places, body in zip(BLOCKS.items(), bodies)]
    return tensors_of(params, OURS, places, network.image.patch)


def tensors_of(
    params: Mapping[str, Any], outer: Mapping[str, str], bodies: Bodies, patch: int = 1
) -> dict[str, np.ndarray]:
    """The inverse of `taken`, of a tree of parameters."""
    flat: Any = flatten_dict(params, sep="/")
    out = {}

    def put(name: str, ours: str, array: np.ndarray, heads: int = 0) -> None:
        if ".qkv." in name:
            split = array.reshape(*array.shape[:-1], heads, 3, -1)
            for i, part in enumerate("qkv"):
                each = split[..., i, :].reshape(*array.shape[:-1], -1)
                put(name.replace(".qkv.", f".{part}_proj."), ours, each)
            return
        if ours.endswith("patches/kernel"):
            array = array.reshape(patch, patch, -1, array.shape[-1]).transpose(3, 2, 0, 1)
        elif ours.endswith("kernel"):
            array = array.T
        out[name] = np.asarray(array, np.float32)

    for name, ours in outer.items():
        if ours in flat:
            put(name, ours, np.asarray(flat[ours]))
    for layers, where, body in bodies:
        for name, ours in OURS_IN_BLOCK.items():
            for i, array in enumerate(np.asarray(flat[f"{where}/{ours}"])):
                put(f"{layers}.{i}.{name}", ours, array, body.heads)
    return out
