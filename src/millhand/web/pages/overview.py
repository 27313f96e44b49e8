"""The overview: is the fleet healthy, and if not, what is wrong."""

from __future__ import annotations

import msgspec

from millhand.queue_report import QueueReport
from millhand.web.page import PageRequest
from millhand.web.pages.queues import load as load_queues


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """What the overview shows."""

    queues: tuple[QueueReport, ...]


async def load(request: PageRequest) -> Overview:
    """Load the overview."""
    return Overview(queues=(await load_queues(request)).queues)
