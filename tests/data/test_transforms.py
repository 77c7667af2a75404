"""transforms.json: lenses, masks, hold-out and bounds of a capture; and one line for each camera that is refused."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from messages import one_line
from PIL import Image
from scene_files import around, blender, capture

from jaxgen.data import RandomAccess, SceneFolder, rays
from jaxgen.errors import UserError
from jaxgen.ops import cameras


def test_a_capture_is_centred_turned_and_scaled(tmp_path):
    """The cameras look at one point, which becomes the origin; y, which is up, becomes z; 4 is the mean distance."""
    scene = capture(tmp_path)
    views, held_out = scene.read("train"), scene.read("test")
    assert (len(views.pixels), len(held_out.pixels)) == (7, 2)
    # Sorted by name, unlike the file.
    np.testing.assert_array_equal(views.pixels[:, 0, 0, 1], [1, 2, 3, 4, 5, 6, 7])
    np.testing.assert_array_equal(held_out.pixels[:, 0, 0, 1], [0, 8])
    given = np.stack(around(9))[[1, 2, 3, 4, 5, 6, 7, 0, 8]]
    found = np.concatenate([views.poses, held_out.poses])
    offset = given[:, :, 3] - [3, -2, 1]
    scale = 4 / np.linalg.norm(offset, axis=-1).mean()
    # Heights above the centre, distances to it and angles between cameras are those of the capture.
    np.testing.assert_allclose(found[:, 2, 3], scale * offset[:, 1], atol=0.02)
    np.testing.assert_allclose(found[:, :, 3] @ found[:, :, 3].T, scale**2 * offset @ offset.T, atol=1e-9)
    for pose, distance, near, far in zip(views.poses, scale * np.linalg.norm(offset, axis=-1), views.near, views.far):
        assert cameras.is_rigid(pose)
        np.testing.assert_allclose(pose[:, 3], distance * pose[:, 2], atol=1e-9)
        np.testing.assert_allclose([near, far], [distance - 2, distance + 2])
    assert not views.planar.any()
    assert scene.camera_path(3).shape == (3, 3, 4)
    assert dataclasses.replace(scene, near=0.5, far=9.0).read("test").far[0] == 9


def test_files_may_name_the_split(tmp_path):
    scene = capture(tmp_path, train_filenames=["images/0.png"], test_filenames=["images/3.png"], val_filenames=[])
    np.testing.assert_array_equal(scene.read("test").pixels[:, 0, 0, 1], [3])
    assert len(scene.read("train").pixels) == 8
    with pytest.raises(UserError, match="name no picture of its frames") as error:
        capture(tmp_path / "none", test_filenames=["images/33.png"]).load("train")
    one_line(error)
    for i, bad in enumerate((5, "images/0.png", [3], [None])):
        with pytest.raises(UserError, match="test_filenames is"):
            capture(tmp_path / str(i), test_filenames=bad).load("train")


@pytest.mark.parametrize("poses", ["parallel", "outwards", "one place"])
def test_cameras_without_a_centre(tmp_path, poses):
    scene = capture(tmp_path)
    file = tmp_path / "transforms.json"
    text = json.loads(file.read_text())
    for i, frame in enumerate(text["frames"]):
        pose = np.eye(4)
        if poses == "parallel":
            pose[0, 3] = i
        else:
            position = np.array([np.sin(i), 0, np.cos(i)])
            pose[:3] = cameras.look_at(position, 2 * position, np.array([0.0, 1, 0]))
            pose[:3, 3] *= poses == "outwards"
        frame["transform_matrix"] = pose.tolist()
    file.write_text(json.dumps(text))
    with pytest.raises(UserError, match="no centre is found for near and far") as error:
        scene.load("train")
    one_line(error)


def test_missing_endings(tmp_path):
    """As given, else with the first ending that there is; a folder of that name is none."""
    scene = capture(tmp_path)
    images = tmp_path / "images"
    images.rename(tmp_path / "moved")
    images.mkdir()
    (images / "1").mkdir()
    for i, ending in enumerate((".png", ".jpg", ".JPG", ".jpeg", ".webp", ".tif", ".png", ".bmp", ".PNG")):
        Image.new("RGB", (8, 6), (0, 10 * i, 0)).save(images / f"{i}{ending}")
    file = tmp_path / "transforms.json"
    file.write_text(file.read_text().replace('.png"', '"'))
    np.testing.assert_allclose(scene.read("train").pixels[:, 0, 0, 1], 10 * np.arange(1, 8), atol=2)


def test_lenses(tmp_path):
    bends = {"k1": 0.1, "k2": -0.02, "k3": 0.003, "k4": 0.0004}
    tangential = {"p1": 0.01, "p2": -0.02}
    plain = {"f": 10.0, "cx": 4.0, "cy": 3.0}
    for i, (fields, expected) in enumerate(
        [
            ({}, {}),
            ({"camera_model": "OPENCV", "is_fisheye": False, **bends, **tangential}, {**bends, **tangential}),
            ({"camera_model": "OPENCV_FISHEYE", **bends}, {**bends, "fisheye": 1}),
            ({"is_fisheye": True, **bends, "p1": 0}, {**bends, "fisheye": 1}),
            ({"camera_model": "SIMPLE_RADIAL", "k1": 0.1}, {"k1": 0.1}),
            ({"rolling_shutter": [0, 0, 0, 0], "latlong": False, "k5": 0.0}, {}),
        ]
    ):
        views = capture(tmp_path / str(i), **fields).read("train")
        np.testing.assert_array_equal(views.intrinsics, np.tile(cameras.camera(**plain, **expected), (7, 1)))
    # One frame of its own kind.
    views = capture(tmp_path / "one", frame={"is_fisheye": True, "k1": 0.1}).read("train")
    np.testing.assert_array_equal(views.intrinsics[0], cameras.camera(**plain, k1=0.1, fisheye=1))
    np.testing.assert_array_equal(views.intrinsics[1], cameras.camera(**plain))


def test_pixels_that_a_lens_does_not_map_give_no_rays(tmp_path):
    """A fisheye lens with a focal length of 1 has 180 degrees behind it at a distance of pi pixels."""
    scene = capture(tmp_path, fl_x=1.0, is_fisheye=True)
    y, x = np.mgrid[:6, :8]
    inside = np.hypot(x - 3.5, y - 2.5) <= np.pi
    np.testing.assert_array_equal(scene.read("train").counted[0], inside)
    assert scene.count("train") == 7 * inside.sum()


# --- masks --------------------------------------------------------------------------------------------------------


def masked(folder: Path, masks: dict[int, np.ndarray], num: int = 9, **shared) -> SceneFolder:
    """A capture with masks, uint8[H, W], of some pictures."""
    scene = capture(folder, num, **shared)
    file = folder / "transforms.json"
    text = json.loads(file.read_text())
    for frame in text["frames"]:
        i = int(Path(frame["file_path"]).stem)
        if i in masks:
            Image.fromarray(masks[i]).save(folder / f"mask_{i}.png")
            frame["mask_path"] = f"mask_{i}"
    file.write_text(json.dumps(text))
    return scene


def test_black_pixels_of_masks_give_no_rays(tmp_path):
    half = np.full((6, 8), 255, np.uint8)
    half[:, 4:] = 0
    dim = half.copy()
    dim[0] = 100
    scene = masked(tmp_path, {1: half, 2: dim, 8: half})
    left = np.arange(8) < 4
    views = scene.views("train")
    np.testing.assert_array_equal(views.counted[0], np.tile(left, (6, 1)))
    np.testing.assert_array_equal(views.counted[1], left & (np.arange(6) > 0)[:, None])
    assert views.counted[2:].all()
    assert scene.count("train") == 24 + 20 + 5 * 48
    data = scene.arrays("train")
    np.testing.assert_array_equal(data["x"][:45, 1], [1] * 24 + [2] * 20 + [3])
    every = cameras.view_rays(views.poses[0], views.intrinsics[0], (6, 8), views.near[0], views.far[0])
    np.testing.assert_array_equal(data["cond"][:24], every.reshape(6, 8, 9)[:, :4].reshape(-1, 9))
    # Held-out pictures stay whole, and their masked pixels count in no number.
    assert scene.count("test") == 96 and scene.picture_size == (6, 8)
    batches = list(scene.padded_batches(40))
    np.testing.assert_array_equal([len(batch["x"]) for batch, _ in batches], 40)
    mask = np.concatenate([mask for _, mask in batches])
    np.testing.assert_array_equal(mask, [*[True] * 48, *np.tile(left, 6), *[False] * 24])
    assert scene.count("all") == scene.count("train") + 48 + 24
    with pytest.raises(UserError, match="leave out all of the first 2 held-out pixels"):
        list(masked(tmp_path / "b", {0: 255 - half}).padded_batches(2, "test", 2))


def test_masked_rays_of_a_large_split(tmp_path, monkeypatch):
    """Computed on demand, they are the same."""
    half = np.full((6, 8), 255, np.uint8)
    half[:, 4:] = 0
    scene = masked(tmp_path, {1: half, 3: half})
    expected = scene.arrays("train")
    monkeypatch.setattr(rays, "ON_DEVICE", 100)
    made = scene.load("train")
    assert isinstance(made, RandomAccess) and len(made) == 24 + 24 + 5 * 48
    for name, values in made.take(np.arange(len(made))).items():
        np.testing.assert_array_equal(values, expected[name])


def test_masks_and_downscaling(tmp_path):
    """A pixel counts if all pixels counted that it is the mean of."""
    mask = np.full((6, 8), 255, np.uint8)
    mask[3, 5] = 0
    scene = dataclasses.replace(masked(tmp_path, {1: mask}), downscale=2)
    expected = np.ones((3, 4), bool)
    expected[1, 2] = False
    np.testing.assert_array_equal(scene.read("train").counted[0], expected)


def test_masks_that_are_none(tmp_path):
    black, white = np.zeros((6, 8), np.uint8), np.full((6, 8), 255, np.uint8)
    for i, (masks, match) in enumerate(
        [({1: black}, "no pixel of .*1.png is left"), ({1: white[:5]}, "mask_1.png is 8 x 5, its picture 1.png 8 x 6")]
    ):
        with pytest.raises(UserError, match=match) as error:
            masked(tmp_path / str(i), masks).load("train")
        one_line(error)
    scene = masked(tmp_path / "absent", {1: white})
    (tmp_path / "absent" / "mask_1.png").unlink()
    with pytest.raises(UserError, match=r"mask_1, which transforms.json names, is missing"):
        scene.load("train")
    assert masked(tmp_path / "white", {1: white}).views("train").counted is None


def test_pictures_are_used_as_stored(tmp_path):
    """EXIF does not rotate them, as cameras belong to stored pixels; 16 bits are scaled; alpha is kept."""
    scene = blender(tmp_path, sizes=[(8, 6)] * 4)
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[0] = 200
    Image.fromarray(pixels).save(tmp_path / "train" / "r_0.png", exif=exif)
    Image.fromarray(np.full((6, 8), 32_896, np.uint16)).save(tmp_path / "train" / "r_1.png")
    Image.new("LA", (8, 6), (7, 9)).save(tmp_path / "train" / "r_2.png")
    views = scene.read("train")
    np.testing.assert_array_equal(views.pixels[0, ..., :3], pixels)
    assert (views.pixels[0, ..., 3] == 255).all()
    np.testing.assert_array_equal(views.pixels[1, 0, 0], [128, 128, 128, 255])
    np.testing.assert_array_equal(views.pixels[2, 0, 0], [7, 7, 7, 9])


# --- what is refused ----------------------------------------------------------------------------------------------

NAN = float("nan")
REFUSED = [
    {"camera_model": "EQUIRECTANGULAR"}, {"camera_model": "ORTHOPHOTO"}, {"camera_model": "VR180_L"},
    {"camera_model": "FISHEYE624"}, {"camera_model": "opencv"}, {"camera_model": None}, {"camera_model": ["OPENCV"]},
    {"is_fisheye": 1}, {"is_fisheye": None}, {"ftheta_p0": 0.1}, {"ftheta_p4": 1e-9}, {"latlong": True},
    {"equirectangular": True}, {"orthographic": True}, {"rolling_shutter": [0, 0, 1]}, {"fisheye_crop_radius": 3.0},
    {"k5": 0.1}, {"fl_x": 0}, {"fl_x": -10.0}, {"fl_x": None}, {"fl_x": NAN}, {"fl_x": math.inf}, {"fl_x": "10"},
    {"fl_x": True}, {"fl_x": [10]}, {"fl_x": 1e300}, {"fl_x": 1e-300}, {"fl_y": 0}, {"w": 0}, {"w": -8}, {"w": None},
    {"w": NAN}, {"h": 0}, {"h": 1e9}, {"cx": None}, {"cx": NAN}, {"cy": 1e12}, {"k1": NAN}, {"k2": None}, {"p1": "0"},
    {"k1": 1e30}, {"camera_angle_x": 0}, {"camera_angle_x": 1e-320}, {"camera_angle_x": -0.5},
    {"camera_angle_x": math.pi}, {"camera_angle_x": 4}, {"camera_angle_x": None}, {"camera_angle_y": 0},
    {"file_path": None}, {"file_path": 3}, {"file_path": ""}, {"file_path": "a\nb"}, {"file_path": "a\0b"},
    {"file_path": "\ud800"}, {"mask_path": None}, {"mask_path": 5}, {"mask_path": ""}, {"transform_matrix": None},
    {"transform_matrix": []}, {"transform_matrix": np.eye(3).tolist()}, {"transform_matrix": [[1, 0, 0, 0], [0, 1]]},
    {"transform_matrix": np.full((4, 4), NAN).tolist()}, {"transform_matrix": [["1", "0", "0", "0"]] * 4},
    {"transform_matrix": [[None] * 4] * 4}, {"transform_matrix": [[[1]] * 4] * 4}, {"transform_matrix": {"a": 1}},
]  # fmt: skip


@pytest.mark.parametrize("fields", REFUSED, ids=lambda fields: f"{fields}"[:40])
def test_one_line_names_file_frame_and_field(tmp_path, fields):
    """Frame 7 in the file's order, which is that of names reversed."""
    with pytest.raises(UserError) as error:
        capture(tmp_path, frame=fields).load("train")
    (name,) = fields
    assert one_line(error).startswith(f"{tmp_path / 'transforms.json'}, frame 7: {name} is ")


OF_CAMERAS = [fields for fields in REFUSED if not {"file_path", "mask_path", "transform_matrix"} & {*fields}]


@pytest.mark.parametrize("fields", OF_CAMERAS, ids=lambda fields: f"{fields}"[:40])
def test_fields_of_the_whole_file(tmp_path, fields):
    with pytest.raises(UserError, match=r"transforms.json, frame 0: ") as error:
        capture(tmp_path, **fields).load("train")
    one_line(error)


@pytest.mark.parametrize(
    "fields, match",
    [
        ({"fl_x": "absent"}, "neither fl_x nor camera_angle_x"),
        ({"fl_x": "absent", "camera_angle_x": 0.5, "is_fisheye": True}, "fl_x is missing, which a fisheye lens needs"),
        ({"is_fisheye": True, "p1": 0.1}, "p1 or p2 is not 0"),
        ({"is_fisheye": True, "camera_model": "PINHOLE"}, "does not fit camera_model PINHOLE"),
        ({"w": 6, "h": 8}, "the camera is of 6 x 8 pixels, the picture of 8 x 6"),
    ],
)
def test_fields_that_do_not_go_together(tmp_path, fields, match):
    with pytest.raises(UserError, match=match) as error:
        capture(tmp_path, **fields).load("train")
    one_line(error)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"[]", b"3", b'{"frames": 3}', b'{"frames": {}}', b'{"frames": [3]}', b'{"frames": []}', b"\xff\xfe",
        b'{"fl_x": 1' + b"0" * 400 + b', "frames": []}', b"[" * 100_000, '{"frames": [], "a": "ü"}'.encode("cp1252"),
        b'{"frames": [{"file_path": "x", "fl_x": 1e400}]}', b'{"frames": [{"file_path": "' + b"x" * 5000 + b'"}]}',
    ],
)  # fmt: skip
def test_hostile_json(tmp_path, text):
    scene = capture(tmp_path)
    (tmp_path / "transforms.json").write_bytes(text)
    with pytest.raises(UserError) as error:
        scene.load("train")
    assert one_line(error).startswith(str(tmp_path / "transforms.json"))


def test_home_folders_are_expanded(tmp_path, monkeypatch):
    capture(tmp_path / "scene")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert SceneFolder(folder="~/scene").count("test") == 96
