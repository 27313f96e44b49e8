"""
How commands answer: tables for people on a terminal, tab-separated lines in a pipe, JSON where it is asked for.

In a pipe there is no heading and nothing is shortened, so that `millhand job list | wc -l` counts jobs.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import click
import msgspec

from millhand.job import JobRow, JobState, Json
from millhand.observe.terminal_text import one_line, printable
from millhand.queue import QueueRow

STATE_STYLES = {
    JobState.AVAILABLE: "cyan",
    JobState.CANCELLED: "dim",
    JobState.COMPLETED: "green",
    JobState.DISCARDED: "red",
    JobState.PENDING: "dim",
    JobState.RETRYABLE: "yellow",
    JobState.RUNNING: "blue",
    JobState.SCHEDULED: "magenta",
}


class NotDone(click.ClickException):
    """What was asked for was not done, or not all of it; exit code 1."""

    exit_code = 1

    def show(self, file: object = None) -> None:
        click.echo(f"error: {printable(self.format_message())}", err=True)


class WrongUse(NotDone):
    """The command line makes no sense; exit code 2."""

    exit_code = 2


def is_terminal() -> bool:
    """Return whether a person sees what we print."""
    return sys.stdout.isatty()


def say(text: str) -> None:
    """Tell a person what was done; on standard error in a pipe, where standard output is for programs."""
    click.echo(text, err=not is_terminal())


def print_json(value: Json) -> None:
    """Print a value as indented JSON."""
    encoded = msgspec.json.encode(value, enc_hook=str)
    try:
        text = msgspec.json.format(encoded, indent=2)
    except RecursionError:  # somebody's args are nested deeper than can be indented
        text = encoded
    click.echo(_encodable(printable(text.decode()), sys.stdout.encoding))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """
    Print rows: with headings and colours on a terminal, as tab-separated lines in a pipe.

    `empty` is what a person is told when there are none. A `JobState` has its colour.
    """
    listed = list(rows)
    if not is_terminal():
        for row in listed:
            click.echo("\t".join(_plain(value) for value in row))
    elif listed:
        _print_rich(columns, listed)
    else:
        click.echo(empty)


def print_fields(fields: Sequence[tuple[str, object]]) -> None:
    """Print one thing's fields, a line each."""
    width = max(len(name) for name, _ in fields)
    for name, value in fields:
        text = _shown(value) if is_terminal() else _plain(value)
        click.echo(f"{name:<{width}}  {text}" if is_terminal() else f"{name}\t{text}")


def confirm(question: str, *, is_sure: bool) -> None:
    """
    Go on if `--yes` was given or the person says so.

    Raises: WrongUse in a pipe, where there is nobody to ask; NotDone if the answer is no.
    """
    if is_sure:
        return
    if not sys.stdin.isatty():
        raise WrongUse(f"{question} must be confirmed, got no terminal to ask on; repeat it with --yes")
    if not click.confirm(f"{question}?", err=True):
        raise NotDone("not confirmed; nothing was done")


def job_fields(job: JobRow) -> dict[str, Json]:
    """Return a job as JSON shows it, column by column."""
    return {
        "id": job.id,
        "state": job.state.value,
        "kind": job.kind,
        "queue": job.queue,
        "priority": job.priority,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        # As they stand there, whatever Python could read of them.
        "args": msgspec.Raw(job.encoded_args.encode()),
        "metadata": job.metadata,
        "tags": job.tags,
        "errors": job.errors,
        "attempted_by": job.attempted_by,
        "attempted_at": job.attempted_at,
        "created_at": job.created_at,
        "finalized_at": job.finalized_at,
        "scheduled_at": job.scheduled_at,
        "unique_key": None if job.unique_key is None else job.unique_key.hex(),
        "unique_states": job.unique_states,
    }


JOB_COLUMNS = ("id", "state", "kind", "queue", "attempt", "scheduled", "error")


def job_line(job: JobRow) -> tuple[object, ...]:
    """Return a job as a line of a table, see `JOB_COLUMNS`."""
    attempt = f"{job.attempt}/{job.max_attempts}"
    error = job.errors[-1].error if job.errors else ""
    return job.id, job.state, job.kind, job.queue, attempt, job.scheduled_at, error


QUEUE_COLUMNS = ("name", "state", "paused", "created", "updated")


def queue_line(queue: QueueRow) -> tuple[object, ...]:
    """Return a queue as a line of a table, see `QUEUE_COLUMNS`."""
    state = "paused" if queue.is_paused else "active"
    return queue.name, state, queue.paused_at, queue.created_at, queue.updated_at


def queue_fields(queue: QueueRow) -> dict[str, Json]:
    """Return a queue as JSON shows it."""
    return {
        "name": queue.name,
        "paused_at": queue.paused_at,
        "created_at": queue.created_at,
        "updated_at": queue.updated_at,
        "metadata": queue.metadata,
    }


def ago(instant: datetime, now: datetime | None = None) -> str:
    """Return an instant as a person counts: `3m ago`, `in 2h`."""
    seconds = ((now or datetime.now(UTC)) - instant).total_seconds()
    text = _span(abs(seconds))
    return f"{text} ago" if seconds >= 0 else f"in {text}"


def _span(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def _encodable(text: str, encoding: str | None) -> str:
    """Return JSON that has its own escapes for letters where an encoding lacks some: those of Python are no JSON."""
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return re.sub(r"[^\x00-\x7F]", lambda letter: json.dumps(letter[0])[1:-1], text)
    return text


def _print_rich(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    from rich.console import Console  # noqa: PLC0415 - half of the time a command takes, and not needed in a pipe
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        is_number = all(isinstance(row[columns.index(column)], int) for row in rows)
        table.add_column(column, justify="right" if is_number else "left", no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*(Text(_shown(value), style=_style(value)) for value in row))
    Console(highlight=False).print(table)


def _style(value: object) -> str:
    return STATE_STYLES[value] if isinstance(value, JobState) else ""


def _shown(value: object) -> str:
    """Return a value for a person: one line, times as they are counted."""
    if isinstance(value, datetime):
        return ago(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _plain(value) if value is not None else "-"


def _plain(value: object) -> str:
    """Return a value for a program: one line without tabs, times in UTC."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return one_line(str(value))
