"""Reads and writes GPT-2's weights in the layout of Hugging Face's safetensors files, and reads minGPT's and nanoGPT's.

Their tensors are named `h.I.attn.c_attn.weight` [C, 3 C] and so on, often with the prefix `transformer.`, and
config.json beside the file holds the number of heads. Kernels are [in, out]; those of minGPT and nanoGPT [out, in],
which the shape of c_attn tells. A file may lack biases, and have a head of its own, `lm_head`. Ours are stacked over
blocks, and the channels of qkv are ordered (head, q k or v, channel) instead of (q k or v, head, channel).
"""

import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxgen.errors import UserError
from jaxgen.nets.gpt import TokenTransformer
from jaxgen.nets.transformer import Transformer
from jaxgen.runtime import reading
from jaxgen.runtime.files import check_output, disk_errors, write_tensors, write_text
from jaxgen.weights import store, torch_file
from jaxgen.weights.lora import Slot

BLOCK_LAYERS = {
    "ln_1.weight": "norm_self/scale", "ln_1.bias": "norm_self/bias",
    "attn.c_attn.weight": "self_attention/qkv/kernel", "attn.c_attn.bias": "self_attention/qkv/bias",
    "attn.c_proj.weight": "self_attention/out/kernel", "attn.c_proj.bias": "self_attention/out/bias",
    "ln_2.weight": "norm_mlp/scale", "ln_2.bias": "norm_mlp/bias",
    "mlp.c_fc.weight": "token_mlp/up/kernel", "mlp.c_fc.bias": "token_mlp/up/bias",
    "mlp.c_proj.weight": "token_mlp/down/kernel", "mlp.c_proj.bias": "token_mlp/down/bias",
}  # fmt: skip
OUTER_LAYERS = {
    "wte.weight": "tokens", "wpe.weight": "positions", "ln_f.weight": "body/norm/scale", "ln_f.bias": "body/norm/bias"
}  # fmt: skip
# The values that config.json may have, GPT-2's own first.
CONFIG = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu"), "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,), "tie_word_embeddings": (True, False),
}  # fmt: skip
HEAD, HEAD_CHANNELS = "lm_head.weight", 64
PUBLISHED = ((768, 12), (1024, 24), (1280, 36), (1600, 48))
"""Width and depth of GPT-2's sizes, whose heads have 64 channels whoever writes the file."""
SIZES = ("wte.weight", "wpe.weight", "h.0.attn.c_attn.weight", "h.0.mlp.c_fc.weight")
"""The matrices that the sizes of a network are read from."""
MOST_CONFIG = 1 << 20  # bytes of config.json
IGNORED = ("attn.bias", "attn.masked_bias")  # the causal mask, which old files contain


def read_tensors(file: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors of a safetensors or PyTorch file by name, without prefixes, kernels as [in, out]; and what it tells
    of the network, by config.json's names. Raises UserError if it is missing or not GPT-2's."""
    try:
        found, args = torch_file.read_any_with_args(file)
    except UserError as error:
        raise UserError(f"{error}, or pass a GPT-2 model.safetensors") from error
    # torch.compile puts the first of these before the names of nanoGPT's.
    tensors = {name.removeprefix("_orig_mod.").removeprefix("transformer."): array for name, array in found.items()}
    for name in SIZES:
        if name not in tensors or tensors[name].ndim != 2 or not tensors[name].size:
            raise UserError(f"{file} has no matrix {name}: pass a GPT-2 model.safetensors")
    rows, columns = tensors[SIZES[2]].shape
    depth = sum(name.endswith(".attn.c_attn.weight") for name in tensors)
    told: dict[str, Any] = {}
    if "n_head" in args:  # nanoGPT's, whose activation is the exact one
        told = {"n_head": args["n_head"], "activation_function": "gelu"}
    elif columns % HEAD_CHANNELS == 0 and (rows != 3 * columns or (columns, depth) in PUBLISHED):
        told = {"n_head": min(rows, columns) // HEAD_CHANNELS}
    if rows == 3 * columns:  # [out, in]
        kernels = tuple(name for name, ours in BLOCK_LAYERS.items() if ours.endswith("kernel"))
        tensors = {name: array.T if name.endswith(kernels) else array for name, array in tensors.items()}
    if HEAD in tensors and np.array_equal(tensors[HEAD], tensors["wte.weight"]):
        del tensors[HEAD]
    return tensors, told


def network_of(file: Path) -> TokenTransformer:
    """The network whose weights a file holds.

    The number of heads comes from config.json beside the file, or from the file if nanoGPT wrote it. Without, heads
    have 64 channels in a file of Hugging Face's layout or of one of GPT-2's sizes. Raises UserError if the file is not
    GPT-2's, or nothing says how many heads it has.
    """
    network = _network(file, *read_tensors(file))
    try:
        network.check()
    except UserError as error:
        raise UserError(f"{file} is of no network: {error}") from error
    return network


def _network(file: Path, tensors: dict[str, np.ndarray], told: dict[str, Any]) -> TokenTransformer:
    """The network of these tensors, by the sizes of a few. told: what is taken for config.json if there is none."""
    (vocab, width), window = tensors["wte.weight"].shape, len(tensors["wpe.weight"])
    depth = sum(name.endswith(".attn.c_attn.weight") for name in tensors)
    path, config = file.parent / "config.json", told
    if os.path.lexists(path):
        config = reading.read_json(path, MOST_CONFIG)
    if not isinstance(config, dict) or config.get("n_head") not in range(1, width + 1):
        raise UserError(f'{path} does not say n_head, 1 to {width}: write {{"n_head": ...}} to it')
    heads = int(config["n_head"])
    for name, known in CONFIG.items():
        if (value := config.get(name, known[0])) not in known:
            raise UserError(f"{path} has {name} {value!r:.60}, GPT-2 has {known[0]}: such weights cannot be read")
    hidden = tensors["h.0.mlp.c_fc.weight"].shape[1]
    body = Transformer(
        width=width, depth=depth, heads=heads, hidden=0 if hidden == 4 * width else hidden, causal=True,
        bias="ln_f.bias" in tensors, activation="gelu" if config.get("activation_function") == "gelu" else "gelu_tanh",
    )  # fmt: skip
    return TokenTransformer(vocab=vocab, window=window, body=body, tied=HEAD not in tensors)


def read(file: Path | str, network: TokenTransformer) -> dict[str, Any]:
    """The parameters of `network` in a file. For a network without biases, the file's biases must be zero.

    Raises UserError if the file's network or vocabulary differs from `network`, or `network` is not of GPT-2's form.
    """
    file, body = Path(file), network.body
    tensors, told = read_tensors(file)
    check_form(network)
    found = _network(file, tensors, {**told, "n_head": body.heads})
    for name, has, wants in (
        ("vocab", found.vocab, network.vocab), ("window", found.window, network.window),
        ("body.width", found.body.width, body.width), ("body.depth", found.body.depth, body.depth),
        ("body.heads", found.body.heads, body.heads),
        ("body.hidden", found.body.hidden or 4 * found.body.width, body.hidden or 4 * body.width),
        ("tied", found.tied, network.tied),
    ):  # fmt: skip
        if has != wants:
            what = "vocabulary" if name == "vocab" else name.split(".")[-1]
            raise UserError(f"{file} has {what} {has}, model.network.{name} is {wants}: set it to {has}")

    def take(name: str) -> np.ndarray:
        if name not in tensors:
            raise UserError(f"{file} lacks {name}: it is truncated, or of another network")
        return tensors.pop(name).astype(np.float32)

    lacking = "bias" if not found.body.bias else " "  # the end of names that the file does not have
    out = {ours: take(theirs) for theirs, ours in OUTER_LAYERS.items() if not ours.endswith(lacking)}
    for theirs, ours in BLOCK_LAYERS.items():
        if ours.endswith(lacking):
            continue
        each = [take(f"h.{i}.{theirs}") for i in range(body.depth)]
        if len({array.shape for array in each}) > 1:
            raise UserError(f"{file} has {theirs} of several shapes: it is of another network")
        out[f"body/blocks/{ours}"] = np.stack(each)
    if not network.tied:
        out["head"] = take(HEAD)
    left = [name for name in tensors if not name.endswith(IGNORED)]
    if left:
        raise UserError(f"{file} has {left[0]}, which GPT-2 lacks: pass another file")
    shapes = parameter_shapes(network)
    store.check_arrays(out, {name: leaf for name, leaf in shapes.items() if not name.endswith(lacking)}, str(file))
    store.check_finite(out, str(file))
    for name in shapes.keys() - out.keys():
        out[name] = np.zeros(shapes[name].shape, np.float32)
    for name in out:
        if name.startswith("body/blocks/self_attention/qkv"):
            out[name] = _reordered_qkv(out[name], body.heads, ours=True)
    if not body.bias:
        biases = [name for name in out if name.endswith("bias")]
        if any(out.pop(name).any() for name in biases):
            raise UserError(f"{file} has biases: set --model.network.body.bias True")
    return unflatten_dict({tuple(name.split("/")): array for name, array in out.items()})


def write(file: Path | str, network: TokenTransformer, params: dict[str, Any], end: int = -1) -> None:
    """Writes a GPT's parameters as transformers' GPT2LMHeadModel reads them, and config.json beside the file.

    end: the token that ends a text; negative for none. Raises UserError where `check_place` does, and for a full disk.
    """
    file = Path(file)
    check_place(file)
    check_form(network)
    body = network.body
    flat: Any = flatten_dict(params["network"], sep="/")
    ours: dict[str, np.ndarray] = {name: np.asarray(array, np.float32) for name, array in flat.items()}
    # GPT-2 has biases; those of a network without biases are written as zero.
    for name, leaf in parameter_shapes(network).items():
        ours.setdefault(name, np.zeros(leaf.shape, np.float32))
    tensors = {theirs: ours[name] for theirs, name in OUTER_LAYERS.items()}
    for theirs, name in BLOCK_LAYERS.items():
        is_qkv = name.startswith("self_attention/qkv")
        for i, array in enumerate(ours[f"body/blocks/{name}"]):
            tensors[f"h.{i}.{theirs}"] = _reordered_qkv(array, body.heads, ours=False) if is_qkv else array
    config = {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": network.vocab,
        "n_positions": network.window, "n_embd": body.width, "n_layer": body.depth, "n_head": body.heads,
        "n_inner": body.hidden or 4 * body.width, "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu" if body.activation == "gelu" else "gelu_new", "tie_word_embeddings": network.tied,
        "bos_token_id": None if end < 0 else end, "eos_token_id": None if end < 0 else end,
    }  # fmt: skip
    named = {f"transformer.{name}": array for name, array in tensors.items()}
    if not network.tied:
        named[HEAD] = ours["head"]
    with disk_errors():
        write_tensors(file, named, {"format": "pt"})
        write_text(file.parent / "config.json", json.dumps(config, indent=2) + "\n")


def check_place(file: Path) -> None:
    """Raises UserError unless `write` can write to a file: in a folder whose config.json, if any, is a GPT-2's."""
    if file.suffix != ".safetensors":
        raise UserError(f"{file} is not named as transformers expects: choose a name such as model.safetensors")
    config = file.parent / "config.json"
    for path in (file, config):
        check_output(path, folder=False)
    if config.exists():
        value = reading.read_json(config, MOST_CONFIG)
        if not isinstance(value, dict) or value.get("model_type") != "gpt2":
            raise UserError(f"{config} is of another model and would be replaced: choose another folder")


def parameter_shapes(network: TokenTransformer) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of the parameters by path, including biases."""
    network = network.clone(body=network.body.clone(bias=True))
    tree = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    return store.flatten_shapes(tree)


def lora_slots(network: TokenTransformer) -> dict[str, Slot]:
    """The kernels of GPT-2's modules, for files of LoRA."""
    check_form(network)
    # The channels of the module's output among ours.
    columns = _reordered_qkv(np.arange(3 * network.body.width), network.body.heads, ours=False)
    slots = {}
    for theirs, ours in BLOCK_LAYERS.items():
        if ours.endswith("kernel"):
            for i in range(network.body.depth):
                name, path = theirs.removesuffix(".weight"), f"network/body/blocks/{ours}"
                slots[f"transformer.h.{i}.{name}"] = Slot(path, i, columns if "qkv" in ours else None)
    return slots


def check_form(network: TokenTransformer) -> None:
    """Raises UserError for a network that is not of GPT-2's form."""
    body = network.body
    same = body.pre_norm and body.final_norm and not (body.rms or body.swiglu or body.rotary)
    same = same and body.activation in ("gelu_tanh", "gelu")
    if not (same and body.groups in (0, body.heads)):
        raise UserError(
            "the network is not of GPT-2's form: pre_norm, LayerNorm, GELU, learned positions and as many key heads as "
            "query heads are expected"
        )


def _reordered_qkv(array: np.ndarray, heads: int, ours: bool) -> np.ndarray:
    """The last axis, 3 C, from (q k or v, head, channel) to our (head, q k or v, channel), or back if not `ours`."""
    shape = (3, heads, -1) if ours else (heads, 3, -1)
    return array.reshape(*array.shape[:-1], *shape).swapaxes(-3, -2).reshape(array.shape)
