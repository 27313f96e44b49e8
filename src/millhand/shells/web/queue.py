"""The queue that a request names."""

from __future__ import annotations

from millhand.core.errors import NotFound
from millhand.shells.web.change import ChangeRequest


def queue_of(request: ChangeRequest) -> str:
    """Return the queue's name. Raises: NotFound beyond the user's limits."""
    name = str(request.path["name"])
    # A queue holds jobs of every kind.
    if not request.user.sees_queue(name) or request.user.kinds is not None:
        raise NotFound("queue", name)
    return name
