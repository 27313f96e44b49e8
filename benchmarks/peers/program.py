"""A system in another language: its own program inserts, as it is told on standard input, and works until SIGTERM."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE

import harness


class ByProgram(harness.System):
    """Gives each order as one line of JSON, and waits for a line: when each insert of a rate returned."""

    async def open(self) -> None:
        await super().open()
        self._program = await asyncio.create_subprocess_exec(
            *self.program("insert"), stdin=PIPE, stdout=PIPE, limit=2**26
        )

    async def close(self) -> None:
        if self._program.stdin is not None:
            self._program.stdin.close()
        await self._program.wait()
        await super().close()

    async def insert(self, n: int) -> None:
        await self._order("each", n, 1)

    async def insert_each(self, numbers: range) -> None:
        await self._order("each", numbers.start, len(numbers))

    async def insert_many(self, numbers: range) -> None:
        await self._order("many", numbers.start, len(numbers))

    async def insert_at_rate(self, numbers: range, rate: float) -> list[int]:
        returned: list[int] = await self._order("rate", numbers.start, len(numbers), rate)
        return returned

    def command(self) -> list[str]:
        return self.program("work")

    def program(self, word: str) -> list[str]:
        """Return the command that inserts or works."""
        raise NotImplementedError

    async def _order(self, word: str, first: int, count: int, rate: float = 0.0) -> list[int]:
        if self._program.stdin is None or self._program.stdout is None:
            raise harness.Failed(f"the program of {self.name} must have pipes, got none")
        order = {"word": word, "first": first, "count": count, "rate": rate}
        self._program.stdin.write(json.dumps(order).encode() + b"\n")
        answer = await self._program.stdout.readline()
        if not answer:
            raise harness.Failed(f"the program of {self.name} ended before its answer")
        found: list[int] = json.loads(answer)
        return found
