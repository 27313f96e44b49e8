"""A queue: a named line of jobs, known to all clients by its row in `river_queue`."""

from __future__ import annotations

from datetime import datetime

import msgspec

from millhand.job import Json


class QueueRow(msgspec.Struct, frozen=True):
    """One row of `river_queue`. `paused_at` is None while the queue is worked. Instants are aware."""

    name: str
    created_at: datetime
    metadata: dict[str, Json]
    paused_at: datetime | None
    updated_at: datetime

    @property
    def is_paused(self) -> bool:
        return self.paused_at is not None
