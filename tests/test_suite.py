"""How the tests run."""

import pytest


def test_a_files_tests_stay_in_one_process(request):
    """pytest-xdist 3.8 groups nothing under pytest 9.2, and says nothing: both processes compiled all programs."""
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("the tests run in one process")
    assert request.node.nodeid.endswith("@test_suite.py")
