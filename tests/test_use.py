"""How samples are laid out for a picture."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.models.shared import class_grid
from jaxgen.use import in_rows


def images(num: int) -> np.ndarray:
    return np.arange(num * 12, dtype=np.uint8).reshape(num, 2, 2, 3)


def test_a_row_for_each_class():
    raw = images(12)
    rows = in_rows(raw, class_grid(12, 4))
    assert rows.shape == (4, 3, 2, 2, 3)
    np.testing.assert_array_equal(rows[1, 2], raw[5])


@pytest.mark.parametrize(
    "labels", [[0, 0, 0, 1, 1, 2], [0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 1, 1], [3, 3, 3, 3, 3, 3], [0, 0, 0, 0, 1]], ids=str
)
def test_other_labels_stay_a_list(labels):
    raw = images(6)
    assert in_rows(raw, jnp.asarray(labels)) is raw


def test_what_has_no_classes_stays_a_list():
    raw, points = images(6), np.zeros((6, 2), np.float32)
    assert in_rows(raw, None) is raw
    assert in_rows(raw, raw) is raw
    assert in_rows(points, jnp.arange(6) // 3) is points
