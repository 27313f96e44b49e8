"""What the systems of Node share: their programs, and a connection that only reads."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import harness
import psycopg
from program import ByProgram


class OnNode(ByProgram):
    """A program of `node/` with the name of the system."""

    async def set_up(self) -> None:
        process = await asyncio.create_subprocess_exec(*self.program("set_up"))
        if await process.wait():
            raise harness.Failed(f"{self.name} must create its tables, got exit code {process.returncode}")

    async def open(self) -> None:
        await super().open()
        self._connection = await psycopg.AsyncConnection.connect(harness.database_url(), autocommit=True)
        await self._connection.execute("SET enable_seqscan = off")

    async def close(self) -> None:
        await self._connection.close()
        await super().close()

    def program(self, word: str) -> list[str]:
        node = os.environ["BENCH_PROGRAM"]
        return [node, str(Path(node).parents[3] / f"{self.name}.mjs"), word]

    async def number(self, sql: str) -> int:
        """Return the number that a query counts."""
        found = await self._connection.execute(sql)  # type: ignore[arg-type] # our own text
        row = await found.fetchone()
        return int(row[0]) if row else 0
