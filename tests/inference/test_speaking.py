"""Texts spoken by a run: `jaxgen speak`, long texts in pieces, pictures and players in the report."""

import dataclasses
import json
import re
import wave

import jax
import numpy as np
import pytest
from conftest import EXPERIMENTS

from jaxgen.cli.speak import command
from jaxgen.core import sample_keys
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.inference.pictures import save_pictures
from jaxgen.inference.speech import pieces, speak, utterances, waveform
from jaxgen.report import write_report
from jaxgen.report.heat import heat
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import initial_state, open_run, restore

SMOKE = presets(EXPERIMENTS["tacotron2"])["smoke"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Untrained."""
    pytest.importorskip("soundfile")
    folder = open_run(SMOKE, tmp_path_factory.mktemp("runs") / "tones", None, SMOKE.codec)
    with Checkpoints(folder.checkpoints) as checkpoints:
        checkpoints.save(initial_state(SMOKE, SMOKE.codec))
    return folder.path


def samples(file):
    with wave.open(str(file)) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (22_050, 1, 2)
        return sound.getnframes()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One sentence.", ["One sentence."]),
        ("Here is the first. Here is the second!", ["Here is the first.", "Here is the second!"]),
        ("Yes. No. Perhaps it is.", ["Yes. No.", "Perhaps it is."]),
        ("It is Mr. Smith.", ["It is Mr. Smith."]),
        ("A long sentence, which is cut after this.", ["A long sentence,", "which is cut after", "this."]),
        ("Words of {HH AW1 S T AH0 N} stay whole", ["Words of {HH AW1 S T AH0 N} stay", "whole"]),
        ("A dash stands alone here -", ["A dash stands alone", "here -"]),
        ("incomprehensibilities are long", ["incomprehensibilities", "are long"]),
    ],
)
def test_long_texts_are_cut_where_a_reader_rests(text, expected):
    found = pieces(text, 20)
    assert found == expected
    assert " ".join(found) == text


def test_two_thousand_characters_are_short_pieces():
    text = " ".join(f"Sentence number {i} is not the last one." for i in range(55))
    found = pieces(text, 60)
    assert " ".join(found) == text and len(text) > 2000
    assert len(found) == 55


def test_a_text_is_spoken_into_a_file(run, tmp_path, capsys):
    command([str(run), "some words", str(tmp_path / "out.wav"), "--picture", str(tmp_path / "p.png"), "--seed", "3"])
    printed = capsys.readouterr()
    count = samples(tmp_path / "out.wav")
    assert printed.out == f"{tmp_path / 'out.wav'}: {count / 22_050:.2f} s\n"
    assert (tmp_path / "p.png").stat().st_size > 500
    trained = restore(RunFolder(run))
    ((x, parts),) = speak(trained, ["some words"], 3)
    # Frames after the first are a hop each, and pieces have a pause between them.
    assert count == len(x) == sum(256 * (len(p.mel) - 1) for p in parts) + (len(parts) - 1) * round(0.2 * 22_050)
    assert all(p.alignment.shape == (len(p.mel) // 4, len(p.text)) for p in parts)


@pytest.mark.slow
def test_a_vocoder_makes_the_sound(run, tmp_path):
    """The command with a run of HiFi-GAN, beside its model by hand; and one of other mels is one line."""
    smoke = presets(EXPERIMENTS["hifigan"])["smoke"]
    generator = dataclasses.replace(smoke.model.generator, bands=80, rates=(16, 16), up_sizes=(32, 32))
    fits = dataclasses.replace(
        smoke,
        model=dataclasses.replace(smoke.model, mel=SMOKE.data.mel, generator=generator, segment=1024),
        data=dataclasses.replace(smoke.data, data=SMOKE.data, samples=1024),
    )
    for name, experiment in (("fits", fits), ("other", smoke)):
        with Checkpoints(open_run(experiment, tmp_path / name, None, experiment.codec).checkpoints) as checkpoints:
            checkpoints.save(initial_state(experiment, experiment.codec))
    out = tmp_path / "out.wav"
    with pytest.raises(UserError, match="reads mels of rate 4000, these have 22050"):
        command([str(run), "some", str(out), "--vocoder", str(tmp_path / "other")])
    command([str(run), "some", str(out), "--vocoder", str(tmp_path / "fits")])
    with wave.open(str(out)) as sound:
        x = np.frombuffer(sound.readframes(sound.getnframes()), "<i2") / 32767
    ((_, (part,)),) = speak(restore(RunFolder(run)), ["some"])
    vocoder = restore(RunFolder(tmp_path / "fits"))
    expected = vocoder.model.vocode(vocoder.state, sample_keys(0, 1), part.mel[None], np.array([len(part.mel)]))
    assert len(x) == 256 * (len(part.mel) - 1) and np.std(x) > 0
    np.testing.assert_allclose(x, np.clip(expected[0, 128 : 128 + len(x)], -1, 1), atol=1e-4)


def test_a_text_is_spoken_alike_beside_others(run):
    """By its own key: the same mel and the same sound, whatever else is spoken, and other ones by another seed."""
    trained = restore(RunFolder(run))
    one = speak(trained, ["some"], 3)[0]
    both = speak(trained, ["some", "thing else"], 3)
    np.testing.assert_allclose(one[1][0].mel, both[0][1][0].mel, atol=1e-5)
    np.testing.assert_allclose(one[0], both[0][0], atol=1e-3)
    # The first step sees nothing that is drawn: one that goes on does.
    longer = trained.to(dataclasses.replace(SMOKE, model=dataclasses.replace(SMOKE.model, threshold=1.0)))
    (a,), (b,) = (speak(longer, ["some"], seed)[0][1] for seed in (3, 4))
    assert a.mel.shape == b.mel.shape == (32, 80) and not np.allclose(a.mel, b.mel, atol=1e-3)


def test_more_texts_than_fit_in_a_batch_are_those_alone(run):
    trained = restore(RunFolder(run))
    cond = jax.tree.map(np.asarray, trained.model.sample_cond(5, trained.examples))
    many, few = utterances(trained, cond, 0, batch=8), utterances(trained, cond, 0, batch=2)
    assert len(many) == len(few) == 5
    for a, b in zip(many, few):
        assert a.text == b.text and a.stopped == b.stopped
        np.testing.assert_allclose(a.mel, b.mel, atol=1e-5)


def test_lines_of_a_file_are_spoken_into_a_folder(run, tmp_path):
    (tmp_path / "lines.txt").write_text("first\n\n  second one \n")
    command([str(run), str(tmp_path / "out"), "--lines", str(tmp_path / "lines.txt")])
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["0.wav", "1.wav"]


def test_what_cannot_be_spoken_is_one_line(run, tmp_path):
    out = str(tmp_path / "out.wav")
    (tmp_path / "empty.txt").write_text("\n \n")
    for args, message in (
        ([str(run), "", out], "nothing to be spoken"),
        ([str(run), "?!", out], "nothing to be spoken"),
        ([str(run), "\u65e5\u672c", out], "no symbol stands for"),
        ([str(run), "{HH AW", out], "without its other"),
        ([str(run), "text", str(tmp_path / "out.mp3")], "ends in .wav or .flac"),
        ([str(run), "text"], "not 2 words"),
        ([str(run), "text", out, "more"], "not 4 words"),
        ([str(run), str(tmp_path / "o"), "--lines", str(tmp_path / "empty.txt")], "has no text"),
        ([str(run), "text", out, "--vocoder", str(tmp_path / "none")], "no run folder"),
        ([str(tmp_path / "none"), "text", out], "no run folder"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            command(args)
    assert not (tmp_path / "out.wav").exists()


def test_a_run_leaves_sounds_that_the_report_plays(run):
    trained = restore(RunFolder(run))
    save_pictures(trained, final=False)
    folder = trained.run.pictures(0)
    names = [f"{name}_{i}.wav" for name in ("spoken", "true") for i in range(4)]
    assert {file.name for file in folder.iterdir()} == {*names, "samples.png", "sounds.json"}
    said = json.loads((folder / "sounds.json").read_text())
    assert set(said) == set(names) and said["true_0.wav"] == f"{SMOKE.data.captions('test')[0]} (true)"
    x = trained.examples["x"][0, : trained.examples["length"][0]]
    assert samples(folder / "true_0.wav") == 256 * (len(x) - 1) == len(waveform(x, SMOKE.data.mel))
    page = write_report(run).read_text()
    assert page.count("<audio controls") == 8 and f"<figcaption>{said['spoken_1.wav']}" in page


def test_heat_shows_the_lowest_left_and_below():
    values = np.zeros((4, 2))
    values[0, 1] = 1.0  # the first place, the higher of two
    seen = heat(values, 4, 8, (0.0, 1.0))
    assert seen.shape == (4, 8, 3)
    assert (seen[:2, :2] == (252, 250, 200)).all() and (seen[2:] == (8, 8, 30)).all() and (seen[:, 2:] == 8).any()
    with pytest.raises(UserError, match="two axes"):
        heat(np.zeros(3), 4, 4, (0.0, 1.0))
