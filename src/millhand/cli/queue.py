"""`millhand queue`: list, pause and resume queues."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import click
import msgspec

from millhand.cli.command import Group
from millhand.cli.database import run_with_both, run_with_client
from millhand.cli.options import json_option
from millhand.cli.output import NotDone, picked, print_message, print_rows
from millhand.cli.table import Columns
from millhand.client import Client
from millhand.client_row import ClientState
from millhand.driver.protocol import Driver
from millhand.errors import NotFound
from millhand.job import Json
from millhand.queue import QueueRow
from millhand.store.client import client_get_shape, client_list
from millhand.store.queue import COUNTED_MAX, QueueLoad, queue_get_loads

PAGE = 1_000
LOADS = 100  # of as many queues at once, so that no statement takes long

COLUMNS = Columns(
    ("name", "state", "waiting", "oldest", "running", "slots", "clients", "paused", "created", "updated"),
    optional=("created", "updated", "paused"),
)

_names_argument = click.argument("names", metavar="NAME...", nargs=-1, required=True)


@click.group(cls=Group, example="millhand queue pause mail")
def queue() -> None:
    """List, pause and resume queues."""


@queue.command(name="list", example="millhand queue list --json")
@json_option
@click.pass_obj
def list_queues(config_path: Path | None, *, is_json: bool) -> None:
    """
    List the queues that clients worked within the last day.

    `waiting` counts the available jobs, and `oldest` is when the first of them was due. `slots` and `clients` count the
    registered clients that work now; a client in another language is not registered. Without the migration line
    `millhand` they are empty. Jobs are counted up to 10,000. More are shown as 10,000+, and as 10001 in the JSON.
    """
    print_rows(
        run_with_both(config_path, _all_queues),
        columns=COLUMNS,
        line=_line,
        fields=_fields,
        is_json=is_json,
        empty="no queues; a queue is listed once a client works it",
    )


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


class _Queue(msgspec.Struct, frozen=True, kw_only=True):
    """A queue, its jobs, and the registered clients that work it; None if clients are unknown."""

    row: QueueRow
    load: QueueLoad
    slots: int | None
    clients: int | None


def _line(queue: _Queue) -> tuple[object, ...]:
    row, load = queue.row, queue.load
    state = "paused" if row.is_paused else "active"
    jobs = (_counted(load.waiting), load.oldest_waiting_at, _counted(load.running))
    return (
        row.name, state, *jobs, queue.slots, queue.clients, row.paused_at, row.created_at, row.updated_at
    )  # fmt: skip


def _fields(queue: _Queue) -> dict[str, Json]:
    return {
        **picked(queue.row, "name paused_at created_at updated_at metadata"),
        **picked(queue.load, "waiting oldest_waiting_at running"),
        **picked(queue, "slots clients"),
    }


def _counted(number: int) -> int | str:
    return number if number <= COUNTED_MAX else f"{COUNTED_MAX:,}+"


def _for_each(
    config_path: Path | None, names: Sequence[str], act: Callable[[Client, str], Awaitable[object]], done: str
) -> None:
    async def go(client: Client) -> list[str]:
        missing = []
        for name in names:
            try:
                await act(client, name)
            except NotFound:
                missing.append(name)
            else:
                print_message(f"{done} {'all queues' if name == '*' else f'queue {name}'}")
        return missing

    if missing := run_with_client(config_path, go):
        raise NotDone(
            f"queue must exist, found none named {', '.join(map(repr, missing))}; see: millhand queue list"
        )


async def _all_queues(client: Client, driver: Driver) -> list[_Queue]:
    rows: list[QueueRow] = []
    while page := await client.queues.list(after_name=rows[-1].name if rows else "", limit=PAGE):
        rows += page
        if len(page) < PAGE:
            break
    loads: dict[str, QueueLoad] = {}
    for first in range(0, len(rows), LOADS):
        found = await driver.pool.run(queue_get_loads([row.name for row in rows[first : first + LOADS]]))
        loads |= found
    slots = await _slots(driver)
    return [
        _Queue(
            row=row,
            load=loads[row.name],
            slots=None if slots is None else sum(slots[row.name]),
            clients=None if slots is None else len(slots[row.name]),
        )
        for row in rows
    ]


async def _slots(driver: Driver) -> Mapping[str, list[int]] | None:
    """Return for each queue the slots of each registered client that works it now; None without the table of clients."""
    if not await driver.pool.run(client_get_shape()):
        return None
    slots: defaultdict[str, list[int]] = defaultdict(list)
    for client in await driver.pool.run(client_list()):
        if client.state is ClientState.WORKING:
            for name, max_workers in client.queues.items():
                slots[name].append(max_workers)
    return slots
