"""Scene folders: Blender's, LLFF's and COLMAP's layouts are read, and a wrong folder is refused."""

import dataclasses
import json
import re

import numpy as np
import pytest
from PIL import Image

from jaxgen.data import SceneFolder
from jaxgen.errors import UserError
from jaxgen.ops import cameras

POSE = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 4], [0, 0, 0, 1]])


def blender(folder, sizes=((8, 6), (8, 6), (8, 6)), poses=None, alpha=255, missing=()):
    """A scene with one picture of one colour for each size, width by height, the last one held out."""
    poses = poses or [POSE] * len(sizes)
    for split, which in (("train", range(len(sizes) - 1)), ("test", [len(sizes) - 1])):
        (folder / split).mkdir(parents=True)
        frames = []
        for i in which:
            if i not in missing:
                Image.new("RGBA", sizes[i], (10, 20, 30, alpha)).save(folder / split / f"r_{i}.png")
            frames.append({"file_path": f"./{split}/r_{i}", "transform_matrix": np.asarray(poses[i]).tolist()})
        text = json.dumps({"camera_angle_x": 0.8, "frames": frames})
        (folder / f"transforms_{split}.json").write_text(text)
    return SceneFolder(folder=str(folder))


# --- Blender -------------------------------------------------------------------------------------------------------


def test_blenders_transforms(tmp_path):
    scene = blender(tmp_path, alpha=51)
    assert (scene.count("train"), scene.count("test"), scene.picture_size) == (2 * 48, 48, (6, 8))
    views = scene.views("train")
    np.testing.assert_allclose(views.intrinsics[0], [4 / np.tan(0.4), 4 / np.tan(0.4), 4, 3])
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
    third = dataclasses.replace(scene, downscale=3).views("test").intrinsics[0]
    np.testing.assert_allclose(third, scene.views("test").intrinsics[0] * [1 / 4, 1 / 3, 1 / 4, 1 / 3])
    with pytest.raises(UserError, match="downscale is 0"):
        dataclasses.replace(scene, downscale=0).load("train")
    with pytest.raises(UserError, match="too small for downscale 9"):
        dataclasses.replace(scene, downscale=9).load("train")


def test_lenses_of_other_exporters(tmp_path):
    """fl_x and so on, for all pictures or for one; a lens with distortion is refused."""
    scene = blender(tmp_path)
    file = tmp_path / "transforms_test.json"
    text = json.loads(file.read_text())
    text |= {"fl_x": 20.0, "fl_y": 22.0, "cx": 7.0, "cy": 6.0, "w": 16, "h": 12}
    file.write_text(json.dumps(text))
    np.testing.assert_allclose(scene.read("test").intrinsics, [[10, 11, 3.5, 3]])
    text["frames"][0]["fl_y"] = 24.0
    file.write_text(json.dumps(text))
    np.testing.assert_allclose(scene.read("test").intrinsics, [[10, 12, 3.5, 3]])
    file.write_text(json.dumps(text | {"k1": 0.1}))
    with pytest.raises(UserError, match=r"the lens of ./test/r_2 has distortion \(k1\)"):
        scene.read("test")


def test_splits_of_different_sizes(tmp_path):
    scene = blender(tmp_path, sizes=[(8, 6), (8, 6), (8, 7)])
    with pytest.raises(UserError, match="choose one split"):
        scene.load("all")


# --- LLFF and COLMAP -----------------------------------------------------------------------------------------------


def test_llffs_poses(tmp_path):
    """Its axes, down, right and backwards, become ours; bounds are depths and scale with the scene."""
    (tmp_path / "images").mkdir()
    table, poses = [], []
    for i in range(9):
        Image.new("RGB", (8, 6), (i, 0, 0)).save(tmp_path / "images" / f"{i}.jpg")
        ours = cameras.look_at([0.1 * i, 0.05 * (i % 3), 5.0], [0, 0, 0], [0, 1, 0])
        poses.append(ours)
        right, up, back, at = ours.T
        # Poses were estimated from pictures twice as large.
        matrix = np.stack([-up, right, back, at, [12, 16, 20]], axis=-1)
        table.append([*matrix.reshape(-1), 2.0 + 0.1 * i, 10.0])
    np.save(tmp_path / "poses_bounds.npy", np.array(table))
    scene = SceneFolder(folder=str(tmp_path))
    train, test = scene.views("train"), scene.views("test")
    assert (len(train.pixels), len(test.pixels)) == (7, 2)
    np.testing.assert_allclose(train.intrinsics[0], [10, 10, 4, 3])
    assert np.isclose(min(train.near.min(), test.near.min()), 4 / 3)
    np.testing.assert_allclose(test.far[0], 10 / 2 * 4 / 3)
    assert train.planar.all()
    expected = cameras.recentred(np.stack(poses))
    expected[:, :, 3] *= 4 / 3 / 2
    np.testing.assert_allclose(train.poses, expected[np.arange(9) % 8 != 0], atol=1e-9)
    assert scene.camera_path(3).shape == (3, 3, 4)
    np.save(tmp_path / "poses_bounds.npy", np.array(table)[:5])
    with pytest.raises(UserError, match="5 rows"):
        dataclasses.replace(scene, downscale=2).load("train")


def quaternion(turn: np.ndarray) -> np.ndarray:
    """(w, x, y, z) of a rotation f64[3, 3], as an eigenvector: independent of the reader's formula."""
    a, b, c = turn
    q = np.array(
        [
            [a[0] - b[1] - c[2], b[0] + a[1], c[0] + a[2], c[1] - b[2]],
            [b[0] + a[1], b[1] - a[0] - c[2], c[1] + b[2], a[2] - c[0]],
            [c[0] + a[2], c[1] + b[2], c[2] - a[0] - b[1], b[0] - a[1]],
            [c[1] - b[2], a[2] - c[0], b[0] - a[1], a[0] + b[1] + c[2]],
        ]
    )
    values, vectors = np.linalg.eigh(q)
    x, y, z, w = vectors[:, np.argmax(values)]
    return np.array([w, x, y, z])


def colmap(folder, camera="PINHOLE 16 12 20 22 8 6", num=9):
    (folder / "images").mkdir(parents=True)
    poses, lines = [], ["# Image list", "# POINTS2D"]
    for i in range(num):
        Image.new("RGB", (8, 6), (0, i, 0)).save(folder / "images" / f"{i}.png")
        poses.append(cameras.look_at([0.3 * i - 1, 0.1 * (i % 4), 4.0], [0.2, 0, 0], [0, 1, 0.1]))
        to_world = poses[-1] * [1, -1, -1, 1]
        w2c = to_world[:, :3].T
        shift = -w2c @ to_world[:, 3]
        lines += [" ".join(map(str, (i + 1, *quaternion(w2c), *shift, 1, f"{i}.png"))), ""]
    sparse = folder / "sparse" / "0"
    sparse.mkdir(parents=True)
    (sparse / "images.txt").write_text("\n".join(lines) + "\n")
    (sparse / "cameras.txt").write_text(f"# Camera list\n1 {camera}\n")
    points = np.random.default_rng(0).uniform(-1, 1, (500, 3))
    text = "".join(f"{i} {x} {y} {z} 0 0 0 0.5\n" for i, (x, y, z) in enumerate(points))
    (sparse / "points3D.txt").write_text(text)
    return SceneFolder(folder=str(folder)), np.stack(poses)


def test_colmaps_text(tmp_path):
    """Poses come back up to a rigid motion and a scale; near and far enclose the points."""
    scene, poses = colmap(tmp_path)
    train, test = scene.views("train"), scene.views("test")
    assert (len(train.pixels), len(test.pixels)) == (7, 2)
    np.testing.assert_allclose(train.intrinsics[0], [10, 11, 4, 3])
    found = np.zeros_like(poses)
    held_out = np.arange(9) % 8 == 0
    found[held_out], found[~held_out] = test.poses, train.poses
    expected = cameras.recentred(poses)
    scale = np.linalg.norm(found[3, :, 3]) / np.linalg.norm(expected[3, :, 3])
    expected[:, :, 3] *= scale
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert np.isclose(min(train.near.min(), test.near.min()), 4 / 3)
    assert np.all(train.near < scale * 4) and np.all(train.far > scale * 4)


def test_colmaps_points_outside_the_picture_do_not_count(tmp_path):
    """Points outside a picture, however near, change neither the scale nor the bounds."""
    scene, _ = colmap(tmp_path / "scene")
    around, _ = colmap(tmp_path / "around")
    file = tmp_path / "around" / "sparse" / "0" / "points3D.txt"
    beside = "".join(f"{i} {3 + i / 9} 0 {3.9 - i / 99} 0 0 0 0.5\n" for i in range(99))
    file.write_text(file.read_text() + beside + "\n")
    for name in ("near", "far", "poses"):
        np.testing.assert_allclose(*(getattr(s.views("train"), name) for s in (scene, around)), rtol=0.01, atol=0.01)


def test_colmaps_pictures_without_lines_of_points(tmp_path):
    scene, _ = colmap(tmp_path)
    file = tmp_path / "sparse" / "0" / "images.txt"
    head, *lines = [line for line in file.read_text().splitlines() if line]
    expected = scene.read("train").poses
    file.write_text("\n".join([head, "", *lines]))
    np.testing.assert_array_equal(scene.read("train").poses, expected)
    # With points: X, Y and the id of each.
    file.write_text("\n".join(line + ("" if line[0] == "#" else "\n1.5 2.5 -1 3 4 7") for line in [head, *lines]))
    np.testing.assert_array_equal(scene.read("train").poses, expected)
    file.write_text(head)
    with pytest.raises(UserError, match=r"images.txt names no pictures"):
        scene.read("train")
    file.write_text("\n".join([head, lines[0], *lines[1:2], ""]))
    with pytest.raises(UserError, match="has one picture"):
        scene.read("train")


def test_colmaps_bad_points(tmp_path):
    scene, _ = colmap(tmp_path)
    file = tmp_path / "sparse" / "0" / "points3D.txt"
    file.write_text(file.read_text() + "500 1.0 x 2.0\n")
    with pytest.raises(UserError, match="a line that is not a point"):
        scene.read("train")


@pytest.mark.parametrize(
    "camera, match",
    [
        ("OPENCV 16 12 20 22 8 6 0 0 0 0", "has model OPENCV"),
        ("SIMPLE_RADIAL 16 12 20 8 6 0.1", "undistort"),
        ("PINHOLE 16 12 20", "not a camera"),
    ],
)
def test_cameras_that_are_not_understood(tmp_path, camera, match):
    scene, _ = colmap(tmp_path, camera)
    with pytest.raises(UserError, match=match):
        scene.load("train")


def test_colmap_without_points(tmp_path):
    scene, _ = colmap(tmp_path)
    (tmp_path / "sparse" / "0" / "points3D.txt").unlink()
    with pytest.raises(UserError, match=r"points3D.txt is missing"):
        scene.load("train")


# --- errors -------------------------------------------------------------------------------------------------------


def test_missing_frames(tmp_path):
    scene = blender(tmp_path, sizes=[(8, 6)] * 4, missing=(0, 1))
    with pytest.raises(UserError, match=r"r_0\.png, which transforms_train\.json names, is missing, and 1 more"):
        scene.load("train")


def test_unequal_sizes(tmp_path):
    scene = blender(tmp_path, sizes=[(8, 6), (8, 7), (8, 6)])
    with pytest.raises(UserError, match=r"r_0.png is 8 x 6, r_1.png 8 x 7: .* one size"):
        scene.load("train")


def test_poses_that_are_not_rigid(tmp_path):
    bent = POSE.copy()
    bent[0, 0] = 1.3
    scene = blender(tmp_path, poses=[POSE, bent, POSE])
    with pytest.raises(UserError, match=r"the pose of r_1.png in transforms_train.json is not rigid"):
        scene.load("train")


def test_near_beyond_far(tmp_path):
    scene = dataclasses.replace(blender(tmp_path), near=7.0)
    with pytest.raises(UserError, match=r"near = 7 to far = 6: .*--data.near"):
        scene.load("train")


def test_folders_that_hold_no_scene(tmp_path):
    with pytest.raises(UserError, match=r"pass --data.folder"):
        SceneFolder().load("train")
    with pytest.raises(UserError, match="is not a folder"):
        SceneFolder(folder=str(tmp_path / "none")).load("train")
    with pytest.raises(UserError, match=r"neither transforms_train.json"):
        SceneFolder(folder=str(tmp_path)).load("train")
    blender(tmp_path / "scene")
    (tmp_path / "scene" / "transforms_test.json").write_text('{"frames": [{}]}')
    with pytest.raises(UserError, match=re.escape("transforms_test.json cannot be read")):
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
