"""`millhand migrate tune`: set autovacuum's parameters of the table of jobs."""

from __future__ import annotations

import click

from millhand.cli.database import run_with_driver
from millhand.cli.options import dry_run_option, schema_settings
from millhand.driver.protocol import Driver
from millhand.schema import autovacuum
from millhand.settings.load import Settings


@click.option("--show-sql", is_flag=True, help="Print the SQL and the reason for each parameter.")
@dry_run_option
@click.option("--reset", "is_reset", is_flag=True, help="Remove the parameters, so that the server's apply.")
@schema_settings
def tune_table(settings: Settings, *, is_reset: bool, dry_run: bool, show_sql: bool) -> None:
    """
    Tune autovacuum for a busy table of jobs.

    The command sets storage parameters of river_job. The role must own the table. No job waits for it.
    """

    async def go(driver: Driver) -> list[autovacuum.Change]:
        planned = await autovacuum.plan(driver, is_reset=is_reset)
        if not dry_run:
            await autovacuum.apply(driver, planned)
        return planned

    planned = run_with_driver(settings, go, migrates_embedded=False)
    for change in planned:
        click.echo(_line(change, is_dry=dry_run, with_reason=show_sql))
    if show_sql and planned:
        click.echo(f"\n{autovacuum.sql(planned, settings.get('database.schema'))}")
    if not planned:
        click.echo("nothing to do")


def _line(change: autovacuum.Change, *, is_dry: bool, with_reason: bool) -> str:
    done = "would set" if is_dry else "set"
    if change.after is None:
        done = "would reset" if is_dry else "reset"
    value = "" if change.after is None else f" = {change.after}"
    before = "" if change.before is None else f" (was {change.before})"
    reason = f": {autovacuum.TUNINGS[change.name].reason}" if with_reason and change.after is not None else ""
    return f"{done} {autovacuum.TABLE} {change.name}{value}{before}{reason}"
