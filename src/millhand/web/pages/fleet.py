"""The fleet: the clients of all languages, and who leads."""

from __future__ import annotations

import msgspec

from millhand.client_row import ClientRow
from millhand.web.page import PageRequest


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """The clients of the last day by start time, then those that are known only by their work."""

    clients: tuple[ClientRow, ...]


async def load(request: PageRequest) -> Fleet:
    """Load the clients."""
    return Fleet(clients=tuple(await request.database.clients.list()))
