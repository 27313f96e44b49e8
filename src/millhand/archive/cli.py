"""`millhand archive`: list the files of the archive, search them, restore a job, and erase jobs."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from millhand.archive.control import ArchiveControl, opened_archive
from millhand.core.archive import FINISHED_STATES, ArchiveFile, ArchiveFilters
from millhand.core.errors import NotFound
from millhand.core.job import JobRow, JobState, Json
from millhand.db.driver.protocol import Driver
from millhand.shells.cli.answers import requiring_line
from millhand.shells.cli.chosen_database import command_settings
from millhand.shells.cli.command import Group
from millhand.shells.cli.database import run_with_driver
from millhand.shells.cli.instant import decode_instant
from millhand.shells.cli.job_page import ID
from millhand.shells.cli.options import json_option, limit_option, list_option, options, yes_option
from millhand.shells.cli.output import (
    NotDone,
    WrongUse,
    confirm,
    counted,
    job_fields,
    print_json,
    print_message,
    print_rows,
)
from millhand.shells.cli.table import Columns
from millhand.storage import ObjectNotFound, StoreError, Versioning, open_store

Function = TypeVar("Function", bound=Callable[..., Any])
T = TypeVar("T")

FILE_COLUMNS = Columns(("day", "jobs", "bytes", "first", "last", "key"), optional=("first", "last"))
JOB_COLUMNS = Columns(
    ("id", "kind", "queue", "state", "attempt", "finished", "args"),
    texts=("args",),
    optional=("attempt", "queue"),
)
_KEPT = "the bucket keeps versions, so older versions of these keys may still hold the jobs: delete them too"
VERSIONS = {
    Versioning.ENABLED: _KEPT,
    Versioning.SUSPENDED: _KEPT,
    Versioning.UNKNOWN: (
        "these credentials may not read whether the bucket keeps versions: allow s3:GetBucketVersioning; if it does, older "
        "versions of these keys may still hold the jobs: delete them too"
    ),
}
# DuckDB's errors for a condition. Others are of the files, such as one that is damaged.
_ERRORS_OF_CONDITIONS = frozenset(
    f"{name}Exception"
    for name in (
        "Binder",
        "Catalog",
        "Conversion",
        "OutOfRange",
        "Parser",
        "Permission",
        "Syntax",
        "TypeMismatch",
    )
)


@click.group(cls=Group, example="millhand archive search --kind send_email --since 2026-03-01")
def archive() -> None:
    """List and search the archive of finished jobs, restore and erase jobs."""


def archive_filters(function: Function) -> Function:
    """Add the options that select archived jobs, and pass the command their `filters: ArchiveFilters`."""

    @options(
        list_option("--kind", "kinds", "Only jobs of this kind", metavar="KIND"),
        list_option("--queue", "queues", "Only jobs in this queue", metavar="NAME"),
        list_option("--state", "states", "Only jobs that ended in this state", metavar="STATE"),
        since_option,
        until_option,
        click.option(
            "--where",
            metavar="SQL",
            help="Only jobs that meet a condition of DuckDB, such as args ->> '$.to' = 'ann@example.com'.",
        ),
    )
    @functools.wraps(function)
    def command(
        *args: Any,  # noqa: ANN401 - what the command takes
        kinds: Sequence[str],
        queues: Sequence[str],
        states: Sequence[str],
        since: str | None,
        until: str | None,
        where: str | None,
        **others: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        filters = ArchiveFilters(
            kinds=kinds or None,
            queues=queues or None,
            states=[_state(name) for name in states] or None,
            since=decode_instant(since, "--since"),
            until=decode_instant(until, "--until"),
            where=where,
        )
        return function(*args, filters=filters, **others)

    return command  # type: ignore[return-value]  # click calls it with the options as keywords


since_option = click.option(
    "--since", metavar="TIME", help="Only jobs that finished since then: 2h for two hours ago, or 2026-03-01."
)
until_option = click.option(
    "--until", metavar="TIME", help="Only jobs that finished before then: 7d, or 2026-03-01T12:00Z."
)


@archive.command(name="list", example="millhand archive list --since 7d")
@since_option
@until_option
@limit_option
@json_option
@click.pass_obj
def list_files(
    config_path: Path | None, *, since: str | None, until: str | None, limit: int, is_json: bool
) -> None:
    """List the files of the archive, the newest first."""
    times = {"since": decode_instant(since, "--since"), "until": decode_instant(until, "--until")}
    files = _run(config_path, lambda control: control.files(limit=limit, **times))
    print_rows(
        files,
        columns=FILE_COLUMNS,
        line=lambda one: (one.day, one.num_jobs, one.num_bytes, one.first_at, one.last_at, one.key),
        fields=_file_fields,
        is_json=is_json,
        empty="no files in the archive",
    )
    if len(files) == limit:
        print_message(f"listed {counted(limit, 'file')}, the limit; for more add --limit, or --until")


@archive.command(
    example="millhand archive search --kind send_email --where \"args ->> '$.to' = 'a@b.example'\""
)
@archive_filters
@limit_option
@json_option
@click.pass_obj
def search(config_path: Path | None, *, filters: ArchiveFilters, limit: int, is_json: bool) -> None:
    """
    Search the archive, the jobs that finished last first.

    It downloads the files of the time that --since and --until select. A job that was retried has a line for each end.
    """
    found = _run(config_path, lambda control: control.search(filters, limit=limit))
    print_rows(
        found, columns=JOB_COLUMNS, line=_line, fields=dict, is_json=is_json, empty="no archived jobs match"
    )
    if len(found) == limit:
        print_message(f"listed {counted(limit, 'job')}, the limit; for more add --limit, or filter")


@archive.command(example="millhand archive restore 42")
@click.argument("id", type=ID)
@json_option
@click.pass_obj
def restore(config_path: Path | None, *, id: int, is_json: bool) -> None:
    """
    Make the archived job ID a job again.

    It is available now, with its id, args and errors.
    """

    async def go(control: ArchiveControl) -> JobRow | None:
        return await control.restore(id)

    job = _run(config_path, go)
    if job is None:
        raise NotDone(f"job {id} has a row in the database; run: millhand job retry {id}")
    if is_json:
        print_json(job_fields(job))
    print_message(f"restored job {id}")


@archive.command(example="millhand archive erase --where \"args ->> '$.to' = 'ann@example.com'\"")
@archive_filters
@yes_option
@json_option
@click.pass_obj
def erase(config_path: Path | None, *, filters: ArchiveFilters, is_sure: bool, is_json: bool) -> None:
    """
    Erase jobs from the archive, and print the files that held them.

    The files are written anew without the jobs. Delete rows and dead letters of the jobs first, or the leader archives
    them again.
    """
    if filters.is_empty:
        raise WrongUse("jobs to erase must be chosen by a filter, got none; add --where, --kind or --until")

    async def find(control: ArchiveControl) -> tuple[int, list[tuple[ArchiveFile, int]], Versioning]:
        # It comes first: what a pass has read already is added before it, or not at all.
        erasure = await control.begin_erasure()
        return erasure, await control.find(filters), await control.versioning()

    erasure, found, versioning = _run(config_path, find)
    num_jobs = sum(num for _, num in found)
    if found:
        confirm(f"erase {counted(num_jobs, 'job')} from {counted(len(found), 'file')}", is_sure=is_sure)

    done: list[dict[str, Json]] = []

    def add(key: str, num_erased: int) -> None:
        done.append({"key": key, "num_jobs": num_erased})
        if not is_json:
            click.echo(key)

    async def go(control: ArchiveControl) -> None:
        for file, _ in found:
            on_erased = functools.partial(add, file.key)
            await control.erase(file, filters, erasure=erasure, on_erased=on_erased)

    try:
        _run(config_path, go)
    finally:  # also if a deletion or a later file fails: the keys may have older versions
        if is_json:
            print_json(done)
        num_erased = sum(num for one in done if isinstance(num := one["num_jobs"], int))
        print_message(f"erased {counted(num_erased, 'job')} from {counted(len(done), 'file')}")
        if found and versioning in VERSIONS:
            print_message(VERSIONS[versioning])


def _run(config_path: Path | None, work: Callable[[ArchiveControl], Awaitable[T]]) -> T:
    settings = command_settings(config_path)
    found = settings.archive()
    if found is None:
        raise WrongUse(
            'archive.url must be set, got none; write url = "s3://my-bucket" into [archive] of millhand.toml'
        )

    async def go(driver: Driver) -> T:
        async with opened_archive(driver.pool, open_store(found.url, is_durable=True)) as control:
            try:
                await control.check_url()
                result = await work(control)
            except NotFound as error:
                missing = f"; {_missing(control)}" if control.missing else ""
                raise NotDone(f"{error}{missing}") from error
            except ObjectNotFound as error:
                raise NotDone(f"{error}; the file was changed meanwhile: repeat the command") from error
            except StoreError as error:
                raise NotDone(str(error)) from error
            except Exception as error:
                if type(error).__module__.partition(".")[0] not in ("duckdb", "_duckdb"):
                    raise
                reason = str(error).partition("\n")[0]
                if type(error).__name__ in _ERRORS_OF_CONDITIONS:
                    raise WrongUse(f"--where must be a condition of DuckDB, got {reason}") from error
                raise NotDone(f"files of the archive must be readable, got {reason}") from error
            if control.missing:
                print_message(_missing(control))
            return result

    return run_with_driver(settings, requiring_line(go), pool_size=1)


def _missing(control: ArchiveControl) -> str:
    files = counted(len(control.missing), "file")
    return f"{files} without an object, such as {min(control.missing)}; its jobs were not read"


def _line(job: dict[str, Any]) -> tuple[object, ...]:
    attempt = f"{job['attempt']}/{job['max_attempts']}"
    return job["id"], job["kind"], job["queue"], job["state"], attempt, job["finalized_at"], job["args"]


def _file_fields(file: ArchiveFile) -> dict[str, Any]:
    return {
        "key": file.key,
        "day": file.day.isoformat(),
        "first_at": file.first_at,
        "last_at": file.last_at,
        "num_jobs": file.num_jobs,
        "num_bytes": file.num_bytes,
    }


def _state(name: str) -> JobState:
    if name not in FINISHED_STATES:
        raise WrongUse(f"--state must be completed, cancelled or discarded, got {name!r}")
    return JobState(name)
