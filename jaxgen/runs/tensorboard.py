"""Scalars as TensorBoard event files, written in the caller's thread: a full disk is then an error of the run."""

import time
from collections.abc import Mapping
from pathlib import Path

FLUSH_SECONDS = 20.0  # a flush waits for the disk


class Board:
    """Appends to a new event file in `folder`; TensorBoard drops what older files hold from step `start` + 1 on."""

    def __init__(self, folder: Path, start: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]: made at run time
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        folder.mkdir(exist_ok=True)
        self._event, self._summary = Event, Summary
        self._writer = EventsWriter(str(folder / "events"))
        mark = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=start + 1, session_log=mark))
        self._flush()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """One point of each curve."""
        points = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        summary = self._summary(value=points)
        self._writer.write_event(self._event(wall_time=time.time(), step=step, summary=summary))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flush()

    def _flush(self) -> None:
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        self._writer.close()
