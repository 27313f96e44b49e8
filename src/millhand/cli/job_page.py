"""The page of one job: its row, the errors of its attempts and their logs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import click
import msgspec

from millhand.cli.output import is_terminal, print_fields
from millhand.job import AttemptError, JobRow, JobState, Json
from millhand.observe.job_log import LOG_KEY
from millhand.observe.terminal_text import one_line
from millhand.unique import states_mask


def print_job(job: JobRow) -> None:
    """Print a job; on a terminal with the lines of tracebacks and logs."""
    print_fields([(name, value) for name, value in _fields(job) if value not in (None, "")])
    for error in job.errors:
        print_fields([(f"error of attempt {error.attempt}", _error_line(error))])
        if is_terminal():
            _print_lines(error.trace)
    for attempt, text in _logs(job.metadata):
        name = one_line(f"log of attempt {attempt}")
        if is_terminal():
            click.echo(name)
            _print_lines(text)
        else:
            print_fields([(name, text.rstrip("\n"))])


def _fields(job: JobRow) -> Iterator[tuple[str, object]]:
    metadata = {key: value for key, value in job.metadata.items() if key not in (LOG_KEY, "output")}
    yield "id", job.id
    yield "state", job.state.value
    yield "kind", job.kind
    yield "queue", job.queue
    yield "priority", job.priority
    yield "attempt", job.attempt
    yield "max_attempts", job.max_attempts
    yield "args", job.encoded_args
    yield "output", _json(job.output) if "output" in job.metadata else None
    yield "metadata", _json(metadata) if metadata else None
    yield "tags", ", ".join(job.tags)
    yield "attempted_by", ", ".join(job.attempted_by)
    yield "attempted_at", job.attempted_at
    yield "created_at", job.created_at
    yield "finalized_at", job.finalized_at
    yield "scheduled_at", job.scheduled_at
    if job.unique_key is not None:
        yield "unique_key", job.unique_key.hex()
        mask = job.unique_states or 0
        yield "unique_states", ", ".join(state.value for state in JobState if states_mask([state]) & mask)


def _json(value: Json) -> str:
    return msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=0).decode()


def _error_line(error: AttemptError) -> str:
    return f"{error.error} ({error.at.isoformat()})"


def _logs(metadata: Mapping[str, Json]) -> Iterator[tuple[object, str]]:
    """Yield attempt and text of each log in River's shape; others appear in the JSON of the metadata."""
    logs = metadata.get(LOG_KEY)
    for log in logs if isinstance(logs, list) else ():
        if isinstance(log, dict) and isinstance(text := log.get("log"), str):
            yield log.get("attempt", "?"), text


def _print_lines(text: str) -> None:
    for line in text.splitlines():
        click.echo(f"    {one_line(line.expandtabs(4))}")
