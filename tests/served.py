"""A program that serves, started as its reader would start it: read line by line, asked over HTTP, stopped by SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from user_programs import environment

T = TypeVar("T")

# Of a busy machine: a project of Django's takes its time to start.
GENEROUS_SECONDS = 60.0

ADDRESS = re.compile(r"(http://127\.0\.0\.1:[1-9]\d*)")


class Served:
    """One process; `lines` are those of its standard output and error, as they came."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._changed = asyncio.Condition()
        self._is_at_end = False
        self._process = process
        self.lines: list[str] = []

    async def read(self) -> None:
        """Read until the process closes its output."""
        assert self._process.stdout is not None
        async for raw in self._process.stdout:
            async with self._changed:
                self.lines.append(raw.decode().rstrip())
                self._changed.notify_all()
        async with self._changed:
            self._is_at_end = True
            self._changed.notify_all()

    async def found(self, pattern: str | re.Pattern[str]) -> str:
        """Return what a pattern finds in a line, its first group if it has one, as soon as there is such a line."""
        async with asyncio.timeout(GENEROUS_SECONDS), self._changed:
            while True:
                for line in self.lines:
                    if match := re.search(pattern, line):
                        return match[match.lastindex or 0]
                assert not self._is_at_end, self.text
                await self._changed.wait()

    async def address(self) -> str:
        """Return where it serves, as soon as it says so."""
        return await self.found(ADDRESS)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()

    async def stop(self) -> int:
        """Send SIGTERM, and return the exit code."""
        self.terminate()
        return await self.ended()

    async def ended(self) -> int:
        """Return the exit code when it has ended and all was read."""
        async with asyncio.timeout(GENEROUS_SECONDS), self._changed:
            while not self._is_at_end:
                await self._changed.wait()
        return await self._process.wait()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    @property
    def text(self) -> str:
        """All that it said."""
        return "\n".join(self.lines)


@contextlib.asynccontextmanager
async def served(
    arguments: Sequence[str], directory: Path, *, python: str = sys.executable, **variables: str
) -> AsyncIterator[Served]:
    """Start Python, warnings as errors, with `arguments` in `directory`; kill it in the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        python,
        "-W",
        "error",
        *arguments,
        cwd=directory,
        env=environment(PYTHONUNBUFFERED="1", **variables),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    server = Served(process)
    async with asyncio.TaskGroup() as readers:
        readers.create_task(server.read())
        try:
            yield server
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def until(look: Callable[[], Awaitable[T]], is_it: Callable[[T], bool]) -> T:
    """Look until it is so, and return what was seen; each look is a question to another process."""
    async with asyncio.timeout(GENEROUS_SECONDS):
        while not is_it(seen := await look()):
            pass
    return seen
