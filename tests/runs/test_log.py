"""The rates that progress lines and timing.jsonl tell."""

import time

import pytest

from jaxgen.runs import log


class Device(log.Delayed):
    """A log that laps with each call it writes; a call takes `seconds`, in which the host waits as it queues it, or as
    it reads the numbers."""

    def __init__(self, seconds: float, at_once: bool):
        super().__init__()
        self.seconds, self.at_once, self.clock, self.laps = seconds, at_once, log.Clock(), []

    def call(self) -> None:
        if self.at_once:
            time.sleep(self.seconds)
        self.add({})

    def _write(self, metrics) -> None:
        if not self.at_once:
            time.sleep(self.seconds)
        self.laps.append(self.clock.lap(self.asked))


@pytest.mark.parametrize("at_once", [False, True])
def test_each_lap_is_a_calls_time(at_once):
    """Also the last one's, which is read with nothing queued after it."""
    device = Device(0.05, at_once)
    for _ in range(4):
        device.call()
    device.flush()
    # A first lap may have the next call's time in it as well.
    assert len(device.laps) == 4 and all(0.045 < lap < 0.3 for lap in device.laps), device.laps
