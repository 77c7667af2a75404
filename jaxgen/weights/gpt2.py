"""GPT-2's weights in and out, in the layout of Hugging Face's safetensors files.

Theirs: `h.I.attn.c_attn.weight` [C, 3 C] and so on, kernels as [in, out], often behind `transformer.`; beside the file
config.json, which says how many heads there are. Ours are stacked over blocks, and the channels of qkv are (head, which
of three, channel) where theirs are (which of three, head, channel).
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxgen.errors import UserError
from jaxgen.nets.gpt import TokenTransformer
from jaxgen.nets.transformer import Transformer
from jaxgen.runtime.files import replacing, write_text
from jaxgen.weights import store

LAYERS = {
    "ln_1.weight": "norm_self/scale", "ln_1.bias": "norm_self/bias",
    "attn.c_attn.weight": "self_attention/qkv/kernel", "attn.c_attn.bias": "self_attention/qkv/bias",
    "attn.c_proj.weight": "self_attention/out/kernel", "attn.c_proj.bias": "self_attention/out/bias",
    "ln_2.weight": "norm_mlp/scale", "ln_2.bias": "norm_mlp/bias",
    "mlp.c_fc.weight": "token_mlp/up/kernel", "mlp.c_fc.bias": "token_mlp/up/bias",
    "mlp.c_proj.weight": "token_mlp/down/kernel", "mlp.c_proj.bias": "token_mlp/down/bias",
}  # fmt: skip
REST = {
    "wte.weight": "tokens", "wpe.weight": "positions", "ln_f.weight": "body/norm/scale", "ln_f.bias": "body/norm/bias"
}  # fmt: skip
# What a configuration may say, GPT-2's own first.
CONFIG = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"), "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,), "tie_word_embeddings": (True,),
}  # fmt: skip
SIZES = ("wte.weight", "wpe.weight", "h.0.attn.c_attn.weight", "h.0.mlp.c_fc.weight")  # what a network's sizes show in
IGNORED = ("attn.bias", "attn.masked_bias")  # the causal mask, in old files


def read_file(file: Path) -> dict[str, np.ndarray]:
    """The tensors of a file, names without `transformer.`. Raises UserError when it is missing or none of GPT-2's."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not file.is_file():
        raise UserError(f"{file} is no file: name a GPT-2 model.safetensors")
    try:
        tensors = {name.removeprefix("transformer."): array for name, array in load_file(file).items()}
    except (SafetensorError, OSError, TypeError) as error:
        raise UserError(f"{file} is no safetensors file ({str(error)[:99]}): name GPT-2's model.safetensors") from error
    for name in SIZES:
        if name not in tensors or tensors[name].ndim != 2:
            raise UserError(f"{file} has no matrix {name}: name a GPT-2 model.safetensors")
    return tensors


def network_of(file: Path) -> TokenTransformer:
    """The network that a file holds weights of. Heads are those of config.json beside it, else 64 channels each, as all
    sizes of GPT-2 have them."""
    network = _network(file, read_file(file))
    network.check()
    return network


def _network(file: Path, tensors: dict[str, np.ndarray], heads: int = 0) -> TokenTransformer:
    """The network of these tensors, which may not fit together yet. heads: where there is no config.json."""
    (vocab, width), window = tensors["wte.weight"].shape, len(tensors["wpe.weight"])
    depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("h."))
    path, config = file.parent / "config.json", {"n_head": heads or max(1, width // 64)}
    try:
        if path.is_file():
            config = json.loads(path.read_text())
        heads = int(config["n_head"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{path} does not say n_head ({error}): restore it, or take it away") from error
    for name, known in CONFIG.items():
        if config.get(name, known[0]) not in known:
            raise UserError(f"{path} has {name} {config[name]}, GPT-2 {known[0]}: weights of this kind are not read")
    hidden = tensors["h.0.mlp.c_fc.weight"].shape[1]
    body = Transformer(width=width, depth=depth, heads=heads, hidden=0 if hidden == 4 * width else hidden, causal=True)
    return TokenTransformer(vocab=vocab, window=window, body=body)


def read(file: Path | str, network: TokenTransformer) -> dict[str, Any]:
    """The parameters of `network` in a file. Raises UserError when it holds another network's, or another vocabulary's.

    A network without biases is given none; the file's must then be zero.
    """
    file, body = Path(file), network.body
    tensors = read_file(file)
    check(network)
    found, wanted = _network(file, tensors, body.heads), network
    for name, has, wants in (
        ("vocab", found.vocab, wanted.vocab), ("window", found.window, wanted.window),
        ("body.width", found.body.width, body.width), ("body.depth", found.body.depth, body.depth),
        ("body.heads", found.body.heads, body.heads),
        ("body.hidden", found.body.hidden or 4 * found.body.width, body.hidden or 4 * body.width),
    ):  # fmt: skip
        if has != wants:
            what = "vocabulary" if name == "vocab" else name.split(".")[-1]
            raise UserError(f"{file} is of {what} {has}, model.network.{name} is {wants}: set it to {has}")

    def take(name: str) -> np.ndarray:
        if name not in tensors:
            raise UserError(f"{file} lacks {name}: it is cut short, or of another network")
        return tensors.pop(name).astype(np.float32)

    out = {ours: take(theirs) for theirs, ours in REST.items()}
    for theirs, ours in LAYERS.items():
        each = [take(f"h.{i}.{theirs}") for i in range(body.depth)]
        if len({array.shape for array in each}) > 1:
            raise UserError(f"{file} has {theirs} of several shapes: it is of another network")
        out[f"body/blocks/{ours}"] = np.stack(each)
    head = tensors.pop("lm_head.weight", None)
    if head is not None and not np.array_equal(head, out["tokens"]):
        raise UserError(f"{file} has a head of its own, GPT-2's is its embedding: name another file")
    left = [name for name in tensors if not name.endswith(IGNORED)]
    if left:
        raise UserError(f"{file} has {left[0]}, which GPT-2 has not: name another file")
    store.check(out, shapes(network), str(file))
    for name in out:
        if name.startswith("body/blocks/self_attention/qkv"):
            out[name] = _turned(out[name], body.heads, ours=True)
    if not body.bias:
        biases = [name for name in out if name.endswith("bias")]
        if any(out.pop(name).any() for name in biases):
            raise UserError(f"{file} has biases: set --model.network.body.bias True")
    return unflatten_dict({tuple(name.split("/")): array for name, array in out.items()})


def write(file: Path | str, network: TokenTransformer, params: dict[str, Any], end: int = -1) -> None:
    """Writes the parameters of a GPT's network as transformers' GPT2LMHeadModel reads them, and config.json beside.

    end: the token that ends a text; negative for none.
    """
    from safetensors.numpy import save_file

    file = Path(file)
    check(network)
    body = network.body
    ours = {name: np.asarray(array, np.float32) for name, array in flatten_dict(params["network"], sep="/").items()}
    # GPT-2 has biases: of a network without them they are zero.
    for name, leaf in shapes(network).items():
        ours.setdefault(name, np.zeros(leaf.shape, np.float32))
    tensors: dict[str, np.ndarray] = {theirs: ours[name] for theirs, name in REST.items()}
    for theirs, name in LAYERS.items():
        for i, array in enumerate(list[np.ndarray](ours[f"body/blocks/{name}"])):
            turned = _turned(array, body.heads, ours=False) if name.startswith("self_attention/qkv") else array
            tensors[f"h.{i}.{theirs}"] = turned
    config = {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": network.vocab,
        "n_positions": network.window, "n_embd": body.width, "n_layer": body.depth, "n_head": body.heads,
        "n_inner": body.hidden or 4 * body.width, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True, "bos_token_id": max(0, end),
        "eos_token_id": max(0, end),
    }  # fmt: skip
    named = {f"transformer.{name}": np.ascontiguousarray(array) for name, array in tensors.items()}
    try:
        with replacing(file) as partial:
            save_file(named, partial, {"format": "pt"})
        write_text(file.parent / "config.json", json.dumps(config, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror or error}): name another file") from error


def shapes(network: TokenTransformer) -> dict[str, jax.ShapeDtypeStruct]:
    """Of the parameters by name, biases among them."""
    network = network.clone(body=network.body.clone(bias=True))
    tree = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    return store.flatten_shapes(tree)


def check(network: TokenTransformer) -> None:
    """Raises UserError for a network that is not of GPT-2's form."""
    body = network.body
    same = body.pre_norm and body.final_norm and not (body.rms or body.swiglu or body.rotary)
    if not (same and network.tied and body.groups in (0, body.heads)):
        raise UserError(
            "the network is not of GPT-2's form: pre_norm, LayerNorm, GELU, learnt positions, a tied head and as many "
            "key as query heads are expected"
        )


def _turned(array: np.ndarray, heads: int, ours: bool) -> np.ndarray:
    """The last axis, 3 C, from (which of three, head, channel) to (head, which of three, channel), or back."""
    shape = (3, heads, -1) if ours else (heads, 3, -1)
    return array.reshape(*array.shape[:-1], *shape).swapaxes(-3, -2).reshape(array.shape)
