"""Cameras around a scene without pictures."""

from dataclasses import replace

import numpy as np
import pytest

from jaxgen.core.configuration import check_fields
from jaxgen.data import Cameras
from jaxgen.errors import UserError

DATA = Cameras(size=6, train_views=2000, elevation=(-10.0, 50.0), angle=40.0, distance=3.0)


def poses_of(split):
    return DATA.arrays(split)["cond"][:, :12].reshape(-1, 3, 4).astype(np.float64)


def angles_of(poses):
    """Azimuths and elevations of camera positions, in degrees."""
    x, y, z = poses[:, :, 3].T
    return np.degrees(np.arctan2(y, x)) % 360, np.degrees(np.arcsin(z / np.linalg.norm(poses[:, :, 3], axis=1)))


def uniform(values, low, high):
    """Whether values are uniform on [low, high]: their empirical distribution is nowhere off by more than a
    Kolmogorov-Smirnov test allows at 1 in 1,000."""
    place = (np.sort(values) - low) / (high - low)
    assert place.min() >= 0 and place.max() <= 1
    return np.abs(place - (np.arange(len(values)) + 0.5) / len(values)).max() < 1.95 / np.sqrt(len(values))


def test_training_cameras_are_uniform_on_their_ranges():
    azimuth, elevation = angles_of(poses_of("train"))
    assert uniform(azimuth, 0, 360)
    assert uniform(elevation, -10, 50)
    assert abs(np.corrcoef(azimuth, elevation)[0, 1]) < 0.08


def test_cameras_look_at_the_origin_upright():
    poses = poses_of("train")
    np.testing.assert_allclose(np.linalg.norm(poses[:, :, 3], axis=1), 3, rtol=1e-5)
    # The origin lies ahead, along -z; what points up in the picture points up in the world.
    np.testing.assert_allclose(poses[:, :, 2] * 3, poses[:, :, 3], atol=1e-5)
    assert poses[:, 2, 1].min() > 0


def test_held_out_cameras_are_apart_from_each_other_and_from_training():
    azimuth, elevation = angles_of(poses_of("test"))
    np.testing.assert_allclose(elevation, 45, atol=1e-3)
    apart = np.abs(azimuth[:, None] - azimuth[None]) + 360 * np.eye(8)
    assert np.minimum(apart, 360 - apart % 360).min() > 20
    both = np.concatenate([poses_of("train"), poses_of("test")])
    assert len(np.unique(both.reshape(len(both), -1), axis=0)) == len(both)


def test_the_focal_length_spans_the_angle():
    focal = DATA.arrays("test")["cond"][:, 12]
    np.testing.assert_allclose(2 * np.degrees(np.arctan(0.5 / focal)), 40, rtol=1e-5)
    assert DATA.views("test").intrinsics[0, 0] == pytest.approx(float(focal[0]) * 6)


def test_examples_are_white_views():
    batch = DATA.batch_at(0, 0, 5)
    assert batch["x"].shape == (5, 6, 6, 3) and np.all(batch["x"] == 255)
    assert DATA.picture_size is None and not DATA.pictured
    assert len(DATA.camera_path(3)) == 3


def test_other_seeds_are_other_cameras():
    assert not np.allclose(replace(DATA, poses_seed=1).arrays("train")["cond"], DATA.arrays("train")["cond"])


def test_an_empty_range_is_refused():
    with pytest.raises(UserError, match=r"30\.0 to 10\.0 degrees"):
        check_fields(Cameras(elevation=(30.0, 10.0)))
