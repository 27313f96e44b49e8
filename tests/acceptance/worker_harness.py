"""
`millhand worker` as a person starts it: a process in a project directory, real signals, its log read line by line.

Nothing here sleeps: a line or the exit of the process wakes the waiting test, under one deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

# A generous limit; only a broken test reaches it.
GENEROUS_SECONDS = 30.0

Line = dict[str, Any]


class WorkerHarness:
    """One worker process. `lines` are the decoded lines of its log, in order."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._changed = asyncio.Condition()
        self._errors: list[str] = []
        self._is_at_end = False
        self.lines: list[Line] = []

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def read(self) -> None:
        """Read the log until the process closes it."""
        assert self._process.stdout is not None
        async for raw in self._process.stdout:
            async with self._changed:
                self.lines.append(json.loads(raw))
                self._changed.notify_all()
        async with self._changed:
            self._is_at_end = True
            self._changed.notify_all()

    async def read_errors(self) -> None:
        """Read its standard error."""
        assert self._process.stderr is not None
        async for raw in self._process.stderr:
            self._errors.append(raw.decode())

    async def line(
        self, message: str, *, count: int = 1, seconds: float = GENEROUS_SECONDS, **fields: object
    ) -> Line:
        """Wait for the `count`-th line with this message and these fields, and return it."""

        def found() -> Line | None:
            matching = self.all_lines(message, **fields)
            return matching[count - 1] if len(matching) >= count else None

        return await self._wait(found, f"line {count} of {message!r} with {fields}", seconds)

    def all_lines(self, message: str, **fields: object) -> list[Line]:
        """Return the lines with a message so far."""
        return [
            line
            for line in self.lines
            if line["message"] == message and all(line.get(name) == value for name, value in fields.items())
        ]

    def signal(self, number: signal.Signals) -> None:
        """Send a real signal to the process."""
        self._process.send_signal(number)

    async def wait(self, seconds: float = GENEROUS_SECONDS) -> int:
        """Wait until the whole log is read, and return the exit code."""
        await self._wait(lambda: True if self._is_at_end else None, "the end of the log", seconds)
        async with asyncio.timeout(seconds):
            return await self._process.wait()

    async def stop(self) -> int:
        """Press Ctrl-C and return the exit code."""
        self.signal(signal.SIGINT)
        return await self.wait()

    @property
    def errors(self) -> str:
        """Its standard error so far."""
        return "".join(self._errors)

    async def _wait(self, found: Callable[[], Any], what: str, seconds: float) -> Any:
        try:
            async with asyncio.timeout(seconds), self._changed:
                while (result := found()) is None:
                    if self._is_at_end:
                        raise AssertionError(f"{what} did not come, the log ended:\n{self._told()}")
                    await self._changed.wait()
                return result
        except TimeoutError:
            raise AssertionError(f"{what} did not come within {seconds} s:\n{self._told()}") from None

    def _told(self) -> str:
        return "\n".join([*map(str, self.lines), self.errors])


@contextlib.asynccontextmanager
async def started_worker(
    directory: Path, *arguments: str, environment: Mapping[str, str | None] | None = None
) -> AsyncIterator[WorkerHarness]:
    """Start a worker in `directory`, and kill it at the end if it still runs. None removes a variable."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "millhand",
        "worker",
        *arguments,
        cwd=directory,
        env=child_environment(environment or {}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    worker = WorkerHarness(process)
    async with asyncio.TaskGroup() as readers:
        readers.create_task(worker.read())
        readers.create_task(worker.read_errors())
        try:
            yield worker
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def child_environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    """Return this process's environment without Millhand's variables and with `changes`."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name != "DATABASE_URL" and (not name.startswith("MILLHAND_") or name == "MILLHAND_POSTGRES_BIN")
    }
    for name, value in changes.items():
        inherited.pop(name, None)
        if value is not None:
            inherited[name] = value
    return inherited


def at(line: Line) -> datetime:
    """Return the time of a line."""
    return datetime.fromisoformat(line["timestamp"])
