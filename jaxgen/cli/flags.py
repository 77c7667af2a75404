"""Types of flags that several commands have."""

from typing import Annotated

import tyro

Repeated = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
"""A text that can be given several times."""
