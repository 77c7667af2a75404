"""The text network of a CLIP alone, in the layout of transformers' CLIPTextModel."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from jaxgen.errors import UserError
from jaxgen.nets.clip import TextTower, tower
from jaxgen.weights import store
from jaxgen.weights.clip import ACTIVATIONS, taken, tensors_of
from jaxgen.weights.clip_names import OURS

PREFIX = "text_model."
"""Before every name, but for files of transformers 5.6 and later."""
LAYERS, BLOCKS = "text_model.encoder.layers", "body/blocks"
OUTER = {name: ours.removeprefix("text/") for name, ours in OURS.items() if name.startswith(PREFIX)}


def settings(config: dict[str, Any], file: Path) -> dict[str, Any]:
    """heads and activation, as config.json says. Raises UserError for another network than CLIP's."""
    if (kind := config.get("model_type", "clip_text_model")) != "clip_text_model":
        raise UserError(f"{file} is of {kind!r:.60}, clip_text_model is expected")
    if (epsilon := config.get("layer_norm_eps", 1e-5)) != 1e-5:
        raise UserError(f"{file} has layer_norm_eps {epsilon!r:.60}, CLIP has 1e-5: such weights cannot be read")
    if (act := config.get("hidden_act", "quick_gelu")) not in ACTIVATIONS:
        raise UserError(f"{file} has hidden_act {act!r:.60}: one of {', '.join(ACTIVATIONS)} is expected")
    heads = config.get("num_attention_heads", 8)
    if not isinstance(heads, int) or heads < 1:
        raise UserError(f"{file} has num_attention_heads {heads!r:.60}: a number is expected, restore it")
    return {"heads": heads, "activation": ACTIVATIONS[act]}


def read(
    tensors: dict[str, np.ndarray], file: Path, heads: int = 0, activation: str = "quick_gelu"
) -> tuple[TextTower, dict[str, Any]]:
    """The network and its tree of parameters. heads: one for each 64 channels when 0, as in every published CLIP.

    Raises UserError for tensors that are missing, unknown, not finite or of another network.
    """
    tensors = {
        name if name.startswith(PREFIX) else PREFIX + name: np.asarray(array, np.float32)
        for name, array in tensors.items()
        if not name.endswith("position_ids")
    }

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors or tensors[name].ndim != 2 or not tensors[name].size:
            raise UserError(f"{file} has no {name} of 2 axes: the text network of a CLIP is expected")
        return tensors[name].shape

    vocab, width = shape("text_model.embeddings.token_embedding.weight")
    depth = sum(name.startswith(f"{LAYERS}.") and name.endswith(".mlp.fc1.weight") for name in tensors)
    hidden = shape(f"{LAYERS}.0.mlp.fc1.weight")[0]
    body = tower(width, depth, heads or max(1, width // 64), True, activation)
    body = body.clone(hidden=0 if hidden == 4 * width else hidden)
    try:
        body.check()
    except UserError as error:
        raise UserError(f"{file} is of no network: {error}") from error
    network = TextTower(vocab, shape("text_model.embeddings.position_embedding.weight")[0], body)
    out = taken(file, tensors, OUTER, [(LAYERS, BLOCKS, body)])
    if tensors:
        raise UserError(f"{file} has {min(tensors)}, which the text network of a CLIP lacks: pass another file")
    tree: Any = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    store.check_arrays(out, store.flatten_shapes(tree["params"]), str(file))
    store.check_finite(out, str(file))
    return network, unflatten_dict({tuple(name.split("/")): array for name, array in out.items()})


def tensors(network: TextTower, params: dict[str, Any]) -> dict[str, np.ndarray]:
    """Tensors as transformers reads them, of a tree of parameters."""
    return tensors_of(params, OUTER, [(LAYERS, BLOCKS, network.body)])


def config(network: TextTower, start: int, end: int) -> dict[str, Any]:
    """config.json. start, end: the tokens that begin and end a text."""
    body = network.body
    names = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    return {
        "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "hidden_size": body.width,
        "intermediate_size": body.hidden or 4 * body.width, "num_hidden_layers": body.depth,
        "num_attention_heads": body.heads, "hidden_act": names[body.activation], "layer_norm_eps": 1e-5,
        "vocab_size": network.vocab, "max_position_embeddings": network.window, "bos_token_id": start,
        "eos_token_id": end, "pad_token_id": end, "projection_dim": body.width,
    }  # fmt: skip
