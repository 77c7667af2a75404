"""CLIP's tokenizer without transformers: vocabularies in both layouts, cleaning, texts of one length, bad files."""

import gzip
import json

import numpy as np
import pytest
from messages import one_line

from jaxgen.data import Emoji
from jaxgen.data.clip_tokenizer import ClipBPE, byte_characters, clean, framed
from jaxgen.data.tokenizers import Bytes
from jaxgen.errors import UserError

pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def trained():
    return ClipBPE.train(["grinning face", "cat face", "a cat with a grinning face"], 540)


def test_vocabularies_are_numbered_as_openais(trained):
    alphabet = byte_characters()
    assert len(set(alphabet)) == 256 and alphabet[0] == "!" and chr(256) in alphabet
    order = sorted(trained.vocabulary, key=trained.vocabulary.get)
    assert order[:256] == alphabet and order[256:512] == [c + "</w>" for c in alphabet]
    assert order[512:-2] == ["".join(pair) for pair in trained.merges]
    assert 514 < trained.size <= 540 and (trained.start, trained.end) == (trained.size - 2, trained.size - 1)


def test_training_does_not_depend_on_the_order_of_a_hash_table():
    """The package's differs from one training to the next."""
    assert len({ClipBPE.train(Emoji().names(), 1024).to_json() for _ in range(4)}) == 1


def test_layouts_of_both_kinds_are_read(trained, tmp_path):
    for file, text in trained.write(tmp_path).items():
        file.write_text(text)
    lines = ["version", *(" ".join(pair) for pair in trained.merges)]
    with gzip.open(tmp_path / "merges.txt.gz", "wt") as file:
        file.write("\n".join(lines))
    for found in (
        ClipBPE.read(tmp_path), ClipBPE.read(tmp_path / "merges.txt"), ClipBPE.read(tmp_path / "merges.txt.gz"),
        ClipBPE.of(trained.to_json()),
    ):  # fmt: skip
        assert found.vocabulary == trained.vocabulary and found.merges == trained.merges


@pytest.mark.parametrize(
    ("given", "expected"),
    [("It\u2019s a Dog", "it's a dog"), ("\u201cquoted\u201d \u2018x\u2019", "\"quoted\" 'x'"),
     ("\ufb01sh \u0133", "fish ij"),
     ("\uff26\uff35\uff2c\uff2c\u3000width", "full width"), ("x\x92s \x85", "x's \u2026"),
     ("\x1b[31mred\x1b[0m", "red"),
     ("a\x00\x07\x0bb\ufeff\x7f", "ab"), ("&rsquo;s", "'s"), ("<b>&rsquo;s</b>", "<b>\u2019s</b>"),
     ("\uff06amp; b", "& b"), ("e\u0301", "\xe9"), ("\u0391\u03a3", "\u03b1\u03c2"), ("&amp;lt;i&gt;", "<i>")],
)  # fmt: skip
def test_texts_are_repaired_as_openais_are(given, expected):
    """As by ftfy 6.3.1 and OpenAI's tokenizer, whose tokens are those of these words."""
    assert clean(given) == expected


def test_texts_are_cleaned_cut_and_padded(trained):
    assert clean(" A &amp;lt; B\n") == "a < b"
    made = framed(trained, trained.start, trained.end, ["", "Grinning&nbsp;FACE", "cat " * 100], 8)
    assert made["text"].dtype == np.int32 and made["text_mask"].dtype == bool
    assert made["text"][0].tolist() == [trained.start, trained.end] + [0] * 6
    assert made["text_mask"].sum(axis=1).tolist()[::2] == [2, 8]
    assert (made["text"][2, 0], made["text"][2, -1]) == (trained.start, trained.end)
    assert trained.decode(made["text"][1]).startswith("grinning face")
    assert trained.lengths()[trained.encode("grinning face")].sum() == len("grinningface")
    plain = framed(Bytes(), 256, 257, ["ab"], 5)
    assert plain["text"].tolist() == [[256, 97, 98, 257, 0]] and plain["text_mask"].sum() == 4


def test_vocabularies_that_are_none_are_refused(trained, tmp_path):
    (tmp_path / "noise.gz").write_bytes(b"\x1f\x8b\x08" + bytes(30))
    (tmp_path / "triples.txt").write_text("version\na b c\n")
    (tmp_path / "unknown.txt").write_text("version\nab c\n")
    for name, change in (("gap", {"!": 9999}), ("foreign", {"日": trained.size}), ("few", None)):
        vocabulary = trained.vocabulary | change if change else {"a": 0}
        (tmp_path / name).mkdir()
        (tmp_path / name / "vocab.json").write_text(json.dumps(vocabulary))
        (tmp_path / name / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "vocab.json").write_text("[]")
    (tmp_path / "list" / "merges.txt").write_text("")
    for name, message in (
        ("noise.gz", "cannot be read as a vocabulary"), ("triples.txt", "no merge of two tokens"), ("none", "No such"),
        ("unknown.txt", "merge of what are no tokens"), ("gap", "not numbered from 0"), ("foreign", "stands for no"),
        ("few", "no token"), ("list", "does not map tokens"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message) as error:
            ClipBPE.read(tmp_path / name)
        one_line(error)
    with pytest.raises(UserError, match="more than 514"):
        ClipBPE.train(["a"], 514)
    with pytest.raises(UserError, match="half of a pair"):
        trained.encode("a\ud800")


@pytest.mark.parametrize("as_text", [False, True])
def test_the_file_of_newer_transformers_is_read(as_text, trained, tmp_path):
    """In place of vocab.json and merges.txt, which come first where both are there."""
    trained.backend.save(str(tmp_path / "tokenizer.json"))
    value = json.loads((tmp_path / "tokenizer.json").read_text())
    if as_text:
        value["model"]["merges"] = [" ".join(pair) for pair in value["model"]["merges"]]
        (tmp_path / "tokenizer.json").write_text(json.dumps(value))
    read = ClipBPE.read(tmp_path)
    assert (read.vocabulary, read.merges) == (trained.vocabulary, trained.merges)
    for change in ({"end_of_word_suffix": None}, {"merges": {}}, {"type": "WordPiece"}):
        (tmp_path / "tokenizer.json").write_text(json.dumps({**value, "model": {**value["model"], **change}}))
        with pytest.raises(UserError, match=r"tokenizer\.json is not of CLIP's byte-pair encoding"):
            ClipBPE.read(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({**value, "model": {**value["model"], "merges": [["a"], 3]}}))
    with pytest.raises(UserError, match=r"tokenizer\.json is not CLIP's"):
        ClipBPE.read(tmp_path)
    for file, text in trained.write(tmp_path).items():
        file.write_text(text)
    assert ClipBPE.read(tmp_path).vocabulary == trained.vocabulary
