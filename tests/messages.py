"""What every error message of ours keeps to."""

import pytest


def one_line(error: pytest.ExceptionInfo) -> str:
    """The message, checked to be one line of readable length."""
    text = str(error.value)
    assert "\n" not in text and len(text) < 600, text
    return text
