"""GPT-2's file without transformers: written files read back, runs are imported and exported, bad files refused."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_gpt import randomised, tiny

from jaxgen.cli.sample import command as sample
from jaxgen.cli.weights import command as weights
from jaxgen.data.tokenizers import BPE
from jaxgen.errors import UserError
from jaxgen.models.gpt import GPT
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


@pytest.mark.parametrize(("end", "told"), [(-1, None), (0, 0), (7, 7)])
def test_the_end_token_is_told_where_there_is_one(tmp_path, end, told):
    """Regression: a model of characters was exported with its first character, a newline, as the end of a text."""
    model = tiny(vocab=270, window=16)
    gpt2.write(tmp_path / "model.safetensors", model.network, randomised(model), end)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["eos_token_id"] == config["bos_token_id"] == told


@pytest.mark.parametrize(
    ("change", "message"),
    [({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True, GPT-2 has False"),
     ({"activation_function": "relu"}, "activation_function 'relu'"), ({"layer_norm_epsilon": 1e-6}, "epsilon"),
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


def in_layout(folder, network, params, transposed: bool, biases: bool = True):
    """The file of a network as minGPT and nanoGPT write them: kernels [out, in] if `transposed`, perhaps no biases."""
    gpt2.write(folder / "model.safetensors", network, params)
    tensors = load_file(folder / "model.safetensors")
    kernels = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    changed = {
        name: np.ascontiguousarray(array.T if transposed and name.endswith(kernels) else array)
        for name, array in tensors.items()
        if biases or not name.endswith("bias")
    }
    mask = np.tril(np.ones((1, 1, 16, 16), np.float32))  # which these files hold
    save_file({**changed, "transformer.h.0.attn.bias": mask}, folder / "model.safetensors")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_heads_biases_and_kernels_of_other_files(tmp_path, tied, bias, transposed):
    network = tiny(vocab=7, window=16).network
    body = network.body.clone(bias=bias, activation="gelu")
    network = network.clone(tied=tied, body=body)
    params = randomised(GPT(network=network))
    in_layout(tmp_path, network, params, transposed, biases=bias)
    assert gpt2.network_of(tmp_path / "model.safetensors") == network
    got = gpt2.read(tmp_path / "model.safetensors", network)
    assert jax.tree.structure(got) == jax.tree.structure(params["network"])
    jax.tree.map(np.testing.assert_array_equal, got, params["network"])


def test_minigpts_heads_are_not_guessed(tmp_path):
    """Of 128 channels in 4 heads, as nanoGPT's README has it for a CPU, 2 heads of 64 would be guessed; not of what
    Hugging Face wrote, whose files are GPT-2's."""
    network = tiny(vocab=7, window=16).network
    network = network.clone(body=network.body.clone(width=128, depth=4, heads=4))
    in_layout(tmp_path, network, randomised(GPT(network=network)), transposed=True)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"config.json does not say n_head, 1 to 128: write"):
        gpt2.network_of(tmp_path / "model.safetensors")


def test_a_file_whose_heads_nothing_tells_is_refused(written):
    _, _, file = written
    (file.parent / "config.json").unlink()
    with pytest.raises(UserError, match=r"config.json does not say n_head, 1 to 16: write"):
        gpt2.network_of(file)


def test_a_vocabulary_of_characters_or_none(tmp_path):
    """nanoGPT's runs on characters; and tokens that are known by their numbers alone."""
    model = tiny(vocab=5, window=8)
    gpt2.write(tmp_path / "gpt" / "model.safetensors", model.network, randomised(model))
    file, text = str(tmp_path / "gpt" / "model.safetensors"), tmp_path / "text.txt"
    text.write_text("adbce" * 40)
    weights(["import-gpt2", file, str(text), str(tmp_path / "letters")])
    weights(["import-gpt2", file, str(tmp_path / "numbers")])
    drawn = []
    for name, prompt in (("letters", "bad"), ("numbers", "1 0 3")):
        sample([str(tmp_path / name), "--prompt", prompt, "--device", "cpu"])
        drawn.append(next((tmp_path / name).rglob("samples.txt")).read_text().splitlines()[-1])
    assert [str("abcde".index(letter)) for letter in drawn[0]] == drawn[1].split()
    assert drawn[0].startswith("bad") and len(drawn[0]) == 3 + 8 and len(set(drawn[0])) > 2
    with pytest.raises(UserError, match="the token 'x' is no number from 0 to 4"):
        sample([str(tmp_path / "numbers"), "--prompt", "1 x", "--device", "cpu"])
    text.write_text("abcdef" * 40)
    with pytest.raises(UserError, match=r"text.txt has 6 tokens, .* is of 5: name its own vocabulary"):
        weights(["import-gpt2", file, str(text), str(tmp_path / "other")])
