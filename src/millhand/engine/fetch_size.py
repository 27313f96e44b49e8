"""How many jobs a fetch asks for at most."""

from __future__ import annotations

from millhand.core.errors import MillhandError, OperationTimeout

# Decoding more rows than this blocks the event loop longer than another round trip takes.
FETCH_SIZE_MAX = 1_000


class FetchSize:
    """The limit of the next fetch: halved by a timeout, whatever its cause, and doubled by an answer."""

    def __init__(self) -> None:
        self.limit = FETCH_SIZE_MAX

    def record_failed(self, error: MillhandError, limit: int) -> None:
        if isinstance(error, OperationTimeout):
            self.limit = max(limit // 2, 1)

    def record_answered(self) -> None:
        self.limit = min(self.limit * 2, FETCH_SIZE_MAX)
