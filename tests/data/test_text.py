"""Text: tokenizers, windows against slices, splits, large files, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import EXPERIMENTS

from jaxgen.data import Text, text
from jaxgen.data.tokenizers import BPE, Bytes, Characters, from_json
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment, presets
from jaxgen.runs.folder import RunFolder

LINES = "Grüße, Jürgen\r\n" + "".join(f"line {i}: the {i % 7}th day of the {i % 5}th month\n" for i in range(200))


@pytest.fixture
def corpus(tmp_path) -> Path:
    file = tmp_path / "corpus.txt"
    file.write_bytes(LINES.encode())
    return file


def tokenizers():
    pytest.importorskip("tokenizers")
    return [Bytes(), Characters("".join(sorted(set(LINES)))), BPE.train(LINES, 300)]


def test_tokenizers_give_back_the_text_and_read_back_equal():
    for tokenizer in tokenizers():
        tokens = tokenizer.encode(LINES)
        assert tokens.dtype == np.int32 and tokens.max() < tokenizer.size
        assert tokenizer.decode(tokens) == LINES
        assert tokenizer.lengths()[tokens].sum() == len(LINES.encode())
        again = from_json(tokenizer.to_json())
        np.testing.assert_array_equal(again.encode(LINES), tokens)
    assert tokenizer.size == 300 and len(tokens) < len(LINES) / 2
    assert BPE.train(LINES, 300).to_json() == tokenizer.to_json()


def test_bpe_reads_gpt2s_files(tmp_path):
    pytest.importorskip("tokenizers")
    trained = BPE.train(LINES, 300)
    trained.backend.model.save(str(tmp_path))
    ours = BPE.gpt2(tmp_path)
    np.testing.assert_array_equal(ours.encode(LINES), trained.encode(LINES))
    data = Text(source=str(tmp_path), tokenizer="bpe", gpt2=str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"vocab\.json cannot be read"):
        _ = Text(source="docs", tokenizer="bpe", gpt2=str(tmp_path / "none")).corpus_tokenizer
    with pytest.raises(UserError, match=r"vocab\.json cannot be read"):
        _ = data.corpus_tokenizer


@pytest.mark.parametrize("kind", ["bytes", "characters"])
def test_examples_are_windows(corpus, kind):
    data = Text(source=str(corpus), tokenizer=kind, block=10, stride=3)
    everything = data.corpus_tokenizer.encode(LINES)
    cut = len(everything) * 9 // 10
    batch = data.batch_at(seed=3, step=5, batch_size=7)
    for x, count, i in zip(batch["x"], batch["bytes"], data.indices_at(3, 5, 7)):
        np.testing.assert_array_equal(x, everything[:cut][3 * i : 3 * i + 11])
        assert count == len(data.texts(x[None, 1:])[0].encode()) or kind == "bytes"
    assert batch["x"].dtype == batch["bytes"].dtype == np.int32
    # Each held-out token is predicted once, except those at the end that do not fill a window.
    held = np.concatenate([b["x"][:, 1:][mask].ravel() for b, mask in data.padded_batches(4)])
    np.testing.assert_array_equal(held, everything[cut + 1 :][: len(held)])
    assert len(everything) - cut - len(held) <= 10


def test_a_folder_is_read_in_order_and_large_text_from_a_file(corpus, tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "b.txt").write_text("second\n")
    (folder / "deep" / "c.txt").write_text("third\n")
    (folder / "a.txt").write_text("first\n")
    (folder / "not.md").write_text("nothing")
    data = Text(source=str(folder), tokenizer="bytes", block=1)
    assert Bytes().decode(data.arrays("all").tokens) == "first\nsecond\nthird\n"

    monkeypatch.setattr(text, "LARGE", 100)
    monkeypatch.setattr(text, "PIECE", 50)
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "cache"))
    for _ in range(2):  # the cache is written, then read
        text._encoded.cache_clear()
        large = Text(source=str(corpus), tokenizer="characters", block=12)
        tokens = large.load("all").tokens
        assert isinstance(tokens, np.memmap)
        assert large.corpus_tokenizer.decode(tokens) == LINES
    assert len(list((tmp_path / "cache" / "text").iterdir())) == 1


def test_after_each_file_comes_the_end_token_where_there_is_one(tmp_path):
    """GPT-2's tokenizer has one, which stands for no bytes."""
    pytest.importorskip("tokenizers")
    BPE.train(LINES, 300).backend.model.save(str(tmp_path))
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary | {"<|endoftext|>": len(vocabulary)}))
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.txt").write_text(f"the month {name}")
    data = Text(source=str(folder), tokenizer="bpe", gpt2=str(tmp_path), block=1)
    tokens = data.load("all").tokens
    assert data.corpus_tokenizer.decode(tokens) == "the month a<|endoftext|>the month b<|endoftext|>"
    assert data.corpus_tokenizer.lengths()[tokens].sum() == 2 * len("the month a")
    # End tokens after the text are left out; one within it, as in a prompt, is not.
    end = data.corpus_tokenizer.end
    assert data.texts(np.array([[end, *tokens[:-1], end, end, end], [end] * (len(tokens) + 3)])) == [
        "<|endoftext|>the month a<|endoftext|>the month b",
        "",
    ]


def test_the_embedded_corpus():
    data = Text(block=16)
    assert 90 < data.vocab < 130 and data.count() > 300_000  # it differs between versions of Python
    assert "assert" in "".join(data.texts(data.arrays("all").tokens[None]))


def test_shakespeare(shared_data):
    """The counts are nanoGPT's."""
    data = Text(source=str(shared_data / "tinyshakespeare.txt"))
    train, test = data.arrays("train").tokens, data.arrays("test").tokens
    assert (data.vocab, len(train), len(test)) == (65, 1_003_854, 111_540)


def test_tiny_shakespeare_of_tensorflow_datasets(tmp_path):
    """A prepared set with the same layout: three splits of one text each, listed in another order."""
    from array_record.python import array_record_module
    from tensorflow_datasets.proto import tf_example_pb2

    home = tmp_path / "tiny_shakespeare" / "1.0.0"
    home.mkdir(parents=True)
    splits, package = [], "tensorflow_datasets.core.features"
    for name, part in (("test", "You are all resolved"), ("train", "First Citizen:\n"), ("validation", "Speak. ")):
        example = tf_example_pb2.Example()
        example.features.feature["text"].bytes_list.value.append(part.encode())
        file = home / f"tiny_shakespeare-{name}.array_record-00000-of-00001"
        writer = array_record_module.ArrayRecordWriter(str(file), "group_size:1")
        writer.write(example.SerializeToString())
        writer.close()
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        splits.append({"name": name, "numBytes": "1", "shardLengths": ["1"], "filepathTemplate": template})
    info = {"name": "tiny_shakespeare", "version": "1.0.0", "fileFormat": "array_record", "splits": splits}
    text = {"text": {}, "pythonClassName": f"{package}.text_feature.Text"}
    kind = f"{package}.features_dict.FeaturesDict"
    features = {"featuresDict": {"features": {"text": text}}, "pythonClassName": kind}
    (home / "dataset_info.json").write_text(json.dumps(info))
    (home / "features.json").write_text(json.dumps(features))
    data = Text(source="tiny_shakespeare", block=4, data_dir=str(tmp_path))
    assert data.texts(data.arrays("all").tokens[None]) == ["First Citizen:\nSpeak. You are all resolved"]


def test_a_run_keeps_its_tokenizer(tmp_path):
    run = RunFolder(tmp_path)
    run.keep_files(Text(block=16).files_to_keep())
    assert from_json((tmp_path / "tokenizer.json").read_text()).size == Text().vocab
    run.keep_files(Text(block=16).files_to_keep())
    with pytest.raises(UserError, match="the corpus has changed"):
        run.keep_files(Text(block=16, tokenizer="bytes").files_to_keep())


def test_bad_text_is_refused(corpus, tmp_path):
    (tmp_path / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    for fields, message in (
        ({"source": ""}, "no text was given"),
        ({"source": "dogs"}, r"is not a file or folder \(did you mean docs\?\)"),
        ({"source": str(tmp_path / "latin.txt")}, "is not UTF-8 text .*tokenizer bytes"),
        ({"source": str(corpus), "block": 10_000_000}, "0 examples"),
        ({"source": str(corpus), "tokenizer": "bpe", "vocab_size": 9}, "at least 257"),
        ({"source": str(corpus), "block": 0}, "both must be 1 or more"),
    ):
        if fields.get("tokenizer") == "bpe":
            pytest.importorskip("tokenizers")
        with pytest.raises(UserError, match=message):
            Text(**fields).arrays("train")
    with pytest.raises(UserError, match="the character 'ß' is not in the corpus"):
        Characters("abc").encode("aß")
    with pytest.raises(UserError, match="has kind None"):
        from_json("{}")


def test_a_vocabulary_larger_than_the_models_is_refused():
    smoke: Experiment = presets(EXPERIMENTS["gpt"])["smoke"]
    small = replace(smoke.model, network=replace(smoke.model.network, vocab=103))
    with pytest.raises(UserError, match=r"256 tokens, the model knows 103: pass --model\.network\.vocab 256"):
        replace(smoke, model=small).check()
