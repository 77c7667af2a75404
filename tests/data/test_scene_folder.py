"""Scene folders: Blender's and LLFF's layouts are read, and a wrong folder is refused."""

import dataclasses
import json
import os
import re

import numpy as np
import pytest
from hostile import png
from messages import one_line
from PIL import Image
from scene_files import POSE, blender

from jaxgen.data import SceneFolder
from jaxgen.errors import UserError
from jaxgen.ops import cameras

# --- Blender -------------------------------------------------------------------------------------------------------


def test_blenders_transforms(tmp_path):
    scene = blender(tmp_path, alpha=51)
    assert (scene.count("train"), scene.count("test"), scene.picture_size) == (2 * 48, 48, (6, 8))
    views = scene.views("train")
    np.testing.assert_allclose(views.intrinsics[0], [4 / np.tan(0.4), 4 / np.tan(0.4), 4, 3, *[0] * 10])
    # A fifth of the colour over white.
    np.testing.assert_array_equal(scene.arrays("train")["x"][0], [206, 208, 210])
    assert (views.near[0], views.far[0]) == (2, 6)
    assert scene.camera_path(4).shape == (4, 3, 4)


def test_downscaling_keeps_the_field_of_view(tmp_path):
    """The field of view stays, and colours are weighted by alpha."""
    scene = blender(tmp_path / "scene")
    file = tmp_path / "scene" / "test" / "r_2.png"
    pixels = np.zeros((6, 8, 4), np.uint8)
    pixels[::2] = (200, 100, 40, 255)
    Image.fromarray(pixels).save(file)
    half = dataclasses.replace(scene, downscale=2)
    assert half.picture_size == (3, 4)
    view = half.views("test")
    np.testing.assert_allclose(view.pixels[0, 0, 0], [200, 100, 40, 128], atol=1)
    np.testing.assert_allclose(view.intrinsics[0], scene.views("test").intrinsics[0] / 2)
    # 8 x 6 pixels become 2 x 2: the field of view stays, so pixels are not square any more.
    third = dataclasses.replace(scene, downscale=3).views("test").intrinsics[0, :4]
    np.testing.assert_allclose(third, scene.views("test").intrinsics[0, :4] * [1 / 4, 1 / 3, 1 / 4, 1 / 3])
    with pytest.raises(UserError, match="downscale is 0"):
        dataclasses.replace(scene, downscale=0).load("train")
    with pytest.raises(UserError, match="too small for downscale 9"):
        dataclasses.replace(scene, downscale=9).load("train")


def test_lenses_of_other_exporters(tmp_path):
    """fl_x and so on, for all pictures or for one."""
    scene = blender(tmp_path)
    file = tmp_path / "transforms_test.json"
    text = json.loads(file.read_text())
    text |= {"fl_x": 20.0, "fl_y": 22.0, "cx": 7.0, "cy": 6.0, "w": 16, "h": 12}
    file.write_text(json.dumps(text))
    np.testing.assert_allclose(scene.read("test").intrinsics[:, :4], [[10, 11, 3.5, 3]])
    text["frames"][0]["fl_y"] = 24.0
    file.write_text(json.dumps(text))
    np.testing.assert_allclose(scene.read("test").intrinsics[:, :4], [[10, 12, 3.5, 3]])
    del text["fl_x"], text["fl_y"], text["frames"][0]["fl_y"]
    file.write_text(json.dumps(text | {"camera_angle_x": 0.8, "camera_angle_y": 0.5}))
    np.testing.assert_allclose(scene.read("test").intrinsics[0, :2], [4 / np.tan(0.4), 3 / np.tan(0.25)])


def test_pictures_of_several_sizes(tmp_path):
    """Each has the rays of its own size; the rest of the larger frame gives none, and no number counts it."""
    scene = blender(tmp_path / "a", sizes=[(8, 6), (6, 8), (8, 6), (8, 7)])
    train, test = scene.views("train"), scene.views("test")
    assert (train.size, test.size, scene.views("all").size) == ((8, 8), (7, 8), (8, 8))
    np.testing.assert_array_equal(train.counted.sum(axis=(1, 2)), [48, 48, 48])
    assert train.counted[1, :, :6].all() and test.counted is None
    assert (scene.count("train"), scene.count("test"), scene.count("all")) == (144, 56, 200)
    data = scene.arrays("train")
    for i, size in enumerate([(6, 8), (8, 6), (6, 8)]):
        rays = cameras.view_rays(train.poses[i], train.intrinsics[i], size, 2, 6)
        np.testing.assert_array_equal(data["cond"][48 * i : 48 * (i + 1)], rays)
        np.testing.assert_allclose(train.intrinsics[i, 2:4], [size[1] / 2, size[0] / 2])
    np.testing.assert_array_equal(data["x"], np.tile(np.uint8([10, 20, 30]), (144, 1)))
    with pytest.raises(UserError, match="pictures of about one size"):
        blender(tmp_path / "b", sizes=[(100, 1)] * 8 + [(1, 100), (1, 1)]).load("train")


# --- LLFF --------------------------------------------------------------------------------------------------------


def llff(folder) -> tuple[SceneFolder, np.ndarray, list[np.ndarray]]:
    """A scene, its table and the poses in our axes."""
    (folder / "images").mkdir()
    table, poses = [], []
    for i in range(9):
        Image.new("RGB", (8, 6), (i, 0, 0)).save(folder / "images" / f"{i}.jpg")
        ours = cameras.look_at([0.1 * i, 0.05 * (i % 3), 5.0], [0, 0, 0], [0, 1, 0])
        poses.append(ours)
        right, up, back, at = ours.T
        # Poses were estimated from pictures twice as large.
        matrix = np.stack([-up, right, back, at, [12, 16, 20]], axis=-1)
        table.append([*matrix.reshape(-1), 2.0 + 0.1 * i, 10.0])
    np.save(folder / "poses_bounds.npy", np.array(table))
    return SceneFolder(folder=str(folder)), np.array(table), poses


def test_llffs_poses(tmp_path):
    """Its axes, down, right and backwards, become ours; bounds are depths and scale with the scene."""
    scene, table, poses = llff(tmp_path)
    train, test = scene.views("train"), scene.views("test")
    assert (len(train.pixels), len(test.pixels)) == (7, 2)
    np.testing.assert_allclose(train.intrinsics[0], [10, 10, 4, 3, *[0] * 10])
    assert np.isclose(min(train.near.min(), test.near.min()), 4 / 3)
    np.testing.assert_allclose(test.far[0], 10 / 2 * 4 / 3)
    assert train.planar.all()
    expected = cameras.recentred(np.stack(poses))
    expected[:, :, 3] *= 4 / 3 / 2
    np.testing.assert_allclose(train.poses, expected[np.arange(9) % 8 != 0], atol=1e-9)
    assert scene.camera_path(3).shape == (3, 3, 4)
    np.save(tmp_path / "poses_bounds.npy", table[:5])
    with pytest.raises(UserError, match="5 rows"):
        dataclasses.replace(scene, downscale=2).load("train")


@pytest.mark.parametrize(
    "column, value, match",
    [
        (15, np.nan, "row 3: the near bound is nan"),
        (16, np.nan, "row 3: .* the far bound nan"),
        (16, np.inf, "the far bound inf"),
        (15, 0.0, "near above 0"),
        (15, 1e-320, "a bound may be too near"),
        (15, -1.0, "near above 0"),
        (16, 1.0, "the far bound 1"),
        (4, 0.0, "row 3: a number of the pose or camera"),
        (9, -16.0, "row 3: a number"),
        (14, np.nan, "row 3: a number"),
        (0, np.nan, "row 3: a number"),
        (3, np.inf, "row 3: a number"),
        (0, 7.0, "the pose of 3.jpg in poses_bounds.npy is not rigid"),
    ],
)
def test_hostile_numbers_of_llff(tmp_path, column, value, match):
    scene, table, _ = llff(tmp_path)
    table[3, column] = value
    np.save(tmp_path / "poses_bounds.npy", table)
    with pytest.raises(UserError, match=match) as error:
        scene.load("train")
    one_line(error)


def test_hostile_files_of_llff(tmp_path):
    scene, table, _ = llff(tmp_path)
    file = tmp_path / "poses_bounds.npy"
    whole = file.read_bytes()
    np.save(file, np.array([{}]), allow_pickle=True)
    pickled = file.read_bytes()
    for array in (table[:, :16], table[0], np.zeros((9, 17), complex), np.array([["a"] * 17] * 9)):
        np.save(file, array)
        with pytest.raises(UserError, match=re.escape(str(file))) as error:
            scene.load("train")
        one_line(error)
    huge = whole.replace(b"(9, 17)", b"(99999999, 17)")
    for data in (b"", whole[:-1], whole[:60], pickled, b"PK\x03\x04" + bytes(60), huge):
        file.write_bytes(data)
        with pytest.raises(UserError, match=re.escape(str(file))) as error:
            scene.load("train")
        one_line(error)


# --- errors -------------------------------------------------------------------------------------------------------


def test_missing_frames(tmp_path):
    scene = blender(tmp_path, sizes=[(8, 6)] * 4, missing=(0, 1))
    with pytest.raises(UserError, match=r"r_0, which transforms_train\.json names, is missing, and 1 more"):
        scene.load("train")


def test_poses_that_are_not_rigid(tmp_path):
    bent = POSE.copy()
    bent[0, 0] = 1.3
    scene = blender(tmp_path, poses=[POSE, bent, POSE])
    with pytest.raises(UserError, match=r"the pose of r_1.png in transforms_train.json is not rigid"):
        scene.load("train")


def test_pictures_that_are_none(tmp_path):
    scene = blender(tmp_path)
    file = tmp_path / "train" / "r_1.png"
    whole = file.read_bytes()
    for data in (b"", whole[:50], b"%!PS-Adobe-3.0 EPSF-3.0", png(60_000, 60_000), png(9, 9, kind=6)):
        file.write_bytes(data)
        with pytest.raises(UserError, match=re.escape(str(file))) as error:
            scene.load("train")
        one_line(error)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UserError, match="is a pipe"):
        scene.load("train")
    os.mkfifo(tmp_path / "pipe")
    os.replace(tmp_path / "pipe", tmp_path / "transforms_train.json")
    with pytest.raises(UserError, match=r"transforms_train.json is a pipe"):
        scene.load("train")
    with pytest.raises(UserError, match=r"transforms_test.json cannot be read"):
        (tmp_path / "transforms_test.json").unlink()
        scene.load("test")


@pytest.mark.parametrize("field", ["near", "far"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_bounds_that_are_none(tmp_path, field, value):
    with pytest.raises(UserError, match="finite numbers of 0 or more") as error:
        dataclasses.replace(blender(tmp_path), **{field: value}).load("train")
    one_line(error)


def test_near_beyond_far(tmp_path):
    scene = dataclasses.replace(blender(tmp_path), near=7.0)
    with pytest.raises(UserError, match=r"near = 7 to far = 6: .*--data.near"):
        scene.load("train")


def test_folders_that_hold_no_scene(tmp_path):
    with pytest.raises(UserError, match=r"pass --data.folder"):
        SceneFolder().load("train")
    for none in ("none", "x" * 300, "a/" * 3000):
        with pytest.raises(UserError, match="is not a folder"):
            SceneFolder(folder=str(tmp_path / none)).load("train")
    for none in ("a\0b", "~no-such-user/scene"):
        with pytest.raises(UserError) as error:
            SceneFolder(folder=none).load("train")
        one_line(error)
    with pytest.raises(UserError, match=r"neither transforms_train.json"):
        SceneFolder(folder=str(tmp_path)).load("train")
    blender(tmp_path / "scene")
    (tmp_path / "scene" / "transforms_test.json").write_text('{"frames": [{}]}')
    with pytest.raises(UserError, match=re.escape("transforms_test.json, frame 0: file_path is None")):
        SceneFolder(folder=str(tmp_path / "scene")).load("test")
    (tmp_path / "scene" / "transforms_test.json").write_text('{"camera_angle_x": 1, "frames": []}')
    with pytest.raises(UserError, match="names no pictures"):
        SceneFolder(folder=str(tmp_path / "scene")).load("test")


def test_the_real_lego(shared_data):
    """88 training and 12 held-out views of 100 x 100 pixels, partly transparent."""
    scene = SceneFolder(folder=str(shared_data / "nerf_lego_100"))
    assert (scene.count("train"), scene.count("test"), scene.picture_size) == (880_000, 120_000, (100, 100))
    views = scene.views("test")
    np.testing.assert_allclose(views.intrinsics[0, 0], 138.9, atol=0.1)
    assert np.allclose(np.linalg.norm(views.poses[:, :, 3], axis=-1), 4.03, atol=0.02)
    alpha = scene.arrays("test")["alpha"]
    assert 0.5 < np.mean(alpha == 0) < 0.9
