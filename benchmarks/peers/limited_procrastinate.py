"""Procrastinate with a lock for each key, or only with the concurrency of a worker."""

from __future__ import annotations

from typing import Any

import harness
import journal
import procrastinate
import system_procrastinate
import system_program


class LimitedProcrastinate(system_procrastinate.OnProcrastinate):
    """Jobs of a key have one lock, if the settings ask for locks."""

    async def open(self) -> None:
        self._app, self._limited = _app()
        await self._app.open_async()

    async def insert_many(self, numbers: range) -> None:
        if not harness.settings().get("locks"):
            await self._limited.batch_defer_async(*({"n": n} for n in numbers))
            return
        for key in sorted(set(map(journal.key_of, numbers))):
            of_key = [{"n": n} for n in numbers if journal.key_of(n) == key]
            await self._limited.configure(lock=f"key {key}").batch_defer_async(*of_key)

    def work(self) -> None:
        harness.run(_work())


def _app() -> tuple[procrastinate.App, Any]:
    connector = procrastinate.PsycopgConnector(
        conninfo=harness.database_url(), min_size=1, max_size=harness.settings()["pool"]
    )
    app = procrastinate.App(connector=connector)

    @app.task(name="limited")
    async def limited(n: int) -> None:
        await journal.work(n)

    return app, limited


async def _work() -> None:
    app, _ = _app()
    async with app.open_async():
        await app.run_worker_async(concurrency=harness.settings()["concurrency"])


if __name__ == "__main__":
    system_program.main(LimitedProcrastinate())
