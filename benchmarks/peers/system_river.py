"""River itself: the Go program `river_go` inserts and works; this file controls it."""

from __future__ import annotations

import asyncio
import json
import os
from asyncio.subprocess import PIPE

import harness
from system_millhand import OnRiver


class River(OnRiver):
    """The Go client with default settings or with those of `river bench`."""

    name = "river"

    async def open(self) -> None:
        await super().open()
        # Our connection only reads; the Go program inserts.
        self._go = await asyncio.create_subprocess_exec(
            os.environ["BENCH_PROGRAM"], "insert", stdin=PIPE, stdout=PIPE, limit=2**26
        )

    async def close(self) -> None:
        if self._go.stdin is not None:
            self._go.stdin.close()
        await self._go.wait()
        await super().close()

    async def insert(self, n: int) -> None:
        await self._tell("each", n, 1)

    async def insert_each(self, numbers: range) -> None:
        await self._tell("each", numbers.start, len(numbers))

    async def insert_many(self, numbers: range) -> None:
        await self._tell("many", numbers.start, len(numbers))

    async def insert_at_rate(self, numbers: range, rate: float) -> list[int]:
        returned: list[int] = await self._tell("rate", numbers.start, len(numbers), rate)
        return returned

    def command(self) -> list[str]:
        return [os.environ["BENCH_PROGRAM"], "work"]

    async def _tell(self, word: str, first: int, count: int, rate: float = 0.0) -> list[int]:
        if self._go.stdin is None or self._go.stdout is None:
            raise harness.Failed("the Go program must have pipes, got none")
        self._go.stdin.write(
            json.dumps({"word": word, "first": first, "count": count, "rate": rate}).encode() + b"\n"
        )
        answer = await self._go.stdout.readline()
        if not answer:
            raise harness.Failed("the Go program ended before its answer")
        found: list[int] = json.loads(answer)
        return found


if __name__ == "__main__":
    harness.main(River())
