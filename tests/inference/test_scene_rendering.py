"""Captures with masks are trained on and rendered as whole pictures are."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from conftest import EXPERIMENTS
from PIL import Image
from scene_files import photograph

from jaxgen import __main__ as commands
from jaxgen.data import AnalyticScene, SceneFolder
from jaxgen.experiment import presets
from jaxgen.train import loop

SCENE = AnalyticScene(size=24, train_views=20, test_views=2, samples=1)
FOCAL = 40.0


def masked(folder: Path) -> SceneFolder:
    """Pictures of the scene, the left third of each painted over with random colours, which a mask leaves out."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    mask = np.full((24, 24), 255, np.uint8)
    mask[:, :8] = 0
    Image.fromarray(mask).save(folder / "mask.png")
    y, x = (np.mgrid[:24, :24].reshape(2, -1) + 0.5 - 12) / FOCAL
    local = np.stack([x, -y, -np.ones_like(x)], axis=-1)
    local /= np.linalg.norm(local, axis=-1, keepdims=True)
    for split in ("train", "test"):
        frames = []
        for i, pose in enumerate(SCENE.views(split).poses):
            pixels = photograph(pose, local).reshape(24, 24, 4)
            pixels[:, :8] = rng.integers(0, 256, (24, 8, 4))
            Image.fromarray(pixels).save(folder / f"{split}_{i}.png")
            matrix = [*pose.tolist(), [0, 0, 0, 1]]
            frames.append({"file_path": f"{split}_{i}", "mask_path": "mask.png", "transform_matrix": matrix})
        scene = {"fl_x": FOCAL, "w": 24, "h": 24, "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(scene))
    return SceneFolder(folder=str(folder))


def test_masked_pixels_count_in_no_number(tmp_path):
    data, run = masked(tmp_path / "data"), tmp_path / "run"
    experiment = dataclasses.replace(presets(EXPERIMENTS["ngp"])["smoke"], data=data, num_samples=576)
    loop.train(experiment, run)
    commands.call(["evaluate", str(run)])
    assert json.loads((run / "evaluation.json").read_text())["num"] == 2 * 24 * 16
    commands.call(["render", str(run)])
    views = json.loads((run / "render" / "views.json").read_text())["views"]
    with Image.open(run / "render" / "view001.png") as image:
        written = np.asarray(image)[:, 8:].astype(np.float64)
    truth = data.arrays("test")["x"].reshape(2, 24, 24, 3)[1, :, 8:]
    assert [set(view) for view in views] == [{"psnr"}] * 2
    np.testing.assert_allclose(views[1]["psnr"], 10 * np.log10(255**2 / np.mean((written - truth) ** 2)), rtol=1e-4)
