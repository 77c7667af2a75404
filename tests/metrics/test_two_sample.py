"""The nearest-neighbour two-sample score on sets whose answer is known."""

import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.metrics.two_sample import knn_two_sample


def test_alike_apart_and_copied():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 500, 3))
    assert knn_two_sample(a, b) == pytest.approx(0.5, abs=0.05)
    assert knn_two_sample(a, b + 20) == 1.0
    # A jittered copy of each point is nearer to it than any other: one neighbour always votes for the other set.
    assert knn_two_sample(a, a + 1e-6, k=1) == 0.0


def test_shapes_are_checked():
    with pytest.raises(UserError, match="equal shapes"):
        knn_two_sample(np.zeros((10, 2)), np.zeros((11, 2)))
    with pytest.raises(UserError, match="odd"):
        knn_two_sample(np.zeros((10, 2)), np.zeros((10, 2)), k=4)
