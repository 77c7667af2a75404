"""`jaxgen sample RUN --clip FILE`: clips continued from their first frames."""

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from small_runs import smoke_run

from jaxgen.api.run import load
from jaxgen.cli import sample
from jaxgen.data import MovingDigits
from jaxgen.errors import UserError
from jaxgen.inference.images import read_frames


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return smoke_run("video_diffusion", tmp_path_factory.mktemp("runs") / "clips")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A held-out clip, and its GIF."""
    x = MovingDigits(size=12, frames=4, num=200).load("test")["x"][0]
    first, *others = [Image.fromarray(frame[..., 0]) for frame in x]
    file = tmp_path_factory.mktemp("clips") / "clip.gif"
    first.save(file, save_all=True, append_images=others)
    return x, file


def test_frames_of_a_gif_are_its_pixels(clip):
    x, file = clip
    np.testing.assert_array_equal(read_frames(file, (12, 12, 1), 3), x[:3])
    np.testing.assert_array_equal(read_frames(file, (12, 12, 3), 2), x[:2].repeat(3, axis=-1))


def test_a_clip_is_continued(run, clip, tmp_path):
    """The given frames stay, and the others are what the same call from Python draws."""
    x, file = clip
    sample.command([str(run), "--clip", str(file), "--num", "3", "--cond", "5", "--out", str(tmp_path)])
    drawn = load_file(tmp_path / "samples.safetensors")["x"]
    assert drawn.shape == (3, *x.shape)
    np.testing.assert_array_equal(drawn[:, :2], np.broadcast_to(x[:2], (3, 2, *x.shape[1:])))
    trained = load(run)
    cond = trained.model.continuing(np.broadcast_to(x, (3, *x.shape)), 2, np.full(3, 5, np.int32))
    np.testing.assert_array_equal(drawn, trained.sample(3, cond=cond))
    assert (tmp_path / "samples.gif").is_file()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--given", "1"], "without --clip"),
        (["--clip", "{file}", "--given", "3"], "continues at most 2 frames"),
        (["--clip", "{still}"], "has 1 frames, the first 2"),
        (["--clip", "{file}", "--between", "3"], "leave these out"),
        (["--clip", "{wide}"], "14 x 12, the model draws 12 x 12"),
    ],
)
def test_what_cannot_be_continued(run, clip, tmp_path, flags, words):
    for name, width in (("still", 12), ("wide", 14)):
        frames = [Image.new("L", (width, 12), i) for i in range(1 if name == "still" else 4)]
        frames[0].save(tmp_path / f"{name}.gif", save_all=True, append_images=frames[1:])
    files = {"file": clip[1], "still": tmp_path / "still.gif", "wide": tmp_path / "wide.gif"}
    with pytest.raises(UserError, match=words):
        sample.command([str(run), *[flag.format(**files) for flag in flags]])


def test_a_model_of_pictures_continues_nothing(tmp_path, clip):
    smoke_run("gan", tmp_path / "gan")
    with pytest.raises(UserError, match="GAN draws no clips"):
        sample.command([str(tmp_path / "gan"), "--clip", str(clip[1])])
