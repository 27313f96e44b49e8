"""How many jobs a fetch may bring, by what came of the last ones: rows can be so large that many of them take too long."""

from __future__ import annotations

from millhand.errors import MillhandError, OperationTimeout

# Above this many rows a fetch holds up the event loop longer than a round trip costs.
FETCH_SIZE_MAX = 1_000


class FetchSize:
    """The most that a fetch asks for. Whatever a timeout was for, too much is not asked for twice."""

    def __init__(self) -> None:
        self.most = FETCH_SIZE_MAX

    def record_failed(self, error: MillhandError, limit: int) -> None:
        """Take note of a fetch of `limit` jobs that had no answer: half as many the next time, one at least."""
        if isinstance(error, OperationTimeout):
            self.most = max(limit // 2, 1)

    def record_answered(self) -> None:
        """Take note of one that had: the next may bring twice as many."""
        self.most = min(self.most * 2, FETCH_SIZE_MAX)
