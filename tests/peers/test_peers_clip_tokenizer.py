"""CLIP's tokens against transformers' CLIPTokenizer, on strings made here with a vocabulary trained here."""

import warnings

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own imports
    pytest.importorskip("transformers")
    from transformers import CLIPTokenizer
pytest.importorskip("tokenizers")

from jaxgen.data import Emoji
from jaxgen.data.clip_tokenizer import ClipBPE, clean, framed

PIECES = (
    "😀", "👨‍👩‍👧", "🇳🇴", "👍🏽", "日本語", "中文字符", "한국어", "ΑΣ", "İstanbul", "ﬁ", "ß", "e\u0301", "\u0300", "½",
    "&amp;", "&lt;b&gt;", "&amp;amp;", "&#x1F600;", "&nbsp;", "&notanentity;", "<br/>", "\x00", "\x07", "\x1f", "\x7f",
    "\x85", "\u200b", "\u200d", "\u2028", "\u3000", "\ufeff", "\u202e", "\ufffd", "\t", "\n", "\r\n", "  ", " ", "_",
    "don't", "We'LL", "it's", "'s", "''", "I'm", "a_b", "x-y", "3.14", "2026", "!!!", "...", "#1", "C++", "a.b/c?d",
    "<|endoftext|>", "<|startoftext|>", "<|EndOfText|>", "<|", "|>", "</w>", "Ġ", "\u0100", "\U0010ffff", "\U000e0067",
)  # fmt: skip


@pytest.fixture(scope="module")
def ours():
    return ClipBPE.train([*Emoji().names("train"), *("日本語 " * 5, "don't we'll it's")], 1500)


@pytest.fixture(scope="module")
def theirs(ours, tmp_path_factory):
    """Read from the files that we write."""
    folder = tmp_path_factory.mktemp("clip")
    for file, text in ours.write(folder).items():
        file.write_text(text)
    return CLIPTokenizer.from_pretrained(folder)


def strings() -> list[str]:
    """A thousand, some of 500 words."""
    rng = np.random.default_rng(0)
    words = [word for name in Emoji().names("all") for word in name.split()]
    out = ["", " ", *PIECES]
    while len(out) < 1000:
        length = 500 if len(out) % 50 == 0 else int(rng.integers(1, 15))
        parts = [str(rng.choice(words if rng.random() < 0.6 else PIECES)) for _ in range(length)]
        parts = [part.upper() if rng.random() < 0.2 else part for part in parts]
        parts += ["".join(map(chr, rng.integers(1, 0xD800, 3)))] if rng.random() < 0.3 else []
        out.append(str(rng.choice(["", " ", "\n"])).join(parts))
    return out


def test_tokens_are_theirs(ours, theirs):
    assert (ours.size, ours.start, ours.end) == (1500, theirs.bos_token_id, theirs.eos_token_id)
    for text in strings():
        assert [ours.start, *ours.encode(text).tolist(), ours.end] == theirs(text)["input_ids"], repr(text)


def test_framed_texts_are_theirs_after_openais_cleaning(ours, theirs):
    texts = strings()
    made = framed(ours, ours.start, ours.end, texts, 77)
    cleaned = [clean(text) for text in texts]
    expected = theirs(cleaned, padding="max_length", truncation=True, max_length=77, return_tensors="np")
    np.testing.assert_array_equal(made["text_mask"], expected["attention_mask"] == 1)
    np.testing.assert_array_equal(made["text"], np.where(made["text_mask"], expected["input_ids"], 0))
    assert made["text_mask"].all(axis=1).sum() >= 15  # those that were cut
    assert (made["text"][made["text_mask"].all(axis=1), -1] == ours.end).all()
