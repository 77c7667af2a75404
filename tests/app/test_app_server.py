"""`jaxgen app` over HTTP: what each run offers, that results are the command's own, and what is refused."""

import base64
import io
import json
import shlex
import time
from http.client import HTTPConnection
from urllib.parse import quote

import numpy as np
import pytest
from browser import browser
from conftest import first_stage
from PIL import Image

import jaxgen
from jaxgen import __main__ as commands
from jaxgen.app.server import MOST_BYTES
from jaxgen.cli.app import serve
from jaxgen.data.tokenizers import from_json
from jaxgen.runtime.picture import read_picture
from jaxgen.runtime.png import read_origin

NAMES = ("cvae", "ddpm", "gpt")
PATIENCE = 240


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Untrained runs of the smoke presets."""
    folder = tmp_path_factory.mktemp("my runs")
    for name in NAMES:
        first_stage(f"{name}-smoke-0", folder)
    return folder


@pytest.fixture(scope="module")
def server(place, tmp_path_factory):
    given, scratch = tmp_path_factory.mktemp("given"), tmp_path_factory.mktemp("scratch")
    made = serve([str(place / f"{name}-smoke-0") for name in NAMES], given, scratch)
    made.given, made.scratch = given, scratch
    yield made
    made.close()
    assert not list(scratch.iterdir())


def ask(server, path, body=None, **headers):
    """Status and content of an answer; JSON is read."""
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=PATIENCE)
    content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    said = {"Content-Type": "application/json"} if content is not None else {}
    said |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET" if body is None else "POST", path, content, said)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, json.loads(data) if answer.getheader("Content-Type") == "application/json" else data


def done(server, run, task, pictures=None, **values):
    """The end of a job: its status, with the contents of its files."""
    asked = {"run": NAMES.index(run), "task": task, "values": values, "pictures": pictures or {}}
    code, said = ask(server, "/jobs", asked)
    assert code == 200, said
    end = time.monotonic() + PATIENCE
    while (status := ask(server, f"/jobs/{said['job']}")[1])["state"] not in ("done", "failed"):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert status["state"] == "done", status
    found = status["result"]
    names = [one["file"] for kind in ("pictures", "films", "sounds") for one in found[kind]] + [found["grid"]]
    status["files"] = {name: ask(server, f"/jobs/{said['job']}/{quote(name)}") for name in names if name}
    assert all(code == 200 for code, _ in status["files"].values())
    status["files"] = {name: data for name, (_, data) in status["files"].items()}
    return status


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def read_picture_of(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def again(status, folder):
    """The files that the shown command writes."""
    program, *words = shlex.split(status["result"]["command"])
    assert program == "jaxgen"
    commands.call([*words, "--out", str(folder)])
    return folder


def sent(array: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_each_run_offers_what_it_can(server):
    code, runs = ask(server, "/runs")
    assert code == 200 and [run["name"] for run in runs] == [f"{name}-smoke-0" for name in NAMES]
    assert [run["tasks"] for run in runs] == [
        ["draw", "walk"], ["draw", "walk", "vary", "fill in", "restore"], ["write"],
    ]  # fmt: skip
    offered = {}
    for i, name in enumerate(NAMES):
        for form in ask(server, f"/forms/{i}")[1]:
            offered[name, form["name"]] = {one["name"]: one for one in form["controls"]}
            assert form["picture"] == (form["name"] in ("vary", "fill in", "restore"))
            assert form["size"] == ([8, 8] if form["picture"] else None)
    assert list(offered["cvae", "draw"]) == ["cond", "num", "seed", "step"]
    assert [name for _, name in offered["cvae", "draw"]["cond"]["choices"]] == [str(i) for i in range(10)]
    assert {"steps", "sampler"} <= offered["ddpm", "draw"].keys() and "cond" not in offered["ddpm", "draw"]
    assert "guidance" not in offered["ddpm", "draw"], "it was not trained without conditions"
    assert {"strength"} <= offered["ddpm", "vary"].keys() and "resample" in offered["ddpm", "fill in"]
    assert {"lost", "factor", "std", "iterations"} <= offered["ddpm", "restore"].keys()
    assert {"prompt", "tokens"} <= offered["gpt", "write"].keys()
    assert ask(server, "/forms/3") == (400, {"error": "there is no run 3: 3 were named"})
    assert ask(server, "/runs/0.png")[0] == 400  # it was not trained


def test_samples_of_classes_are_those_of_the_run(server, place, tmp_path):
    """Pixel by pixel, each in a PNG that says where it comes from; the same bytes again; and the command's too."""
    status = done(server, "cvae", "draw", num=5, seed=7, cond=[1, 3])
    run = jaxgen.load(place / "cvae-smoke-0")
    expected = run.sample(5, seed=7, cond=np.resize(np.array([1, 3], np.int32), 5))
    shown = status["result"]["pictures"]
    assert [one["file"] for one in shown] == [f"files/{i}.png" for i in range(5)]
    assert [one["said"] for one in shown] == ["1", "3", "1", "3", "1"]
    for i, one in enumerate(shown):
        np.testing.assert_array_equal(pixels(status["files"][one["file"]]), expected[i, ..., 0])
        assert (one["width"], one["height"]) == (8, 8)
    (tmp_path / "a.png").write_bytes(status["files"]["files/3.png"])
    origin = read_origin(tmp_path / "a.png")
    assert (origin["seed"], origin["sample"], origin["run"]) == (7, 3, "cvae-smoke-0")
    command = status["result"]["command"]
    assert shlex.split(command)[1:] == origin["command"] and str(server.scratch) not in command
    assert done(server, "cvae", "draw", num=5, seed=7, cond=[1, 3])["files"] == status["files"]
    assert done(server, "cvae", "draw", num=5, seed=8, cond=[1, 3])["files"] != status["files"]
    out = again(status, tmp_path / "again")
    for name, data in status["files"].items():
        np.testing.assert_array_equal(read_picture(out / name), read_picture_of(data))


def test_a_walk_of_latents(server, place, tmp_path):
    """Each row leads from one sample of the seed to the next one."""
    status = done(server, "cvae", "walk", num=8, between=4, seed=2, cond=[4])
    assert status["result"]["columns"] == 4 and len(status["result"]["pictures"]) == 8
    rows = np.stack([pixels(status["files"][f"files/{i}.png"]) for i in range(8)]).reshape(2, 4, 8, 8).astype(int)
    ends = jaxgen.load(place / "cvae-smoke-0").sample(4, seed=2, cond=np.full(4, 4, np.int32))[..., 0].astype(int)
    assert np.abs(rows[:, [0, 3]] - ends.reshape(2, 2, 8, 8)).max() <= 1
    assert all(np.abs(rows[:, i] - rows[:, i + 1]).max() > 1 for i in range(3))
    out = again(status, tmp_path / "again")
    for name, data in status["files"].items():
        np.testing.assert_array_equal(read_picture(out / name), read_picture_of(data))


def test_a_diffusion_model_fills_in(server, place, tmp_path):
    """Of a larger picture the middle, shrunk; what is not painted over stays; the command names a picture that is
    there, and with settings of sampling draws the same."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (8, 8), np.uint8)
    image = np.pad(small.repeat(4, 0).repeat(4, 1), ((0, 0), (16, 16)))
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 5:] = 255
    pictures = {"image": f"data:image/png;base64,{sent(image)}", "mask": sent(mask)}
    status = done(server, "ddpm", "fill in", pictures, num=2, seed=3, steps=4, sampler="ddim")
    for one in status["result"]["pictures"]:
        drawn = pixels(status["files"][one["file"]])
        np.testing.assert_array_equal(drawn[:, :5], small[:, :5])
        assert not np.array_equal(drawn[:, 5:], small[:, 5:])
    assert len(list(server.given.iterdir())) == 2
    out = again(status, tmp_path / "again")
    for name, data in status["files"].items():
        np.testing.assert_array_equal(read_picture(out / name), read_picture_of(data))
    code, said = ask(server, "/jobs", {"run": 1, "task": "fill in", "values": {}, "pictures": {"image": sent(image)}})
    assert code == 400 and "takes pictures: its image and mask" in said["error"]


def test_grey_pictures_have_no_colour_to_lose(server):
    pictures = {"image": sent(np.zeros((8, 8), np.uint8))}
    asked = {"run": 1, "task": "restore", "values": {"lost": "colour"}, "pictures": pictures}
    code, said = ask(server, "/jobs", asked)
    assert code == 400 and "colour" in said["error"]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "values"), [("vary", {"strength": 0.5}), ("restore", {"lost": "resolution"})])
def test_a_diffusion_model_edits(task, values, server, tmp_path):
    image = np.random.default_rng(1).integers(0, 256, (24, 16, 3), np.uint8)
    status = done(server, "ddpm", task, {"image": sent(image)}, num=2, seed=3, **values)
    out = again(status, tmp_path / "again")
    for name, data in status["files"].items():
        np.testing.assert_array_equal(read_picture(out / name), read_picture_of(data))


def test_text_is_written(server, place, tmp_path):
    status = done(server, "gpt", "write", prompt="A cat", tokens=20, seed=4, num=2)
    folder = place / "gpt-smoke-0"
    tokenizer = from_json((folder / "tokenizer.json").read_text(), "tokenizer")
    assert status["text"].startswith("--- 0 ---\nA cat") and "--- 1 ---\nA cat" in status["text"]
    assert tokenizer.encode("A cat").size < 20
    assert done(server, "gpt", "write", prompt="A cat", tokens=20, seed=4, num=2)["text"] == status["text"]
    assert again(status, tmp_path / "again").joinpath("samples.txt").read_text() == status["text"]
    assert not status["result"]["pictures"] and not status["result"]["notes"]
    assert "--prompt 'A cat'" in status["result"]["command"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:PORT"}, 403),
        ({"Host": "127.0.0.1:1"}, 403),
        ({"Host": "127.0.0.1.evil.example:PORT"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "https://127.0.0.1:PORT"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Transfer_Encoding": "chunked"}, 411),
        ({"Content_Length": "-1"}, 411),
        ({"Content_Length": str(MOST_BYTES + 1)}, 413),
    ],
)
def test_strange_requests_are_refused(headers, status, server):
    """Those of other sites' pages, also under a name that leads to this machine, and what is too large."""
    headers = {name: value.replace("PORT", str(server.server_port)) for name, value in headers.items()}
    asked = {"run": 0, "task": "draw", "values": {}, "pictures": {}}
    code, said = ask(server, "/jobs", asked, **headers)
    assert code == status and "\n" not in said["error"]
    if status == 403:
        assert ask(server, "/runs", **headers)[0] == 403


def test_the_page_and_its_own_requests_are_answered(server):
    for name in ("127.0.0.1", "localhost"):
        own = f"{name}:{server.server_port}"
        code, page = ask(server, "/", Host=own, Origin=f"http://{own}", Sec_Fetch_Site="same-origin")
        assert code == 200 and page.startswith(b"<!DOCTYPE html>")
        assert not any(word in page for word in (b"http://", b"https://", b"//cdn", b"@import"))
    assert server.server_address[0] == "127.0.0.1"
    for path in ("/etc/passwd", "/jobs/1/../../etc/passwd", "/jobs/1/%2e%2e/experiment.json", "/nothing"):
        assert ask(server, path)[0] in (400, 404), path


GOOD = {"run": 0, "task": "draw", "values": {}, "pictures": {}}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (b"\xff{}", "no text in UTF-8"),
        (b"{", "cannot be read as JSON"),
        pytest.param(b"[" * 1_000_000, "lists within lists", id="deep"),
        ([], "names no run"),
        (GOOD | {"run": 9}, "there is no run 9"),
        (GOOD | {"run": -1}, "there is no run -1"),
        (GOOD | {"task": "restore"}, "cvae-smoke-0 does not 'restore'"),
        (GOOD | {"values": {"num": 0.5}}, "num is 0.5: an integer"),
        (GOOD | {"values": {"num": 300}}, "num is 300: the page shows at most 256"),
        (GOOD | {"values": {"seed": 1 << 40}}, "seed is 1099511627776"),
        (GOOD | {"values": {"cond": [11]}}, "class 11 is unknown"),
        (GOOD | {"values": {"out": "/tmp/x"}}, "setting 'out' is unknown"),
        (GOOD | {"values": {"image": "/etc/passwd"}}, "setting 'image' is unknown"),
        (GOOD | {"values": {"guide": "/elsewhere"}}, "setting 'guide' is unknown"),
        (GOOD | {"values": {"steps": 5}}, "setting 'steps' is unknown"),
        (GOOD | {"pictures": {"image": ""}}, "draw takes pictures: none"),
        (GOOD | {"run": 1, "task": "vary"}, "vary takes pictures: its image"),
        (GOOD | {"run": 1, "task": "vary", "pictures": {"image": 3}}, "picture image is a int"),
        (GOOD | {"run": 1, "task": "vary", "pictures": {"image": "/etc/passwd?"}}, "not in base64"),
        (GOOD | {"run": 1, "task": "vary", "pictures": {"image": "aGVsbG8="}}, "cannot be read as a picture"),
    ],
)  # fmt: skip
def test_bad_requests_are_one_line(asked, said, server):
    code, answer = ask(server, "/jobs", asked)
    assert code == 400 and said in answer["error"] and "\n" not in answer["error"] and len(answer["error"]) < 600


def test_what_a_command_refuses_is_said(server):
    asked = {"run": 0, "task": "draw", "values": {"step": 12345}, "pictures": {}}
    number = ask(server, "/jobs", asked)[1]["job"]
    while (status := ask(server, f"/jobs/{number}")[1])["state"] != "failed":
        assert status["state"] in ("waiting", "working")
        time.sleep(0.02)
    assert "12345" in status["error"] and "\n" not in status["error"]


def pictures_in(page) -> list[np.ndarray]:
    """The pixels of the newest result's pictures, as the browser has them."""
    found = page.run(
        "(async () => { const all = [...document.querySelector('article').querySelectorAll('.tiles img')];"
        "await Promise.all(all.map(i => i.decode()));"
        "return all.map(i => { const c = document.createElement('canvas'); c.width = i.naturalWidth;"
        "c.height = i.naturalHeight; c.getContext('2d').drawImage(i, 0, 0); return c.toDataURL(); }); })()"
    )
    return [read_picture_of(base64.b64decode(data.partition(",")[2])) for data in found]


def finish(page, number: int) -> None:
    page.until(
        f"document.querySelectorAll('article').length === {number} && "
        "!!document.querySelector('article').querySelector('.command, .bad')"
    )


def test_a_browser_draws(server, place, tmp_path):
    """By mouse and by keyboard: classes, a bad value, a given picture filled in, a saved PNG, text; on a phone too."""
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    with browser(downloads) as page:
        page.open(server.address)
        page.until("document.querySelectorAll('#set-seed').length")
        assert page.run("document.querySelector('#cards [aria-pressed=true] b').textContent") == "cvae-smoke-0"
        page.click(".chips label:nth-child(3)")
        page.type("#set-num", "0.5")
        page.click("#go")
        page.until("document.querySelector('#error').textContent")
        assert "num is 0.5: an integer" in page.run("document.querySelector('#error').textContent")
        assert not page.run("document.querySelectorAll('article').length")
        page.problems.clear()  # Chromium's console says that the request was answered by an error
        page.type("#set-num", "3")
        page.type("#set-seed", "5")
        page.press("Enter")
        finish(page, 1)
        run = jaxgen.load(place / "cvae-smoke-0")
        expected = run.sample(3, seed=5, cond=np.full(3, 2, np.int32))
        np.testing.assert_array_equal(pictures_in(page), np.repeat(expected, 3, axis=3))
        command = shlex.split(page.run("document.querySelector('.command pre').textContent"))
        assert command[:3] == ["jaxgen", "sample", str(place / "cvae-smoke-0")] and "--cond" in command
        page.click(".tiles button:nth-child(2)")
        page.click("#save")
        saved = page.downloaded()
        assert read_origin(saved)["command"] == command[1:] and read_origin(saved)["sample"] == 1
        np.testing.assert_array_equal(np.asarray(Image.open(saved)), expected[1, ..., 0])
        page.click("#close")

        page.wide(390)
        page.click("#cards li:nth-child(2) button")
        page.until("document.querySelector('#name').textContent === 'ddpm-smoke-0'")
        page.click("#tasks label:nth-child(4)")
        given = np.random.default_rng(2).integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(given).save(tmp_path / "given.png")
        page.click("#go")  # without a picture
        page.until("document.querySelector('#error').textContent.startsWith('choose a picture')")
        page.choose_file("#file", tmp_path / "given.png")
        page.until("!document.querySelector('#canvas').hidden")
        page.run("by('part').value = 'right', by('part').dispatchEvent(new Event('change'))")
        page.run("document.querySelector('#more').open = true")
        for name, value in (("num", 2), ("steps", 4)):
            page.type(f"#set-{name}", str(value))
        page.run("by('set-sampler').value = 0, by('set-sampler').dispatchEvent(new Event('input'))")
        assert page.run("document.documentElement.scrollWidth") <= 390
        page.click("#go")
        finish(page, 2)
        for drawn in pictures_in(page):
            np.testing.assert_array_equal(drawn[:, :4, 0], given[:, :4])
            assert not np.array_equal(drawn[:, 4:, 0], given[:, 4:])
        assert page.run("by('set-seed').value") == "5", "what was typed stays"
        unnamed = "[...document.querySelectorAll('input, select, textarea')].filter(e => !e.labels.length).length"
        assert page.run(unnamed) == 0

        page.click("#cards li:nth-child(3) button")
        page.until("document.querySelector('#name').textContent === 'gpt-smoke-0'")
        page.type("#set-prompt", "A cat")
        page.type("#set-tokens", "20")
        page.type("#set-num", "1")
        page.click("#go")
        finish(page, 3)
        assert page.run("document.querySelector('article pre.text').textContent").startswith("A cat")
        assert not page.problems
