"""What loggers of this process say, told in the room like everything else that happens there."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from interop_room import Room


@contextlib.contextmanager
def telling_logs(room: Room, name: str) -> Iterator[None]:
    """Have all that a logger says told in the room."""

    class Teller(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            room.told.tell({"event": "log", "message": record.getMessage()})

    teller = Teller()
    level = logging.getLogger(name).level
    logging.getLogger(name).addHandler(teller)
    logging.getLogger(name).setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logging.getLogger(name).removeHandler(teller)
        logging.getLogger(name).setLevel(level)
