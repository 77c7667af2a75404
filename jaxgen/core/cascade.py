"""What the later models of a cascade can do: protocols like those of `core.capabilities`."""

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class LaterStage(Protocol):
    """Goes on from what another model has drawn, as the later stages of a cascade do."""

    @property
    def drawn_from(self) -> tuple[int, ...]:
        """The shape of one raw sample that it goes on from."""
        ...

    def from_drawn(self, raw: Any) -> dict[str, Any]:
        """The condition that raw samples [N, *drawn_from] are, to which texts are added."""
        ...


@runtime_checkable
class TakesLevel(Protocol):
    """Puts noise of a level on what it goes on from, which hides its faults."""

    def at_level(self, level: float) -> Any:
        """A copy that samples at this level, in [0, 1]. Raises UserError for one beyond those of training."""
        ...
