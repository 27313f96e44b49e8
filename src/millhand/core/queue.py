"""A queue as its row in `river_queue`."""

from __future__ import annotations

from datetime import datetime

import msgspec

from millhand.core.job import Json


class QueueRow(msgspec.Struct, frozen=True):
    """
    One row of `river_queue`. Instants are aware.

    Attributes:
        paused_at: When the queue was paused; None while it is worked.
        updated_at: When the row last changed. Clients that work the queue update it every few minutes.
    """

    name: str
    created_at: datetime
    metadata: dict[str, Json]
    paused_at: datetime | None
    updated_at: datetime

    @property
    def is_paused(self) -> bool:
        """Whether clients fetch nothing from the queue."""
        return self.paused_at is not None
