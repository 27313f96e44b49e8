"""One job as a command prints it, with its errors and logs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import click
import msgspec

from millhand.core.job import JobRow, JobState, Json
from millhand.core.unique import states_mask
from millhand.observe.job_log import LOG_KEY
from millhand.observe.terminal_text import one_line
from millhand.shells.cli.output import field_text, is_terminal, job_fields, print_fields
from millhand.shells.cli.param_types import Whole

ID = Whole(1, 2**63 - 1)  # PostgreSQL's bigint
PAGE = 1_000
PREVIEWED = 10


def print_job(job: JobRow) -> None:
    print_fields([(name, value) for name, value in _page_fields(job) if value not in (None, "")])
    for error in job.errors:
        text = f"{error.error} ({field_text(error.at)})"
        print_fields([(f"error of attempt {error.attempt}", text)])
        if is_terminal():
            _print_lines(error.trace)
        elif error.trace:
            print_fields([(f"trace of attempt {error.attempt}", error.trace.rstrip("\n"))])
    for attempt, text in _logs(job.metadata):
        name = one_line(f"log of attempt {attempt}")
        if is_terminal():
            click.echo(name)
            _print_lines(text)
        else:
            print_fields([(name, text.rstrip("\n"))])


def _page_fields(job: JobRow) -> Iterator[tuple[str, object]]:
    metadata = {key: value for key, value in job.metadata.items() if key not in (LOG_KEY, "output")}
    mask = 0 if job.unique_key is None else job.unique_states or 0
    shown = {
        "args": job.encoded_args,
        "metadata": _json(metadata) if metadata else None,
        "tags": ", ".join(job.tags),
        "errors": None,  # each has its own lines
        "attempted_by": ", ".join(job.attempted_by),
        "unique_states": ", ".join(state.value for state in JobState if states_mask([state]) & mask),
    }
    for name, value in (job_fields(job) | shown).items():
        yield name, value
        if name == "args" and "output" in job.metadata:
            yield "output", _json(job.output)


def _json(value: Json) -> str:
    return msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=0).decode()


def _logs(metadata: Mapping[str, Json]) -> Iterator[tuple[object, str]]:
    """Yield attempt and text of each log in River's shape; others appear in the JSON of the metadata."""
    logs = metadata.get(LOG_KEY)
    for log in logs if isinstance(logs, list) else ():
        if isinstance(log, dict) and isinstance(text := log.get("log"), str):
            yield log.get("attempt", "?"), text


def _print_lines(text: str) -> None:
    for line in text.splitlines():
        click.echo(f"    {one_line(line.expandtabs(4))}")
