"""`millhand job`: what can be done to jobs, by id or by what they have in common."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import click

from millhand.args.codec import RawArgs
from millhand.cli.command import Group, json_option, yes_option
from millhand.cli.database import run_with_client
from millhand.cli.job_page import print_job
from millhand.cli.output import (
    JOB_COLUMNS,
    NotDone,
    WrongUse,
    confirm,
    is_terminal,
    job_fields,
    job_line,
    print_json,
    print_table,
    say,
)
from millhand.client import Client
from millhand.errors import JobRunning, NotFound, UniqueConflict
from millhand.insert_opts import InsertOpts, InsertResult
from millhand.job import FINALIZED_STATES, JobId, JobRow, JobState
from millhand.settings.decode import decode_text
from millhand.store.job_list import JobFilters

Function = TypeVar("Function", bound=Callable[..., Any])
Act = Callable[[Client, int], Awaitable[JobRow]]

ID = click.IntRange(1, 2**63 - 1)  # PostgreSQL's bigint
PAGE = 1_000
PREVIEWED = 10
STATES = tuple(state.value for state in JobState)
UNFINALIZED_STATES = tuple(state for state in JobState if state not in FINALIZED_STATES)
# Not completed ones: to do again what was done is said by --state or by id.
RETRIED_STATES = (JobState.CANCELLED, JobState.DISCARDED, JobState.RETRYABLE, JobState.SCHEDULED)
DELETED_STATES = tuple(state for state in JobState if state is not JobState.RUNNING)


def _filter_options(function: Function) -> Function:
    for option in (
        click.option(
            "--tag", "tags", multiple=True, metavar="TAG", help="With all of these tags; repeatable."
        ),
        click.option("--queue", "queues", multiple=True, metavar="NAME", help="In this queue; repeatable."),
        click.option("--kind", "kinds", multiple=True, metavar="KIND", help="Of this kind; repeatable."),
        click.option(
            "--state", "states", multiple=True, type=click.Choice(STATES), help="In this state; repeatable."
        ),
    ):
        function = option(function)
    return function


def _ids_argument(function: Function) -> Function:
    return click.argument("ids", metavar="[ID]...", type=ID, nargs=-1)(function)


@click.group(cls=Group, example="millhand job list --state discarded")
def job() -> None:
    """Insert, list, show, cancel, retry and delete jobs."""


@job.command(example="""millhand job insert send_email '{"to": "a@example.com"}' --queue mail""")
@click.argument("kind")
@click.argument("args", metavar="[ARGS]", default="{}")
@click.option("--queue", metavar="NAME", help="Into this queue, not default.")
@click.option("--priority", type=click.IntRange(1, 4), help="1 is worked first, 4 last.")
@click.option(
    "--max-attempts", type=click.IntRange(1, 32_767), metavar="N", help="Attempt it N times at most."
)
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="With this tag; repeatable.")
@click.option("--in", "delay", metavar="DURATION", help="Work it so much later, such as 5m.")
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
    Insert a job of a KIND with ARGS, a JSON object; - reads it from standard input.

    Nobody checks the args here: it is the worker that knows them.
    """
    opts = InsertOpts(
        max_attempts=max_attempts,
        priority=priority,
        queue=queue,
        scheduled_at=None if delay is None else _later(delay),
        tags=tags or None,
    )
    raw = RawArgs(kind, sys.stdin.read() if args == "-" else args)

    async def go(client: Client) -> InsertResult:
        return await client.insert(raw, opts)

    row = run_with_client(config_path, go).job
    if is_json:
        print_json(job_fields(row))
    elif is_terminal():
        click.echo(f"inserted job {row.id} of kind {row.kind} into queue {row.queue}")
    else:
        click.echo(row.id)


@job.command(name="list", example="millhand job list --state retryable --kind send_email --limit 20")
@_filter_options
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="List so many at most."
)
@click.option("--oldest-first", is_flag=True, help="Begin with the lowest ids, not the highest.")
@json_option
@click.pass_obj
def list_jobs(
    config_path: Path | None,
    *,
    states: tuple[str, ...],
    kinds: tuple[str, ...],
    queues: tuple[str, ...],
    tags: tuple[str, ...],
    limit: int,
    oldest_first: bool,
    is_json: bool,
) -> None:
    """List jobs, the newest first."""
    filters = _filters(states, kinds, queues, tags)

    async def go(client: Client) -> Sequence[JobRow]:
        return (await client.jobs.list(filters, descending=not oldest_first, limit=limit)).jobs

    rows = run_with_client(config_path, go)
    if is_json:
        print_json([job_fields(row) for row in rows])
    else:
        print_table(JOB_COLUMNS, [job_line(row) for row in rows], empty="no jobs")


@job.command(example="millhand job show 42")
@click.argument("id", type=ID)
@json_option
@click.pass_obj
def show(config_path: Path | None, *, id: int, is_json: bool) -> None:
    """Show a job: its args, its output, its errors with their traces, and its logs."""

    async def go(client: Client) -> JobRow:
        return await client.jobs.get(id)

    row = run_with_client(config_path, go)
    if is_json:
        print_json(job_fields(row))
    else:
        print_job(row)


@job.command(example="millhand job cancel --kind send_email --queue mail")
@_ids_argument
@_filter_options
@yes_option
@json_option
@click.pass_obj
def cancel(
    config_path: Path | None,
    *,
    ids: tuple[int, ...],
    states: tuple[str, ...],
    kinds: tuple[str, ...],
    queues: tuple[str, ...],
    tags: tuple[str, ...],
    is_sure: bool,
    is_json: bool,
) -> None:
    """
    Cancel jobs, by id or by filter; those that run are asked to end.

    Without --state a filter means all that are not finalized.
    """
    chosen = _Chosen(ids, _filters(states, kinds, queues, tags), UNFINALIZED_STATES)
    _act(
        config_path,
        chosen,
        "cancel",
        lambda client, one: client.jobs.cancel(one),
        is_json=is_json,
        is_sure=is_sure,
    )


@job.command(example="millhand job retry --state discarded --kind send_email --yes")
@_ids_argument
@_filter_options
@yes_option
@json_option
@click.pass_obj
def retry(
    config_path: Path | None,
    *,
    ids: tuple[int, ...],
    states: tuple[str, ...],
    kinds: tuple[str, ...],
    queues: tuple[str, ...],
    tags: tuple[str, ...],
    is_sure: bool,
    is_json: bool,
) -> None:
    """
    Have jobs worked again now, by id or by filter.

    Without --state a filter means those that are cancelled, discarded, retryable or scheduled.
    """
    chosen = _Chosen(ids, _filters(states, kinds, queues, tags), RETRIED_STATES)
    _act(
        config_path,
        chosen,
        "retry",
        lambda client, one: client.jobs.retry(one),
        is_json=is_json,
        is_sure=is_sure,
    )


@job.command(example="millhand job delete --state completed --queue mail")
@_ids_argument
@_filter_options
@yes_option
@json_option
@click.pass_obj
def delete(
    config_path: Path | None,
    *,
    ids: tuple[int, ...],
    states: tuple[str, ...],
    kinds: tuple[str, ...],
    queues: tuple[str, ...],
    tags: tuple[str, ...],
    is_sure: bool,
    is_json: bool,
) -> None:
    """
    Delete jobs that do not run, by id or by filter.

    Without --state a filter means all that are not running.
    """
    chosen = _Chosen(ids, _filters(states, kinds, queues, tags), DELETED_STATES)
    _act(
        config_path,
        chosen,
        "delete",
        lambda client, one: client.jobs.delete(one),
        is_json=is_json,
        is_sure=is_sure,
    )


class _Chosen:
    """Which jobs a command is about: ids, or a filter, and exactly one of them."""

    def __init__(self, ids: Sequence[int], filters: JobFilters, default_states: Sequence[JobState]) -> None:
        if ids and not filters.is_empty:
            raise WrongUse("jobs must be chosen by id or by filter, got both; leave one out")
        if not ids and filters.is_empty:
            raise WrongUse(
                "jobs must be chosen by id or by filter, got neither; write an id, or --state, --kind, --queue or --tag"
            )
        self.ids = tuple(JobId(id) for id in dict.fromkeys(ids))
        self._filters = filters if filters.states is not None else replace(filters, states=default_states)

    async def find(self, client: Client) -> tuple[JobId, ...]:
        """Return the ids of the jobs that pass the filter, and show some of them."""
        rows = [row async for row in _all_jobs(client, self._filters)]
        if is_terminal() and rows:
            print_table(JOB_COLUMNS, [job_line(row) for row in rows[:PREVIEWED]], empty="")
            if len(rows) > PREVIEWED:
                click.echo(f"… and {len(rows) - PREVIEWED:,} more")
        return tuple(row.id for row in rows)


def _act(
    config_path: Path | None, chosen: _Chosen, verb: str, act: Act, *, is_json: bool, is_sure: bool
) -> None:
    """Do something to the chosen jobs, one by one, and say what was not possible."""

    async def go(client: Client) -> tuple[list[JobRow], list[str]]:
        ids = chosen.ids
        if not ids:
            ids = await chosen.find(client)
            if ids:
                confirm(f"{verb} {_jobs(len(ids))}", is_sure=is_sure)
        done: list[JobRow] = []
        refusals: list[str] = []
        for id in ids:
            try:
                done.append(await act(client, id))
            except (JobRunning, NotFound, UniqueConflict) as error:
                refusals.append(str(error))
        return done, refusals

    done, refusals = run_with_client(config_path, go)
    if is_json:
        print_json([job_fields(row) for row in done])
    elif not is_terminal():
        for row in done:
            click.echo(row.id)
    say(f"{_PAST[verb]} {_jobs(len(done))}")
    if refusals:
        raise NotDone("; ".join(refusals))


_PAST = {"cancel": "cancelled", "delete": "deleted", "retry": "retried"}


async def _all_jobs(client: Client, filters: JobFilters) -> AsyncIterator[JobRow]:
    after: str | None = None
    while True:
        page = await client.jobs.list(filters, after=after, limit=PAGE)
        for row in page.jobs:
            yield row
        after = page.cursor
        if after is None:
            return


def _filters(
    states: Sequence[str], kinds: Sequence[str], queues: Sequence[str], tags: Sequence[str]
) -> JobFilters:
    return JobFilters(
        kinds=kinds or None,
        queues=queues or None,
        states=tuple(map(JobState, states)) or None,
        tags_all=tags or None,
    )


def _later(delay: str) -> datetime:
    """Return the instant that is so much later. Raises: ConfigError; WrongUse for one that no job can wait for."""
    wait = decode_text(delay, timedelta, "--in")
    assert isinstance(wait, timedelta)  # noqa: S101 - which is what it is decoded as
    if wait < timedelta(0):
        raise WrongUse(f"--in must not be negative, got {delay!r}; leave it out for at once")
    try:
        return datetime.now(UTC) + wait
    except OverflowError as error:
        raise WrongUse(f"--in must end before the year 10000, got {delay!r}") from error


def _jobs(count: int) -> str:
    return f"{count:,} job{'' if count == 1 else 's'}"
