"""Maps of few steps beside the ODE's."""

import numpy as np
import one_step
import pytest
from small_runs import smoke_run

from jaxgen.errors import UserError


def test_the_error_is_relative_to_the_spread_of_the_truth():
    truth = np.array([[1.0, 1.0], [3.0, 1.0]])
    assert one_step.error(truth + np.array([0.0, 0.5]), truth) == pytest.approx(0.5)
    assert one_step.error(truth, truth) == 0


def test_runs_of_images_are_refused(tmp_path):
    smoke_run("edm", tmp_path / "edm")
    with pytest.raises(UserError, match="no diffusion model of points"):
        one_step.main([str(tmp_path / "edm"), str(tmp_path / "edm")])
