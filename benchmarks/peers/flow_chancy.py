"""A workflow of chancy: its leader inserts a step when all steps before it have succeeded."""

from __future__ import annotations

import logging

import flow_journal
import flow_program
import flow_system
import harness
from chancy import Chancy, Queue, Worker, job
from chancy.plugins.leadership import Leadership
from chancy.plugins.recovery import Recovery
from chancy.plugins.workflow import Workflow, WorkflowPlugin


@job(queue="default")
async def part(*, fan_out: int, n: int) -> None:
    """One part."""
    await flow_journal.work(fan_out, n)


@job(queue="default")
async def callback(*, fan_out: int) -> None:
    """The step after all parts."""
    flow_journal.call_back(fan_out)


class FlowChancy(flow_system.FlowSystem):
    """A queue of coroutines, with leadership, recovery and heartbeats of the settings."""

    name = "chancy"

    async def set_up(self) -> None:
        async with _app() as app:
            await app.migrate()
            await app.declare(Queue("default", executor=Chancy.Executor.Async, **harness.settings()["queue"]))

    async def open(self) -> None:
        self._app = _app()
        await self._app.__aenter__()

    async def close(self) -> None:
        await self._app.__aexit__(None, None, None)

    async def insert_fan_out(self, fan_out: int, num_parts: int) -> None:
        workflow, names = Workflow(f"fan-out {fan_out}"), [f"part {n}" for n in range(num_parts)]
        workflow.add_group(
            [(name, part.job.with_kwargs(fan_out=fan_out, n=n)) for n, name in enumerate(names)]
        )
        workflow.add("callback", callback.job.with_kwargs(fan_out=fan_out), names)
        await WorkflowPlugin.push(self._app, workflow)

    def work(self) -> None:
        harness.run(_work())


def _app() -> Chancy:
    settings, log = harness.settings(), logging.getLogger("chancy.bench")
    log.setLevel(logging.WARNING)
    plugins = [
        Leadership(**settings["leadership"]),
        Recovery(**settings["recovery"]),
        WorkflowPlugin(**settings["workflow"]),
    ]
    return Chancy(harness.database_url(), log=log, plugins=plugins)


async def _work() -> None:
    async with _app() as app, Worker(app, **harness.settings()["worker"]) as worker:
        await worker.wait_for_shutdown()


if __name__ == "__main__":
    import flow_chancy  # the name in the jobs' references

    flow_program.main(flow_chancy.FlowChancy())
