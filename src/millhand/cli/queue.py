"""`millhand queue`: list, pause and resume queues."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import click

from millhand.cli.command import Group
from millhand.cli.database import run_with_client
from millhand.cli.options import json_option
from millhand.cli.output import NotDone, picked, print_message, print_rows
from millhand.cli.table import Columns
from millhand.client import Client
from millhand.errors import NotFound
from millhand.queue import QueueRow

PAGE = 1_000

_names_argument = click.argument("names", metavar="NAME...", nargs=-1, required=True)


@click.group(cls=Group, example="millhand queue pause mail")
def queue() -> None:
    """List, pause and resume queues."""


@queue.command(name="list", example="millhand queue list --json")
@json_option
@click.pass_obj
def list_queues(config_path: Path | None, *, is_json: bool) -> None:
    """List the queues that clients worked within the last day."""
    print_rows(
        run_with_client(config_path, _all_queues),
        columns=Columns(("name", "state", "paused", "created", "updated"), optional=("created", "updated")),
        line=_line,
        fields=lambda queue: picked(queue, "name paused_at created_at updated_at metadata"),
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


def _line(queue: QueueRow) -> tuple[object, ...]:
    state = "paused" if queue.is_paused else "active"
    return queue.name, state, queue.paused_at, queue.created_at, queue.updated_at


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


async def _all_queues(client: Client) -> list[QueueRow]:
    queues: list[QueueRow] = []
    while page := await client.queues.list(after_name=queues[-1].name if queues else "", limit=PAGE):
        queues += page
        if len(page) < PAGE:
            break
    return queues
