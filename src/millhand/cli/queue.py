"""`millhand queue`: list, pause and resume queues."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from millhand.cli.client_run import ask_clients, run_with_client
from millhand.client import Client
from millhand.core.errors import NotFound
from millhand.core.near_match import near_match
from millhand.db.driver.protocol import Driver
from millhand.engine.fleet import load_fleet
from millhand.engine.queue_report import QueueReport, QueueWaitReason, load_reports
from millhand.engine.store.queue_load import queue_list_names
from millhand.limits.waiting_jobs import WAITING_JOBS
from millhand.shells.cli.answers import print_answers
from millhand.shells.cli.command import Choice, Group
from millhand.shells.cli.name_warnings import print_warnings, unworked_texts
from millhand.shells.cli.options import json_option
from millhand.shells.cli.output import NotDone, num_text, print_message
from millhand.shells.cli.table import Columns

COLUMNS = Columns(
    (
        "name", "state", "available", "oldest", "retryable", "scheduled", "running", "slots", "clients", "limit",
        "paused", "created", "updated",
    ),
    optional=("created", "updated", "paused", "scheduled", "retryable", "clients"),
)  # fmt: skip
# Of queues of which one has a limit.
LIMITED_COLUMNS = replace(COLUMNS, names=(*COLUMNS.names, "waiting"))
LIMITS = {
    QueueWaitReason.PAUSED: "paused",
    QueueWaitReason.NO_CLIENT: "no client",
    QueueWaitReason.UNKNOWN_KINDS: "unknown kinds",
    QueueWaitReason.SLOTS: "slots",
    QueueWaitReason.LIMIT: "limit",
}

NUM_SEARCHED = 1_000  # for the queue that a mistyped name resembles

_names_argument = click.argument("names", metavar="NAME...", nargs=-1, required=True)


@click.group(cls=Group, example="millhand queue pause mail")
def queue() -> None:
    """List, pause and resume queues."""


@queue.command(name="list", example="millhand queue list --json", choice=Choice.ANY)
@json_option
@click.pass_obj
def list_queues(config_path: Path | None, *, is_json: bool) -> None:
    """
    List the queues that clients or waiting jobs name.

    `oldest` is when the first available job was due. `slots` and `clients` count the registered clients that work now; a
    client in another language is not registered. Without the migration line `millhand` they are empty.

    `limit` is why due jobs wait: the queue is paused, no client works it, its clients know none of the kinds of the
    first due jobs, all slots are taken, or jobs wait for the queue's limit. Warnings name these kinds, and the queues that
    clients work instead. `waiting` is how many jobs wait for the queue's limit, if a queue has one.

    Jobs are counted up to 10,000. More are shown as 10,000+, and as 10001 in the JSON.
    """
    answers = ask_clients(config_path, _all_queues)
    has_limit = any(one.num_waiting is not None for queues in answers.values.values() for one in queues)
    print_answers(
        answers,
        columns=LIMITED_COLUMNS if has_limit else COLUMNS,
        line=_limited_line if has_limit else _line,
        fields=msgspec.structs.asdict,
        is_json=is_json,
        empty="no queues; a queue is listed once a job names it or a client works it",
    )
    if not is_json:
        print_warnings(answers.texts(lambda queues: [*unworked_texts(queues)]))
    answers.require_all()


@queue.command(example="millhand queue pause mail")
@_names_argument
@click.pass_obj
def pause(config_path: Path | None, *, names: tuple[str, ...]) -> None:
    """Pause a queue, or every queue with '*'. Running jobs continue."""
    _for_each(config_path, names, lambda client, name: client.queues.pause(name), "paused")


@queue.command(example="millhand queue resume '*'")
@_names_argument
@click.pass_obj
def resume(config_path: Path | None, *, names: tuple[str, ...]) -> None:
    """Resume a queue, or every queue with '*'."""
    _for_each(config_path, names, lambda client, name: client.queues.resume(name), "resumed")


def _line(queue: QueueReport) -> tuple[object, ...]:
    return (
        queue.name,
        "active" if queue.paused_at is None else "paused",
        num_text(queue.num_available),
        queue.oldest_available_at,
        num_text(queue.num_retryable),
        num_text(queue.num_scheduled),
        num_text(queue.num_running),
        queue.slots,
        None if queue.clients is None else len(queue.clients),
        queue.limit and LIMITS[queue.limit],
        queue.paused_at,
        queue.created_at,
        queue.updated_at,
    )


def _limited_line(queue: QueueReport) -> tuple[object, ...]:
    return (*_line(queue), None if queue.num_waiting is None else num_text(queue.num_waiting))


def _for_each(
    config_path: Path | None, names: Sequence[str], act: Callable[[Client, str], Awaitable[object]], done: str
) -> None:
    async def go(client: Client) -> tuple[list[str], list[str]]:
        missing = []
        for name in names:
            try:
                await act(client, name)
            except NotFound:
                missing.append(name)
            else:
                print_message(f"{done} {'all queues' if name == '*' else f'queue {name}'}")
        known = [row.name for row in await client.queues.list(limit=NUM_SEARCHED)] if missing else []
        return missing, [near for name in missing if (near := near_match(name, known))]

    missing, near = run_with_client(config_path, go)
    if missing:
        hint = f"did you mean {' and '.join(map(repr, near))}?" if near else "see: millhand queue list"
        raise NotDone(f"queue must exist, found none named {', '.join(map(repr, missing))}; {hint}")


async def _all_queues(_client: Client, driver: Driver) -> list[QueueReport]:
    fleet = await load_fleet(driver.pool, datetime.now(UTC))
    waiting = WAITING_JOBS if await WAITING_JOBS.are_there(driver.pool) else None
    reports: list[QueueReport] = []
    while names := await driver.pool.run(queue_list_names(after_name=reports[-1].name if reports else "")):
        reports += await load_reports(driver.pool, fleet, names, waiting=waiting)
    return reports
