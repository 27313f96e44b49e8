"""PgQueuer with `concurrency_limit`, of one entrypoint or of an entrypoint for each key."""

from __future__ import annotations

import asyncio
import json
import signal

import asyncpg
import harness
import journal
import system_pgqueuer
import system_program
from pgqueuer import PgQueuer


class LimitedPgqueuer(system_pgqueuer.Pgqueuer):
    """Jobs of a key have an entrypoint of their own."""

    async def insert_many(self, numbers: range) -> None:
        payloads: list[bytes | None] = [json.dumps({"n": n}).encode() for n in numbers]
        entrypoints = [f"key_{journal.key_of(n)}" for n in numbers]
        await self._queries.enqueue(entrypoints, payloads, [0] * len(numbers))

    def work(self) -> None:
        harness.run(_work())


async def _work() -> None:
    settings = harness.settings()
    queue = PgQueuer.from_asyncpg_connection(await asyncpg.connect(harness.database_url()))

    async def limited(job: object) -> None:
        await journal.work(json.loads(job.payload)["n"])  # type: ignore[attr-defined]

    for key in range(settings["keys"]):
        queue.entrypoint(f"key_{key}", concurrency_limit=settings["concurrency_limit"])(limited)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, queue.shutdown.set)
    await queue.run(batch_size=settings["batch_size"])


if __name__ == "__main__":
    system_program.main(LimitedPgqueuer())
