"""Rays of posed pictures: camera conventions, the synthetic scene, and which views are held out."""

import numpy as np
import pytest

from jaxgen.core.configuration import check_fields
from jaxgen.data import AnalyticScene, RandomAccess, rays
from jaxgen.data.analytic import shade, signed_distances
from jaxgen.errors import UserError
from jaxgen.ops import cameras

POSE = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 4], [0, 0, 0, 1]])
SCENE = AnalyticScene(size=12, train_views=3, test_views=2, samples=1)


# --- cameras ------------------------------------------------------------------------------------------------------


def test_rays_go_through_the_centres_of_pixels():
    """A 4 x 2 picture with a focal length of 2, worked out by hand."""
    found = cameras.view_rays(POSE[:3], np.array([2.0, 2.0, 2.0, 1.0]), (2, 4), 1.0, 9.0)
    origin, direction, near, far, radius = cameras.columns(found)
    np.testing.assert_allclose(origin, np.tile([0, 0, 4], (8, 1)))
    # Row by row from the top left: x from -1.5 to 1.5 pixels, y upwards.
    expected = [(x / 2, y / 2, -1) for y in (0.5, -0.5) for x in (-1.5, -0.5, 0.5, 1.5)]
    length = np.linalg.norm(expected, axis=-1)
    np.testing.assert_allclose(direction, np.array(expected) / length[:, None], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(direction, axis=-1), 1, atol=1e-6)
    assert np.all(near == 1) and np.all(far == 9)
    # At depth 1 a pixel is half a unit wide. Its variance along each axis is 1 / 48, that of a disc of radius
    # 2 / sqrt(48).
    np.testing.assert_allclose(radius * length, 2 / np.sqrt(48), rtol=1e-5)


def test_a_camera_sees_what_it_looks_at_in_the_middle():
    for pose in (*cameras.turntable(3, 4.0, 0.4), cameras.on_sphere(1.0, -0.3, 2.0)):
        assert cameras.is_rigid(pose)
        distance = np.linalg.norm(pose[:, 3])
        np.testing.assert_allclose(pose[:, 3] - distance * pose[:, 2], 0, atol=1e-12)
        assert pose[2, 1] > 0  # z upwards


def test_the_mean_pose_becomes_the_origin():
    poses = cameras.turntable(20, 3.0, 0.5)[:6]
    again = cameras.recentred(poses)
    np.testing.assert_allclose(cameras.mean_pose(again), np.eye(4)[:3], atol=1e-12)
    # Distances between cameras are unchanged.
    apart = [np.linalg.norm(p[0, :, 3] - p[4, :, 3]) for p in (poses, again)]
    np.testing.assert_allclose(*apart)
    way = cameras.sway(again, 5, 2.0)
    assert way.shape == (5, 3, 4) and all(cameras.is_rigid(p) for p in way)
    np.testing.assert_allclose(way[:, :, 3].mean(axis=0), 0, atol=1e-12)


@pytest.mark.parametrize("change", [(0, 0, 1.1), (0, 0, -1.0), (3, 3, 2.0), (1, 0, 0.2), (0, 3, np.nan)], ids=str)
def test_matrices_that_are_not_rigid(change):
    row, column, value = change
    matrix = POSE.copy()
    assert cameras.is_rigid(matrix)
    matrix[row, column] = value
    assert not cameras.is_rigid(matrix)


def test_depths_along_the_axis_end_rays_on_a_plane():
    found = cameras.view_rays(POSE[:3], np.array([2.0, 2.0, 2.0, 1.0]), (2, 4), 1.0, 9.0, planar=True)
    origin, direction, near, far, _ = cameras.columns(found)
    for away, z in ((near, 4 - 1), (far, 4 - 9)):
        np.testing.assert_allclose((origin + direction * away[:, None])[:, 2], z, atol=1e-5)


# --- the synthetic scene ------------------------------------------------------------------------------------------


def test_traced_rays_end_on_solids():
    """Where a ray ends, the distance to the nearest solid is 0; a ray without an end meets no solid."""
    depth = SCENE.depth("test")
    views = SCENE.views("test")
    assert depth.shape == (2, 12, 12) and 0.1 < np.isfinite(depth).mean() < 0.9
    data = SCENE.arrays("test")
    origin, direction, near, far, _ = cameras.columns(data["cond"].astype(np.float64))
    flat = depth.reshape(-1)
    hit = np.isfinite(flat)
    at = origin[hit] + direction[hit] * flat[hit, None]
    assert np.abs(signed_distances(at).min(axis=-1)).max() < 2e-3
    for part in np.linspace(0, 1, 60):
        t = near[~hit] + part * (far - near)[~hit]
        assert signed_distances(origin[~hit] + direction[~hit] * t[:, None]).min() > 0
    np.testing.assert_array_equal(hit, views.pixels.reshape(-1, 4)[:, 3] == 255)
    np.testing.assert_array_equal(data["x"][~hit], 255)


def test_the_highlight_moves_with_the_camera():
    x = np.array([[-0.35, 0.35, 0.52]])  # the top of the sphere
    colours = [shade(x, -np.array([[np.sin(a), 0, np.cos(a)]]), np.array([0])) for a in (-0.6, 0.0, 1.2)]
    assert np.ptp(np.stack(colours)) > 0.1
    matt = [shade(x, -np.array([[np.sin(a), 0, np.cos(a)]]), np.array([1])) for a in (-0.6, 1.2)]
    np.testing.assert_array_equal(*matt)


def test_splits_are_whole_views_in_order():
    train, test = SCENE.arrays("train"), SCENE.arrays("test")
    assert train["x"].shape == (3 * 144, 3) and train["cond"].shape == (3 * 144, 9)
    assert train["alpha"].shape == (3 * 144, 1) and train["x"].dtype == np.uint8
    assert SCENE.picture_size == (12, 12)
    views = SCENE.views("test")
    np.testing.assert_array_equal(test["x"].reshape(2, 12, 12, 3), rays.composite(views.pixels))
    np.testing.assert_array_equal(test["cond"][144:, :3], np.tile(views.poses[1][:, 3].astype(np.float32), (144, 1)))
    held_out = {tuple(o) for o in test["cond"][:, :3]}
    assert not held_out & {tuple(o) for o in train["cond"][:, :3]}
    assert SCENE.count("all") == 5 * 144
    batch = SCENE.batch_at(3, 7, 50)
    np.testing.assert_array_equal(batch["x"], train["x"][SCENE.indices_at(3, 7, 50)])


def test_rays_of_a_large_split_are_computed_on_demand(monkeypatch):
    expected = SCENE.batch_at(0, 1, 20)
    monkeypatch.setattr(rays, "ON_DEVICE", 100)
    made = SCENE.load("train")
    assert isinstance(made, RandomAccess) and len(made) == 3 * 144
    found = made.take(SCENE.indices_at(0, 1, 20))
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_bad_sizes_of_the_scene():
    with pytest.raises(UserError, match="train_views is 0"):
        check_fields(AnalyticScene(train_views=0))
