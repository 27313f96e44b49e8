"""`millhand client`: list the clients that work jobs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from millhand.cli.client_run import ask_clients
from millhand.core.client_row import ClientRow, ClientState
from millhand.core.job import Json
from millhand.shells.cli.answers import print_answers
from millhand.shells.cli.command import Choice, Group
from millhand.shells.cli.options import json_option
from millhand.shells.cli.output import counted, picked, print_message
from millhand.shells.cli.table import Columns

COLUMNS = Columns(
    ("id", "state", "leads", "language", "host", "pid", "queues", "kinds", "started", "seen"),
    texts=("host", "queues", "kinds"),
    optional=("language", "pid", "started", "kinds", "host", "queues"),
)
ORDER = (ClientState.WORKING, ClientState.UNREGISTERED, ClientState.UNRESPONSIVE, ClientState.STOPPED)


@click.group(cls=Group, example="millhand client list")
def client() -> None:
    """List the clients that work jobs, in every language."""


@client.command(name="list", example="millhand client list --json", choice=Choice.ANY)
@click.option("--all", "has_stopped", is_flag=True, help="List stopped clients too.")
@json_option
@click.pass_obj
def list_clients(config_path: Path | None, *, has_stopped: bool, is_json: bool) -> None:
    """
    List the clients that work jobs, or did within the last day.

    Working clients come first, then those that do not respond. Only clients in Python write heartbeats. Clients in other
    languages are listed if they lead, or worked a job within the last minutes.
    """
    answers = ask_clients(config_path, lambda client, _: client.clients.list())

    def shown(rows: Sequence[ClientRow]) -> list[ClientRow]:
        kept = [row for row in rows if has_stopped or row.state is not ClientState.STOPPED]
        return sorted(kept, key=lambda row: ORDER.index(row.state))

    print_answers(
        answers.map(shown),
        columns=COLUMNS,
        line=_line,
        fields=_fields,
        is_json=is_json,
        empty="no clients; a client is listed once it has started",
    )
    if left_out := sum(len(rows) - len(shown(rows)) for rows in answers.values.values()):
        are = "is" if left_out == 1 else "are"
        print_message(f"{counted(left_out, 'stopped client')} {are} left out; --all lists them")
    answers.require_all()


def _line(row: ClientRow) -> tuple[object, ...]:
    leadership = (("river", row.is_leader), ("periodic", row.is_periodic_leader))
    queues = ",".join(f"{name}:{max_workers}" for name, max_workers in sorted(row.queues.items()))
    return (
        row.id,
        row.state.value,
        ",".join(name for name, is_held in leadership if is_held) or None,
        row.language,
        row.hostname,
        row.pid,
        queues or None,
        ",".join(row.kinds) or None,
        row.started_at,
        row.last_seen_at,
    )


def _fields(row: ClientRow) -> dict[str, Json]:
    seconds = None if row.heartbeat_interval is None else row.heartbeat_interval.total_seconds()
    return {
        **picked(row, "id state is_leader is_periodic_leader language version hostname pid queues kinds"),
        "heartbeat_interval": seconds,
        **picked(row, "started_at last_seen_at stopped_at"),
    }
