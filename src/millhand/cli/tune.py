"""`millhand migrate tune`: tune autovacuum, and drop or build the search indexes."""

from __future__ import annotations

import time

import click

from millhand.db.driver.protocol import Driver
from millhand.db.schema import autovacuum, search_indexes
from millhand.db.schema.search_indexes import Action, IndexStep
from millhand.shells.cli.command import Command
from millhand.shells.cli.database import run_with_driver
from millhand.shells.cli.options import dry_run_option, schema_settings
from millhand.shells.cli.output import WrongUse, print_message
from millhand.shells.settings.load import Settings

NOTHING = "nothing to do"
_SLOWER = (
    "without them, inserts and completions write less. Searches by args and metadata have no index: the web page reads the "
    "newest jobs in steps, and lists by metadata in your code read the whole table. To build them again: millhand migrate "
    "tune --with-search-indexes"
)


@click.command(cls=Command, example="millhand migrate tune --dry-run --show-sql")
@click.option("--show-sql", is_flag=True, help="Print the SQL, and the reason for each parameter.")
@dry_run_option
@click.option("--reset", "is_reset", is_flag=True, help="Remove the parameters, so that the server's apply.")
@click.option(
    "--with-search-indexes/--without-search-indexes",
    "is_wanted",
    default=None,
    help="Build River's indexes of args and metadata, or drop them, and leave the parameters as they are.",
)
@schema_settings
def tune(
    settings: Settings, *, is_reset: bool, is_wanted: bool | None, dry_run: bool, show_sql: bool
) -> None:
    """
    Tune autovacuum for busy tables, or drop the search indexes.

    The command sets storage parameters of river_job and of the tables of limits. The role must own the tables. The command
    delays no job.

    With --without-search-indexes, it drops the two indexes that only searches by args and metadata read, and every insert
    and completion writes. A call that was interrupted can be repeated.
    """
    if is_wanted is None:
        _tune_autovacuum(settings, is_reset=is_reset, dry_run=dry_run, show_sql=show_sql)
    elif is_reset:
        raise WrongUse("--reset must be used without the options of search indexes; run the command twice")
    else:
        _tune_indexes(settings, is_wanted=is_wanted, dry_run=dry_run, show_sql=show_sql)


def _tune_autovacuum(settings: Settings, *, is_reset: bool, dry_run: bool, show_sql: bool) -> None:
    async def go(driver: Driver) -> list[autovacuum.Change]:
        planned = await autovacuum.plan(driver, is_reset=is_reset)
        if not dry_run:
            await autovacuum.apply(driver, planned)
        return planned

    planned = run_with_driver(settings, go, migrates_embedded=False)
    for change in planned:
        click.echo(_change_line(change, is_dry=dry_run, with_reason=show_sql))
    if show_sql and planned:
        click.echo(f"\n{autovacuum.sql(planned, settings.get('database.schema'))}")
    if not planned:
        click.echo(NOTHING)


def _tune_indexes(settings: Settings, *, is_wanted: bool, dry_run: bool, show_sql: bool) -> None:
    async def go(driver: Driver) -> list[IndexStep]:
        planned = await search_indexes.plan(driver, is_wanted=is_wanted)
        for step in planned:
            began = time.monotonic()
            if not dry_run:
                await search_indexes.apply(driver, step)
            # At once: the next step may take minutes, and may be interrupted.
            click.echo(_step_line(step, None if dry_run else time.monotonic() - began))
        return planned

    planned = run_with_driver(settings, go, migrates_embedded=False)
    if show_sql and planned:
        click.echo(f"\n{search_indexes.sql(planned, settings.get('database.schema'))}")
    if not planned:
        click.echo(NOTHING)
    elif not is_wanted:
        print_message(_SLOWER)


def _step_line(step: IndexStep, seconds: float | None) -> str:
    """Return the line about a step that took so long; None for one that was not taken."""
    verbs = {Action.BUILD: ("built", "would build"), Action.DROP: ("dropped", "would drop")}
    done = verbs[step.action][seconds is None]
    size = f", {step.num_bytes / 2**20:,.1f} MiB" if step.num_bytes else ""
    left = ", which an interrupted build or drop left" if step.is_left else ""
    took = "" if seconds is None else f" ({seconds:,.1f} s)"
    return f"{done} {step.name}{size}{left}{took}"


def _change_line(change: autovacuum.Change, *, is_dry: bool, with_reason: bool) -> str:
    done = "would set" if is_dry else "set"
    if change.after is None:
        done = "would reset" if is_dry else "reset"
    value = "" if change.after is None else f" = {change.after}"
    before = "" if change.before is None else f" (was {change.before})"
    reason = f": {change.reason}" if with_reason and change.after is not None else ""
    return f"{done} {change.table} {change.name}{value}{before}{reason}"
