"""`millhand queue`: what can be done to queues, whoever works them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import click

from millhand.cli.command import Group, json_option
from millhand.cli.database import run_with_client
from millhand.cli.output import QUEUE_COLUMNS, NotDone, print_json, print_table, queue_fields, queue_line, say
from millhand.client import Client
from millhand.errors import NotFound
from millhand.queue import QueueRow

PAGE = 1_000


@click.group(cls=Group, example="millhand queue pause mail")
def queue() -> None:
    """List, pause and resume queues."""


@queue.command(name="list", example="millhand queue list --json")
@json_option
@click.pass_obj
def list_queues(config_path: Path | None, *, is_json: bool) -> None:
    """List the queues that somebody works, or worked within a day."""
    queues = run_with_client(config_path, _all_queues)
    if is_json:
        print_json([queue_fields(row) for row in queues])
        return
    print_table(
        QUEUE_COLUMNS,
        [queue_line(row) for row in queues],
        empty="no queues; a queue is there once it is worked",
    )


@queue.command(example="millhand queue pause mail")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.pass_obj
def pause(config_path: Path | None, *, names: tuple[str, ...]) -> None:
    """Have nobody fetch from a queue, or from any one for '*'; jobs that run go on."""
    _for_each(config_path, names, lambda client, name: client.queues.pause(name), "paused")


@queue.command(example="millhand queue resume '*'")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.pass_obj
def resume(config_path: Path | None, *, names: tuple[str, ...]) -> None:
    """Have everybody fetch from a queue again, or from every one for '*'."""
    _for_each(config_path, names, lambda client, name: client.queues.resume(name), "resumed")


def _for_each(
    config_path: Path | None, names: Sequence[str], act: Callable[[Client, str], Awaitable[None]], done: str
) -> None:
    async def go(client: Client) -> list[str]:
        missing = []
        for name in names:
            try:
                await act(client, name)
            except NotFound:
                missing.append(name)
            else:
                say(f"{done} {'all queues' if name == '*' else f'queue {name}'}")
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
