"""Record log messages of this process among the harness's events."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from interop_harness import Harness


@contextlib.contextmanager
def recording_logs(harness: Harness, name: str) -> Iterator[None]:
    """Record each message of a logger as an event of the harness."""

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            harness.events.record({"event": "log", "message": record.msg})

    recorder = Recorder()
    level = logging.getLogger(name).level
    logging.getLogger(name).addHandler(recorder)
    logging.getLogger(name).setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logging.getLogger(name).removeHandler(recorder)
        logging.getLogger(name).setLevel(level)
