"""Prior preservation as data: shares, captions and pictures that belong together; a vocabulary of another run."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxgen.core.configuration import check_fields
from jaxgen.data import Captioned, ImageFolder
from jaxgen.errors import UserError


def captioned(folder, count: int, text: str, colour: int, side: int = 8):
    """`count` pictures of one grey, but for their number in the corner, with captions as text 0, text 1, ..."""
    folder.mkdir()
    lines = []
    for i in range(count):
        pixels = np.full((side, side, 3), colour, np.uint8)
        pixels[0, 0] = i
        Image.fromarray(pixels).save(folder / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"{text} {i}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def folders(tmp_path):
    own, drawn = captioned(tmp_path / "own", 20, "my dog", 200), captioned(tmp_path / "drawn", 30, "a dog", 50)
    data = ImageFolder(folder=str(own), size=8, label="none")
    return data, str(drawn)


def data_of(folders, **settings):
    own, drawn = folders
    return Captioned(data=own, prior=drawn, tokenizer="bytes", window=12, **settings)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_the_prior_has_its_share_and_every_example_its_turn(folders, share):
    data, own = data_of(folders, prior_share=share), Captioned(data=folders[0], tokenizer="bytes", window=12)
    count = data.count("train")
    seen = data.arrays("train").take(np.arange(count))
    is_prior = seen["x"][:, 4, 4, 0] == 50
    assert is_prior.mean() == pytest.approx(share, abs=1 / count)
    numbers = [set(seen["x"][chosen, 0, 0, 0].tolist()) for chosen in (~is_prior, is_prior)]
    trained = set(own.arrays("train")["x"][:, 0, 0, 0].tolist())
    assert numbers[0] == trained and len(numbers[1]) == 27  # nine tenths of 30 are of the train split
    # Each picture with its own caption, in tokens and as text.
    rows = zip(seen["x"], seen["text"], seen["text_mask"], data.captions("train"), is_prior)
    for x, tokens, mask, text, prior in rows:
        want = f"{'a' if prior else 'my'} dog {x[0, 0, 0]}"
        assert text == want and bytes(tokens[1 : mask.sum() - 1].tolist()).decode() == want[:10]


def test_held_out_data_and_shuffling_are_without_and_with_it(folders):
    data, alone = data_of(folders), Captioned(data=folders[0], tokenizer="bytes", window=12)
    for name, array in alone.arrays("test").items():
        np.testing.assert_array_equal(data.arrays("test")[name], array)
    assert data.captions("test") == alone.captions("test")
    batch = data.batch_at(0, 0, 16)
    assert {50, 200} == set(batch["x"][:, 4, 4, 0].tolist())


def test_the_vocabulary_is_that_of_the_data_alone_or_of_a_run(folders, tmp_path):
    pytest.importorskip("tokenizers")
    own, drawn = folders
    data = Captioned(data=own, prior=drawn, vocab_size=560)
    assert data.vocab == Captioned(data=own, vocab_size=560).vocab
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "caption_tokenizer.json").write_text(data.files_to_keep()["caption_tokenizer.json"])
    again = Captioned(data=ImageFolder(folder=drawn, size=8, label="none"), vocabulary=str(tmp_path / "run"))
    assert again.files_to_keep()["caption_tokenizer.json"] == data.files_to_keep()["caption_tokenizer.json"]


def test_what_is_no_prior_is_one_line(folders, tmp_path):
    own, _ = folders
    with pytest.raises(UserError, match="nowhere"):
        Captioned(data=own, prior=str(tmp_path / "nowhere"), tokenizer="bytes").arrays("train")
    (plain := tmp_path / "plain").mkdir()
    for i in range(12):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(plain / f"{i}.png")
    with pytest.raises(UserError, match="caption"):
        Captioned(data=own, prior=str(plain), tokenizer="bytes").arrays("train")
    with pytest.raises(UserError, match="prior_share is 1"):
        check_fields(Captioned(data=own, prior_share=1.0))
