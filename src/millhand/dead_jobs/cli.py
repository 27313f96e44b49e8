"""`millhand dead`: list, show, retry and delete dead letters, the copies of discarded jobs."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from millhand.core.errors import JobNotDiscarded, NotFound, UniqueConflict
from millhand.core.job import Json
from millhand.dead_jobs.control import DeadJobControl
from millhand.dead_jobs.dead_job import DeadJob, DeadJobFilters
from millhand.shells.cli.answers import ask, print_answers, run
from millhand.shells.cli.changes import Changes
from millhand.shells.cli.command import Choice, Group
from millhand.shells.cli.instant import decode_instant
from millhand.shells.cli.job_page import ID, PAGE, PREVIEWED, print_job
from millhand.shells.cli.options import json_option, limit_option, list_option, options, yes_option
from millhand.shells.cli.output import (
    WrongUse,
    confirm,
    counted,
    is_terminal,
    job_fields,
    print_fields,
    print_json,
    print_message,
    print_table,
)
from millhand.shells.cli.param_types import not_empty
from millhand.shells.cli.table import Columns

Function = TypeVar("Function", bound=Callable[..., Any])
T = TypeVar("T")

COLUMNS = Columns(
    ("id", "kind", "queue", "attempt", "discarded", "row", "error"),
    texts=("error",),
    optional=("attempt", "queue", "row", "discarded"),
)


@click.group(cls=Group, example="millhand dead list --kind send_email --error timeout")
def dead() -> None:
    """List, show, retry and delete dead letters, the copies of discarded jobs."""


def dead_job_filters(function: Function) -> Function:
    """Add the options that select dead letters, and pass the command their `filters: DeadJobFilters`."""

    @options(
        list_option("--kind", "kinds", "Only jobs of this kind", metavar="KIND"),
        list_option("--queue", "queues", "Only jobs in this queue", metavar="NAME"),
        click.option(
            "--error",
            callback=not_empty,
            metavar="TEXT",
            help="Only jobs whose last error contains this text.",
        ),
        click.option(
            "--since",
            metavar="TIME",
            help="Only jobs discarded since then: 2h for two hours ago, or 2026-03-01.",
        ),
        click.option(
            "--until", metavar="TIME", help="Only jobs discarded before then: 7d, or 2026-03-01T12:00Z."
        ),
    )
    @functools.wraps(function)
    def command(
        *args: Any,  # noqa: ANN401 - what the command takes
        kinds: Sequence[str],
        queues: Sequence[str],
        error: str | None,
        since: str | None,
        until: str | None,
        **others: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        filters = DeadJobFilters(
            kinds=kinds or None,
            queues=queues or None,
            error=error,
            since=decode_instant(since, "--since"),
            until=decode_instant(until, "--until"),
        )
        return function(*args, filters=filters, **others)

    return command  # type: ignore[return-value]  # click calls it with the options as keywords


@dead.command(name="list", example="millhand dead list --queue mail --since 7d", choice=Choice.ANY)
@dead_job_filters
@limit_option
@json_option
@click.pass_obj
def list_dead_jobs(config_path: Path | None, *, filters: DeadJobFilters, limit: int, is_json: bool) -> None:
    """
    List dead letters, the jobs that were discarded last first.

    `row` is the state of the job's row now, or `deleted`.
    """
    answers = ask(config_path, lambda driver: DeadJobControl(driver).list(filters, limit=limit))
    print_answers(
        answers.map(lambda page: page.dead_jobs),
        columns=COLUMNS,
        line=_line,
        fields=_fields,
        is_json=is_json,
        empty="no dead letters",
    )
    more = f"listed {counted(limit, 'dead letter')}, the limit; for more add --limit with up to 10,000, or filter"
    for text in answers.texts(lambda page: [more] if page.cursor is not None else []):
        print_message(text)
    answers.require_all()


@dead.command(example="millhand dead show 42")
@click.argument("id", type=ID)
@json_option
@click.pass_obj
def show(config_path: Path | None, *, id: int, is_json: bool) -> None:
    """Show the dead letter of job ID: args, errors, tracebacks and logs."""
    found = _run(config_path, lambda dead_jobs: dead_jobs.get(id))
    if is_json:
        print_json(_fields(found))
    else:
        print_job(found.job)
        print_fields([("copied_at", found.copied_at), ("row", _row(found))])


@dead.command(example="millhand dead retry --kind send_email --error timeout --yes")
@click.argument("ids", metavar="[ID]...", type=ID, nargs=-1)
@dead_job_filters
@yes_option
@json_option
@click.pass_obj
def retry(
    config_path: Path | None, *, ids: tuple[int, ...], filters: DeadJobFilters, is_sure: bool, is_json: bool
) -> None:
    """
    Retry dead letters by id or by filter.

    The jobs become available, and the dead letters are deleted. A job whose row was deleted is inserted again, with its id.
    """
    _act(config_path, "retry", ids, filters, is_json=is_json, is_sure=is_sure)


@dead.command(example="millhand dead delete --until 30d --yes")
@click.argument("ids", metavar="[ID]...", type=ID, nargs=-1)
@dead_job_filters
@yes_option
@json_option
@click.pass_obj
def delete(
    config_path: Path | None, *, ids: tuple[int, ...], filters: DeadJobFilters, is_sure: bool, is_json: bool
) -> None:
    """Delete dead letters by id or by filter. Rows of the jobs that are still discarded are deleted too."""
    _act(config_path, "delete", ids, filters, is_json=is_json, is_sure=is_sure)


_PAST = {"retry": "retried", "delete": "deleted"}


def _act(
    config_path: Path | None,
    verb: str,
    ids: Sequence[int],
    filters: DeadJobFilters,
    *,
    is_json: bool,
    is_sure: bool,
) -> None:
    """Retry or delete the chosen dead letters one by one. Raises: NotDone with the refusals, if any."""
    if bool(ids) is not filters.is_empty:
        raise WrongUse(
            "dead letters must be chosen by id or by filter, got "
            + (
                "both; use only one"
                if ids
                else "neither; add an id, --kind, --queue, --error, --since or --until"
            )
        )
    chosen = list(dict.fromkeys(ids))
    if not ids:
        chosen, first = _run(config_path, lambda dead_jobs: _find(dead_jobs, filters))
        if chosen:
            _preview(first, len(chosen))
            confirm(f"{verb} {counted(len(chosen), 'dead letter')}", is_sure=is_sure)
    changes = Changes(is_json=is_json)
    with changes.printed(_PAST[verb], "dead letter"):
        _run(config_path, lambda dead_jobs: _change(dead_jobs, changes, verb, chosen))


async def _change(dead_jobs: DeadJobControl, changes: Changes, verb: str, ids: Sequence[int]) -> None:
    """Retry or delete dead letters, and add the job of each to `changes`."""
    for id in ids:
        try:
            if verb == "retry":
                changes.add(await dead_jobs.retry(id))
            else:
                changes.add((await dead_jobs.delete(id)).job)
        except JobNotDiscarded as error:
            text = str(error).replace(f"client.jobs.retry({id})", f"millhand job retry {id}")
            changes.refusals.append(text)
        except (NotFound, UniqueConflict) as error:
            changes.refusals.append(str(error))


async def _find(dead_jobs: DeadJobControl, filters: DeadJobFilters) -> tuple[list[int], Sequence[DeadJob]]:
    """Return the ids of the dead letters that the filter selects, and the first dead letters: all may be large."""
    page = await dead_jobs.list(filters, limit=PAGE)
    ids: list[int] = [one.job.id for one in page.dead_jobs]
    first = page.dead_jobs[:PREVIEWED]
    while page.cursor is not None:
        page = await dead_jobs.list(filters, after=page.cursor, limit=PAGE)
        ids += [one.job.id for one in page.dead_jobs]
    return ids, first


def _preview(first: Sequence[DeadJob], num: int) -> None:
    if is_terminal():
        print_table(COLUMNS, [_line(one) for one in first], empty="")
        if num > len(first):
            click.echo(f"… and {num - len(first):,} more")


def _run(config_path: Path | None, work: Callable[[DeadJobControl], Awaitable[T]]) -> T:
    return run(config_path, lambda driver: work(DeadJobControl(driver)))


def _line(one: DeadJob) -> tuple[object, ...]:
    job = one.job
    attempt = f"{job.attempt}/{job.max_attempts}"
    error = job.errors[-1].error if job.errors else ""
    return job.id, job.kind, job.queue, attempt, job.finalized_at, _row(one), error


def _fields(one: DeadJob) -> dict[str, Json]:
    return {**job_fields(one.job), "copied_at": one.copied_at, "current_state": one.current_state}


def _row(one: DeadJob) -> str:
    return "deleted" if one.current_state is None else one.current_state.value
