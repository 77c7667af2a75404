"""A COLMAP model in binary files, photographed through a lens, is learned as well as the text model of a pinhole."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import EXPERIMENTS
from PIL import Image
from scene_files import photograph, quaternion, to_binary

from jaxgen import __main__ as commands
from jaxgen.data import AnalyticScene, SceneFolder
from jaxgen.data.analytic import trace
from jaxgen.experiment import presets
from jaxgen.train import loop

SIZE, FOCAL = 40, 66.0
POSES = AnalyticScene(train_views=24, test_views=1).views("train").poses
LENS = (3.0, 2.0, 0.05, -0.05)
"""k1, k2, p1, p2."""
PLAIN = (0.0, 0.0, 0.0, 0.0)
EDGE = SIZE / 2 / FOCAL
LENS_FOCAL = FOCAL / (1 + LENS[0] * EDGE**2 + LENS[1] * EDGE**4)
"""At it the middles of a picture's sides see what they do through the pinhole, but for p1 and p2."""
PINHOLE = f"PINHOLE {SIZE} {SIZE} {FOCAL} {FOCAL} {SIZE / 2} {SIZE / 2}"
OPENCV = f"OPENCV {SIZE} {SIZE} {LENS_FOCAL} {LENS_FOCAL} {SIZE / 2} {SIZE / 2} {' '.join(map(str, LENS))}"
IGNORED = f"PINHOLE {SIZE} {SIZE} {LENS_FOCAL} {LENS_FOCAL} {SIZE / 2} {SIZE / 2}"


def directions(focal: float, lens: tuple[float, ...]) -> np.ndarray:
    """f64[SIZE^2, 3]: what each pixel sees in the camera's axes, by the fixed-point iteration of OpenCV's manual."""
    k1, k2, p1, p2 = lens
    y, x = (np.mgrid[:SIZE, :SIZE].reshape(2, -1) + 0.5 - SIZE / 2) / focal
    a, b = x, y
    for _ in range(300):
        r = a**2 + b**2
        grown = 1 + k1 * r + k2 * r**2
        a, b = (
            (x - 2 * p1 * a * b - p2 * (r + 2 * a**2)) / grown,
            (y - p1 * (r + 2 * b**2) - 2 * p2 * a * b) / grown,
        )
    local = np.stack([a, -b, -np.ones_like(a)], axis=-1)
    return local / np.linalg.norm(local, axis=-1, keepdims=True)


def points() -> np.ndarray:
    """f64[N, 3] on the solids, where rays through a tenth of the pixels of the pinhole's pictures end."""
    found = []
    for pose in POSES:
        d = directions(FOCAL, PLAIN)[::10] @ pose[:, :3].T
        rays = np.concatenate([np.tile(pose[:, 3], (len(d), 1)), d, np.tile([2.0, 6.0, 0.0], (len(d), 1))], axis=-1)
        distance, _ = trace(rays)
        there = np.isfinite(distance)
        found.append(pose[:, 3] + d[there] * distance[there, None])
    return np.concatenate(found)


def captured(folder: Path, focal: float, lens: tuple[float, ...], camera: str) -> SceneFolder:
    """A COLMAP model in text. The training pictures are taken through a lens, of which the file says `camera`; the
    held-out ones, every eighth, through the same pinhole in all models."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for i, pose in enumerate(POSES):
        through = (focal, lens) if i % 8 else (FOCAL, PLAIN)
        pixels = photograph(pose, directions(*through)).reshape(SIZE, SIZE, 4)
        Image.fromarray(pixels).save(folder / "images" / f"{i:02}.png")
        to_camera = (pose * [1, -1, -1, 1])[:, :3].T  # COLMAP's axes: y down, z forwards
        numbers = (i + 1, *quaternion(to_camera), *(-to_camera @ pose[:, 3]), 2 if i % 8 else 1, f"{i:02}.png")
        lines += [" ".join(map(str, numbers)), ""]
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    (folder / "cameras.txt").write_text(f"1 {PINHOLE}\n2 {camera}\n")
    seen = [f"{i} {x} {y} {z} 0 0 0 0.5\n" for i, (x, y, z) in enumerate(points())]
    (folder / "points3D.txt").write_text("".join(seen))
    return SceneFolder(folder=str(folder))


@pytest.mark.slow
def test_a_binary_model_through_a_lens_is_learned_as_a_pinholes_text(tmp_path):
    """The PSNR over the same three held-out pictures of a pinhole. Measured with seeds 0 and 1: 22.0 and 21.7 dB of the
    text model, 22.2 and 21.5 dB of the binary one; 12.5 and 12.4 dB where the lens is ignored. Seeds alone make up to
    0.8 dB, so means are compared, and these are to agree to half a decibel."""
    found = {}
    made = {
        "text": (FOCAL, PLAIN, PINHOLE), "lens": (LENS_FOCAL, LENS, OPENCV),
        "ignored": (LENS_FOCAL, LENS, IGNORED),
    }  # fmt: skip
    demo = presets(EXPERIMENTS["ngp"])["demo"]
    for name, capture in made.items():
        data = captured(tmp_path / name, *capture)
        if name != "text":
            to_binary(tmp_path / name)
        for seed in (0, 1):
            experiment = dataclasses.replace(
                demo, model=dataclasses.replace(demo.model, bound=1.6), data=data, steps=500, save_every=500,
                sample_every=500, num_samples=SIZE**2, seed=seed,
            )  # fmt: skip
            loop.train(experiment, run := tmp_path / f"{name}{seed}")
            commands.call(["render", str(run)])
            found[name, seed] = json.loads((run / "evaluation.json").read_text())["metrics"]["psnr"]["mean"]
    means = {name: np.mean([found[name, seed] for seed in (0, 1)]) for name in made}
    assert abs(means["lens"] - means["text"]) < 0.5
    assert means["ignored"] < means["lens"] - 5
