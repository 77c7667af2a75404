"""Every script of images on a folder of the user's own: the model is fitted, or one line says why it cannot be."""

import json
import shutil

import jax
import numpy as np
import pytest
from conftest import EXPERIMENTS
from PIL import Image

from jaxgen import __main__ as commands
from jaxgen.cli.train import Flags, flags_of, train_preset
from jaxgen.data import ImageFolder
from jaxgen.errors import UserError
from jaxgen.experiment import on_images, presets

REFUSED = {
    "cascade": "captions", "clip": "captions", "clip_decoder": "a clip", "clip_prior": "a clip", "cyclegan": "two sets",
    "diffwave": "not of images", "distill": "a teacher", "gpt": "tokens", "hifigan": "waveforms",
    "latent_diffusion": "first stage", "mdlm": "first stage", "mipnerf": "rays", "nerf": "rays", "ngp": "rays",
    "pix2pix": "pairs", "planar": "not of images", "splats": "cameras", "tacotron2": "log mels", "text_to_3d": "a text",
    "text_to_image": "captions", "video_diffusion": "clips", "vit_generator": "pairs",
    "vit_vqgan_prior": "first stage", "vqvae_prior": "first stage", "wavenet": "waveforms",
}  # fmt: skip

TOLD = {
    "cascade", "ddpm", "dit", "edm", "flow_matching", "improved_ddpm", "meanflow", "shortcut", "super_resolution",
    "text_to_image",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """240 pictures of two classes."""
    root = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    for kind, colour in (("cold", (0, 0, 255)), ("warm", (255, 0, 0))):
        (root / kind).mkdir()
        for i in range(120):
            pixels = np.clip(rng.normal(colour, 40, (12, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / kind / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def captioned(folder, tmp_path_factory):
    """The same with a text beside each."""
    root = tmp_path_factory.mktemp("told") / "pictures"
    shutil.copytree(folder, root)
    for file in root.rglob("*.png"):
        file.with_suffix(".txt").write_text(f"something {file.parent.name}")
    return root


@pytest.mark.parametrize("script", EXPERIMENTS)
def test_every_script_is_fitted_or_says_why_not(script, folder):
    preset = presets(EXPERIMENTS[script])["smoke"]
    try:
        fitted = on_images(preset, str(folder))
        fitted.check()
        batch = fitted.data.batch_at(0, 0, fitted.batch_size)
        jax.eval_shape(fitted.compute_model.train_step, *fitted.step_arguments(batch, fitted.codec.load()))
    except UserError as error:
        assert script in REFUSED and "\n" not in str(error), error
        return
    assert script not in REFUSED
    size = preset.model.shape[0] if len(preset.model.shape) == 3 else fitted.data.size
    assert fitted.data.size == size and fitted.model.shape == (size, size, 3)
    conditional = getattr(preset.model, "num_classes", 0) > 0
    assert getattr(fitted.model, "num_classes", 0) == 2 * conditional
    assert ("cond" in fitted.data.arrays("train")) == conditional


def test_classes_are_asked_for(folder):
    preset = presets(EXPERIMENTS["ddpm"])["smoke"]
    fitted = on_images(preset, str(folder), classes=True)
    assert fitted.model.num_classes == 2 and fitted.model.class_dropout > 0
    with pytest.raises(UserError, match="knows no classes"):
        on_images(presets(EXPERIMENTS["autoencoder"])["smoke"], str(folder), classes=True)
    with pytest.raises(UserError, match="has no classes"):
        on_images(preset, str(folder / "warm"), classes=True)
    one_kind = on_images(presets(EXPERIMENTS["cvae"])["smoke"], str(folder / "warm"))
    assert one_kind.model.num_classes == 0


@pytest.mark.parametrize("script", EXPERIMENTS)
def test_captions_are_drawn_by_diffusion_models(script, captioned):
    preset = presets(EXPERIMENTS[script])["smoke"]
    try:
        fitted = on_images(preset, str(captioned), captions=True)
        fitted.check()
    except UserError as error:
        assert script not in TOLD and "\n" not in str(error), error
        return
    assert script in TOLD or script == "clip"
    batch = fitted.data.batch_at(0, 0, fitted.batch_size)
    assert batch["text"].shape == (fitted.batch_size, fitted.data.window)
    if script in TOLD:
        assert fitted.model.num_classes == 0 and fitted.model.text and fitted.model.class_dropout > 0
        state, *_ = arguments = fitted.step_arguments(batch, fitted.codec.load())
        assert "text" in state.params
        jax.eval_shape(fitted.compute_model.train_step, *arguments)


SIZES = {
    1: ("halved", "halve", "patches", "4 to 7", "divide"), 16: (),
    33: ("halved", "halve", "patches", "4 to 7", "whole", "divide"),
}  # fmt: skip


@pytest.mark.parametrize("script", [name for name in EXPERIMENTS if name not in REFUSED])
def test_other_sizes_and_classes_fit_or_are_one_line(script, folder):
    preset = presets(EXPERIMENTS[script])["smoke"]
    for size, words in SIZES.items():
        classes = hasattr(preset.model, "num_classes")
        try:
            fitted = on_images(preset, str(folder), size, classes)
            fitted.check()
            batch = fitted.data.batch_at(0, 0, fitted.batch_size)
            jax.eval_shape(fitted.compute_model.train_step, *fitted.step_arguments(batch, fitted.codec.load()))
        except UserError as error:
            assert any(word in str(error) for word in words) and "\n" not in str(error), error
            continue
        assert fitted.model.shape == (size, size, 3) and getattr(fitted.model, "num_classes", 2) == 2


def test_flags_of_the_data_change_the_model(folder, tmp_path):
    """--data.label and --data.channels, which say how many classes and channels there are."""
    for i in range(24):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / f"{i}.png")
    rows = [{"file_name": f"{i}.png", "kind": i % 12} for i in range(24)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    preset = presets(EXPERIMENTS["ddpm"])["smoke"]
    for flags in (["--data.label", "kind"], ["--classes", "--data.label=kind"]):
        fitted, _ = flags_of(preset, ["--images", str(tmp_path), *flags], "ddpm", None, Flags)
        assert fitted.model.num_classes == 12 and fitted.data.label == "kind"
        assert fitted.data.class_names == tuple(map(str, range(12)))  # by their value
        levels = fitted.data.arrays("all")
        np.testing.assert_array_equal(levels["x"][:, 0, 0, 0] % 12, levels["cond"])
    grey, _ = flags_of(preset, ["--images", str(folder), "--data.channels", "1"], "ddpm", None, Flags)
    assert grey.model.shape == (8, 8, 1) and grey.data.arrays("test")["x"].shape[1:] == (8, 8, 1)
    none, _ = flags_of(preset, ["--images", str(folder), "--data.label", "none"], "ddpm", None, Flags)
    assert none.model.num_classes == 0 and none.data.class_names == ()
    with pytest.raises(UserError, match="knows no classes"):
        ebm = presets(EXPERIMENTS["ebm"])["smoke"]
        flags_of(ebm, ["--images", str(tmp_path), "--data.label", "kind"], "ebm", None, Flags)


def test_the_command_line(folder, tmp_path):
    """Trained, sampled by class into single files, which are a folder of images again."""
    out = tmp_path / "run"
    flags = ["smoke", "--images", str(folder), "--size", "8", "--data.flip", "--out", str(out), "--batch-size", "32"]
    train_preset("cvae", presets(EXPERIMENTS["cvae"]), None, flags, "cvae")
    written = json.loads((out / "experiment.json").read_text())
    assert written["data"]["flip"] and written["model"]["shape"] == [8, 8, 3] and written["model"]["num_classes"] == 2
    assert json.loads((out / "environment.json").read_text())["preset"] == f"smoke on {folder.name}"
    (final,) = [path.parent for path in out.glob("pictures/*/nearest_training_images.png")]
    assert (final / "held_out_images.png").is_file()
    commands.call(["sample", str(out), "--num", "20", "--files"])
    drawn = ImageFolder(folder=str(out / "samples" / "seed0-num20" / "files"), size=8, label="label")
    assert drawn.count("all") == 20 and drawn.class_names == ("0", "1")
    assert set(drawn.captions("all")) == set(ImageFolder(folder=str(folder), size=8).class_names)
    with pytest.raises(UserError, match="cannot be read"):
        train_preset("cvae", presets(EXPERIMENTS["cvae"]), None, ["smoke", "--images", "/nowhere"], "cvae")
    wrong = (
        ["--images"], ["--images", str(folder), "--size", "0.5"], ["--images", str(folder), "--size"], ["--classes"],
        ["--images", str(folder), "--classes=1"], ["--size", "16"],
    )  # fmt: skip
    for flags in wrong:
        with pytest.raises(UserError):
            train_preset("cvae", presets(EXPERIMENTS["cvae"]), None, ["smoke", *flags], "cvae")
