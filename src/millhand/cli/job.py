"""`millhand job`: insert, list and show jobs, and change them by id or by filter."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from millhand.cli.client_run import ask_clients, run_with_both, run_with_client
from millhand.cli.job_changes import change_jobs
from millhand.client import Client
from millhand.core.args.codec import RawArgs
from millhand.core.errors import ConnectionLost, OperationTimeout
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import FINALIZED_STATES, JobId, JobRow, JobState
from millhand.db.driver.protocol import Driver
from millhand.engine.control import JobPage
from millhand.engine.store.job_list import JobFilters
from millhand.shells.cli.answers import print_answers
from millhand.shells.cli.changes import Changes
from millhand.shells.cli.command import Choice, Group
from millhand.shells.cli.job_page import ID, PAGE, PREVIEWED, print_job
from millhand.shells.cli.name_warnings import filter_warnings, insert_warnings, print_warnings
from millhand.shells.cli.options import job_filters, json_option, limit_option, list_option, yes_option
from millhand.shells.cli.output import (
    JOB_COLUMNS,
    NotDone,
    WrongUse,
    confirm,
    counted,
    is_terminal,
    job_fields,
    job_line,
    print_json,
    print_message,
    print_table,
)
from millhand.shells.cli.param_types import Whole, not_empty
from millhand.shells.cli.progress_bar import shown_jobs
from millhand.shells.settings.decode import decode_text


@click.group(cls=Group, example="millhand job list --state discarded")
def job() -> None:
    """Insert, list, show, cancel, retry and delete jobs."""


@job.command(example="""millhand job insert send_email '{"to": "a@example.com"}' --queue mail""")
@click.argument("kind")
@click.argument("args", metavar="[ARGS]", default="{}")
@click.option("--queue", callback=not_empty, metavar="NAME", help="Insert into this queue, not into default.")
@click.option("--priority", type=Whole(1, 4), help="1 is worked first, 4 last.")
@click.option("--max-attempts", type=Whole(1, 32_767), metavar="N", help="Attempt the job at most N times.")
@list_option("--tag", "tags", "Add this tag", metavar="TAG")
@click.option("--in", "delay", metavar="DURATION", help="Work the job after this time, such as 5m or 1h30m.")
@json_option
@click.pass_obj
def insert(
    config_path: Path | None,
    *,
    kind: str,
    args: str,
    queue: str | None,
    priority: int | None,
    max_attempts: int | None,
    tags: tuple[str, ...],
    delay: str | None,
    is_json: bool,
) -> None:
    """
    Insert a job of KIND with ARGS, a JSON object. With -, read ARGS from standard input.

    The command does not check the fields of ARGS; only the worker knows their type. It warns if no client of the last day
    works the kind or the queue.
    """
    opts = InsertOpts(
        max_attempts=max_attempts,
        priority=priority,
        queue=queue,
        scheduled_at=None if delay is None else _later(delay),
        tags=tags or None,
    )
    raw = RawArgs(kind, sys.stdin.read() if args == "-" else args)
    try:
        row, warnings = run_with_both(config_path, lambda client, driver: _insert(client, driver, raw, opts))
    except (ConnectionLost, OperationTimeout) as error:  # PostgreSQL may commit without an answer
        if isinstance(error, ConnectionLost) and error.is_read_only:
            raise NotDone(f"{error}; nothing was inserted") from error
        raise NotDone(
            f"{error}; the job may have been inserted: look for it before you repeat the command, with "
            f"millhand job list --kind {shlex.quote(kind)}"
        ) from error
    if is_json:
        print_json(job_fields(row))
    elif is_terminal():
        click.echo(f"inserted job {row.id} of kind {row.kind} into queue {row.queue}")
    else:
        click.echo(row.id)
    print_warnings(warnings)


async def _insert(
    client: Client, driver: Driver, args: RawArgs, opts: InsertOpts
) -> tuple[JobRow, list[str]]:
    row = (await client.insert(args, opts)).job
    return row, await insert_warnings(args.kind, opts.queue, driver)


@job.command(
    name="list", example="millhand job list --state retryable --kind send_email --limit 20", choice=Choice.ANY
)
@job_filters
@limit_option
@click.option("--oldest-first", is_flag=True, help="List the lowest ids first, not the highest.")
@json_option
@click.pass_obj
def list_jobs(
    config_path: Path | None, *, filters: JobFilters, limit: int, oldest_first: bool, is_json: bool
) -> None:
    """
    List jobs, newest first.

    With --all-databases, --limit is for each database, and the jobs of each one are together.
    """

    async def go(client: Client, driver: Driver) -> tuple[JobPage, list[str]]:
        page = await client.jobs.list(filters, descending=not oldest_first, limit=limit)
        kinds, queues = {row.kind for row in page.jobs}, {row.queue for row in page.jobs}
        return page, await filter_warnings(filters, driver, kinds=kinds, queues=queues)

    answers = ask_clients(config_path, go)
    print_answers(
        answers.map(lambda found: found[0].jobs),
        columns=JOB_COLUMNS,
        line=job_line,
        fields=job_fields,
        is_json=is_json,
        empty="no jobs",
    )
    print_warnings(answers.texts(lambda found: found[1]))
    more = f"listed {counted(limit, 'job')}, the limit; for more add --limit with up to 10,000, or filter"
    for text in answers.texts(lambda found: [more] if found[0].cursor is not None else []):
        print_message(text)
    answers.require_all()


@job.command(example="millhand job show 42")
@click.argument("id", type=ID)
@json_option
@click.pass_obj
def show(config_path: Path | None, *, id: int, is_json: bool) -> None:
    """Show a job with its args, output, errors, tracebacks and logs."""
    row = run_with_client(config_path, lambda client: client.jobs.get(id))
    if is_json:
        print_json(job_fields(row))
    else:
        print_job(row)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verb:
    """A command that does something to jobs, chosen by id or by filter; without `--state` in `states`."""

    name: str
    past: str
    about: str
    example: str
    states: tuple[JobState, ...]


_VERBS = (
    _Verb(
        name="cancel",
        past="cancelled",
        about="Cancel jobs by id or by filter. Running jobs are asked to stop.\n\n"
        "Without --state, a filter selects all jobs that are not finalized.",
        example="millhand job cancel --kind send_email --queue mail",
        states=tuple(state for state in JobState if state not in FINALIZED_STATES),
    ),
    _Verb(
        name="retry",
        past="retried",
        about="Retry jobs now, by id or by filter.\n\n"
        "Without --state, a filter selects cancelled, discarded, retryable and scheduled jobs. "
        "The command asks before it runs a completed job again.",
        example="millhand job retry --state discarded --kind send_email --yes",
        # Completed jobs run again only if --state or an id selects them.
        states=(JobState.CANCELLED, JobState.DISCARDED, JobState.RETRYABLE, JobState.SCHEDULED),
    ),
    _Verb(
        name="delete",
        past="deleted",
        about="Delete jobs by id or by filter. A running job cannot be deleted.\n\n"
        "Without --state, a filter selects all jobs that are not running.",
        example="millhand job delete --state completed --queue mail",
        states=tuple(state for state in JobState if state is not JobState.RUNNING),
    ),
)


def _add(verb: _Verb) -> None:
    @job.command(name=verb.name, help=verb.about, example=verb.example)
    @click.argument("ids", metavar="[ID]...", type=ID, nargs=-1)
    @job_filters
    @yes_option
    @json_option
    @click.pass_obj
    def command(
        config_path: Path | None, *, ids: tuple[int, ...], filters: JobFilters, is_sure: bool, is_json: bool
    ) -> None:
        _act(config_path, verb, ids, filters, is_json=is_json, is_sure=is_sure)


for _each in _VERBS:
    _add(_each)


def _act(
    config_path: Path | None,
    verb: _Verb,
    ids: Sequence[int],
    filters: JobFilters,
    *,
    is_json: bool,
    is_sure: bool,
) -> None:
    """Apply a verb to the chosen jobs. Raises: NotDone with the refusals, if any."""
    if ids and not filters.is_empty:
        raise WrongUse("jobs must be chosen by id or by filter, got both; use only one")
    if not ids and filters.is_empty:
        raise WrongUse(
            "jobs must be chosen by id or by filter, got neither; add an id, --state, --kind, --queue or --tag"
        )
    if filters.states is None:
        filters = replace(filters, states=verb.states)
    chosen, states = [JobId(id) for id in dict.fromkeys(ids)], tuple(JobState)
    if not ids:
        found, warnings = run_with_both(config_path, lambda client, driver: _find(client, driver, filters))
        print_warnings(warnings)
        chosen, states = found.ids, tuple(filters.states or ())
        if chosen:
            confirm(_question(verb, len(chosen), found.completed), is_sure=is_sure)
    elif verb.name == "retry" and not is_sure:
        again = JobFilters(ids=chosen, states=[JobState.COMPLETED])
        found = run_with_client(config_path, lambda client: _all(client, again))
        if found.ids:
            confirm(_question(verb, len(chosen), found.ids), is_sure=False)
    changes = Changes(is_json=is_json)
    with changes.printed(verb.past, "job"):
        run_with_both(
            config_path, lambda _, driver: change_jobs(driver.pool, changes, verb.name, chosen, states)
        )


def _question(verb: _Verb, num_jobs: int, completed: Sequence[JobId]) -> str:
    """Return what is asked before a verb applies: a retry runs completed jobs again, whose work is done."""
    if verb.name != "retry" or not completed:
        return f"{verb.name} {counted(num_jobs, 'job')}"
    if num_jobs == 1:
        return f"retry job {completed[0]}, which is completed and will run again"
    which = "which" if len(completed) == num_jobs else f"{len(completed):,} of which"
    return f"retry {num_jobs:,} jobs, {which} {'is' if len(completed) == 1 else 'are'} completed and will run again"


class _Found:
    """The jobs that a filter selects: their ids, and the first rows, for the preview. All rows may be large."""

    def __init__(self) -> None:
        self.ids: list[JobId] = []
        self.completed: list[JobId] = []
        self.first: list[JobRow] = []
        self.kinds: set[str] = set()
        self.queues: set[str] = set()

    def add(self, rows: Sequence[JobRow]) -> None:
        self.ids += [row.id for row in rows]
        self.completed += [row.id for row in rows if row.state is JobState.COMPLETED]
        self.first += rows[: PREVIEWED - len(self.first)]
        self.kinds |= {row.kind for row in rows}
        self.queues |= {row.queue for row in rows}


async def _all(client: Client, filters: JobFilters) -> _Found:
    found = _Found()
    page = await client.jobs.list(filters, limit=PAGE)
    found.add(page.jobs)
    if page.cursor is None:
        return found
    with shown_jobs("find") as show:
        while page.cursor is not None:
            page = await client.jobs.list(filters, after=page.cursor, limit=PAGE)
            found.add(page.jobs)
            show(len(found.ids))
    return found


async def _find(client: Client, driver: Driver, filters: JobFilters) -> tuple[_Found, list[str]]:
    """Return the jobs that the filter selects, with warnings about its names, and preview some on a terminal."""
    found = await _all(client, filters)
    if is_terminal() and found.ids:
        print_table(JOB_COLUMNS, map(job_line, found.first), empty="")
        if len(found.ids) > PREVIEWED:
            click.echo(f"… and {len(found.ids) - PREVIEWED:,} more")
    return found, await filter_warnings(filters, driver, kinds=found.kinds, queues=found.queues)


def _later(delay: str) -> datetime:
    """Return the time after `delay`. Raises: ConfigError; WrongUse for a negative or too long delay."""
    wait = decode_text(delay, timedelta, "--in")
    assert isinstance(wait, timedelta)  # noqa: S101 - decoded as one
    if wait < timedelta(0):
        raise WrongUse(f"--in must not be negative, got {delay!r}; leave it out to work the job now")
    try:
        return datetime.now(UTC) + wait
    except OverflowError as error:
        raise WrongUse(f"--in must end before the year 10000, got {delay!r}") from error
