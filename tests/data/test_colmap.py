"""COLMAP's models, in text and binary files."""

import shutil
import struct

import numpy as np
import pytest
from messages import one_line
from PIL import Image
from scene_files import colmap, to_binary

from jaxgen.errors import UserError
from jaxgen.ops import cameras


def test_colmaps_text(tmp_path):
    """Poses come back up to a rigid motion and a scale; near and far enclose the points."""
    scene, poses = colmap(tmp_path)
    train, test = scene.views("train"), scene.views("test")
    assert (len(train.pixels), len(test.pixels)) == (7, 2)
    np.testing.assert_allclose(train.intrinsics[0], [10, 11, 4, 3, *[0] * 10])
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


def test_bounds_of_a_smaller_picture_are_of_its_own_points(tmp_path):
    """Not of those that would appear beside it, where the frame of the largest picture has nothing."""
    scene, _ = colmap(tmp_path / "scene", "SIMPLE_PINHOLE 8 6 22 4 3")
    expected = scene.read("train")
    Image.new("RGB", (16, 12)).save(tmp_path / "scene" / "images" / "3.png")
    found = scene.read("train")
    assert found.size == (12, 16)
    others = [0, 1, 3, 4, 5, 6]
    scale = found.poses[6, 0, 3] / expected.poses[6, 0, 3]
    for name in ("near", "far"):
        np.testing.assert_allclose(getattr(found, name)[others], scale * getattr(expected, name)[others], rtol=1e-9)


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
        ("FOV 16 12 20 22 8 6 0.1", "camera 1: the camera model is FOV, .* undistort the pictures"),
        ("THIN_PRISM_FISHEYE 16 12 20 22 8 6 0 0 0 0 0 0 0 0", "the camera model is THIN_PRISM_FISHEYE"),
        ("pinhole 16 12 20 22 8 6", "the camera model is pinhole"),
        ("PINHOLE 16 12 20", "camera 1: PINHOLE has 1 parameters, 4 are expected"),
        ("PINHOLE 16 x 20 22 8 6", "not a camera"),
        ("PINHOLE 16", "not a camera"),
        ("PINHOLE 16 0 20 22 8 6", "camera 1: height is 0.0, a number above 0"),
        ("PINHOLE 1e400 12 20 22 8 6", "camera 1: width is inf"),
        ("PINHOLE 16 12 -20 22 8 6", "camera 1: fx is -20.0"),
        ("PINHOLE 16 12 20 nan 8 6", "camera 1: fy is nan"),
        ("OPENCV 16 12 20 22 8 6 nan 0 0 0", "camera 1: k1 is nan"),
        ("PINHOLE 12 16 20 22 8 6", "image 0.png: .*|camera 1: the camera is of 12 x 16 pixels, the picture of 8 x 6"),
    ],
)
def test_cameras_that_are_not_understood(tmp_path, camera, match):
    scene, _ = colmap(tmp_path, camera)
    with pytest.raises(UserError, match=match) as error:
        scene.load("train")
    one_line(error)


def test_colmap_without_points(tmp_path):
    scene, _ = colmap(tmp_path)
    (tmp_path / "sparse" / "0" / "points3D.txt").unlink()
    with pytest.raises(UserError, match=r"points3D.txt is missing"):
        scene.load("train")


# --- binary files and lenses --------------------------------------------------------------------------------------


CAMERAS = (
    "SIMPLE_PINHOLE 16 12 20 8 6", "PINHOLE 16 12 20 22 8 6", "SIMPLE_RADIAL 16 12 20 8 6 0.1",
    "RADIAL 16 12 20 8 6 0.1 -0.02", "OPENCV 16 12 20 22 8 6 0.1 -0.02 0.001 0.002",
    "OPENCV_FISHEYE 16 12 20 22 8 6 0.01 -0.02 0.003 0.001",
)  # fmt: skip


@pytest.mark.parametrize("camera", CAMERAS)
def test_binary_files_are_read_as_text_is(tmp_path, camera):
    scene, _ = colmap(tmp_path, camera)
    text = scene.read("train")
    to_binary(tmp_path / "sparse" / "0")
    binary = scene.read("train")
    for name, values in vars(text).items():
        np.testing.assert_array_equal(values, getattr(binary, name))


def test_binary_files_come_before_text(tmp_path):
    """As for COLMAP itself, which writes both when it exports text into the folder of a model."""
    scene, _ = colmap(tmp_path)
    folder = tmp_path / "sparse" / "0"
    shutil.copytree(folder, tmp_path / "text")
    to_binary(folder)
    expected = scene.read("train").poses
    shutil.copytree(tmp_path / "text", folder, dirs_exist_ok=True)
    (folder / "images.txt").write_text("nonsense")
    np.testing.assert_array_equal(scene.read("train").poses, expected)


@pytest.mark.parametrize(
    "camera, lens",
    [
        ("RADIAL 16 12 20 8 6 0.1 -0.02", {"k1": 0.1, "k2": -0.02}),
        ("OPENCV 16 12 20 22 8 6 0.1 -0.02 0.003 0.004", {"k1": 0.1, "k2": -0.02, "p1": 0.003, "p2": 0.004}),
        (
            "FULL_OPENCV 16 12 20 22 8 6 0.1 -0.02 0.003 0.004 0.05 0.06 0.07 0.08",
            {"k1": 0.1, "k2": -0.02, "p1": 0.003, "p2": 0.004, "k3": 0.05, "d1": 0.06, "d2": 0.07, "d3": 0.08},
        ),
        (
            "OPENCV_FISHEYE 16 12 20 22 8 6 0.1 -0.02 0.003 0.004",
            {"k1": 0.1, "k2": -0.02, "k3": 0.003, "k4": 0.004, "fisheye": 1},
        ),
        ("SIMPLE_RADIAL_FISHEYE 16 12 20 8 6 0.1", {"k1": 0.1, "fisheye": 1}),
        ("RADIAL_FISHEYE 16 12 20 8 6 0.1 -0.02", {"k1": 0.1, "k2": -0.02, "fisheye": 1}),
    ],
)
def test_lenses(tmp_path, camera, lens):
    """Coefficients have their places, do not change with the size of pictures, and bend the rays."""
    scene, _ = colmap(tmp_path, camera)
    views = scene.views("train")
    fy = 11 if "22" in camera else 10
    np.testing.assert_array_equal(views.intrinsics[0], cameras.camera(fx=10, fy=fy, cx=4, cy=3, **lens))
    assert views.planar.all() == ("fisheye" not in lens)
    rays = scene.arrays("train")["cond"]
    assert np.isfinite(rays).all()
    plain = cameras.view_rays(views.poses[0], views.intrinsics[0, :4], views.size, views.near[0], views.far[0])
    bent = np.arccos(np.clip(np.sum(rays[:48, 3:6] * plain[:, 3:6], axis=-1), -1, 1))
    assert bent.max() > 1e-3


def test_a_fisheyes_bounds_are_distances(tmp_path):
    """The points are in a cube of side 2 about the origin, from cameras about 4 away."""
    scene, poses = colmap(tmp_path, "OPENCV_FISHEYE 16 12 5 5 8 6 0 0 0 0")
    views = scene.read("train")
    points = np.random.default_rng(0).uniform(-1, 1, (500, 3))
    distance = np.linalg.norm(points - poses[1][:, 3], axis=-1)
    moved = [np.linalg.norm(p[1, :, 3] - p[0, :, 3]) for p in (views.poses, poses[1:3])]
    scale = moved[0] / moved[1]
    np.testing.assert_allclose(views.near[0] / scale, 0.9 * np.quantile(distance, 0.001), rtol=1e-6)
    np.testing.assert_allclose(views.far[0] / scale, 1.1 * np.quantile(distance, 0.999), rtol=1e-6)


def damaged(data: bytes, at: int, *values: int | float, kind: str = "Q") -> bytes:
    new = struct.pack(f"<{len(values)}{kind}", *values)
    return data[:at] + new + data[at + len(new) :]


HOSTILE = {
    "cameras.bin": {
        "empty": lambda d: b"",
        "cut": lambda d: d[:-1],
        "longer": lambda d: d + b"x",
        "too many entries": lambda d: damaged(d, 0, 1 << 63),
        "none": lambda d: bytes(8),
        "unknown model": lambda d: damaged(d, 12, 7, kind="i"),
        "negative model": lambda d: damaged(d, 12, -1, kind="i"),
        "huge width": lambda d: damaged(d, 16, 1 << 62),
        "no height": lambda d: damaged(d, 24, 0),
        "focal length NaN": lambda d: damaged(d, 32, float("nan"), kind="d"),
    },
    "images.bin": {
        "empty": lambda d: b"",
        "cut": lambda d: d[:-1],
        "head alone": lambda d: damaged(d, 0, (1 << 64) - 1)[:8],
        "no images": lambda d: bytes(8),
        "name without an end": lambda d: d[: 8 + 64 + 3],
        "name not UTF-8": lambda d: damaged(d, 72, 0xFF, kind="B"),
        "name with a newline": lambda d: damaged(d, 72, 10, kind="B"),
        "huge points": lambda d: damaged(d, 78, 1 << 61),
        "quaternion 0": lambda d: damaged(d, 12, 0, 0, 0, 0, kind="d"),
        "quaternion NaN": lambda d: damaged(d, 12, float("nan"), kind="d"),
        "infinite translation": lambda d: damaged(d, 44, float("inf"), kind="d"),
        "unknown camera": lambda d: damaged(d, 68, 9, kind="i"),
    },
    "points3D.bin": {
        "cut": lambda d: d[:-1],
        "too many entries": lambda d: damaged(d, 0, 1 << 63),
        "huge track": lambda d: damaged(d, 8 + 43, 1 << 60),
        "infinite point": lambda d: damaged(d, 16, float("inf"), kind="d"),
        "no points": lambda d: bytes(8),
    },
}


@pytest.mark.parametrize("name, kind", [(name, kind) for name, kinds in HOSTILE.items() for kind in kinds])
def test_hostile_binary_files(tmp_path, name, kind):
    scene, _ = colmap(tmp_path)
    to_binary(tmp_path / "sparse" / "0")
    file = tmp_path / "sparse" / "0" / name
    file.write_bytes(HOSTILE[name][kind](file.read_bytes()))
    with pytest.raises(UserError) as error:
        scene.read("train")
    assert str(tmp_path) in one_line(error)


@pytest.mark.parametrize("name", ["cameras.txt", "images.txt", "points3D.txt"])
def test_hostile_text(tmp_path, name):
    scene, _ = colmap(tmp_path)
    file = tmp_path / "sparse" / "0" / name
    text = file.read_bytes()
    for bad in ("# Kamera für mich\n".encode("cp1252") + text, text.replace(b"1 ", b"1 \0", 1), b"1 2\n"):
        file.write_bytes(bad)
        with pytest.raises(UserError) as error:
            scene.read("train")
        assert name in one_line(error)


def test_pictures_with_a_number_missing(tmp_path):
    scene, _ = colmap(tmp_path)
    (tmp_path / "sparse" / "0" / "images.txt").write_text("1 1 0 0 0 0 0 1 0.png\n")
    with pytest.raises(UserError, match="a line that is not a picture") as error:
        scene.read("train")
    one_line(error)


def test_names_with_spaces(tmp_path):
    scene, _ = colmap(tmp_path)
    expected = scene.read("train").poses
    (tmp_path / "images" / "3.png").rename(tmp_path / "images" / "3  a b.png")
    file = tmp_path / "sparse" / "0" / "images.txt"
    file.write_text(file.read_text().replace(" 3.png", " 3  a b.png"))
    np.testing.assert_array_equal(scene.read("train").poses, expected)
