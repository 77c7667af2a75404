"""`jaxgen app` with runs of each other kind: sound, speech, scenes, translation, texts and guidance by a CLIP."""

import base64
import shlex

import numpy as np
import pytest
from conftest import first_stage
from PIL import Image

from jaxgen import __main__ as commands
from jaxgen.cli.app import Playground
from jaxgen.runtime.png import read_origin

KINDS = {
    "sounds": ("wavenet", "draw", {"num": 2, "seed": 3}),
    "speech": ("tacotron2", "read out", {"text": "the number two", "seed": 1}),
    "scene": ("ngp", "turn", {"turntable": 2, "size": 8}),
    "clips": ("video_diffusion", "draw", {"num": 2, "steps": 2}),
    "continued": ("video_diffusion", "continue", {"num": 1, "steps": 2, "given": 1}),
    "points": ("realnvp", "draw", {"num": 9}),
    "prompts": ("text_to_image", "draw", {"num": 2, "steps": 2, "prompt": ["red heart", "-a dog"], "guidance": 2.0}),
    "translation": ("pix2pix", "translate", {}),
    "guided": ("cgan", "guide", {"num": 1, "steps": 2, "prompt": ["heart"], "candidates": 2}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("script", "task", "values"), KINDS.values(), ids=KINDS)
def test_the_command_makes_the_same_files(script, task, values, tmp_path, monkeypatch):
    """Of each kind, from what the form offers."""
    if task == "read out":
        pytest.importorskip("soundfile")
    paths = [str(first_stage(f"{name}-smoke-0", tmp_path)) for name in (script, "clip")[: 1 + (task == "guide")]]
    (tmp_path / "scratch").mkdir()
    site = Playground(paths, tmp_path / "given", tmp_path / "scratch")
    (form,) = [form for form in site.forms(0) if form["name"] == task]
    offered = {one["name"]: one["default"] for one in form["controls"]}
    assert values.keys() <= offered.keys()
    pictures = {}
    if form["clip"]:
        length, height, width, _ = site._subjects[0].model.shape
        noise = np.random.default_rng(0).integers(0, 256, (length, height, width), np.uint8)
        first, *others = map(Image.fromarray, noise)
        first.save(tmp_path / "a.gif", save_all=True, append_images=others)
        pictures["clip"] = base64.b64encode((tmp_path / "a.gif").read_bytes()).decode()
    elif form["picture"]:
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 32, 3), np.uint8)).save(tmp_path / "a.png")
        pictures["image"] = base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    result = site.work({"run": 0, "task": task, "values": {**offered, **values}, "pictures": pictures})()
    assert result.files
    program, *words = shlex.split(result.shown["command"])
    assert program == "jaxgen"
    monkeypatch.chdir(tmp_path)
    out = tmp_path if task == "read out" else tmp_path / "out"
    commands.call([*words, *([] if task == "read out" else ["--out", "out"])])
    for name, data in result.files.items():
        file = out / name
        if file.suffix == ".png":
            (tmp_path / "shown.png").write_bytes(data)
            shown = np.asarray(Image.open(tmp_path / "shown.png"))
            np.testing.assert_array_equal(np.asarray(Image.open(file)), shown)
            assert read_origin(tmp_path / "shown.png")["command"] == words
        else:
            assert file.read_bytes() == data
