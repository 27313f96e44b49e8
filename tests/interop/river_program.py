"""
The real River: the program in `river/`, built once and run as a process that reads and writes JSON lines.

Its events, such as the start of an attempt, go into an `EventLog`. Workers in Python record theirs there too, so a test
waits for events of both languages in the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from go_build import built

# Nothing takes this long unless it is broken, not even on a machine that has other things to do.
GENEROUS_SECONDS = 30.0

SOURCES = Path(__file__).parent / "river"

Line = dict[str, Any]


class RiverError(Exception):
    """River's error for a call. `constraint`, `kind` and `sqlstate` are None if the error has none."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        super().__init__(fields["text"])
        self.constraint: str | None = fields.get("constraint")
        self.kind: str | None = fields.get("is")
        self.sqlstate: str | None = fields.get("sqlstate")


class EventLog:
    """All recorded events, oldest first. Concurrency: any number of waiters."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._changed = asyncio.Event()

    def record(self, line: Line) -> None:
        """Record an event."""
        self.lines.append(line)
        self._changed.set()
        self._changed = asyncio.Event()

    def all(self, event: str, **fields: object) -> list[Line]:
        """Return the lines of an event that have these fields."""
        wanted = {"event": event, **fields}
        return [line for line in self.lines if wanted.items() <= line.items()]

    async def wait(
        self, event: str, *, count: int = 1, seconds: float = GENEROUS_SECONDS, **fields: object
    ) -> Line:
        """Return the `count`-th line of an event that has these fields, as soon as it is recorded."""
        try:
            async with asyncio.timeout(seconds):
                while len(found := self.all(event, **fields)) < count:
                    await self._changed.wait()
        except TimeoutError:
            reported = "\n".join(map(str, self.lines[-50:]))
            raise AssertionError(
                f"{event} {fields} must be told {count} times, got {len(found)}:\n{reported}"
            ) from None
        return found[count - 1]


class RiverProgram(asyncio.SubprocessProtocol):
    """
    One process of the program.

    `events` may be replaced at any time: later events go into the new log.
    Raises: RiverError, from `call`, for what River refuses.
    """

    def __init__(self) -> None:
        self.events = EventLog()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._errors = b""
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._num_calls = 0
        self._rest = b""
        self._transport: asyncio.SubprocessTransport | None = None

    async def call(self, op: str, **parameters: Any) -> Any:
        """Run an operation in the program, and return its result."""
        self._num_calls += 1
        number = self._num_calls
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        line = json.dumps({"call": number, "op": op, **parameters}, default=str)
        self._input().write(f"{line}\n".encode())
        async with asyncio.timeout(2 * GENEROUS_SECONDS):
            return await answer

    async def end(self) -> None:
        """Close the program's input, so that it stops its clients and exits."""
        if not self._ended.done():
            self._input().close()
        async with asyncio.timeout(GENEROUS_SECONDS):
            await self._ended

    async def kill(self) -> None:
        """Kill the process without a stop, like a machine that loses power."""
        if self._transport is not None and not self._ended.done():
            self._transport.kill()
        async with asyncio.timeout(GENEROUS_SECONDS):
            await self._ended

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return not self._ended.done()

    def _input(self) -> asyncio.WriteTransport:
        pipe = None if self._transport is None else self._transport.get_pipe_transport(0)
        assert isinstance(pipe, asyncio.WriteTransport)
        return pipe

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._transport = transport

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self._errors += data
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for text in lines:
            line = json.loads(text)
            if "call" in line:
                self._answer(line)
            else:
                self.events.record(line)

    def connection_lost(self, error: Exception | None) -> None:
        for answer in self._answers.values():
            if answer.done():  # its caller waits no longer
                continue
            answer.set_exception(AssertionError(f"River's program ended:\n{self._errors.decode()}"))
            answer.exception()  # no warning about the error of an abandoned call
        self._answers.clear()
        self.events.record({"event": "program ended", "errors": self._errors.decode()})
        if not self._ended.done():
            self._ended.set_result(None)
        if self._transport is not None:
            self._transport.close()

    def _answer(self, line: Line) -> None:
        answer = self._answers.pop(line["call"])
        if answer.done():
            return
        if "error" in line:
            answer.set_exception(RiverError(line["error"]))
        else:
            answer.set_result(line["result"])


@contextlib.asynccontextmanager
async def started_river(
    program: Path, url: str, environment: Mapping[str, str] | None = None
) -> AsyncIterator[RiverProgram]:
    """Start the program on a database, and stop it at the end if it still runs."""
    async with started((str(program), "--database-url", url), environment) as process:
        yield process


@contextlib.asynccontextmanager
async def started(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> AsyncIterator[RiverProgram]:
    """Start a process with the protocol of River's program."""
    _, protocol = await asyncio.get_running_loop().subprocess_exec(
        RiverProgram, *command, env={**os.environ, **(environment or {})}
    )
    try:
        yield protocol
    finally:
        await protocol.end()


def built_river() -> Path:
    """Return the path of the program, built if it is not. Skips the test where there is no Go."""
    return built("river-interop", SOURCES)
