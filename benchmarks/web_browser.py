"""A browser that has a page open, as far as the server notices: what the page's script requests, and when."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

# As in millhand.js.
PAUSE_SECONDS = 1.0
# Browsers are not equally far from the server.
DELAY_SECONDS_MAX = 0.1
UNAVAILABLE = b"HTTP/1.1 503 "


class OpenBrowser:
    """Listens to live events, and fetches its page again when one comes, at most once a second."""

    def __init__(self, address: str, path: str) -> None:
        self._delay_seconds = random.uniform(0, DELAY_SECONDS_MAX)  # noqa: S311 - no secret
        self._host, self._port = urlsplit(address).hostname, urlsplit(address).port
        self._look = ""
        self._path = path
        self._woken = asyncio.Event()
        self.num_unavailable = 0
        self.num_updates = 0

    async def run(self) -> None:
        """
        Open the page and keep it open. An answer of 503 leaves the old page as it is, and is counted.

        Raises: RuntimeError for an answer that is neither 200 nor 503.
        """
        await self._fetch()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")))
            group.create_task(self._update())

    async def _listen(self, since: str) -> None:
        async with self._answer(f"/live?since={since}") as reader:
            while line := await reader.readline():
                if line.startswith(b"id: "):
                    self._look = line[4:].decode().strip()
                elif line == b"event: changed\n":
                    self._woken.set()
        raise RuntimeError("the server must keep live events open, but it ended them")

    async def _update(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            await asyncio.sleep(self._delay_seconds)
            await self._fetch()
            self.num_updates += 1
            await asyncio.sleep(PAUSE_SECONDS)

    async def _fetch(self) -> None:
        async with self._answer(self._path) as reader:
            await reader.read()

    @contextlib.asynccontextmanager
    async def _answer(self, path: str) -> AsyncIterator[asyncio.StreamReader]:
        """Request a path and yield what follows the status line."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            head = (
                f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\nAccept: text/html\r\nAccept-Encoding: gzip\r\n"
            )
            writer.write(f"{head}Connection: close\r\nMillhand-Look: {self._look}\r\n\r\n".encode())
            status = await reader.readline()
            self.num_unavailable += status.startswith(UNAVAILABLE)
            if not status.startswith((b"HTTP/1.1 200 ", UNAVAILABLE)):
                raise RuntimeError(f"{path} must be answered with 200, got {status!r}")
            yield reader
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def browsers(address: str, path: str, number: int) -> AsyncIterator[list[OpenBrowser]]:
    """Keep so many browsers open for as long as the block runs, and fail with the first that fails."""
    opened = [OpenBrowser(address, path) for _ in range(number)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(browser.run()) for browser in opened]
        yield opened
        for task in tasks:
            task.cancel()
