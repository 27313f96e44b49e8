"""Millhand's flows: many tasks, and one that waits for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import flow_journal
import flow_program
import flow_system
import harness
import system_millhand

from millhand import Client, Config, Flow, Job, Workers


@dataclass(frozen=True)
class Part:
    """The args of a part."""

    kind: ClassVar[str] = "part"

    fan_out: int
    n: int


@dataclass(frozen=True)
class Callback:
    """The args of the callback."""

    kind: ClassVar[str] = "callback"

    fan_out: int


class FlowMillhand(system_millhand.Millhand, flow_system.FlowSystem):
    """A client with the number of workers of the settings."""

    async def insert_fan_out(self, fan_out: int, num_parts: int) -> None:
        flow = Flow(f"fan-out {fan_out}")
        parts = flow.add_many(Part(fan_out, n) for n in range(num_parts))
        flow.add(Callback(fan_out), after=parts)
        await self._client.insert_flow(flow)

    def work(self) -> None:
        harness.run(_work())


async def _work() -> None:
    workers = Workers()

    @workers.add()
    async def part(job: Job[Part]) -> None:
        await flow_journal.work(job.args.fan_out, job.args.n)

    @workers.add()
    async def callback(job: Job[Callback]) -> None:
        flow_journal.call_back(job.args.fan_out)

    queues = {"default": harness.settings()["workers"]}
    async with Client(harness.database_url(), Config(queues=queues, workers=workers)):
        await harness.stopped()


if __name__ == "__main__":
    flow_program.main(FlowMillhand())
