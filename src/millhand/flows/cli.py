"""`millhand flow`: list, show, cancel and retry flows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from millhand.core.config import Config
from millhand.core.errors import NotFound
from millhand.core.job import JobState, Json
from millhand.core.number_text import duration
from millhand.db.driver.protocol import Driver
from millhand.db.query import ID_MAX
from millhand.engine.inserter import Inserter
from millhand.flows.control import LIST_MAX, FlowControl, retry_tasks
from millhand.flows.flow import FlowRow, FlowState, RetryMode
from millhand.flows.report import NUM_LISTED, Line, load_flow_report
from millhand.flows.report_store import FailedTask
from millhand.shells.cli.answers import ask_and_print, run
from millhand.shells.cli.command import Choice, Group
from millhand.shells.cli.options import json_option, limit_option
from millhand.shells.cli.output import (
    NotDone,
    counted,
    picked,
    print_fields,
    print_json,
    print_message,
    print_table,
)
from millhand.shells.cli.param_types import OneOf, Whole
from millhand.shells.cli.table import Columns

T = TypeVar("T")

COLUMNS = Columns(
    ("id", "name", "state", "tasks", "open", "failed", "skipped", "created", "ended"),
    texts=("name",),
    optional=("skipped", "created", "tasks"),
)
TASK_COLUMNS = Columns(
    ("layer", "task", "kind", "state", "after", "attempt", "waited", "ran", "job"),
    texts=("task", "state", "after"),
    optional=("kind", "waited", "attempt"),
)
FAILED_COLUMNS = Columns(
    ("failed", "job", "state", "attempt", "error"), texts=("error",), optional=("attempt",)
)
_JOB_STATES = frozenset(JobState)

_id_argument = click.argument("id", metavar="ID", type=Whole(1, ID_MAX))


@click.group(cls=Group, example="millhand flow show 17")
def flow() -> None:
    """List, show, cancel and retry flows."""


@flow.command(name="list", example="millhand flow list --state failed", choice=Choice.ANY)
@click.option("--state", type=OneOf([state.value for state in FlowState]), help="Only flows in this state.")
@limit_option
@json_option
@click.pass_obj
def list_flows(config_path: Path | None, *, state: str | None, limit: int, is_json: bool) -> None:
    """List flows, newest first. `open` is how many tasks have not ended."""

    async def pages(flows: FlowControl) -> list[FlowRow]:
        found: list[FlowRow] = []
        while size := min(limit - len(found), LIST_MAX):
            before_id = found[-1].id if found else None
            page = await flows.list(state=state, before_id=before_id, limit=size)
            found.extend(page)
            if len(page) < size:
                break
        return found

    ask_and_print(
        config_path,
        _explained(lambda driver: pages(_control(driver))),
        columns=COLUMNS,
        line=_line,
        fields=_fields,
        is_json=is_json,
        empty="no flows; insert one with client.insert_flow",
    )


@flow.command(example="millhand flow show 17")
@_id_argument
@click.option("--all", "is_all", is_flag=True, help="Give each task a line, also equal ones.")
@json_option
@click.pass_obj
def show(config_path: Path | None, *, id: int, is_all: bool, is_json: bool) -> None:
    """
    Show flow ID: its tasks in layers, and those that failed.

    Tasks wait only for tasks of layers above. More than 10 tasks of one kind that wait for the same ones are one line, with
    the longest times. `waited` is from when the job was due to its start, and `ran` is its last attempt.
    """
    num_listed = 2**62 if is_all else NUM_LISTED

    report = _run(config_path, lambda driver: load_flow_report(driver.pool, id, num_listed=num_listed))
    if is_json:
        tasks, failed = [*map(_task_fields, report.lines)], [*map(msgspec.structs.asdict, report.failed)]
        print_json({**_fields(report.flow), "tasks": tasks, "failed": failed})
        return
    fields = _fields(report.flow)
    print_fields([(name.replace("_", " "), value) for name, value in fields.items() if value is not None])
    click.echo()
    print_table(TASK_COLUMNS, map(_task_line, report.lines), empty="no tasks")
    if report.failed:
        click.echo()
        print_table(FAILED_COLUMNS, map(_failed_line, report.failed), empty="")


@flow.command(example="millhand flow cancel 17")
@_id_argument
@click.pass_obj
def cancel(config_path: Path | None, *, id: int) -> None:
    """Cancel all jobs of flow ID that have not ended. Running ones are asked to end."""

    async def change(driver: Driver) -> tuple[FlowRow, FlowRow]:
        flows = _control(driver)
        return await flows.get(id), await flows.cancel(id)

    before, row = _run(config_path, change)
    if before.ended_at is not None:
        raise NotDone(f"flow must be running to be cancelled, got flow {id} {before.state}")
    left = f", {counted(row.num_open, 'job')} asked to end" if row.num_open else ""
    print_message(f"cancelled flow {id}: {counted(before.num_open - row.num_open, 'job')} cancelled{left}")


@flow.command(example="millhand flow retry 17 --mode failed_only")
@_id_argument
@click.option(
    "--mode",
    type=OneOf([mode.value for mode in RetryMode]),
    default=RetryMode.FAILED_AND_DOWNSTREAM.value,
    show_default=True,
    help="Which tasks run again: those that failed themselves, also all that wait for them, or all that ended.",
)
@click.pass_obj
def retry(config_path: Path | None, *, id: int, mode: str) -> None:
    """Run tasks of flow ID again. Each gets one more attempt if it has none left."""

    async def change(driver: Driver) -> tuple[int, FlowRow]:
        # Not from two counts of open tasks: other tasks of the flow end between them.
        async with driver.pool.begin() as tx:
            num_again = await retry_tasks(tx, id, RetryMode(mode))
        return num_again, await _control(driver).get(id)

    num_again, row = _run(config_path, change)
    if not num_again:
        raise NotDone(
            f"flow must have such tasks to be retried, got none for mode {mode!r} in flow {id}, which is {row.state}"
        )
    runs = "runs" if num_again == 1 else "run"
    print_message(f"retried flow {id}: {counted(num_again, 'task')} {runs} again")


def _run(config_path: Path | None, work: Callable[[Driver], Awaitable[T]]) -> T:
    return run(config_path, _explained(work))


def _control(driver: Driver) -> FlowControl:
    return FlowControl(driver, Inserter(driver.pool, Config(schema=driver.schema)))


def _explained(work: Callable[[Driver], Awaitable[T]]) -> Callable[[Driver], Awaitable[T]]:
    """Return work whose errors name a remedy."""

    async def go(driver: Driver) -> T:
        try:
            return await work(driver)
        except NotFound as error:
            raise NotDone(f"{error}; see: millhand flow list") from None

    return go


def _line(row: FlowRow) -> tuple[object, ...]:
    return (
        row.id,
        row.name,
        row.state.value,
        row.num_tasks,
        row.num_open,
        row.num_failed,
        row.num_skipped,
        row.created_at,
        row.ended_at,
    )


def _fields(row: FlowRow) -> dict[str, Json]:
    names = "num_tasks num_open num_failed num_skipped created_at cancelled_at ended_at"
    return {"id": row.id, "name": row.name, "state": row.state.value, **picked(row, names)}


def _task_line(line: Line) -> tuple[object, ...]:
    group = line.group
    return (
        line.layer,
        line.name,
        group.kind,
        _state(line),
        _after(line),
        group.attempt,
        None if group.waited_seconds is None else duration(max(group.waited_seconds, 0.0)),
        None if group.ran_seconds is None else duration(group.ran_seconds),
        group.first_job_id if group.num_tasks == 1 else f"{group.first_job_id} … {group.last_job_id}",
    )


def _task_fields(line: Line) -> dict[str, Json]:
    group = line.group
    return {
        "layer": line.layer,
        "name": line.name,
        "num_tasks": group.num_tasks,
        "states": group.states,
        "after": line.after.names,
        "num_after": line.after.num_tasks,
        **picked(group, "when kind is_added attempt waited_seconds ran_seconds first_job_id last_job_id"),
    }


def _state(line: Line) -> object:
    """Return the state of a task, or how many tasks of a group are in which state."""
    states = line.group.states
    if line.group.num_tasks > 1:
        return f"{line.group.num_tasks:,} tasks: " + ", ".join(
            f"{num:,} {state}" for state, num in states.items()
        )
    [state] = states
    return JobState(state) if state in _JOB_STATES else state


def _after(line: Line) -> str | None:
    """Return the tasks that a task waits for, and how they must end if not completed."""
    if line.group.when is None:
        return "added by a job" if line.group.is_added else None
    more = ["…"] if line.after.num_lines > len(line.after.names) else []
    names = ", ".join([*line.after.names, *more]) or "no task"
    return names if line.group.when == "completed" else f"{names} ({line.group.when})"


def _failed_line(task: FailedTask) -> tuple[object, ...]:
    state = JobState(task.state) if task.state in _JOB_STATES else task.state
    return task.name or task.job_id, task.job_id, state or "deleted", task.attempt, task.error
