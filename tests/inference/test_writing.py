"""Text as it is written: the same as in one call, whole letters only, a section of the report."""

import io
from dataclasses import replace

import numpy as np
import pytest
from conftest import EXPERIMENTS
from tiny_gpt import randomised, state_of, tiny

from jaxgen import core
from jaxgen.codecs import Identity
from jaxgen.data import Text
from jaxgen.data.tokenizers import Bytes
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment, presets
from jaxgen.inference import text
from jaxgen.models.gpt import prompts
from jaxgen.ops.decoding import Decoding
from jaxgen.report import write_report
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import Trained
from jaxgen.runtime.files import write_text

MODEL = tiny(vocab=256, window=16, decoding=Decoding(tokens=40))


@pytest.fixture(scope="module")
def state():
    return state_of(MODEL, randomised(MODEL))


@pytest.fixture
def run(tmp_path) -> RunFolder:
    run = RunFolder(tmp_path)
    run.keep_files({"tokenizer.json": Bytes().to_json()})
    run.keep_examples({"x": np.full((2, 17), 65, np.int32)})
    return run


def trained(run, model, state) -> Trained:
    return Trained(Experiment(model=model, codec=Identity(), data=Text()), Identity(), state, run)


def test_what_is_streamed_is_what_is_sampled(state, run):
    shown = io.StringIO()
    file = text.write_samples(trained(run, MODEL, state), text.Writing("hé", 3, 2), run.path, shown)
    cond = prompts([Bytes().encode("hé")] * 2, 16)
    lines = np.asarray(core.sample(MODEL, state, core.sample_keys(3, 2), cond))[:, : 3 + 40]
    texts = [Bytes().decode(line) for line in lines]
    assert shown.getvalue() == "".join(f"--- {i} ---\n{text}\n" for i, text in enumerate(texts))
    assert file.read_text() == shown.getvalue()
    assert len(set(texts)) == 2


def test_a_letter_waits_until_it_is_whole(state, monkeypatch):
    """Bytes of one letter in two parts."""
    letters = iter([[*b"abc", 0xC3], [0xA9, *b"def"]])
    monkeypatch.setattr(text, "PART", 4)
    monkeypatch.setattr(text, "_write", lambda *args: (None, np.array([next(letters)])))
    model = replace(MODEL, decoding=Decoding(tokens=8))
    assert list(text.stream(model, state, Bytes(), np.array([65]), 0)) == ["abc", "édef"]


def test_it_stops_at_the_end_token(state, run):
    shown = io.StringIO()
    plain = np.asarray(core.sample(MODEL, state, core.sample_keys(0, 1), prompts([[65]], 16)))[0, 1:41]
    model = replace(MODEL, decoding=Decoding(tokens=40, end=int(plain[20])))
    text.write_samples(trained(run, model, state), text.Writing(), run.path, shown)
    first = list(plain).index(plain[20])
    assert shown.getvalue() == Bytes().decode([65, *plain[:first]]) + "\n"


@pytest.mark.parametrize(("prompt", "message"), [("", "a prompt is empty"), ("a" * 17, "17 tokens, the window 16")])
def test_prompts_are_checked_before_anything_is_shown(state, run, prompt, message):
    shown = io.StringIO()
    with pytest.raises(UserError, match=message):
        text.write_samples(trained(run, MODEL, state), text.Writing(prompt), run.path, shown)
    assert not shown.getvalue()


def test_the_report_shows_the_latest_text_escaped(tmp_path):
    run = RunFolder(tmp_path)
    run.create(presets(EXPERIMENTS["gpt"])["smoke"])
    write_text(run.pictures(9) / "samples.txt", "old")
    write_text(run.pictures(10) / "samples.txt", "--- 0 ---\n<script>alert('x')</script>\x1b[31m\n")
    page = write_report(tmp_path).read_text()
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;\ufffd[31m" in page and "\x1b" not in page
    assert ">old<" not in page and "step 10" in page
