"""`jaxgen guide` from the command line: what it writes, and what it refuses in one line."""

import json

import numpy as np
import pytest
from messages import one_line
from PIL import Image
from safetensors.numpy import load_file
from small_runs import smoke_run

import jaxgen
from jaxgen import __main__ as commands
from jaxgen.errors import UserError
from jaxgen.inference.prompts import Part, part, read_prompts
from jaxgen.models.clip_guidance import CLIPGuidance
from jaxgen.ops.cutouts import Cutouts

FAST = ("--num", "2", "--steps", "4", "--candidates", "3", "--cutouts.num", "2", "--frames", "3")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guide")
    return {name: smoke_run(name, folder / name) for name in ("clip", "cgan", "vqvae", "ddpm", "classifier")}


def guide(runs, name, *flags, clip="clip"):
    commands.call(["guide", str(runs[name]), "--clip", str(runs[clip]), "--out", str(runs[name] / "out"), *flags])
    out = runs[name] / "out"
    return load_file(out / "samples.safetensors"), json.loads((out / "guided.json").read_text())


def test_prompts_have_weights(tmp_path):
    assert part("a red dragon") == Part("a red dragon")
    assert part("a cat: -0.5") == Part("a cat", -0.5)
    assert part("3:2") == Part("3", 2.0) and part("at 3:00 pm").text == "at 3:00 pm"
    for words in ("", ":2", "cat:0", "cat:1e999"):
        with pytest.raises(UserError) as error:
            part(words)
        assert one_line(error).startswith("the prompt")
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\n\na dog | blurred:-1\n")
    assert read_prompts(file) == [(Part("a cat"),), (Part("a dog"), Part("blurred", -1.0))]
    file.write_text("\n")
    with pytest.raises(UserError, match="no prompts"):
        read_prompts(file)


@pytest.mark.slow
def test_a_run_guides_as_the_command_does(runs, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("smiling face\nred heart | blue:-0.5\n")
    arrays, _ = guide(runs, "cgan", *FAST, "--prompts", str(file))
    settings = CLIPGuidance(steps=4, candidates=3, cutouts=Cutouts(num=2))
    generator, clip = (jaxgen.load(runs[name]) for name in ("cgan", "clip"))
    made = generator.guide(clip, ["smiling face", "red heart | blue:-0.5"], num=2, settings=settings)
    np.testing.assert_array_equal(made.reshape(arrays["x"].shape), arrays["x"])
    with pytest.raises(UserError, match="no prompts"):
        generator.guide(clip, [])
    with pytest.raises(UserError, match="embeds no text"):
        generator.guide(generator, ["heart"])


@pytest.mark.parametrize("name", ["cgan", *(pytest.param(n, marks=pytest.mark.slow) for n in ("vqvae", "ddpm"))])
def test_pictures_of_each_family(runs, name, tmp_path):
    """Rows do not depend on the other prompts or on how many are computed at a time; the report names all."""
    file = tmp_path / "prompts.txt"
    file.write_text("smiling face\nred heart | blue:-0.5\n")
    arrays, numbers = guide(runs, name, *FAST, "--prompts", str(file), "--judge", str(runs["clip"]))
    assert arrays["x"].shape == (4, 8, 8, 1) and arrays["x"].dtype == np.uint8
    assert arrays["x"][0].tobytes() != arrays["x"][1].tobytes()
    assert numbers["prompts"] == [["smiling face"], ["red heart", "blue:-0.5"]]
    both = numbers["similarity"]
    assert both["clip"]["guided"] == both["judge"]["guided"] and len(both["clip"]["each"]["plain"]) == 2
    assert {"mean", "stderr"} <= set(both["clip"]["gain"])
    with Image.open(runs[name] / "out" / "way.gif") as film:
        assert 1 < film.n_frames <= 3  # pyright: ignore[reportAttributeAccessIssue]: equal frames are one
    alone, numbers = guide(runs, name, *FAST, "--prompt", "red heart", "--prompt", "blue:-0.5", "--batch", "1")
    assert numbers["prompts"] == [["red heart", "blue:-0.5"]]
    assert np.abs(alone["x"].astype(int) - arrays["x"][2:]).max() <= 1


def test_a_picture_is_a_prompt(runs, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "like this.png")
    arrays, numbers = guide(runs, "cgan", *FAST, "--image-prompt", f"{tmp_path / 'like this.png'}:2")
    assert numbers["prompts"] == [[f"{tmp_path / 'like this.png'}:2"]] and arrays["similarity"].shape == (4, 2)


@pytest.mark.parametrize(
    "name, flags, words",
    [
        ("classifier", ("--prompt", "cat"), "guide a GAN"),
        ("vqvae", (), "--prompt TEXT"),
        ("vqvae", ("--prompt", "cat", "--prompts", "file"), "--prompt TEXT"),
        ("vqvae", ("--prompt", "cat:0"), "weight 0"),
        ("vqvae", ("--prompt", "cat", "--cond", "1"), "not conditional"),
        ("cgan", ("--prompt", "cat", "--cond", "10"), "10"),
        ("vqvae", ("--prompts", "no such file"), "no such file"),
        ("vqvae", ("--image-prompt", "no such file.png"), "no such file"),
        ("vqvae", ("--prompt", "cat", "--clip", "CLASSIFIER"), "embeds no text"),
        ("vqvae", ("--prompt", "cat", "--judge", "CLASSIFIER"), "embeds no text"),
        ("vqvae", ("--prompt", "cat", "--clip", ""), "no CLIP was named"),
        ("vqvae", ("--prompt", "cat", "--clip", "no run"), "no run"),
        ("vqvae", ("--prompt", "cat", "--steps", "0"), "steps"),
    ],
)
def test_bad_input_is_one_line(runs, name, flags, words):
    flags = [str(runs["classifier"]) if flag == "CLASSIFIER" else flag for flag in flags]
    with pytest.raises((UserError, SystemExit)) as error:
        guide(runs, name, "--num", "1", *flags)
    assert words in one_line(error)
