"""`millhand migrate`: migrate a schema, list its versions, and print the SQL."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields
from datetime import timedelta
from typing import TypeVar

import click

from millhand.cli.tune import NOTHING, tune
from millhand.core.errors import MigrationError
from millhand.core.job import Json
from millhand.core.secret import masked_url
from millhand.db.driver.protocol import Driver
from millhand.db.index import index_get_searches
from millhand.db.migration import migration_get_shape
from millhand.db.schema import search_indexes
from millhand.db.schema.grants import Roles, grants_sql
from millhand.db.schema.lock_limit import LOCK_TRIES, LockLimit, LockRetry
from millhand.db.schema.migrator import (
    LINE_MAIN,
    Direction,
    MigrationStatus,
    MigrationStep,
    Migrator,
    lines,
    migration_sql,
    migrations,
)
from millhand.observe.terminal_text import printable
from millhand.shells.cli.command import Choice, Group
from millhand.shells.cli.database import run_with_driver
from millhand.shells.cli.options import dry_run_option, json_option, options, schema_settings, yes_option
from millhand.shells.cli.output import NotDone, WrongUse, confirm, print_message, print_rows
from millhand.shells.cli.param_types import Whole
from millhand.shells.cli.table import Columns
from millhand.shells.settings.decode import decode_text, guess
from millhand.shells.settings.load import Settings

T = TypeVar("T")

ROLES = tuple(field.name for field in fields(Roles))

_LINES = "main (River's) or millhand"
_line_option = click.option(
    "--line", metavar="NAME", help=f"Use this migration line: {_LINES}. The default is both."
)
_reverted_line_option = click.option(
    "--line", metavar="NAME", help=f"Revert versions of this migration line: {_LINES}. Required."
)
_step_options = options(
    click.option(
        "--target-version", "target", type=Whole(0), metavar="N", help="Migrate to version N of a line."
    ),
    click.option("--max-steps", type=Whole(1), metavar="N", help="Migrate by at most N versions."),
    dry_run_option,
    click.option("--show-sql", is_flag=True, help="Print the SQL of each version."),
    click.option(
        "--lock-timeout",
        metavar="DURATION",
        default="1s",
        show_default=True,
        help="Wait this long for a lock, and then let other statements run as long; none for no limit.",
    ),
    click.option(
        "--lock-tries",
        type=Whole(1),
        metavar="N",
        default=LOCK_TRIES,
        show_default=True,
        help="Try each version at most N times.",
    ),
    schema_settings,
)


@click.group(cls=Group, example="millhand migrate up --dry-run")
def migrate() -> None:
    """Migrate the database schema."""


@migrate.command(example="millhand migrate up --line main --target-version 8")
@_step_options
@_line_option
def up(
    settings: Settings,
    /,
    *,
    line: str | None,
    dry_run: bool,
    show_sql: bool,
    lock_timeout: str,
    lock_tries: int,
    **bounds: int | None,
) -> None:
    """
    Apply the versions that are missing.

    The default is both lines, River's first. With --target-version or --max-steps it is River's line alone.
    """
    chosen = _chosen(line, is_bounded=any(bound is not None for bound in bounds.values()))
    lock_limit = _lock_limit(lock_timeout, lock_tries)
    show = functools.partial(_print_step, is_dry=dry_run, should_show=show_sql)

    async def go(driver: Driver) -> int:
        num_steps = 0
        for name in chosen:
            migrator = Migrator(driver, name, lock_limit=lock_limit, on_step=show)
            steps = await migrator.up(**bounds, dry_run=dry_run)
            for step in steps if dry_run else ():
                show(step)
            num_steps += len(steps)
        return num_steps

    if not _run(settings, go):
        click.echo(NOTHING)


@migrate.command(example="millhand migrate down --line main --target-version 5 --yes")
@_step_options
@_reverted_line_option
@yes_option
def down(
    settings: Settings,
    /,
    *,
    line: str | None,
    dry_run: bool,
    show_sql: bool,
    is_sure: bool,
    lock_timeout: str,
    lock_tries: int,
    **bounds: int | None,
) -> None:
    """
    Revert versions of a line, and drop the data in their tables.

    Without --target-version and --max-steps, the command reverts one version. --target-version 0 reverts all.
    """
    name, lock_limit = _named(line), _lock_limit(lock_timeout, lock_tries)
    show = functools.partial(_print_step, is_dry=dry_run, should_show=show_sql)

    async def plan(driver: Driver) -> tuple[Sequence[MigrationStep], str | None]:
        steps = await Migrator(driver, name).down(**bounds, dry_run=True)
        return steps, (await driver.pool.run(migration_get_shape())).schema_name

    planned, schema = _run(settings, plan)
    if not planned:
        click.echo(NOTHING)
    elif dry_run:
        for step in planned:
            show(step)
    else:
        confirm(f"drop {_dropped(planned)} from {_place(settings, schema)}", is_sure=is_sure)
        # Not the bounds: they would select more versions if another migrator has reverted the planned ones meanwhile.
        below = planned[-1].version - 1

        async def go(driver: Driver) -> Sequence[MigrationStep]:
            return await Migrator(driver, name, lock_limit=lock_limit, on_step=show).down(target=below)

        if not _run(settings, go):
            click.echo(NOTHING)


@migrate.command(name="list", example="millhand migrate list --json")
@_line_option
@schema_settings
@json_option
def list_versions(settings: Settings, *, line: str | None, is_json: bool) -> None:
    """List the versions of each line, and whether they are applied."""
    print_rows(
        _run(settings, lambda driver: _statuses(driver, _chosen(line))),
        columns=Columns(("line", "version", "applied", "name"), texts=("name",)),
        line=_status_line,
        fields=_status_fields,
        is_json=is_json,
        empty="no versions",
    )


@migrate.command(example="millhand migrate validate")
@_line_option
@schema_settings
def validate(settings: Settings, *, line: str | None) -> None:
    """Check that all versions are applied. The exit code is 1 if not."""
    chosen = _chosen(line)

    async def go(driver: Driver) -> tuple[list[tuple[str, MigrationStatus]], list[str]]:
        indexes = await driver.pool.run(index_get_searches()) if LINE_MAIN in chosen else []
        return await _statuses(driver, chosen), search_indexes.missing(indexes)

    found, indexes = _run(settings, go)
    missing = [f"{name} {status.version}" for name, status in found if not status.is_applied]
    has_flag = settings.origin("database.schema") == "--schema"
    option = f" --schema {settings.get('database.schema')}" if has_flag else ""
    if missing:
        raise NotDone(
            f"all versions must be applied, missing: {', '.join(missing)}; run: millhand migrate up{option}"
        )
    off = (
        f"; the search indexes are off: {', '.join(indexes)}; to build them, run: "
        f"millhand migrate tune --with-search-indexes{option}"
        if indexes
        else ""
    )
    print_message(f"all versions are applied{off}")


@migrate.command(example="millhand migrate sql --version 7 --version 8 > migration.sql", choice=Choice.NONE)
@click.option(
    "--version",
    "versions",
    type=Whole(1),
    multiple=True,
    metavar="N",
    help="Print this version; repeatable. The default is all.",
)
@click.option("--down", "is_down", is_flag=True, help="Print the SQL that reverts the versions of --line.")
@click.option(
    "--grants", "is_grants", is_flag=True, help="Print the SQL that creates roles of least privilege."
)
@click.option(
    "--role",
    "roles",
    multiple=True,
    metavar="ROLE=NAME",
    help=f"Name the role {', '.join(ROLES[:-1])} or {ROLES[-1]}; repeatable. "
    f"The default is {Roles().worker} and so on.",
)
@click.option("--river-inserter", is_flag=True, help="Allow the inserter to use River's client, too.")
@_line_option
@schema_settings
def sql(
    settings: Settings,
    *,
    versions: tuple[int, ...],
    is_down: bool,
    is_grants: bool,
    roles: tuple[str, ...],
    river_inserter: bool,
    line: str | None,
) -> None:
    """
    Print the SQL of a line, for other migration tools. The command needs no database.

    With --grants, print the SQL of roles of least privilege instead. The owner of the tables must run it.
    """
    schema = settings.get("database.schema")
    if is_grants:
        if versions or is_down or line is not None:
            raise WrongUse("--grants must be used without --version, --down and --line; leave them out")
        named = Roles(**dict(map(_role, roles)))
        click.echo(grants_sql(named, schema=schema, is_river_inserter=river_inserter))
        return
    if roles or river_inserter:
        raise WrongUse("--role and --river-inserter must be used with --grants, got none; add it")
    direction = Direction.DOWN if is_down else Direction.UP
    chosen = (_named(line),) if is_down else _chosen(line, is_bounded=bool(versions))
    for name in chosen:
        click.echo(migration_sql(name, versions=versions or None, direction=direction, schema=schema))


migrate.add_command(tune)


def _lock_limit(timeout_text: str, tries: int) -> LockLimit:
    """Return the limit that the options name. Raises: ConfigError."""
    timeout: timedelta | None = decode_text(timeout_text, timedelta | None, "--lock-timeout")  # type: ignore[assignment]
    return LockLimit(timeout=timeout, tries=tries, on_retry=_print_retry)


def _print_retry(retry: LockRetry) -> None:
    """Print on standard error, so that standard output has the versions alone."""
    name = f"version {retry.version:03} of line {retry.line}"
    reason = ""
    if retry.oldest is not None:
        program = f" of {retry.oldest.application_name}" if retry.oldest.application_name else ""
        reason = f"; pid {retry.oldest.pid}{program} has a transaction open for {retry.oldest.seconds:.0f} s"
    text = f"{name} waits for a lock, try {retry.num_tries} of {retry.tries}{reason}"
    click.echo(f"warning: {printable(text)}", err=True)


def _role(text: str) -> tuple[str, str]:
    role, equals, name = text.partition("=")
    if not equals or role not in ROLES:
        raise WrongUse(
            f"--role must be one of {', '.join(ROLES)} and its name, got {text!r}; "
            f"write it like 'worker=shop_worker'{guess(role, ROLES) if equals else ''}"
        )
    return role, name


def _chosen(line: str | None, *, is_bounded: bool = False) -> tuple[str, ...]:
    """Return the lines to migrate; version numbers apply to one line only."""
    if line is not None:
        return (line,)
    return lines()[:1] if is_bounded else lines()


def _named(line: str | None) -> str:
    """Return the line to revert. Raises: WrongUse without one, because a default would drop the jobs."""
    if line is None:
        choices = " or ".join(f"--line {name}" for name in lines())
        raise WrongUse(f"--line must name the line to revert, got none; write {choices}")
    return line


def _dropped(steps: Sequence[MigrationStep]) -> str:
    """Return what steps down drop; the versions of a line have no gaps."""
    first, last = steps[0], steps[-1]
    if first is last:
        return f"version {first.version} of line {first.line} and its data"
    return f"versions {first.version} to {last.version} of line {first.line} and their data"


def _place(settings: Settings, schema: str | None) -> str:
    """Return the schema and the database that a command changes, without a password."""
    url = settings.database_url
    database = "the embedded database" if url is None else f"database {masked_url(url)!r}"
    return f"schema {schema!r} of {database}"


def _run(settings: Settings, work: Callable[[Driver], Awaitable[T]]) -> T:
    return run_with_driver(settings, work, migrates_embedded=False)


def _status_line(found: tuple[str, MigrationStatus]) -> tuple[object, ...]:
    line, status = found
    return line, status.version, status.is_applied, status.name or "(of a newer release)"


def _status_fields(found: tuple[str, MigrationStatus]) -> dict[str, Json]:
    line, status = found
    return {"line": line, "version": status.version, "name": status.name, "applied": status.is_applied}


async def _statuses(driver: Driver, names: Sequence[str]) -> list[tuple[str, MigrationStatus]]:
    found = []
    for name in names:
        try:
            found += [(name, status) for status in await Migrator(driver, name).list()]
        except MigrationError:
            if name == names[0]:
                raise
            # This line needs the first one, which is not applied yet, so none of its versions are.
            found += [
                (name, MigrationStatus(version=one.version, name=one.name, is_applied=False))
                for one in migrations(name)
            ]
    return found


def _print_step(step: MigrationStep, *, is_dry: bool, should_show: bool) -> None:
    done = "would apply" if is_dry else "applied"
    if step.direction is Direction.DOWN:
        done = "would revert" if is_dry else "reverted"
    took = "" if is_dry else f" ({step.duration.total_seconds() * 1_000:.0f} ms)"
    click.echo(f"{done} version {step.version:03} of line {step.line}: {step.name}{took}")
    if should_show:
        click.echo(f"\n{step.sql.strip()}\n")
