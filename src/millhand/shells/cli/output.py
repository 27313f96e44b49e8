"""
The output of commands: tables on a terminal, tab-separated lines in a pipe, JSON with `--json`.

In a pipe there is no heading and nothing is shortened, so that `millhand job list | wc -l` counts jobs.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, TypeVar

import click
import msgspec

from millhand.core.job import JobRow, JobState, Json
from millhand.engine.store.queue_load import COUNTED_MAX
from millhand.observe.terminal_text import one_line, printable
from millhand.shells.cli.error_text import explained
from millhand.shells.cli.table import Columns, fitting_widths

Row = TypeVar("Row")

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
    """The command failed, fully or in part; exit code 1."""

    exit_code = 1

    def show(self, file: object = None) -> None:
        click.echo(f"error: {explained(self.format_message())}", err=True)


class WrongUse(NotDone):
    """The command line is wrong; exit code 2."""

    exit_code = 2


def is_terminal() -> bool:
    return sys.stdout.isatty()


def print_message(text: str) -> None:
    """Print a message for people; in a pipe on standard error, because standard output is for programs."""
    click.echo(printable(text), err=not is_terminal())


def print_json(value: Json) -> None:
    encoded = msgspec.json.encode(value, enc_hook=str)
    try:
        text = msgspec.json.format(encoded, indent=2)
    except RecursionError:  # args may be nested deeper than msgspec can indent
        text = encoded
    click.echo(_encodable(printable(text.decode()), sys.stdout.encoding))


def print_table(columns: Columns, rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print rows: a table on a terminal, or `empty` if there are none; tab-separated lines in a pipe."""
    listed = list(rows)
    if not is_terminal():
        for row in listed:
            click.echo("\t".join(_plain(value) for value in row))
    elif listed:
        _print_rich(columns, listed)
    else:
        click.echo(empty)


def print_rows(
    rows: Sequence[Row],
    *,
    columns: Columns,
    line: Callable[[Row], Sequence[object]],
    fields: Callable[[Row], Json],
    is_json: bool,
    empty: str,
) -> None:
    """Print rows as JSON objects of their `fields`, or as a table of their `line`s."""
    if is_json:
        print_json([fields(row) for row in rows])
    else:
        print_table(columns, map(line, rows), empty=empty)


def print_fields(fields: Sequence[tuple[str, object]]) -> None:
    width = max(len(name) for name, _ in fields)
    for name, value in fields:
        text = field_text(value)
        click.echo(f"{name:<{width}}  {text}" if is_terminal() else f"{name}\t{text}")


def field_text(value: object) -> str:
    """Return the value of a field; on a terminal an instant is a time and how long ago it is."""
    if not is_terminal():
        return _plain(value)
    if isinstance(value, datetime):
        return f"{_plain(value.replace(microsecond=0))}, {ago(value)}"
    return _shown(value)


def confirm(question: str, *, is_sure: bool) -> None:
    """
    Return if the user is sure. Call it outside of an event loop, which would handle Ctrl-C and not end the question.

    Raises: WrongUse without a terminal to ask on; NotDone if the answer is no; click.Abort at Ctrl-C.
    """
    if is_sure:
        return
    if not sys.stdin.isatty():
        raise WrongUse(f"{question} must be confirmed, got no terminal to ask on; repeat it with --yes")
    try:
        is_sure = click.confirm(f"{question[0].upper()}{question[1:]}?", err=True)
    except click.Abort:
        click.echo(err=True)  # ends the line of the question
        raise
    if not is_sure:
        raise NotDone("not confirmed; nothing was done")


def picked(row: object, names: str) -> dict[str, Json]:
    """Return the named attributes of a row for JSON output."""
    return {name: getattr(row, name) for name in names.split()}


def job_fields(job: JobRow) -> dict[str, Json]:
    return {
        **picked(job, "id state kind queue priority attempt max_attempts"),
        # The stored text, even where Python cannot decode it.
        "args": msgspec.Raw(job.encoded_args.encode()),
        **picked(job, "metadata tags errors attempted_by attempted_at created_at finalized_at scheduled_at"),
        "unique_key": None if job.unique_key is None else job.unique_key.hex(),
        "unique_states": job.unique_states,
    }


JOB_COLUMNS = Columns(
    ("id", "state", "kind", "queue", "attempt", "scheduled", "error"),
    texts=("error",),
    optional=("attempt", "queue", "scheduled"),
)


def job_line(job: JobRow) -> tuple[object, ...]:
    attempt = f"{job.attempt}/{job.max_attempts}"
    error = job.errors[-1].error if job.errors else ""
    return job.id, job.state, job.kind, job.queue, attempt, job.scheduled_at, error


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def ago(instant: datetime, now: datetime | None = None) -> str:
    """Return an instant relative to now: `3m ago`, `in 2h`."""
    seconds = ((now or datetime.now(UTC)) - instant).total_seconds()
    text = _span(abs(seconds))
    return f"{text} ago" if seconds >= 0 else f"in {text}"


def _span(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def _encodable(text: str, encoding: str | None) -> str:
    """Return JSON with JSON escapes for characters that the encoding lacks; Python's own escapes are not JSON."""
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return re.sub(r"[^\x00-\x7F]", lambda letter: json.dumps(letter[0])[1:-1], text)
    return text


def _print_rich(columns: Columns, rows: Sequence[Sequence[object]]) -> None:
    from rich.cells import cell_len  # noqa: PLC0415 - half of a command's time, and unused in a pipe
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    # rich's own NO_COLOR keeps bold and dim.
    console = Console(color_system=None if os.environ.get("NO_COLOR") else "auto", highlight=False)
    cells = [dict(zip(columns.names, row, strict=True)) for row in rows]
    natural = [max(cell_len(name), *(cell_len(_shown(row[name])) for row in cells)) for name in columns.names]
    widths = fitting_widths(columns, natural, console.width)
    if widths is None:
        _print_blocks(cells)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, width in widths.items():
        is_number = all(isinstance(row[name], int) for row in cells)
        justify: Literal["left", "right"] = "right" if is_number else "left"
        table.add_column(name, justify=justify, max_width=width, no_wrap=True, overflow="ellipsis")
    for row in cells:
        shown = [row[name] for name in widths]
        styles = [STATE_STYLES[value] if isinstance(value, JobState) else "" for value in shown]
        table.add_row(*(Text(_shown(value), style=style) for value, style in zip(shown, styles, strict=True)))
    console.print(table)
    if left_out := [name for name in columns.names if name not in widths]:
        click.echo(f"a wider terminal also shows: {', '.join(left_out)}")


def _print_blocks(rows: Sequence[Mapping[str, object]]) -> None:
    for number, row in enumerate(rows):
        if number:
            click.echo()
        print_fields(list(row.items()))


def _shown(value: object) -> str:
    """Return a value for people: one line, times relative to now."""
    if isinstance(value, datetime):
        return ago(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _plain(value) if value is not None else "-"


def _plain(value: object) -> str:
    """Return a value for programs: one line without tabs, times in UTC."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return one_line(str(value))


def num_text(number: int) -> int | str:
    """Return a number of jobs as it is shown: how many there are, or how many at least."""
    return number if number <= COUNTED_MAX else f"{COUNTED_MAX:,}+"
