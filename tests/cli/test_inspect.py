"""`jaxgen inspect`: the command that a picture names draws its pixels again, and other files are one clear line."""

import json
import shlex
import shutil
import subprocess

import numpy as np
import pytest
from messages import one_line
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from small_runs import smoke_run

from jaxgen import __main__ as commands
from jaxgen.errors import UserError
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.origin import pinned
from jaxgen.runs.restore import restore
from jaxgen.runtime.picture import read_picture
from jaxgen.runtime.png import read_origin
from jaxgen.weights.store import tree_hash


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with runs in it, as a user's working directory."""
    place = tmp_path_factory.mktemp("inspect")
    for script in ("cvae", "ddpm"):
        smoke_run(script, place / "my runs" / script)
    return place


def inspected(file, capsys) -> tuple[dict[str, str], str]:
    """What `jaxgen inspect` prints: facts by name, and the last line."""
    capsys.readouterr()
    commands.call(["inspect", str(file)])
    *facts, empty, last = capsys.readouterr().out.splitlines()
    assert empty == ""
    return dict(line.split(maxsplit=1) for line in facts), last


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["my runs/cvae", "--num", "6", "--seed", "7", "--cond", "3", "1", "--files"], ["samples.png", "files/2.png"]),
        (["my runs/cvae", "--out", "it's here"], ["samples.png"]),
        (["my runs/ddpm", "--num=3", "--image", "given.png", "--run.model.sampler.steps", "5"], ["samples.png"]),
    ],
    ids=["classes", "defaults", "edit"],
)
def test_the_command_draws_the_same_pixels(words, names, folder, tmp_path, monkeypatch, capsys):
    """From another place with a copy of the runs, in which a later checkpoint would be the newest."""
    monkeypatch.chdir(folder)
    shape = RunFolder(folder / words[0]).experiment().model.shape
    Image.fromarray(np.full((*shape[:2],), 90, np.uint8)).save("given.png")
    commands.call(["sample", *words])
    samples = folder / words[0] / "samples"

    def drawn():
        return folder / "it's here" if "--out" in words else max(samples.iterdir(), key=lambda f: f.stat().st_mtime)

    out = drawn()
    first = {name: read_picture(out / name) for name in names}
    lines = {name: inspected(out / name, capsys)[1] for name in names}
    shutil.rmtree(out)
    for name, line in lines.items():
        program, *rest = shlex.split(line)
        assert program == "jaxgen" and rest[: len(words) + 1] == ["sample", *words]
        commands.call(rest)
        np.testing.assert_array_equal(read_picture(drawn() / name), first[name])
    commands.call([*rest, "--seed", "8", "--out", str(tmp_path)])
    assert not np.array_equal(read_picture(tmp_path / names[0]), first[names[0]])


def test_what_a_picture_says(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    commands.call(["sample", "my runs/cvae", "--num", "4", "--seed", "7", "--step", "10", "--files"])
    (out,) = (folder / "my runs" / "cvae" / "samples").glob("seed7-num4-*")
    facts, _ = inspected(out / "files" / "2.png", capsys)
    weights = tree_hash(restore(RunFolder(folder / "my runs" / "cvae"), step=10).state.params)
    wanted = {"picture": "2.png", "sample": "2", "run": "cvae", "model": "VAE", "seed": "7", "num": "4", "step": "10"}
    assert wanted.items() <= facts.items()
    assert facts["weights"] == weights[:16]
    assert facts["settings.model.latent"] == str(RunFolder(folder / "my runs" / "cvae").experiment().model.latent)
    for file in (out / "samples.png", *(folder / "my runs" / "cvae" / "pictures").glob("*/*.png")):
        assert str(folder) not in json.dumps({**read_origin(file), "command": None}), "a path that nobody typed"


def test_pictures_of_training(folder, capsys, tmp_path):
    pictures = folder / "my runs" / "ddpm" / "pictures"
    (last,) = pictures.glob("*20")
    _, line = inspected(last / "samples.png", capsys)
    commands.call([*shlex.split(line)[1:], "--out", str(tmp_path)])
    np.testing.assert_array_equal(read_picture(tmp_path / "samples.png"), read_picture(last / "samples.png"))
    others = [file for file in last.glob("*.png") if file.stem != "samples"]
    assert others and all(inspected(file, capsys)[1].startswith("no command") for file in others)


def chunk(text: str):
    def write(file):
        info = PngInfo()
        info.add_text("jaxgen", text)
        Image.new("L", (2, 2)).save(file, pnginfo=info)

    return write


def flipped(file):
    chunk("{}")(file)
    data = bytearray(file.read_bytes())
    data[data.index(b"jaxgen\0{") + 7] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("none.png", lambda file: None, "cannot be read (No such file"),
        ("plain.png", Image.new("L", (2, 2)).save, "does not say where it comes from"),
        ("photo.jpg", Image.new("L", (2, 2)).save, "is a JPEG"),
        ("text.png", lambda file: file.write_text("words"), "cannot be read as a picture"),
        ("flipped.png", flipped, "damaged"),
        ("cut.png", chunk('{"run": '), "cannot be read as JSON"),
        ("list.png", chunk("[1]"), "no JSON object"),
        ("number.png", chunk('{"command": 3}'), "no list of words"),
        ("half.png", chunk('{"command": ["\\ud800"]}'), "no list of words"),
    ],
)
def test_other_files_are_one_line(name, write, words, tmp_path):
    write(file := tmp_path / name)
    with pytest.raises(UserError, match=r".") as error:
        commands.call(["inspect", str(file)])
    assert str(file) in (line := one_line(error)) and words in line


def test_what_a_stranger_wrote_reaches_no_terminal(tmp_path, capfd):
    """Control characters are escaped in facts, and in the command so that a shell reads them back."""
    words = ["sample", "a\x1b[2Jb\nc'd", "$(echo no)", "é"]
    chunk(json.dumps({"run": "x\x1b[31m", "command": words}))(tmp_path / "a.png")
    facts, line = inspected(tmp_path / "a.png", capfd)
    assert facts["run"] == r"x\x1b[31m" and "\x1b" not in line
    if bash := shutil.which("bash"):
        script = line.replace("jaxgen", r"printf '%s\0'", 1)
        said = subprocess.run([bash, "-c", script], capture_output=True, check=True).stdout
        assert said.decode().split("\0")[:-1] == words


def test_a_flag_that_was_typed_is_not_repeated():
    assert pinned(["sample", "--seed", "3"], {"seed": 3, "step": 5, "best": False}) == [
        "sample", "--seed", "3", "--step", "5", "--no-best",
    ]  # fmt: skip
