"""CLIP's folders without transformers: written ones read back, runs are imported and exported, bad ones refused."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from messages import one_line
from safetensors.numpy import load_file, save_file

import jaxgen
from jaxgen.cli.weights import command as weights
from jaxgen.data import Captioned, Emoji
from jaxgen.data.clip_tokenizer import ClipBPE
from jaxgen.errors import UserError
from jaxgen.models.clip import CLIP
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


@pytest.mark.slow
def test_rows_that_no_caption_has_learnt_are_left_out(tmp_path):
    """Few captions give fewer tokens than the network has rows; what is exported goes in again."""
    pytest.importorskip("tokenizers")
    data = Captioned(data=Emoji(size=16), vocab_size=560, window=12)
    model = CLIP(network=NETWORK, shape=(16, 16, 3))
    fit = jaxgen.fit(model, data, steps=1, batch_size=4, out=tmp_path / "run")
    for layout in ("huggingface", "open_clip"):
        weights(["export-clip", str(tmp_path / "run"), str(tmp_path / layout), layout])
        found = clip.read(tmp_path / layout)
        assert found.network.text.vocab == data.vocab == 560
        rows = fit.state.sampling_params["network"]["text"]["tokens"]
        np.testing.assert_array_equal(found.params["text"]["tokens"], rows[:560])
    weights(["import-clip", str(tmp_path / "huggingface"), str(tmp_path / "again")])
    texts = data.tokens(["cat face", "dog"])
    again = jaxgen.load(tmp_path / "again")
    np.testing.assert_array_equal(again.experiment.data.tokens(["cat face", "dog"])["text"], texts["text"])
    vectors = [
        r.model.embed_text(r.state.sampling_params, jnp.asarray(texts["text"]), jnp.asarray(texts["text_mask"]))
        for r in (fit, again)
    ]
    np.testing.assert_allclose(*vectors, atol=1e-6)


@pytest.mark.parametrize("end", [-1, 2, 500, 599])
def test_the_end_of_texts_is_kept(folder, tmp_path, end):
    found = clip.read(folder)
    other = replace(found, network=found.network.clone(text=found.network.text.clone(end=end)))
    clip.write(tmp_path / "open", other, "open_clip")
    assert clip.read(tmp_path / "open").network.text.end == (-1 if end == 599 else end)  # the largest is the last
    if end == 2:
        with pytest.raises(UserError, match="means the largest token: choose open_clip"):
            clip.write(tmp_path / "other", other)
    else:
        clip.write(tmp_path / "other", other)
        assert clip.read(tmp_path / "other").network.text.end == end


@pytest.mark.parametrize(
    ("part", "change"),
    [("text_cfg", {"pool_type": "last"}), ("text_cfg", {"no_causal_mask": True}), ("vision_cfg", {"pool_type": "avg"}),
     ("vision_cfg", {"norm_kwargs": {"eps": 1e-6}}), ("vision_cfg", {"act_kwargs": {"approximate": "tanh"}})],
)  # fmt: skip
def test_networks_that_only_open_clips_settings_tell_apart_are_refused(folder, tmp_path, part, change):
    clip.write(tmp_path / "open", clip.read(folder), "open_clip")
    file = tmp_path / "open" / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"][part] |= change
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match=rf"has {part}\.{next(iter(change))} .*such weights cannot be read") as error:
        clip.read(tmp_path / "open")
    one_line(error)


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
