"""The benchmark of speech recognition, on a few clips."""

import json

import pytest
import speech_recognition


@pytest.mark.slow
def test_clips_are_recognised(tmp_path):
    pytest.importorskip("pocketsphinx", reason="needs the extra speech")
    pytest.importorskip("espeakng_loader", reason="needs the extra speech")
    out = tmp_path / "out.json"
    speech_recognition.main(["--voices", "en-us+f2", "--num", "6", "--general", "2", "--out", str(out)])
    texts, english = json.loads(out.read_text())["results"]
    assert (texts["clips"], english["clips"], english["known"]) == (6, 2, "english")
    assert texts["word_error_rate"] < 0.7 and 5 < texts["speech_seconds"] < 25
    assert 0 <= texts["character_error_rate"] < texts["word_error_rate"] + 0.2
