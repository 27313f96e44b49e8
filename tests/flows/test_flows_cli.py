"""Claims about `millhand flow`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from cli_runner import millhand
from dead_jobs import until_blocked
from factory import qualified
from millhand.core.config import Config
from millhand.core.job import JobId
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import Migrator
from millhand.engine.inserter import Inserter
from millhand.flows.flow import Flow, FlowRow, TaskState
from millhand.flows.inserter import insert_flow
from millhand.flows.resolver import count_ended
from millhand.flows.store import flow_lock

pytestmark = pytest.mark.usefixtures("project")

END = """
UPDATE /* schema */river_job SET
    state = $2::/* schema */river_job_state,
    attempt = 1,
    errors = CASE WHEN $2 = 'discarded' THEN ARRAY['{"at": "2026-01-01T00:00:00Z", "attempt": 1, "error": "no price",
        "trace": ""}'::jsonb] END,
    attempted_at = scheduled_at + interval '2 s',
    finalized_at = CASE WHEN $2 <> 'running' THEN scheduled_at + interval '5.5 s' END
WHERE args ->> 'name' = ANY($1) RETURNING id
"""


@dataclass(frozen=True)
class Part:
    """The args of most tasks."""

    kind: ClassVar[str] = "part"
    name: str


@dataclass(frozen=True)
class Mail:
    """The args of the last tasks."""

    kind: ClassVar[str] = "mail"
    name: str


def import_flow(num_parts: int = 12) -> Flow:
    """A task, many parts after it, their sum, a mail, an alert and a clean-up."""
    flow = Flow("import 7")
    split = flow.add(Part("split"))
    parts = flow.add_many((Part(f"part {number}") for number in range(num_parts)), after=split, name="parts")
    total = flow.add(Part("total"), after=parts)
    flow.add(Mail("report"), after=total, name="report")
    flow.add(Mail("alert"), after=[split, parts, total], when="failed", name="alert")
    flow.add(Mail("tidy"), after=[split, parts, total], when="ended", name="tidy")
    return flow


async def inserted(driver: AsyncpgDriver, flow: Flow) -> FlowRow:
    return await insert_flow(flow, Inserter(driver.pool, Config(schema=driver.schema)), driver.pool)


async def end(driver: AsyncpgDriver, ends: Mapping[str, str]) -> dict[str, JobId]:
    """Bring jobs into states, by the names in their args, as a worker does, and return their ids."""
    ids = {}
    for name, state in ends.items():
        [row] = await driver.pool.fetch(qualified(END, driver.pool), [[name], state])
        ids[name] = JobId(row["id"])
        if state != "running":
            is_good = state == "completed"
            async with driver.pool.begin() as tx:
                await count_ended(tx, {ids[name]: TaskState.COMPLETED if is_good else TaskState.FAILED})
    return ids


@pytest.mark.slow
async def test_flow_show_draws_layers_and_folds_equal_tasks(schema_driver: AsyncpgDriver) -> None:
    """Each layer waits for layers above; many equal tasks are one line with counts; failures have their errors."""
    row = await inserted(schema_driver, import_flow())
    done = {"split": "completed", "part 0": "completed", "part 1": "discarded", "part 2": "running"}
    ids = await end(schema_driver, done)

    shown = await millhand("flow", "show", row.id)
    every = await millhand("flow", "show", row.id, "--all")
    fields = (await millhand("flow", "show", row.id, "--json")).json

    head, tasks, failed = (part.splitlines() for part in shown.out.split("\n\n"))
    first = ids["split"]
    assert [line.split("\t")[:2] for line in head[:7]] == [
        ["id", str(row.id)],
        ["name", "import 7"],
        ["state", "running"],
        ["num tasks", "17"],
        ["num open", "14"],
        ["num failed", "1"],
        ["num skipped", "0"],
    ]
    lines = [line.split("\t") for line in tasks]
    assert [line[:6] for line in lines] == [
        ["1", "part", "part", "completed", "", "1"],
        [
            "2", "parts.1 … parts.12", "part", "12 tasks: 9 available, 1 running, 1 completed, 1 failed", "part", "1",
        ],
        ["3", "part_2", "part", "waiting", "parts.1 … parts.12", "0"],
        ["4", "report", "mail", "waiting", "part_2", "0"],
        ["4", "alert", "mail", "available", "part, parts.1 … parts.12, part_2 (failed)", "0"],
        ["4", "tidy", "mail", "waiting", "part, parts.1 … parts.12, part_2 (ended)", "0"],
    ]  # fmt: skip
    assert (lines[0][6:], lines[1][8]) == (["2.0 s", "3.5 s", str(first)], f"{first + 1} … {first + 12}")
    assert failed == [f"parts.2\t{ids['part 1']}\tdiscarded\t1\tno price"]
    assert len(every.out.split("\n\n")[1].splitlines()) == 17
    assert (fields["state"], fields["num_open"], len(fields["tasks"])) == ("running", 14, 6)
    assert fields["tasks"][1]["states"] == {"available": 9, "running": 1, "completed": 1, "failed": 1}
    assert (fields["tasks"][1]["after"], fields["tasks"][5]["num_after"]) == (["part"], 14)
    assert [task["error"] for task in fields["failed"]] == ["no price"]


async def test_flow_show_names_what_is_left_of_deleted_jobs(schema_driver: AsyncpgDriver) -> None:
    """A task whose job was deleted has its id as its name, and has failed."""
    row = await inserted(schema_driver, import_flow(0))
    ids = await end(schema_driver, {"split": "completed"})
    await schema_driver.pool.fetch(
        qualified("DELETE FROM /* schema */river_job WHERE args ->> 'name' = 'report'", schema_driver.pool)
    )

    shown = await millhand("flow", "show", row.id)

    lines = [line.split("\t") for line in shown.out.split("\n\n")[1].splitlines()]
    report = str(ids["split"] + 2)
    assert [line[:6] for line in lines] == [
        ["1", "part", "part", "completed", "", "1"],
        ["1", "part_2", "part", "available", "no task", "0"],
        ["2", report, "", "waiting", "part_2", ""],
        ["2", "alert", "mail", "waiting", "part, part_2 (failed)", "0"],
        ["2", "tidy", "mail", "waiting", "part, part_2 (ended)", "0"],
    ]


@pytest.mark.slow
async def test_flow_list_has_the_states_newest_first(schema_driver: AsyncpgDriver) -> None:
    """A pipe gets lines, JSON has all fields, and options choose the state and the number."""
    first = await inserted(schema_driver, flow_of_one("first"))
    second = await inserted(schema_driver, flow_of_one("second"))
    third = await inserted(schema_driver, flow_of_one("third"))
    await end(schema_driver, {"first": "completed", "second": "discarded"})

    listed = await millhand("flow", "list")
    failed = await millhand("flow", "list", "--state", "failed", "--json")
    two = await millhand("flow", "list", "--limit", "2")
    nothing = await millhand("flow", "list", "--state", "cancelled")

    assert [line[:7] for line in listed.lines] == [
        [str(third.id), "third", "running", "1", "1", "0", "0"],
        [str(second.id), "second", "failed", "1", "0", "1", "0"],
        [str(first.id), "first", "completed", "1", "0", "0", "0"],
    ]
    assert [(flow["id"], flow["state"], flow["num_failed"]) for flow in failed.json] == [
        (second.id, "failed", 1)
    ]
    assert [line[0] for line in two.lines] == [str(third.id), str(second.id)]
    assert (nothing.code, nothing.out) == (0, "")


@pytest.mark.slow
async def test_flow_cancel_and_retry_print_what_they_did(schema_driver: AsyncpgDriver) -> None:
    """A running job is asked to end. Each mode of a retry runs its tasks, and none to run is an error."""
    row = await inserted(schema_driver, import_flow())
    await end(schema_driver, {"split": "completed", "part 0": "running"})

    cancelled = await millhand("flow", "cancel", row.id)
    await end(schema_driver, {"part 0": "cancelled"})
    again = await millhand("flow", "cancel", row.id)
    retried = await millhand("flow", "retry", row.id, "--mode", "failed_only")
    whole = await inserted(schema_driver, flow_of_one("whole"))
    nothing = await millhand("flow", "retry", whole.id)

    assert (cancelled.code, cancelled.err) == (
        0,
        f"cancelled flow {row.id}: 15 jobs cancelled, 1 job asked to end\n",
    )
    assert (again.code, again.err) == (
        1,
        f"error: flow must be running to be cancelled, got flow {row.id} cancelled\n",
    )
    assert (retried.code, retried.err) == (0, f"retried flow {row.id}: 14 tasks run again\n")
    none = "flow must have such tasks to be retried, got none for mode 'failed_and_downstream' in flow"
    assert (nothing.code, nothing.err) == (1, f"error: {none} {whole.id}, which is running\n")


async def test_flow_retry_counts_what_it_retried_while_other_tasks_end(schema_driver: AsyncpgDriver) -> None:
    """The number is of this retry, also if as many other tasks of the flow end meanwhile."""
    pool = schema_driver.pool
    row = await inserted(schema_driver, import_flow())
    await end(schema_driver, {"split": "completed", "part 0": "discarded"})

    async with pool.begin() as tx:
        await tx.run(flow_lock(row.id))
        command = asyncio.create_task(millhand("flow", "retry", row.id, "--mode", "failed_only"))
        await until_blocked(pool, command)
        [ended] = await tx.fetch(qualified(END, pool), [["part 1"], "completed"])
        await count_ended(tx, {JobId(ended["id"]): TaskState.COMPLETED})
    retried = await command

    assert (retried.code, retried.err) == (0, f"retried flow {row.id}: 1 task runs again\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("show", 5), 1, "flow must exist, found none with id 5; see: millhand flow list"),
        (("cancel", 5), 1, "flow must exist, found none with id 5; see: millhand flow list"),
        (("retry", 5), 1, "flow must exist, found none with id 5; see: millhand flow list"),
        (("show", "five"), 2, "ID must be a whole number from 1 to 9,223,372,036,854,775,807, got 'five'"),
        (("show", 10**20), 2, f"ID must be a whole number from 1 to 9,223,372,036,854,775,807, got '{10**20}'"),
        (
            ("retry", 5, "--mode", "al"), 2,
            "--mode must be one of 'all', 'failed_only', 'failed_and_downstream', got 'al'; did you mean 'all'?",
        ),
        (
            ("list", "--state", "done"), 2,
            "--state must be one of 'cancelled', 'completed', 'failed', 'running', got 'done'",
        ),
    ],
)  # fmt: skip
async def test_flow_commands_refuse_mistakes(arguments: tuple[Any, ...], code: int, message: str) -> None:
    """Each mistake has its rule, the value and a remedy."""
    result = await millhand("flow", *arguments)

    assert (result.code, result.err) == (code, f"error: {message}\n")


async def test_flow_list_names_the_missing_version(schema_driver: AsyncpgDriver) -> None:
    """On a schema that is older than flows, the error names the command that migrates it."""
    migrator = Migrator(schema_driver, "millhand")
    await migrator.down(target=11)
    try:
        result = await millhand("flow", "list")
    finally:
        await migrator.up()

    assert result.code == 1
    assert "is at migration 11 of line 'millhand', this release needs" in result.err
    assert "; run: millhand migrate up" in result.err


def flow_of_one(name: str) -> Flow:
    """A flow of one task."""
    flow = Flow(name)
    flow.add(Part(name))
    return flow
