"""GPT-2's file without transformers: written files read back, runs are imported and exported, bad files refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_gpt import randomised, tiny

from jaxgen.cli.weights import command as weights
from jaxgen.data.tokenizers import BPE
from jaxgen.errors import UserError
from jaxgen.nets.transformer import Transformer
from jaxgen.weights import gpt2

TEXT = "the cat sat on the mat and the dog sat on the log\n" * 20


@pytest.fixture
def written(tmp_path):
    model = tiny(vocab=270, window=16)
    params = randomised(model)
    gpt2.write(tmp_path / "model.safetensors", model.network, params, model.decoding.end)
    return model, params, tmp_path / "model.safetensors"


def test_a_file_becomes_a_run_and_back(written, tmp_path):
    pytest.importorskip("tokenizers")
    _, _, file = written
    vocabulary, smaller = tmp_path / "vocabulary", tmp_path / "smaller"
    for folder, size in ((vocabulary, 270), (smaller, 260)):
        folder.mkdir()
        BPE.train(TEXT, size).backend.model.save(str(folder))
    weights(["import-gpt2", str(file), str(vocabulary), str(tmp_path / "run")])
    weights(["export-gpt2", str(tmp_path / "run"), str(tmp_path / "again" / "model.safetensors")])
    before, after = load_file(file), load_file(tmp_path / "again" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)
    with pytest.raises(UserError, match="holds a run already"):  # whose weights would stay
        weights(["import-gpt2", str(file), str(vocabulary), str(tmp_path / "run")])
    with pytest.raises(UserError, match=r"has 260 tokens, .* is of 270"):
        weights(["import-gpt2", str(file), str(smaller), str(tmp_path / "other")])


@pytest.mark.parametrize(
    ("change", "message"),
    [({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True, GPT-2 has False"),
     ({"activation_function": "gelu"}, "activation_function 'gelu'"), ({"layer_norm_epsilon": 1e-6}, "epsilon"),
     ({"n_head": 3}, "heads"), ({"n_head": None}, "does not say n_head")],
)  # fmt: skip
def test_configurations_that_are_not_gpt2s_are_refused(written, change, message):
    _, _, file = written
    config = json.loads((file.parent / "config.json").read_text())
    (file.parent / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=message):
        gpt2.network_of(file)


def test_what_is_not_gpt2s_is_refused(written, tmp_path):
    model, _, file = written
    tensors = load_file(file)
    some = dict(list(tensors.items())[1:])
    save_file(some, tmp_path / "short.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    one_key = {n: a[..., :20] if "c_attn" in n else a for n, a in tensors.items()}  # GPT-BigCode's: 16 + 2 x 2 channels
    mixed = {n: a[:, :40] if n.endswith("h.1.attn.c_attn.weight") else a for n, a in tensors.items()}
    for name, left in (("no_positions", "wpe.weight"), ("no_mlp", "h.0.mlp.c_fc.weight")):
        save_file({n: a for n, a in tensors.items() if not n.endswith(left)}, tmp_path / f"{name}.safetensors")
    save_file({n: np.ascontiguousarray(a) for n, a in one_key.items()}, tmp_path / "one_key.safetensors")
    save_file({n: np.ascontiguousarray(a) for n, a in mixed.items()}, tmp_path / "mixed.safetensors")
    rotary = tiny()
    rotary = rotary.network.clone(body=Transformer(width=16, depth=2, heads=2, causal=True, rotary=True))
    for name, network, message in (
        ("none", model.network, "No such file.*GPT-2"), ("text", model.network, "cannot be read as safetensors"),
        ("short", model.network, "lacks|has no"), ("model", rotary, "not of GPT-2's form"),
        ("model", model.network.clone(vocab=65), r"vocabulary 270, model\.network\.vocab is 65"),
        ("model", model.network.clone(body=model.network.body.clone(bias=False)), "has biases"),
        ("model", model.network.clone(body=model.network.body.clone(heads=4)), r"heads 2, model\.network\.body\.heads"),
        ("no_positions", model.network, r"no matrix wpe\.weight"), ("no_mlp", model.network, r"no matrix h\.0\.mlp"),
        ("one_key", model.network, r"float32\[2, 20\], float32\[2, 48\] is expected"),
        ("mixed", model.network, "of several shapes"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            gpt2.read(tmp_path / f"{name}.safetensors", network)
