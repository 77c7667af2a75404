"""Splats in PLY files: the layout by hand, and what a reader refuses."""

import struct

import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.weights import ply


def splats(degree: int, num: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(degree)
    shapes = {"mean": (3,), "sh0": (3,), "opacity": (), "log_scale": (3,), "quaternion": (4,)}
    shapes |= {"sh": ((degree + 1) ** 2 - 1, 3)} if degree else {}
    return {name: rng.normal(size=(num, *shape)).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("degree", range(4))
def test_what_is_written_is_read(tmp_path, degree):
    given = splats(degree)
    ply.write(tmp_path / "a.ply", given)
    found = ply.read(tmp_path / "a.ply")
    assert found.keys() == given.keys() and ply.degree(found) == degree
    for name, array in given.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_the_layout_is_that_of_viewers(tmp_path):
    """62 floats a splat, in this order; of the harmonics all of red come first."""
    given = splats(3)
    ply.write(tmp_path / "a.ply", given)
    head, body = (tmp_path / "a.ply").read_bytes().split(b"end_header\n", 1)
    lines = head.decode().split("\n")
    assert lines[:3] == ["ply", "format binary_little_endian 1.0", "element vertex 3"]
    names = [line.removeprefix("property float ") for line in lines[3:-1]]
    assert names[:9] == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    assert names[9:54] == [f"f_rest_{i}" for i in range(45)]
    assert names[54:] == ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    second = dict(zip(names, struct.unpack_from("<62f", body, 4 * 62)))
    assert len(body) == 3 * 4 * 62 and second["nx"] == 0
    assert second["f_rest_15"] == given["sh"][1, 0, 1]  # the first of green
    assert second["f_rest_44"] == given["sh"][1, 14, 2] and second["rot_0"] == given["quaternion"][1, 0]


def test_other_properties_and_orders_are_read(tmp_path):
    names = ["opacity", *(f"rot_{i}" for i in range(4)), "z", "y", "x", *(f"scale_{i}" for i in range(3))]
    names += [f"f_dc_{i}" for i in range(3)]
    head = "ply\nformat binary_little_endian 1.0\ncomment by hand\nelement vertex 1\nproperty uchar flag\n"
    head += "".join(f"property double {name}\n" for name in names) + "end_header\n"
    (tmp_path / "a.ply").write_bytes(head.encode() + struct.pack("<B14d", 7, *range(14)))
    found = ply.read(tmp_path / "a.ply")
    np.testing.assert_array_equal(found["mean"], [[7, 6, 5]])
    np.testing.assert_array_equal(found["quaternion"], [[1, 2, 3, 4]])
    np.testing.assert_array_equal(found["opacity"], [0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[:-1], "ends within its 3 splats"),
        (lambda data: b"obj" + data, "is no PLY file"),
        (lambda data: data.replace(b"binary_little_endian", b"ascii"), "has the format ascii"),
        (lambda data: data.replace(b"vertex", b"voxels"), "begins with something else"),
        (lambda data: data.replace(b"rot_3", b"rot_4"), "without rot_3"),
        (lambda data: data.replace(b"f_rest_8", b"f_more_8"), "has 8 coefficients"),
        (lambda data: data.replace(b"property float x", b"property list uchar int x"), "which no splat has"),
        (lambda data: data.replace(b"vertex 3", b"vertex 0"), "has 0 points"),
        (lambda data: data.replace(b"scale_1", b"scale_0"), "different names"),
        (lambda data: data[:-4] + struct.pack("<f", np.nan), "not finite"),
    ],
)
def test_what_is_no_file_of_splats_is_refused(tmp_path, change, said):
    ply.write(tmp_path / "a.ply", splats(1))
    (tmp_path / "a.ply").write_bytes(change((tmp_path / "a.ply").read_bytes()))
    with pytest.raises(UserError, match=said):
        ply.read(tmp_path / "a.ply")
