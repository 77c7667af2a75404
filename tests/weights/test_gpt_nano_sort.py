"""A trained GPT of others (bbycroft/llm-viz, MIT): all activations of a recorded pass, and its task."""

import base64
import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxgen import load
from jaxgen.cli.weights import command as weights
from jaxgen.models.gpt import prompts
from jaxgen.nets.apply import apply, apply_mutable
from jaxgen.nets.transformer import Block, BlockSettings
from jaxgen.ops.decoding import Decoding

HEADS, WIDTH = 3, 48


@pytest.fixture(scope="module")
def files(shared_data):
    """Tensors by name, of the model and of the recorded pass."""
    found = []
    for name in ("model", "t0-partials"):
        values = json.loads((shared_data / "gpt_nano_sort" / f"gpt-nano-sort-{name}.json").read_text())
        values.pop("config")
        found.append({
            key: np.frombuffer(base64.b64decode(v["data"]), np.float32).reshape(v["shape"]) for key, v in values.items()
        })  # fmt: skip
    return found


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sort")
    save_file(files[0], folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"n_head": HEADS}))
    weights(["import-gpt2", str(folder / "model.safetensors"), str(folder / "run")])
    return load(folder / "run")


def test_every_recorded_activation_is_theirs(files, run):
    """To 1e-5: embeddings, all of the first block, the output of each block, logits and probabilities. Layers of our
    block give them; what lies between two layers follows by its formula."""
    _, recorded = files
    network, params = run.model.network, run.state.params["network"]
    assert not network.tied and network.vocab == 3 and network.window == 11
    tokens = jnp.asarray(recorded["idx"], jnp.int32)
    found = {"tok_emb": params["tokens"][tokens], "pos_emb": params["positions"][None]}
    x = found["x"] = apply(network, {"params": params}, tokens, jnp.arange(11)[None], method="embed")
    block = Block(BlockSettings(heads=HEADS, hidden=4 * WIDTH, causal=True))
    for i in range(3):
        layer = jax.tree.map(lambda a, i=i: a[i], params["body"]["blocks"])
        (x, _), kept = apply_mutable(
            block, {"params": layer}, x, capture_intermediates=True, mutable=["intermediates"]
        )  # fmt: skip
        found[f"block{i}"] = x
        if i == 0:
            outputs = jax.tree.map(np.asarray, kept["intermediates"])
    attended, mlp = outputs["self_attention"], outputs["token_mlp"]
    # The channels of ours are (head, which of q, k and v, channel); theirs (which, head, channel).
    q, k, v = np.split(attended["qkv"]["__call__"][0].reshape(3, 11, HEADS, -1), 3, axis=-1)
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
    causal = np.where(np.tri(11, dtype=bool), scores, -np.inf)
    weighted = np.asarray(jax.nn.softmax(causal))
    found |= {
        "ln1": outputs["norm_self"]["__call__"][0],
        "qkv": np.concatenate([part.reshape(3, 11, WIDTH) for part in (q, k, v)], axis=-1),
        "q": q.swapaxes(1, 2), "k": k.swapaxes(1, 2), "v": v.swapaxes(1, 2), "att": causal, "attSm": weighted,
        "y": np.einsum("bhqk,bkhd->bqhd", weighted, v).reshape(3, 11, WIDTH),
        "yProj": attended["out"]["__call__"][0],
        "attnResid": found["x"] + attended["out"]["__call__"][0],
        "ln2": outputs["norm_mlp"]["__call__"][0], "fc": mlp["up"]["__call__"][0],
        "gelu": jax.nn.gelu(mlp["up"]["__call__"][0]), "mlp": mlp["down"]["__call__"][0],
    }  # fmt: skip
    found["mlpResid"] = found["attnResid"] + found["mlp"]
    found["ln_f"] = network.body.apply({"params": params["body"]}, found["x"])
    found["lm_head"] = apply(network, {"params": params}, tokens)
    found["probs"] = jax.nn.softmax(found["lm_head"])
    assert found.keys() == recorded.keys() - {"idx"}
    for name in found:
        np.testing.assert_allclose(found[name], recorded[name], atol=1e-5, err_msg=name)


def test_it_sorts_all_of_its_729_inputs(run):
    """Six letters, then the same in order; the likeliest token at each step."""
    rows = np.array(list(itertools.product(range(3), repeat=6)))
    model = dataclasses.replace(run.model, decoding=Decoding(temperature=0, tokens=6))
    sorter = dataclasses.replace(run, experiment=dataclasses.replace(run.experiment, model=model))
    drawn = sorter.sample(len(rows), cond=prompts(list(rows), 11), batch=len(rows))
    np.testing.assert_array_equal(drawn[:, :6], rows)
    np.testing.assert_array_equal(drawn[:, 6:12], np.sort(rows, axis=1))
