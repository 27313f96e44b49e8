"""The history where no client of Millhand leads, as where only clients in another language work: the page writes it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator, Sequence

from millhand.history.writer import HistoryWriter
from millhand.shells.web.database import WebDatabase


class PageHistory(HistoryWriter):
    """The writer of one database of the page. It also opens a database that did not answer before."""

    def __init__(self, database: WebDatabase) -> None:
        holder = f"web_{socket.gethostname()}_{os.getpid()}"
        super().__init__(database.driver.pool, clock=database.clock, holder=holder)
        self._database = database

    @property
    def name(self) -> str:
        return " ".join(filter(None, (HistoryWriter.__name__, self._database.name)))

    async def run_once(self) -> None:
        await self._database.open()
        await super().run_once()


@contextlib.asynccontextmanager
async def history_written(databases: Sequence[WebDatabase]) -> AsyncIterator[None]:
    """Write the history of each database."""
    writers = [PageHistory(database) for database in databases]
    for writer in writers:
        await writer.start()
    try:
        yield
    finally:
        for writer in writers:
            await writer.stop()
