"""T5 as the text network of a diffusion model: its tokenizer, its weights by --init, and prompts."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from conftest import EXPERIMENTS
from safetensors.numpy import load_file, save_file

import jaxgen
from jaxgen.cli.weights import command as weights
from jaxgen.core.configuration import with_fields_at
from jaxgen.data import Captioned, Emoji
from jaxgen.data.t5_tokenizer import Unigram
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.nets.t5 import T5Encoder
from jaxgen.runs.folder import RunFolder
from jaxgen.train.loop import train
from jaxgen.weights import t5

tokenizers = pytest.importorskip("tokenizers")
SIZES = {"vocab": 300, "width": 12, "depth": 2, "heads": 2, "each": 5, "hidden": 20, "gated": True}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder in Hugging Face's layout: a unigram tokenizer of captions, and random weights."""
    folder = tmp_path_factory.mktemp("t5")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=250, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(Emoji().captions("train"), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    rng, w = np.random.default_rng(0), SIZES
    inner = w["heads"] * w["each"]
    tensors = {"shared.weight": (w["vocab"], w["width"]), "encoder.final_layer_norm.weight": (w["width"],)}
    attention = {"q": (inner, w["width"]), "k": (inner, w["width"]), "v": (inner, w["width"]), "o": (w["width"], inner)}
    mlp = {"wi_0": (w["hidden"], w["width"]), "wi_1": (w["hidden"], w["width"]), "wo": (w["width"], w["hidden"])}
    for i in range(w["depth"]):
        block = f"encoder.block.{i}.layer"
        tensors |= {f"{block}.0.SelfAttention.{n}.weight": shape for n, shape in attention.items()}
        tensors |= {f"{block}.1.DenseReluDense.{n}.weight": shape for n, shape in mlp.items()}
        tensors |= {f"{block}.{part}.layer_norm.weight": (w["width"],) for part in (0, 1)}
    tensors["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = (32, w["heads"])
    save_file({n: rng.normal(size=s).astype(np.float32) for n, s in tensors.items()}, folder / "model.safetensors")
    config = {"model_type": "t5", "vocab_size": w["vocab"], "d_model": w["width"], "num_layers": w["depth"],
              "num_heads": w["heads"], "d_kv": w["each"], "d_ff": w["hidden"],
              "feed_forward_proj": "gated-gelu"}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_texts_end_and_are_padded_with_zeros(published):
    data = Captioned(data=Emoji(size=16), tokenizer="t5", vocabulary=str(published), window=16)
    tokens = data.tokens(["Red apple", "a " * 40])
    tokenizer = Unigram.read(published)
    length = int(tokens["text_mask"][0].sum())
    assert tokens["text"][0, length - 1] == tokenizer.end == 1
    assert not tokens["text"][0, length:].any()
    # Upper case stays: T5's texts are as they are.
    assert tokenizer.decode(tokens["text"][0, : length - 1]) == tokenizer.decode(tokenizer.encode("Red apple"))
    assert tokens["text_mask"][1].all()
    assert tokens["text"][1, -1] == tokenizer.end


def test_clip_reads_texts_of_t5_at_their_end(published):
    """T5's end token is 1, the largest token of a text any word."""
    data = Captioned(data=Emoji(size=16), tokenizer="t5", vocabulary=str(published), window=12)
    experiment = replace(presets(EXPERIMENTS["clip"])["smoke"], data=data)
    model = with_fields_at(experiment.model, {"network.text.vocab": data.vocab})
    with pytest.raises(UserError, match=r"end with token 1, .* at the largest: pass --model.network.text.end 1"):
        replace(experiment, model=model).check()
    replace(experiment, model=with_fields_at(model, {"network.text.end": 1})).check()


def test_weights_in_several_files_are_those_in_one(published, tmp_path):
    tensors = load_file(published / "model.safetensors")
    names = sorted(tensors)
    for i, some in enumerate((names[::2], names[1::2])):
        save_file({name: tensors[name] for name in some}, tmp_path / f"model-{i}.safetensors")
    (tmp_path / "config.json").write_text((published / "config.json").read_text())
    parts = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(names)}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": parts}))
    one, several = t5.read(published), t5.read(tmp_path)
    assert one.network == several.network
    jax.tree.map(np.testing.assert_array_equal, one.params, several.params)
    index.write_text(json.dumps({"weight_map": {**parts, names[0]: "../model-0.safetensors"}}))
    with pytest.raises(UserError, match=r"index\.json names no files of this folder"):
        t5.read(tmp_path)
    index.write_text(json.dumps({"weight_map": parts}))
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-1\.safetensors cannot be read \(No such file"):
        t5.read(tmp_path)
    index.unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\3\4")
    with pytest.raises(UserError, match=r"has pytorch_model\.bin, a pickle, .*: download model\.safetensors"):
        t5.read(tmp_path)


def test_a_tokenizer_is_kept_as_json(published):
    tokenizer = Unigram.read(published)
    again = Unigram.of(tokenizer.to_json())
    np.testing.assert_array_equal(again.encode("grinning face"), tokenizer.encode("grinning face"))
    assert again.size == tokenizer.size
    with pytest.raises(UserError, match="no unigram tokenizer"):
        Unigram('{"model": {"type": "BPE"}}')
    with pytest.raises(UserError, match="vocabulary is empty"):
        replace(presets(EXPERIMENTS["text_to_image"])["smoke"], data=Captioned(tokenizer="t5")).check()


def test_a_run_starts_from_the_published_weights_and_is_told_prompts(published, tmp_path, capsys):
    weights(["import-t5", str(published), str(tmp_path / "t5.safetensors")])
    said = capsys.readouterr().out
    assert f"--data.vocabulary {published} model.text:t5-encoder --model.text.vocab 300 " in said
    assert said.endswith("--model.text.gated\n")
    smoke = presets(EXPERIMENTS["text_to_image"])["smoke"]
    experiment = replace(
        smoke, model=replace(smoke.model, text=T5Encoder(window=12, **SIZES)), init=str(tmp_path / "t5.safetensors"),  # pyright: ignore[reportArgumentType, reportCallIssue]
        data=Captioned(data=Emoji(size=16), tokenizer="t5", vocabulary=str(published), window=12),
        trainable="network/.*", steps=5, save_every=5, sample_every=5, log_every=5,
    )  # fmt: skip
    train(experiment, tmp_path / "run")
    run = jaxgen.load(tmp_path / "run")
    theirs = load_file(published / "model.safetensors")
    np.testing.assert_array_equal(run.state.params["text"]["tokens"], theirs["shared.weight"])
    kernel = run.state.params["text"]["blocks"]["query"]["kernel"][1]
    np.testing.assert_array_equal(kernel, theirs["encoder.block.1.layer.0.SelfAttention.q.weight"].T)
    # A prompt is told by the tokenizer that the run keeps: the folder need not be there.
    gone = replace(run.experiment, data=replace(run.experiment.data, vocabulary=str(tmp_path / "gone")))
    x = replace(run, experiment=gone).sample(2, prompts=["red apple"], seed=3)
    assert x.shape == (2, 16, 16, 3)
    assert not np.array_equal(x, run.sample(2, prompts=["flag: norway"], seed=3))
    assert isinstance(RunFolder(tmp_path / "run").experiment().model.text, T5Encoder)  # pyright: ignore[reportAttributeAccessIssue]
