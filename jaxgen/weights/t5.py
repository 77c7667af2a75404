"""Reads the encoder of T5 from a folder as Hugging Face has it: model.safetensors and config.json.

A file of the whole model is taken as well: its decoder is left out. Kernels there are [out, in], one for each block;
ours are [in, out], stacked over blocks.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from jaxgen.errors import UserError
from jaxgen.nets.t5 import T5Encoder
from jaxgen.runtime import reading
from jaxgen.weights import store

WEIGHTS, CONFIG = "model.safetensors", "config.json"
MOST_CONFIG = 1 << 20  # bytes
SHARED = ("shared.weight", "encoder.embed_tokens.weight")
"""The table of tokens, under either name."""
BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
ATTENTION = {"q": "query", "k": "key", "v": "value", "o": "out"}
MLPS = {False: {"wi": "up", "wo": "down"}, True: {"wi_0": "gate_up", "wi_1": "up", "wo": "down"}}
ACTIVATIONS = {"relu": False, "gated-gelu": True}
"""Whether MLPs are gated, by `feed_forward_proj`."""


@dataclass(frozen=True)
class Published:
    network: T5Encoder
    params: dict[str, Any]


def read(folder: Path, window: int = 128) -> Published:
    """The encoder in a folder. window: tokens of a text at most. Raises UserError if files are missing, or are not
    T5's."""
    network = _network(reading.read_json(folder / CONFIG, MOST_CONFIG), folder / CONFIG, window)
    raw, file = reading.read_weights(folder, WEIGHTS)
    tensors = {name: np.asarray(a, np.float32) for name, a in raw.items()}

    def take(name: str) -> np.ndarray:
        if name not in tensors:
            raise UserError(f"{file} lacks {name}: it is truncated, or of another network than config.json says")
        return tensors[name]

    def stacked(name: str) -> np.ndarray:
        return np.stack([take(f"encoder.block.{i}.layer.{name}.weight") for i in range(network.depth)])

    out = {
        "tokens": take(next((name for name in SHARED if name in tensors), SHARED[0])),
        "distances": take(BIAS),
        "norm/scale": take("encoder.final_layer_norm.weight"),
        "blocks/norm_self/scale": stacked("0.layer_norm"),
        "blocks/norm_mlp/scale": stacked("1.layer_norm"),
    }
    for theirs, ours in ATTENTION.items():
        out[f"blocks/{ours}/kernel"] = stacked(f"0.SelfAttention.{theirs}").swapaxes(1, 2)
    for theirs, ours in MLPS[network.gated].items():
        out[f"blocks/{ours}/kernel"] = stacked(f"1.DenseReluDense.{theirs}").swapaxes(1, 2)
    if extra := [n for n in tensors if n.startswith(f"encoder.block.{network.depth}.")]:
        raise UserError(f"{file} has {extra[0]}, but config.json says that there are {network.depth} blocks")
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    store.check_arrays(out, store.flatten_shapes(shapes), str(file))
    store.check_finite(out, str(file))
    return Published(network, unflatten_dict({tuple(name.split("/")): array for name, array in out.items()}))


def _network(config: Any, file: Path, window: int) -> T5Encoder:
    """The network that a configuration describes."""
    if not isinstance(config, dict) or config.get("model_type") not in ("t5", "t5_encoder", "mt5"):
        given = config.get("model_type") if isinstance(config, dict) else None
        raise UserError(f"{file} is of {given!r:.60}, t5 is expected")
    projection = config.get("feed_forward_proj", "relu")
    if projection not in ACTIVATIONS:
        raise UserError(f"{file} has feed_forward_proj {projection!r:.60}: {' or '.join(ACTIVATIONS)} is expected")
    if (epsilon := config.get("layer_norm_epsilon", 1e-6)) != 1e-6:
        raise UserError(f"{file} has layer_norm_epsilon {epsilon!r:.60}, T5 has 1e-6: such weights cannot be read")
    names = {
        "vocab": "vocab_size", "width": "d_model", "depth": "num_layers", "heads": "num_heads", "each": "d_kv",
        "hidden": "d_ff", "buckets": "relative_attention_num_buckets", "most": "relative_attention_max_distance",
    }  # fmt: skip
    defaults = {"buckets": 32, "most": 128}
    sizes = {ours: config.get(theirs, defaults.get(ours)) for ours, theirs in names.items()}
    for ours, value in sizes.items():
        if not isinstance(value, int) or not 0 < value < 1 << 24:
            raise UserError(f"{file} has {names[ours]} {value!r:.60}: a number above 0 is expected, restore it")
    network = T5Encoder(window=window, gated=ACTIVATIONS[projection], **sizes)
    network.check()
    return network
