"""Limits how many jobs a fetch asks for: with large rows, many of them would time out."""

from __future__ import annotations

from millhand.errors import MillhandError, OperationTimeout

# Decoding more rows than this blocks the event loop longer than another round trip takes.
FETCH_SIZE_MAX = 1_000


class FetchSize:
    """The limit of the next fetch: halved by a timeout, whatever its cause, and doubled by an answer."""

    def __init__(self) -> None:
        self.most = FETCH_SIZE_MAX

    def record_failed(self, error: MillhandError, limit: int) -> None:
        """Halve the limit if a fetch of `limit` jobs timed out; it is at least 1."""
        if isinstance(error, OperationTimeout):
            self.most = max(limit // 2, 1)

    def record_answered(self) -> None:
        """Double the limit after an answer."""
        self.most = min(self.most * 2, FETCH_SIZE_MAX)
