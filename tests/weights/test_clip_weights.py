"""CLIP's folders without transformers: written ones read back, runs are imported and exported, bad ones refused."""

import json

import jax
import numpy as np
import pytest
from messages import one_line
from safetensors.numpy import load_file, save_file

import jaxgen
from jaxgen.cli.weights import command as weights
from jaxgen.data import Emoji
from jaxgen.data.clip_tokenizer import ClipBPE
from jaxgen.errors import UserError
from jaxgen.nets.clip import CLIPNetwork, ImageTower, TextTower, tower
from jaxgen.weights import clip

NETWORK = CLIPNetwork(
    image=ImageTower(patch=8, body=tower(32, 2, 2)),
    text=TextTower(vocab=600, window=12, body=tower(16, 2, 2, causal=True)), dim=16,
)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """Random weights with a vocabulary."""
    pytest.importorskip("tokenizers")
    x, text = np.zeros((1, 16, 16, 3), np.float32), np.zeros((1, 2), np.int32)
    params = jax.device_get(NETWORK.init(jax.random.key(0), x, text)["params"])
    vocabulary = ClipBPE.train(Emoji().names(), 600)
    clip.write(tmp_path / "clip", clip.Published(NETWORK, params, (16, 16, 3)), start=598, end=599)
    for file, text in vocabulary.write(tmp_path / "clip").items():
        file.write_text(text)
    return tmp_path / "clip"


def test_a_folder_becomes_a_run_and_back(folder, tmp_path):
    weights(["import-clip", str(folder), str(tmp_path / "run")])
    numbers = jaxgen.load(tmp_path / "run").evaluate(limit=20)
    assert {"similarity", "image_to_text_r5", "zero_shot"} <= set(numbers)
    weights(["export-clip", str(tmp_path / "run"), str(tmp_path / "again")])
    assert {file.name for file in folder.iterdir()} == {file.name for file in (tmp_path / "again").iterdir()}
    for file in folder.glob("*.json"):
        assert json.loads(file.read_text()) == json.loads((tmp_path / "again" / file.name).read_text())
    before, after = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "again"))
    assert before.keys() == after.keys() and all(np.array_equal(before[name], after[name]) for name in before)
    weights(["export-clip", str(tmp_path / "run"), str(tmp_path / "other"), "open_clip"])
    again, found = clip.read(tmp_path / "other"), clip.read(folder)
    assert again.network == found.network and again.shape == found.shape and again.mean == found.mean
    for a, b in zip(jax.tree.leaves(again.params), jax.tree.leaves(found.params), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(UserError, match="holds a run already"):
        weights(["import-clip", str(folder), str(tmp_path / "run")])


def test_another_vocabulary_is_refused(folder, tmp_path):
    for file, text in ClipBPE.train(Emoji().names(), 550).write(folder).items():
        file.write_text(text)
    with pytest.raises(UserError, match=r"has 550 tokens and ends texts with 549, the weights know 600 and 599"):
        weights(["import-clip", str(folder), str(tmp_path / "run")])


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda c: c.update(model_type="siglip"), "'siglip', clip is expected"),
     (lambda c: c["text_config"].update(hidden_act="relu"), "hidden_act 'relu'"),
     (lambda c: c["vision_config"].update(layer_norm_eps=1e-6), "layer_norm_eps 1e-06, CLIP has 1e-5"),
     (lambda c: c["vision_config"].update(num_attention_heads=3), "multiple of 4 and of heads = 3"),
     (lambda c: c["vision_config"].update(num_attention_heads="2"), "has '2' heads"),
     (lambda c: c["text_config"].update(eos_token_id=600), "end in the token 600 of 600"),
     (lambda c: c.update(text_config=7), "no settings as text_config")],
)  # fmt: skip
def test_configurations_that_are_not_clips_are_refused(folder, change, message):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message) as error:
        clip.read(folder)
    one_line(error)


def test_tensors_that_are_not_clips_are_refused(folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    layer = "vision_model.encoder.layers.1"
    for change, message in (
        ({"visual_projection.weight": None}, "no visual_projection.weight of 2 axes"),
        ({f"{layer}.self_attn.k_proj.bias": None}, "lacks vision_model.encoder.layers.1.self_attn.k_proj.bias"),
        ({f"{layer}.mlp.fc2.bias": np.zeros(3, np.float32)}, "mlp.fc2.bias of several shapes"),
        ({"text_projection.weight": np.zeros((16, 8), np.float32)}, "text_projection/kernel is"),
        ({"extra": np.zeros(1, np.float32)}, "has extra, which CLIP lacks"),
        ({"vision_model.embeddings.position_embedding.weight": np.zeros((4, 32), np.float32)}, "image/positions is"),
    ):  # fmt: skip
        changed = {name: array for name, array in (tensors | change).items() if array is not None}
        save_file(changed, folder / "model.safetensors")
        with pytest.raises(UserError, match=message) as error:
            clip.read(folder)
        one_line(error)
    with pytest.raises(UserError, match=r"has no CLIP: model.safetensors and config.json or open_clip_model"):
        clip.read(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UserError, match="of another model and would be replaced"):
        clip.check_place(tmp_path, "huggingface")
