"""`millhand migrate`: brings a schema to a version, says where it is, and prints the SQL."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from millhand.cli.command import Group, json_option, yes_option
from millhand.cli.database import database, opened
from millhand.cli.grants import grants_options, grants_text
from millhand.cli.output import NotDone, WrongUse, confirm, print_json, print_table, say
from millhand.cli.tune import tune_table
from millhand.driver.protocol import Driver
from millhand.errors import MigrationError
from millhand.schema.migrator import (
    Direction,
    MigrationStatus,
    MigrationStep,
    Migrator,
    lines,
    migration_sql,
    migrations,
)
from millhand.settings.load import Settings, load_settings

T = TypeVar("T")
Function = TypeVar("Function", bound=Callable[..., Any])

NOTHING = "nothing to do"


def _line_option(function: Function) -> Function:
    text = "The migration line: main is River's, millhand is ours; both if not said."
    return click.option("--line", metavar="NAME", help=text)(function)


def _schema_option(function: Function) -> Function:
    return click.option(
        "--schema", metavar="NAME", help="The schema of the tables, if not that of the settings."
    )(function)


def _step_options(function: Function) -> Function:
    for option in (
        click.option("--show-sql", is_flag=True, help="Print the SQL of each step."),
        click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
        click.option("--max-steps", type=click.IntRange(min=1), metavar="N", help="Make N steps at most."),
        click.option(
            "--target-version", type=click.IntRange(min=0), metavar="N", help="Go to this version of a line."
        ),
    ):
        function = option(function)
    return function


@click.group(cls=Group, example="millhand migrate up --dry-run")
def migrate() -> None:
    """Bring the database's schema to a version."""


@migrate.command(example="millhand migrate up --line main --target-version 8")
@_step_options
@_line_option
@_schema_option
@click.pass_obj
def up(
    config_path: Path | None,
    *,
    schema: str | None,
    line: str | None,
    target_version: int | None,
    max_steps: int | None,
    dry_run: bool,
    show_sql: bool,
) -> None:
    """
    Apply the versions that are not applied yet.

    Without --line all lines are brought up to date, River's first; with --target-version or --max-steps, River's alone.
    """
    chosen = _chosen(line, is_bounded=target_version is not None or max_steps is not None)

    async def go(driver: Driver) -> int:
        num_steps = 0
        for name in chosen:
            migrator = Migrator(driver, name)
            steps = await migrator.up(target=target_version, max_steps=max_steps, dry_run=dry_run)
            _print_steps(steps, is_dry=dry_run, should_show=show_sql)
            num_steps += len(steps)
        return num_steps

    if not _run(_settings(config_path, schema), go):
        click.echo(NOTHING)


@migrate.command(example="millhand migrate down --line main --target-version 5 --yes")
@_step_options
@_line_option
@_schema_option
@yes_option
@click.pass_obj
def down(
    config_path: Path | None,
    *,
    schema: str | None,
    line: str | None,
    target_version: int | None,
    max_steps: int | None,
    dry_run: bool,
    show_sql: bool,
    is_sure: bool,
) -> None:
    """
    Take versions back, and what is in their tables with them.

    Without --target-version or --max-steps it is one step, and target version 0 is all. Without --line it is River's.
    """
    settings, name = _settings(config_path, schema), _chosen(line, is_bounded=True)[0]

    async def plan(driver: Driver) -> list[MigrationStep]:
        return [*await Migrator(driver, name).down(target=target_version, max_steps=max_steps, dry_run=True)]

    async def go(driver: Driver) -> list[MigrationStep]:
        return [*await Migrator(driver, name).down(target=target_version, max_steps=max_steps)]

    planned = _run(settings, plan)
    if planned and not dry_run:
        versions = ", ".join(str(step.version) for step in planned)
        confirm(
            f"taking back version {versions} of line {name!r}, with the data in its tables,", is_sure=is_sure
        )
        planned = _run(settings, go)
    _print_steps(planned, is_dry=dry_run, should_show=show_sql)
    if not planned:
        click.echo(NOTHING)


@migrate.command(name="list", example="millhand migrate list --json")
@_line_option
@_schema_option
@json_option
@click.pass_obj
def list_versions(config_path: Path | None, *, schema: str | None, line: str | None, is_json: bool) -> None:
    """List the versions of each line, and which are applied."""
    found = _run(_settings(config_path, schema), lambda driver: _statuses(driver, _chosen(line)))
    if is_json:
        print_json(
            [
                {"line": name, "version": status.version, "name": status.name, "applied": status.is_applied}
                for name, status in found
            ]
        )
        return
    print_table(
        ("line", "version", "applied", "name"),
        [
            (name, status.version, status.is_applied, status.name or "(of a newer release)")
            for name, status in found
        ],
        empty="no versions",
    )


@migrate.command(example="millhand migrate validate")
@_line_option
@_schema_option
@click.pass_obj
def validate(config_path: Path | None, *, schema: str | None, line: str | None) -> None:
    """Say whether everything is applied; exit code 1 if not."""
    found = _run(_settings(config_path, schema), lambda driver: _statuses(driver, _chosen(line)))
    missing = [f"{name} {status.version}" for name, status in found if not status.is_applied]
    if missing:
        option = f" --schema {schema}" if schema else ""
        raise NotDone(
            f"all versions must be applied, missing: {', '.join(missing)}; run: millhand migrate up{option}"
        )
    say("all versions are applied")


@migrate.command(example="millhand migrate sql --version 7 --version 8 > migration.sql")
@click.option(
    "--version",
    "versions",
    type=int,
    multiple=True,
    metavar="N",
    help="A version; repeatable. All if not said.",
)
@click.option("--down", "is_down", is_flag=True, help="The SQL that takes the versions back.")
@grants_options
@_line_option
@_schema_option
@click.pass_obj
def sql(
    config_path: Path | None,
    *,
    versions: tuple[int, ...],
    is_down: bool,
    is_grants: bool,
    roles: tuple[str, ...],
    river_inserter: bool,
    line: str | None,
    schema: str | None,
) -> None:
    """
    Print the SQL of a line, for those who migrate by other means; needs no database.

    With --grants it is that of roles of least privilege, for the owner of the tables to run.
    """
    settings = _settings(config_path, schema)
    if is_grants:
        if versions or is_down or line is not None:
            raise WrongUse("--grants must stand without --version, --down and --line; leave them out")
        chosen_schema = settings.get("database.schema")
        click.echo(grants_text(roles, schema=chosen_schema, is_river_inserter=river_inserter))
        return
    if roles or river_inserter:
        raise WrongUse("--role and --river-inserter must stand beside --grants, got none; add it")
    direction = Direction.DOWN if is_down else Direction.UP
    for name in _chosen(line, is_bounded=bool(versions) or is_down):
        text = migration_sql(
            name, versions=versions or None, direction=direction, schema=settings.get("database.schema")
        )
        click.echo(text)


migrate.command(name="tune", example="millhand migrate tune --dry-run --show-sql")(tune_table)


def _settings(config_path: Path | None, schema: str | None) -> Settings:
    return load_settings(config_path, flags={"database.schema": ("--schema", schema)} if schema else {})


def _chosen(line: str | None, *, is_bounded: bool = False) -> tuple[str, ...]:
    """Return the lines that are meant; numbers of versions make sense for one line only."""
    if line is not None:
        return (line,)
    return lines()[:1] if is_bounded else lines()


def _run(settings: Settings, work: Callable[[Driver], Awaitable[T]]) -> T:
    async def go(driver: Driver, url: str) -> T:
        async with opened(driver, url):
            return await work(driver)

    with database(settings) as base:
        return asyncio.run(go(base.driver(settings), base.url))


async def _statuses(driver: Driver, names: Sequence[str]) -> list[tuple[str, MigrationStatus]]:
    found = []
    for name in names:
        try:
            found += [(name, status) for status in await Migrator(driver, name).list()]
        except MigrationError:
            if name == names[0]:
                raise
            # A line that needs the one before it, which is not applied yet: none of its own can be.
            found += [
                (name, MigrationStatus(version=one.version, name=one.name, is_applied=False))
                for one in migrations(name)
            ]
    return found


def _print_steps(steps: Sequence[MigrationStep], *, is_dry: bool, should_show: bool) -> None:
    for step in steps:
        done = "would apply" if is_dry else "applied"
        if step.direction is Direction.DOWN:
            done = "would take back" if is_dry else "took back"
        took = "" if is_dry else f" ({step.duration.total_seconds() * 1_000:.0f} ms)"
        click.echo(f"{done} version {step.version:03} of line {step.line}: {step.name}{took}")
        if should_show:
            click.echo(f"\n{step.sql.strip()}\n")
