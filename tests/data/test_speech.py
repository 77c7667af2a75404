"""Speech with its text: folders of tones, phrases of eSpeak NG, and the order and shapes of batches."""

import dataclasses
import unicodedata

import numpy as np
import pytest

from jaxgen.core.configuration import check_fields
from jaxgen.data import BatchPlan, Sounds, SpeechFolder, Spoken, feed
from jaxgen.data.embedded_texts import phrases
from jaxgen.data.speech_cache import mel_of
from jaxgen.data.speech_text import decoded, encoded
from jaxgen.errors import UserError
from jaxgen.ops.audio import Mel, log_mel
from jaxgen.runtime.sound import write_sound

soundfile = pytest.importorskip("soundfile", reason="needs the extra speech")
SMALL = Mel(rate=8_000, n_fft=256, hop=64, window=256, bands=16, high=4_000.0)


def tone(seconds: float, rate: int = 8_000, hz: float = 300.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def speech_folder(root, num: int = 30, rate: int = 8_000) -> SpeechFolder:
    """Clips of 0.3 to 1.5 s, of which the text says the length."""
    seconds = np.linspace(0.3, 1.5, num)
    for i, s in enumerate(seconds):
        write_sound(root / "wavs" / f"c{i:02}.wav", tone(s, rate), rate)
    lines = [f"c{i:02}|{'ignored 1'}|{'la ' * round(20 * s)}" for i, s in enumerate(seconds)]
    (root / "metadata.csv").write_text("\n".join(lines) + "\n\n")
    return SpeechFolder(folder=str(root), mel=SMALL, frames=32)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "cache"))


def test_a_batch_holds_what_the_files_say(tmp_path):
    data = speech_folder(tmp_path / "a")
    train, test = data.count("train"), data.count("test")
    assert train + test == data.count("all") == 30 and 1 <= test <= 8
    batch = data.batch_at(0, 0, 8)
    indices = data.indices_at(0, 0, 8)
    assert {name: array.dtype for name, array in batch.items()} == {
        "text": np.int32, "text_length": np.int32, "x": np.float32, "length": np.int32
    }  # fmt: skip
    for row, i in enumerate(indices):
        text, frames = data.captions("train")[i], batch["length"][row]
        symbols = batch["text"][row]
        assert decoded(symbols) == text.strip() and batch["text_length"][row] == len(encoded(text))
        assert not symbols[batch["text_length"][row] :].any() and symbols[: batch["text_length"][row]].all()
        x = data.sound(int(i), "train")
        assert frames == SMALL.frames(len(x))
        np.testing.assert_array_equal(batch["x"][row, :frames], mel_of(x, SMALL))
        np.testing.assert_array_equal(batch["x"][row, frames:], np.float32(SMALL.silence))
    assert batch["x"].shape[1] % 32 == 0 and batch["text"].shape[1] % 16 == 0


def test_shapes_are_few_and_each_epoch_holds_each_clip_once(tmp_path):
    data = speech_folder(tmp_path / "a")
    n, size = data.count(), 4
    steps = [data.indices_at(3, step, size) for step in range(5 * n)]
    stream = np.concatenate(steps)
    for epoch in range(5 * size):
        assert sorted(stream[epoch * n : (epoch + 1) * n]) == list(range(n))
    shapes = {}
    for step in range(n):
        batch = data.batch_at(3, step, size)
        shapes.setdefault(batch["x"].shape[1], set()).add(batch["text"].shape[1])
    assert len(shapes) <= data.arrays().buckets.max() and all(len(texts) == 1 for texts in shapes.values())
    filled = [batch["length"].mean() / batch["x"].shape[1] for batch in (data.batch_at(3, s, size) for s in range(n))]
    assert np.mean(filled) > 0.7
    other = np.concatenate([data.indices_at(4, step, size) for step in range(n)])
    assert not np.array_equal(other, stream[: len(other)])


def test_a_part_of_a_batch_has_the_shape_of_all_of_it(tmp_path):
    """As processes that each read their own rows need it."""
    data = speech_folder(tmp_path / "a")
    plan = BatchPlan(seed=0, batch_size=8, steps_per_call=2, stop=8)
    whole = list(feed(data, plan)[1])
    for rows in (np.arange(2), np.arange(5, 8)):
        for part, all_of_it in zip(feed(data, plan, rows=rows)[1], whole, strict=True):
            for name, array in part.items():
                np.testing.assert_array_equal(array, all_of_it[name][:, rows])
    first = [data.batch_at(0, step, 8) for step in (0, 1)]
    for step in (0, 1):
        frames = first[step]["x"].shape[1]
        np.testing.assert_array_equal(whole[0]["x"][step, :, :frames], first[step]["x"])


def test_held_out_batches_are_in_order_and_padded(tmp_path):
    data = speech_folder(tmp_path / "a")
    lengths = np.concatenate([b["length"][mask] for b, mask in data.padded_batches(2, "test")])
    np.testing.assert_array_equal(lengths, [SMALL.frames(len(data.sound(i))) for i in range(data.count("test"))])


def test_mels_are_kept_and_made_anew_where_a_file_changes(tmp_path, monkeypatch):
    data = speech_folder(tmp_path / "a")
    before = data.batch_at(0, 0, 4)
    monkeypatch.setattr("jaxgen.data.speech.read_sound", lambda *a: pytest.fail("a clip is read again"))
    again = dataclasses.replace(data, frames=64)
    assert again.batch_at(0, 0, 4)["x"].shape[1] % 64 == 0
    monkeypatch.undo()
    monkeypatch.setenv("JAXGEN_CACHE", "/proc/none")  # which cannot be made
    other = dataclasses.replace(data, longest=20.0)
    np.testing.assert_array_equal(other.batch_at(0, 0, 4)["x"], before["x"])


@pytest.mark.parametrize("kept", ["*.mels", "*.frames"])
def test_kept_mels_that_were_cut_off_are_made_anew(tmp_path, kept: str):
    root = tmp_path / "a"
    x = np.array(speech_folder(root).batch_at(0, 0, 8)["x"])
    (file,) = (tmp_path / "cache").rglob(kept)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    # Of another value, so that nothing in memory stands for it.
    again = dataclasses.replace(SpeechFolder(folder=str(root), mel=SMALL, frames=32), longest=29.0)
    np.testing.assert_array_equal(again.batch_at(0, 0, 8)["x"], x)
    assert file.read_bytes() == whole


def test_the_end_of_a_clip_is_reflected_there():
    x = tone(0.3137)
    np.testing.assert_allclose(mel_of(x, SMALL), log_mel(x, SMALL), atol=1e-5)


def test_lists_of_held_out_clips_and_names_with_paths(tmp_path):
    data = speech_folder(tmp_path, 5)
    write_sound(tmp_path / "deep" / "x.flac", tone(0.5), 8_000)
    (tmp_path / "val.csv").write_text("deep/x.flac|held out.\nc01.wav|also\n")
    assert data.captions("test") == ("also", "held out.")
    assert data.count("train") == 4 and len(set(data.captions("all"))) == 6


def test_speakers_numbers_are_no_texts(tmp_path):
    """A line of NVIDIA's and Mellotron's lists is path|text|speaker, one of VITS' path|speaker|text."""
    sounds = {name: tone(0.4) for name in "abc"}
    for i, (lines, said) in enumerate((
        ("wavs/a.wav|one there|0\nwavs/b.wav|two|12\nc|3 more|7", ("one there", "two", "3 more")),
        ("a|0|one there\nb|12|two\nc|7|3", ("one there", "two", "3")),
        ("a|I have 3|I have three\nb|4|four\nc|5|5", ("I have three", "four", "5")),
    )):  # fmt: skip
        assert folder_of(tmp_path / str(i), lines, sounds).captions("all") == said


def test_sounds_are_found_by_endings_in_capitals_and_names_with_accents(tmp_path):
    sounds = {"a": tone(0.4), unicodedata.normalize("NFD", "caf\u00e9"): tone(0.5)}
    data = folder_of(tmp_path, "a.WAV|one\n" + unicodedata.normalize("NFC", "caf\u00e9") + "|two", sounds)
    (tmp_path / "wavs" / "a.wav").rename(tmp_path / "wavs" / "a.WAV")
    assert data.captions("all") == ("one", "two")


def test_sound_alone_may_be_of_any_language(tmp_path):
    data = folder_of(tmp_path, "a|\u4f60\u597d\nb|\u4e16", {"a": tone(0.4), "b": tone(0.4)})
    assert Sounds(data=data, samples=1024).count("all") == 2 * -(-3200 // 1024)
    with pytest.raises(UserError, match="which no symbol stands for"):
        data.load("train")


def folder_of(root, text: str, sounds: dict[str, np.ndarray], rate: int = 8_000) -> SpeechFolder:
    for name, x in sounds.items():
        (root / "wavs").mkdir(parents=True, exist_ok=True)
        soundfile.write(root / "wavs" / f"{name}.wav", x, rate)
    root.mkdir(exist_ok=True)
    (root / "metadata.csv").write_text(text)
    return SpeechFolder(folder=str(root), mel=SMALL)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a|\nb|there", "metadata.csv has a clip without a text in line 1"),
        ("a||\nb|there", "without a text in line 1"),
        ("a\nb|there", "without a text in line 1"),
        ("|words\nb|there", "without a name in line 1"),
        ("a|one\na|two", "names a again in line 2"),
        ("a|one\nmissing|two", "has no sound of missing: add wavs/missing.wav or .flac"),
        ("a|one\nwavs/a.wav|two", "names a again in line 2"),
        ("a|one", "0 clips to train on and 1 held out"),
        ("\n\n", "has no clips"),
        ("a|one\nb|\u4f60\u597d", "clip b of .*which no symbol stands for"),
        ("a|one\nb|...", "clip b of .*nothing to be spoken"),
        ("a|one\nsilent|two", "silent.wav is silent, more than 128 are expected: remove it"),
        ("a|one\nshort|two", "short.wav has 100 samples that are not silent"),
    ],
)
def test_wrong_folders_are_one_line(tmp_path, text: str, said: str):
    sounds = {"a": tone(0.3), "b": tone(0.3), "silent": np.zeros(5000), "short": np.ones(100)}
    data = folder_of(tmp_path / "x", text, sounds)
    with pytest.raises(UserError, match=said) as error:
        data.count("all")
    assert "\n" not in str(error.value)


def test_folders_that_are_none(tmp_path):
    for folder, said in (
        ("", "no folder of speech was given"),
        (str(tmp_path / "no"), "is no folder"),
        (str(tmp_path), "has no metadata.csv"),
    ):
        with pytest.raises(UserError, match=said):
            SpeechFolder(folder=folder).count()


def test_stereo_and_other_rates_are_the_same_clip(tmp_path):
    stereo = np.stack([tone(0.6, 16_000)] * 2, axis=1)
    odd = folder_of(tmp_path / "odd", "a|one\nb|two", {"a": stereo, "b": stereo}, rate=16_000)
    plain = folder_of(tmp_path / "plain", "a|one\nb|two", {"a": tone(0.6), "b": tone(0.6)})
    found, true = (data.batch_at(0, 0, 1) for data in (odd, plain))
    assert found["length"] == true["length"]
    np.testing.assert_allclose(found["x"][:, 3:60], true["x"][:, 3:60], atol=0.2)


def test_long_clips_are_left_out_and_counted(tmp_path, capsys):
    data = dataclasses.replace(speech_folder(tmp_path), longest=0.8)
    assert data.arrays("all").lengths.max() <= SMALL.frames(int(0.8 * 8_000)) and 5 < data.count("all") < 30
    assert len(data.captions("all")) == data.count("all")
    said = capsys.readouterr()
    assert f"{30 - data.count('all')} of 30 clips of" in said.out + said.err
    np.testing.assert_array_equal(
        [SMALL.frames(len(data.sound(i, "all"))) for i in range(data.count("all"))], data.arrays("all").lengths
    )
    assert dataclasses.replace(data, longest=1e308).count("all") == 30
    with pytest.raises(UserError, match=r"all .* clips of .* are longer than 0\.1 s"):
        dataclasses.replace(data, longest=0.1).count()


def test_a_dictionary_is_used(tmp_path):
    (tmp_path / "words.dict").write_text("la L AA1\n")
    data = dataclasses.replace(speech_folder(tmp_path / "a"), dictionary=str(tmp_path / "words.dict"))
    assert decoded(data.tokens(["la, la land"])["text"][0]) == "{L AA1}, {L AA1} land"
    check_fields(data)


def test_the_dictionary_of_pocketsphinx_has_a_name(tmp_path):
    pytest.importorskip("pocketsphinx", reason="needs the extra speech")
    data = dataclasses.replace(speech_folder(tmp_path / "a"), dictionary="cmu")
    assert decoded(data.tokens(["a voice, xyzzy"])["text"][0]) == "{AH} {V OY S}, xyzzy"
    check_fields(data)


# --- eSpeak NG ------------------------------------------------------------------------------------------------


def test_phrases_are_many_plain_and_short():
    found = phrases(60)
    assert len(found) > 4_000 and len(set(found)) == len(found)
    assert all(12 <= len(text) <= 60 for text in found)
    assert all(set(decoded(encoded(text))) <= set("abcdefghijklmnopqrstuvwxyz ',.:;!?") for text in found[::20])


def test_spoken_is_made_of_them():
    pytest.importorskip("espeakng_loader", reason="needs the extra speech")
    data = Spoken(num=24, mel=SMALL)
    train, test = data.captions("train"), data.captions("test")
    assert not set(train) & set(test) and len(train) + len(test) == 24 and test
    assert set(Spoken(num=60).captions("test")) >= set(test)
    batch = data.batch_at(0, 0, 8)
    for row, i in enumerate(data.indices_at(0, 0, 8)):
        assert decoded(batch["text"][row]) == train[i].lower()
        x = data.sound(int(i), "train")
        assert batch["length"][row] == SMALL.frames(len(x))
        np.testing.assert_array_equal(batch["x"][row, : batch["length"][row]], mel_of(x, SMALL))
    # Speech is louder than silence by far, and 0.3 to 6 s long.
    assert batch["x"].max() > -2 and 0.3 < batch["length"].min() * 64 / 8_000 < 6
    with pytest.raises(UserError, match="voice is 'nobody'"):
        Spoken(num=24, voice="nobody").count()
    with pytest.raises(UserError, match="speed"):
        check_fields(Spoken(speed=1000))


@pytest.mark.slow
def test_a_real_reader_is_read_whole_and_understood(shared_data):
    """468 prompts of one reader. A recogniser of English in general hears most words of those held out."""
    pytest.importorskip("pocketsphinx", reason="needs the extra speech")
    from jaxgen.metrics.recognition import recogniser
    from jaxgen.metrics.speech import error_rate

    data = SpeechFolder(folder=str(shared_data / "prompts_en"), longest=8.0)
    train, test = data.count(), data.count("test")
    assert train + test > 440 and 20 < test < 80
    for step in range(0, train // 16, 4):
        batch = data.batch_at(0, step, 16)
        assert np.isfinite(batch["x"]).all() and batch["length"].min() > 20
    heard = [recogniser()(data.sound(i), data.mel.rate) for i in range(test)]
    assert error_rate(data.captions("test"), heard) < 0.6
