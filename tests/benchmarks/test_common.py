"""Statistics that benchmarks share."""

import common
import numpy as np

from jaxgen.report.seeds import estimate


def test_the_jackknife_of_a_mean_is_the_interval_of_a_mean():
    x = np.random.default_rng(0).normal(3.0, 2.0, 40)
    found, right = common.jackknife(lambda kept: x[kept].mean(), len(x), groups=len(x)), estimate(x)
    assert np.isclose(found["mean"], right["mean"]) and np.isclose(found["ci95"], right["ci95"])


def test_fewer_groups_give_about_the_same_interval():
    x = np.random.default_rng(1).normal(0.0, 1.0, 400)
    found = common.jackknife(lambda kept: x[kept].std(), len(x))
    assert 0.5 < found["ci95"] / (1.96 / np.sqrt(2 * len(x))) < 1.8
