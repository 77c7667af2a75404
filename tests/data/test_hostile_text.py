"""Vocabularies, tokenizers and texts made to harm: each is one line that names its file."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from messages import one_line

from jaxgen.data import Text
from jaxgen.data.tokenizers import BPE, Bytes, Characters, from_json
from jaxgen.errors import UserError

LINES = "the cat sat on the mat\n" * 40


def refused(path: Path, call, *args) -> str:
    """The error of a call, known to be one line that begins with the file's name."""
    with pytest.raises(UserError) as error:
        call(*args)
    assert str(error.value).startswith(str(path))
    return one_line(error)


# --- vocabularies -------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    pytest.importorskip("tokenizers")
    BPE.train(LINES, 262).backend.model.save(str(tmp_path))
    return tmp_path


def test_vocabularies_made_to_harm(folder, capfd):
    """Half of these end the package in a panic, which is no Exception and prints a backtrace."""
    file = folder / "vocab.json"
    whole = json.loads(file.read_text())
    first = min(whole)
    for value, words in (
        ({"a": 0}, "no token for the byte"), ({}, "no token for the byte"), ([], "does not map"), (0, "does not map"),
        (whole | {first: 5_000_000_000}, "numbered"), (whole | {first: -1}, "numbered"),
        (whole | {first: 1}, "numbered"), (whole | {first: 0.0}, "numbered"),
        (whole | {first: True}, "numbered"), (whole | {first: [0]}, "numbered"),
        (whole | {"": len(whole)}, "an empty token"), (whole | {"é\ud800": len(whole)}, "stands for no byte"),
        (whole | {"a\nb\0": len(whole)}, "stands for no byte"),
        ({token: i for i, token in enumerate(t for t in whole if t != "A")}, "no token for the byte that is written A"),
    ):  # fmt: skip
        file.write_text(json.dumps(value))
        assert words in refused(file, BPE.gpt2, folder)
    for data, words in (
        (b"", "as JSON"), (b"{" * 10, "as JSON"), (b"[" * 100_000, "lists"), (b"\xff\xfe", "UTF-8"),
        (b'{"a": 1', "as JSON"), (b'{"a": ' * 200 + b"0" + b"}" * 200, "lists"),
        (b'{"a": 1' + b"0" * 400 + b"}", "digits"), (b" " * (1 << 25), "at most"),
    ):  # fmt: skip
        file.write_bytes(data)
        assert words in refused(file, BPE.gpt2, folder)
    file.unlink()
    os.mkfifo(file)
    assert "a pipe" in refused(file, BPE.gpt2, folder)
    assert not capfd.readouterr().err


def test_merges_made_to_harm(folder, capfd):
    file = folder / "merges.txt"
    for text in ("t\n", "t h e\n", " t\n", "t \n", "th ee\n", "t Q\n", "\u00e9 t\n", "\0\n", "t\u2028h\n", "x" * 9_999):
        file.write_text(f"#version: 0.2\n{text}")
        assert "a merge of what are no tokens" in refused(folder / "vocab.json", BPE.gpt2, folder)
    file.write_bytes(b"\xff")
    assert "UTF-8" in refused(file, BPE.gpt2, folder)
    file.unlink()
    assert "No such file" in refused(file, BPE.gpt2, folder)
    file.mkdir()
    assert "a folder" in refused(file, BPE.gpt2, folder)
    assert not capfd.readouterr().err


def test_line_ends_and_marks_of_merges_do_not_matter(folder):
    whole, file = BPE.gpt2(folder), folder / "merges.txt"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    np.testing.assert_array_equal(BPE.gpt2(folder).encode(LINES), whole.encode(LINES))


def test_a_vocabulary_is_no_larger_than_its_text():
    pytest.importorskip("tokenizers")
    assert 256 < BPE.train(LINES, 10**9).size < 400


# --- a run's tokenizer --------------------------------------------------------------------------------------------


def test_definitions_made_to_harm(capfd):
    pytest.importorskip("tokenizers")
    whole = json.loads(BPE.train(LINES, 262).definition)

    def bpe(**change) -> str:
        return json.dumps({"kind": "bpe", "definition": json.dumps(whole | change)})

    model, first = whole["model"], min(whole["model"]["vocab"])
    for text, words in (
        (bpe(normalizer={"type": "Lowercase"}), "byte-level"), (bpe(pre_tokenizer=None), "byte-level"),
        (bpe(decoder=None), "byte-level"), (bpe(model={**model, "type": "Unigram"}), "byte-level"),
        (bpe(model=model | {"vocab": {}}), "no token"), (bpe(model=model | {"merges": [["t"]]}), "no tokens"),
        (bpe(model=model | {"vocab": model["vocab"] | {first: 10**9}}), "numbered"),
        (bpe(model=model | {"merges": [{}, 7, None]}), "no tokens"),
        (bpe(model=model | {"merges": ["t Q"]}), "no tokens"),
        (bpe(added_tokens=[{"content": "the", "id": 7}]), "byte-level"), (bpe(added_tokens=["x"]), "byte-level"),
        (bpe(added_tokens=[{"content": "<|endoftext|>", "id": 0}]), "no token <|endoftext|>"),
        ('{"kind": "bpe", "definition": "{"}', "JSON"), ('{"kind": "bpe", "definition": 3}', "kind 'bpe'"),
        (json.dumps({"kind": "bpe", "definition": "[" * 100_000}), "lists"), ("[" * 100_000, "lists"),
        ("[]", "kind None"), ('"bytes"', "kind None"), ("", "JSON"), (json.dumps({"kind": "x" * 9_999}), "kind 'xxx"),
        ('{"kind": "characters"}', "characters"), ('{"kind": "characters", "characters": ""}', "no characters"),
        ('{"kind": "characters", "characters": "aba"}', "twice"),
        (r'{"kind": "characters", "characters": "\ud800"}', "none"),
        ('{"kind": "characters", "characters": ["a"]}', "expected"), (" " * (1 << 26), "no tokenizer"),
    ):  # fmt: skip
        assert words in refused(Path("run/tokenizer.json"), from_json, text, "run/tokenizer.json")
    assert not capfd.readouterr().err


def test_merges_of_older_packages_are_read():
    pytest.importorskip("tokenizers")
    trained = BPE.train(LINES, 262)
    older = json.loads(trained.definition)
    older["model"]["merges"] = [" ".join(pair) for pair in older["model"]["merges"]]
    again = from_json(json.dumps({"kind": "bpe", "definition": json.dumps(older)}))
    np.testing.assert_array_equal(again.encode(LINES), trained.encode(LINES))


def test_text_that_is_no_unicode_is_refused():
    """As the bytes of a prompt on the command line can be."""
    pytest.importorskip("tokenizers")
    for tokenizer, text in ((BPE.train(LINES, 262), "a\udcff"), (Bytes(), "a\ud800"), (Characters("a"), "a\udcff")):
        with pytest.raises(UserError) as error:
            tokenizer.encode(text)
        assert "\\ud" in one_line(error)
    np.testing.assert_array_equal(Bytes().encode("a\udcff"), [97, 255])


# --- texts --------------------------------------------------------------------------------------------------------


def read(source: Path, **fields) -> str:
    """The text as decoded from its tokens."""
    data = Text(source=str(source), block=1, **fields)
    return data.corpus_tokenizer.decode(data.load("all").tokens)


@pytest.mark.parametrize("kind", ["bytes", "characters"])
def test_all_characters_but_the_mark_at_the_beginning_are_kept(kind, tmp_path):
    text = "a\0b\x01\x1b[2J\x85\u2028\ufeff\r\nend\r"
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read(tmp_path / "a.txt", tokenizer=kind) == text


def test_hidden_texts_are_passed_over(tmp_path):
    folder = tmp_path / ".hidden" / "corpus"  # what is above the folder does not matter
    for name in ("a.txt", "b/c.txt", "._a.txt", ".ipynb_checkpoints/a-checkpoint.txt", "b/.x/y/d.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(f"{name};".encode() if "._" not in name else b"\0\5\x16\7\xff")
    (folder / "folder.txt").mkdir()
    assert read(folder) == "a.txt;b/c.txt;"
    only = folder / "b" / ".x"
    assert read(only) == "b/.x/y/d.txt;"
    (only / "y" / "d.txt").rename(only / "y" / ".d.txt")
    with pytest.raises(UserError, match=r"has no \.txt file"):
        read(only)


def test_texts_made_to_harm(tmp_path, monkeypatch):
    pipe = tmp_path / "pipe" / "a.txt"
    pipe.parent.mkdir()
    os.mkfifo(pipe)
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "a.txt").symlink_to("nowhere")
    assert "a pipe" in refused(pipe, read, pipe)
    assert "a pipe" in refused(pipe, read, pipe.parent)
    assert "No such file" in refused(tmp_path / "gone" / "a.txt", read, tmp_path / "gone")
    assert "a device" in refused(Path("/dev/zero"), read, Path("/dev/zero"))
    for source in ("x" * 300, "a/" * 3000, str(tmp_path / "none"), "/proc/self/mem/x"):
        with pytest.raises(UserError, match="is not a file or folder"):
            read(Path(source))
    with pytest.raises(UserError, match="NUL"):
        read(Path("a\0b"))
    file = tmp_path / "windows.txt"
    monkeypatch.setattr("jaxgen.data.text.PIECE", 16)
    for mark in (b"", b"\xef\xbb\xbf"):
        file.write_bytes(mark + b"twenty characters, \n" * 3 + "grün".encode("cp1252"))
        assert f"at byte {len(mark) + 62})" in refused(file, read, file)
        assert f"at byte {len(mark) + 62})" in refused(file, lambda: Text(source=str(file), tokenizer="bpe").vocab)
    file.write_bytes("text".encode("utf-16"))
    assert "not UTF-8" in refused(file, read, file)
    file.write_bytes(b"")
    with pytest.raises(UserError, match="0 examples"):
        Text(source=str(file)).arrays("train")


@pytest.mark.parametrize("kind", ["bytes", "characters"])
def test_lines_longer_than_a_piece_are_cut_between_characters(kind, tmp_path, monkeypatch):
    """So that a text without line ends takes no more memory than its tokens."""
    monkeypatch.setattr("jaxgen.data.text.PIECE", 5)
    (tmp_path / "a.txt").write_text(text := "☃é😀x" * 50 + "\n" + "y" * 7)
    assert read(tmp_path / "a.txt", tokenizer=kind) == text
    for bad in (b"\xf0\x9f", b"\xff"):
        (tmp_path / "a.txt").write_bytes("☃".encode() * 50 + bad)
        assert "at byte 150)" in refused(tmp_path / "a.txt", read, tmp_path / "a.txt")
        assert Text(source=str(tmp_path / "a.txt"), tokenizer="bytes").load("all").tokens[150] == bad[0]


def test_home_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text("at home")
    assert read(Path("~/a.txt")) == "at home"


def test_a_large_text_is_read_without_a_cache(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.txt").write_text(LINES)
    monkeypatch.setattr("jaxgen.data.text.LARGE", 1)
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "a.txt" / "cache"))
    assert read(tmp_path / "a.txt") == LINES
    assert "going on without it" in capsys.readouterr().err
