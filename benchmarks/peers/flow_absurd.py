"""An Absurd task that spawns its parts into another queue, awaits their results, and calls back in a step."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import absurdctl
import flow_journal
import flow_program
import flow_system
import harness
import psycopg
from absurd_sdk import AsyncAbsurd

# A task cannot await tasks of its own queue.
FLOWS, PARTS = "flows", "parts"


class FlowAbsurd(flow_system.FlowSystem):
    """A worker for each of the two queues, in one process."""

    name = "absurd"

    async def set_up(self) -> None:
        with psycopg.connect(harness.database_url(), autocommit=True) as connection:
            connection.execute(absurdctl.BUNDLED_SCHEMA_SQL)
            for queue in (FLOWS, PARTS):
                connection.execute("SELECT absurd.create_queue(%s)", [queue])

    async def open(self) -> None:
        self._flows, _ = _apps()

    async def close(self) -> None:
        await self._flows.close()

    async def insert_fan_out(self, fan_out: int, num_parts: int) -> None:
        await self._flows.spawn("fan_out", {"fan_out": fan_out, "num_parts": num_parts})

    def work(self) -> None:
        harness.run(_work())


def _apps() -> tuple[AsyncAbsurd, AsyncAbsurd]:
    attempts = harness.settings()["max_attempts"]
    flows, parts = (
        AsyncAbsurd(harness.database_url(), queue_name=queue, default_max_attempts=attempts)
        for queue in (FLOWS, PARTS)
    )

    @parts.register_task("part")
    async def part(params: Any, _context: Any) -> None:  # noqa: ANN401 - Absurd's
        await flow_journal.work(params["fan_out"], params["n"])

    @flows.register_task("fan_out")
    async def fan_out(params: Any, context: Any) -> None:  # noqa: ANN401 - Absurd's
        number = params["fan_out"]

        async def spawn() -> list[str]:
            """Spawn all parts. A repeated step finds those that are there by their keys."""
            found = [
                await parts.spawn("part", {"fan_out": number, "n": n}, idempotency_key=f"{number} {n}")
                for n in range(params["num_parts"])
            ]
            return [str(one["task_id"]) for one in found]

        async def callback() -> None:
            flow_journal.call_back(number)

        for task_id in await context.step("spawn", spawn):
            await context.await_task_result(task_id, queue_name=PARTS)
        await context.step("callback", callback)

    return flows, parts


async def _work() -> None:
    apps, settings = _apps(), harness.settings()

    def stop() -> None:
        for app in apps:
            app.stop_worker()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    options = {name: settings[name] for name in ("claim_timeout", "concurrency")}
    await asyncio.gather(*(app.start_worker(**options) for app in apps))
    for app in apps:
        await app.close()


if __name__ == "__main__":
    flow_program.main(FlowAbsurd())
