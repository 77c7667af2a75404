"""`jaxgen judge` and what `jaxgen compare` makes of answers: the page is answered in a browser."""

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from browser import browser
from conftest import EXPERIMENTS
from messages import one_line
from PIL import Image

from jaxgen import __main__ as commands
from jaxgen.codecs import Identity
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.inference.judging import Contestant, check, of_data, trials, write_judge
from jaxgen.inference.sampling import draw
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import restore
from jaxgen.train.loop import train

NUM, SEED = 2, 5
NAMES = "heron|sparrow|VAE|Digits"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs of classes, `heron` and `sparrow`, and the page of both and real data."""
    place = tmp_path_factory.mktemp("judge")
    smoke = presets(EXPERIMENTS["cvae"])["smoke"]
    for seed, name in enumerate(("heron", "sparrow")):
        train(replace(smoke, seed=seed), place / name)
    runs, page = (str(place / name) for name in ("heron", "sparrow")), str(place / "judge.html")
    commands.call(["judge", *runs, "--real", "--num", str(NUM), "--seed", str(SEED), "--out", page])
    return place


@pytest.fixture(scope="module")
def contestants(folder):
    """What each contestant shows, and what the answers are to say of it."""
    runs = [restore(RunFolder(folder / name)) for name in ("heron", "sparrow")]
    said = [
        {"of": "samples", "run": run.name, "model": "VAE", "step": 20, "parameters": "params", "weights": run.weights,
         "seed": SEED, "num": NUM}
        for run in runs
    ]  # fmt: skip
    drawn = [draw(run, SEED, NUM, run.model.sample_cond(NUM, run.examples)) for run in runs]
    real = runs[0].experiment.data.arrays("test")["x"]
    return [*said, {"of": "test", "data": "Digits"}], [*drawn, real]


def shown(page, side: str) -> np.ndarray:
    """The pixels of the picture on a side."""
    data = page.run(f"document.querySelector('#{side} img').src").removeprefix("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_the_answers_are_what_was_clicked(folder, contestants, tmp_path, capsys):
    """By mouse and by keys, with an answer taken back, a key held down and the page loaded anew in between."""
    facts, images = contestants
    steps = ["click left", "press ArrowRight", "hold ArrowRight", "press ArrowLeft", "press Backspace", "reload",
             "click right", "press ArrowLeft", "click #back", "click left", "press ArrowRight",
             "press ArrowRight"]  # fmt: skip
    chosen = ["left", "right", "right", "left", "right", "right"]
    address, seen = (folder / "judge.html").as_uri(), []
    with browser(tmp_path) as page:
        page.open(address)
        assert not re.search(NAMES, page.run("document.title + document.documentElement.innerText"))
        assert not re.search(NAMES, (folder / "judge.html").read_text()), "a name can be read in the source"
        assert page.run("document.querySelector('#save').disabled")
        for step in steps:
            verb, _, what = step.partition(" ")
            seen[page.run("sitting.chosen.length") :] = [[shown(page, side) for side in ("left", "right")]]
            if verb == "reload":
                page.open(address)
            elif verb == "click":
                page.click(what if what.startswith("#") else f"#{what}")
            else:
                page.press(what, repeat=verb == "hold")
        assert page.run("document.querySelector('#count').textContent") == "6 of 6 answered"
        assert page.run("document.querySelector('#pair').offsetParent === null")
        page.press("ArrowLeft")  # there is nothing left to choose
        page.click("#save")
        saved = page.downloaded()
        page.click("#anew")
        assert page.run("document.querySelector('#count').textContent") == "0 of 6 answered"
        assert not page.problems
    answers = json.loads(saved.read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", answers.pop("started"))
    name = answers.pop("page")
    assert saved.name.startswith(f"answers-{name}-") and not re.search(NAMES, saved.name)
    planned = answers.pop("answers")
    assert answers == {
        "kind": "jaxgen answers 1", "question": "Which looks more real?", "seed": SEED, "contestants": facts,
    }  # fmt: skip
    expected = []
    for i, (trial, side) in enumerate(zip(trials(3, NUM, SEED), chosen)):
        both = {}
        for k, place in enumerate(("left", "right")):
            sample = planned[i][place]["sample"]
            assert trial[k] == 2 or sample == trial.i
            np.testing.assert_array_equal(seen[i][k], images[trial[k]][sample, ..., 0])
            both[place] = {"contestant": trial[k], "sample": sample}
        expected.append({"trial": i, **both, "chosen": side})
    assert planned == expected

    capsys.readouterr()
    commands.call(["compare", str(saved)])
    out = capsys.readouterr().out
    wins = [[0, 0] for _ in range(3)]
    for answer in expected:
        pair = sorted(answer[side]["contestant"] for side in ("left", "right"))
        wins[{(0, 1): 0, (0, 2): 1, (1, 2): 2}[tuple(pair)]][pair.index(answer[answer["chosen"]]["contestant"])] += 1
    rows = [re.split(r"\s*[│|]\s*", line.strip("│| ")) for line in out.splitlines() if line.startswith("│")]
    names = ["heron", "sparrow", "real Digits test"]
    for row, (a, b), (won, lost) in zip(rows, [(0, 1), (0, 2), (1, 2)], wins, strict=True):
        assert row[:4] == [names[a], names[b], "2", f"{50 * won:.1f} %"] and won + lost == 2
    assert f"6 answers, 1 sitting; left was chosen in {100 * 2 / 6:.1f} %" in out


def test_each_is_on_the_left_as_often():
    """And the order is no function of what is compared."""
    planned = trials(3, 10, seed=1)
    couples = {tuple(sorted(trial[:2])): [t for t in planned if {*t[:2]} == {*trial[:2]}] for trial in planned}
    assert sorted(couples) == [(0, 1), (0, 2), (1, 2)]
    for (a, _), some in couples.items():
        assert sorted(trial.i for trial in some) == list(range(10))
        assert sum(trial.left == a for trial in some) == 5
        assert [trial.i for trial in some] != list(range(10))
    assert planned == trials(3, 10, seed=1) != trials(3, 10, seed=2)
    assert abs(sum(trials(2, 1, seed)[0].left for seed in range(200)) - 100) < 40  # an odd one is on either side


def test_real_pictures_are_of_the_classes_that_are_drawn(folder):
    run = restore(RunFolder(folder / "heron"))
    held_out = run.experiment.data.arrays("test")
    real = of_data(run, 40, seed=3)
    np.testing.assert_array_equal(real.images, held_out["x"][real.numbers])
    np.testing.assert_array_equal(held_out["cond"][real.numbers], run.model.sample_cond(40, run.examples))
    assert len(set(real.numbers)) == 40
    assert not np.array_equal(of_data(run, 40, seed=4).numbers, real.numbers)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["HERON"], "two to choose from"),
        (["HERON", "HERON"], "named twice"),
        (["HERON", "nowhere"], "no run folder"),
        (["HERON", "--real", "--num", "5000"], "held-out examples"),
        (["HERON", "SPARROW", "--prompt", "a cat"], "told no texts"),
        (["HERON", "SPARROW", "--num", "0"], "num is 0"),
        (["HERON", "SPARROW", "--reel"], "did you mean --real?"),
        (["HERON", "SPARROW", "--out", "/proc/judge.html"], "cannot write"),
    ],
)
def test_what_cannot_be_judged_is_one_line(words, said, folder):
    places = {"HERON": str(folder / "heron"), "SPARROW": str(folder / "sparrow")}
    with pytest.raises(UserError) as error:
        commands.call(["judge", *(places.get(word, word) for word in words)])
    assert said in one_line(error)


def test_what_is_no_picture_of_one_size_is_refused_before_it_is_drawn(folder, tmp_path):
    small, large = (Contestant({}, np.zeros((2, n, n, 1), np.uint8), np.arange(2)) for n in (8, 16))
    with pytest.raises(UserError, match="8 x 8 x 1 and 16 x 16 x 1"):
        write_judge(tmp_path / "page.html", [small, large], "Which?", 0)
    run = restore(RunFolder(folder / "heron"))
    check([run, run], 2)
    with pytest.raises(UserError, match=r"heron shows is float32\[8, 8, 1\]: pictures"):
        check([run, replace(run, codec=Identity())], 2)
