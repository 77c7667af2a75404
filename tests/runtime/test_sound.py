"""Sound files of odd kinds, and the library that speaks."""

import sys

import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.runtime.sound import read_sound, resampled, voiced, write_sound

soundfile = pytest.importorskip("soundfile", reason="needs the extra speech")


def tone(rate: int, seconds: float = 0.3, hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


@pytest.mark.parametrize("ending", [".wav", ".flac", ".WAV"])
def test_what_is_written_comes_back(tmp_path, ending: str):
    x = tone(22_050)
    file = tmp_path / "below" / f"x{ending}"
    write_sound(file, x, 22_050)
    np.testing.assert_allclose(read_sound(file, 22_050), x, atol=1 / 32768)
    assert soundfile.info(str(file)).subtype == "PCM_16"
    write_sound(file, 3 * x, 22_050)
    np.testing.assert_allclose(read_sound(file, 22_050), np.clip(3 * x, -1, 1), atol=1 / 32000)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "FLOAT", "DOUBLE", "ULAW"])
def test_other_ways_to_write_samples(tmp_path, subtype: str):
    x = tone(22_050)
    soundfile.write(tmp_path / "x.wav", x, 22_050, subtype)
    coarse = {"PCM_U8": 1 / 120, "ULAW": 0.02}.get(subtype, 1e-5)
    np.testing.assert_allclose(read_sound(tmp_path / "x.wav", 22_050), x, atol=coarse)


def test_stereo_becomes_the_mean_and_8_khz_is_resampled(tmp_path):
    soundfile.write(tmp_path / "x.flac", np.stack([tone(8_000), 0 * tone(8_000)], axis=1), 8_000)
    found = read_sound(tmp_path / "x.flac", 22_050)
    assert found.dtype == np.float32 and len(found) == int(0.3 * 22_050)
    true = tone(22_050) / 2
    np.testing.assert_allclose(found[500:-500], true[500 : len(found) - 500], atol=2e-3)
    assert resampled(true, 5, 5) is true


def test_silence_at_both_ends_is_cut():
    x = np.concatenate([np.zeros(6000), tone(22_050), np.zeros(9000)]).astype(np.float32)
    rng = np.random.default_rng(0)
    for noise in (0.0, 1e-4):
        part = voiced(x + (noise * rng.standard_normal(len(x))).astype(np.float32), 40.0)
        # A frame reaches over 1024 samples on each side, and frames are 512 apart.
        assert 6000 - 1536 <= part.start <= 6000 and 0 <= part.stop - (6000 + len(tone(22_050))) <= 1536
    assert voiced(np.zeros(5000, np.float32), 40.0) == slice(0, 0)
    assert voiced(tone(22_050), 40.0) == slice(0, len(tone(22_050)))
    assert voiced(np.ones(3, np.float32), 40.0) == slice(0, 3)


def test_files_that_are_no_sound_are_one_line(tmp_path):
    wrong = {
        "text.wav": (b"no sound at all", "cannot be read as sound"),
        "empty.wav": (b"", "cannot be read as sound"),
    }
    for name, (data, said) in wrong.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=said) as error:
            read_sound(tmp_path / name, 22_050)
        assert name in str(error.value) and "\n" not in str(error.value)
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 22_050)
    with pytest.raises(UserError, match="has 0 samples at 22050 Hz"):
        read_sound(tmp_path / "none.wav", 22_050)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 22_050, "FLOAT")
    with pytest.raises(UserError, match="not finite"):
        read_sound(tmp_path / "nan.wav", 22_050)
    with pytest.raises(UserError, match="is a folder"):
        read_sound(tmp_path, 22_050)
    with pytest.raises(UserError, match="cannot be read"):
        read_sound(tmp_path / "missing.wav", 22_050)
    with pytest.raises(UserError, match=r"give it a name that ends in \.wav or \.flac"):
        write_sound(tmp_path / "x.mp3", tone(8_000), 8_000)


def test_a_file_cut_short_is_read_as_far_as_it_goes_or_one_line(tmp_path):
    write_sound(tmp_path / "x.flac", tone(22_050), 22_050)
    whole = (tmp_path / "x.flac").read_bytes()
    for size in range(0, len(whole), len(whole) // 12):
        (tmp_path / "x.flac").write_bytes(whole[:size])
        try:
            assert len(read_sound(tmp_path / "x.flac", 22_050)) <= len(tone(22_050))
        except UserError as error:
            assert "x.flac" in str(error)


# --- eSpeak NG ------------------------------------------------------------------------------------------------


def test_espeak_says_a_text_as_it_did_before():
    pytest.importorskip("espeakng_loader", reason="needs the extra speech")
    from jaxgen.runtime.espeak import spoken

    first, rate = spoken("The quick brown fox.")
    assert rate == 22_050 and first.dtype == np.float32 and 0.1 < np.abs(first).max() <= 1
    spoken("Something else is said in between.")
    np.testing.assert_array_equal(spoken("The quick brown fox.")[0], first)
    breathing = [spoken("The fishes swim.", "en-us+f5")[0] for _ in range(2)]
    np.testing.assert_array_equal(*breathing)
    assert len(spoken("The quick brown fox.", words_a_minute=350)[0]) < 0.7 * len(first)
    assert len(spoken("The quick brown fox jumps over the lazy dog.")[0]) > 1.5 * len(first)
    with pytest.raises(UserError, match="voice is 'nobody'"):
        spoken("Hello", voice="nobody")
    with pytest.raises(UserError, match="no sound of the text ''"):
        spoken("")


@pytest.mark.parametrize("module", ["soundfile", "espeakng_loader", "pocketsphinx"])
def test_a_missing_package_is_named_with_its_extra(module: str, tmp_path, monkeypatch):
    from jaxgen.metrics.recognition import recogniser
    from jaxgen.runtime.espeak import spoken

    monkeypatch.setitem(sys.modules, module, None)  # as the import system marks what cannot be imported
    needs = {
        "soundfile": lambda: write_sound(tmp_path / "x.flac", tone(8_000), 8_000),
        "espeakng_loader": lambda: spoken("Hello"),
        "pocketsphinx": lambda: recogniser(("one text", "for this test alone")),
    }
    with pytest.raises(UserError, match=rf"needs the package {module}: pip install 'jaxgen\[speech\]'"):
        needs[module]()
