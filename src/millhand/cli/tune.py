"""`millhand migrate tune`: how autovacuum is to treat the table of jobs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from millhand.cli.database import database, opened
from millhand.driver.protocol import Driver
from millhand.schema import autovacuum as tune
from millhand.settings.load import load_settings

NOTHING = "nothing to do"


@click.option("--show-sql", is_flag=True, help="Print the SQL, with its reasons.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--reset", "is_reset", is_flag=True, help="Have the server's own settings hold again.")
@click.option("--schema", metavar="NAME", help="The schema of the tables, if not that of the settings.")
@click.pass_obj
def tune_table(
    config_path: Path | None, *, schema: str | None, is_reset: bool, dry_run: bool, show_sql: bool
) -> None:
    """
    Have autovacuum treat the table of jobs as one that changes quickly.

    For busy queues; sets storage parameters of river_job, which needs its owner and keeps no job waiting.
    """
    settings = load_settings(config_path, flags={"database.schema": ("--schema", schema)} if schema else {})

    async def go(driver: Driver, url: str) -> list[tune.Change]:
        async with opened(driver, url):
            planned = await tune.plan(driver, is_reset=is_reset)
            if not dry_run:
                await tune.apply(driver, planned)
            return planned

    with database(settings) as base:
        planned = asyncio.run(go(base.driver(settings), base.url))
    for change in planned:
        click.echo(_told(change, is_dry=dry_run, with_reason=show_sql))
    if show_sql and planned:
        click.echo(f"\n{tune.sql(planned, settings.get('database.schema'))}")
    if not planned:
        click.echo(NOTHING)


def _told(change: tune.Change, *, is_dry: bool, with_reason: bool) -> str:
    done = "would set" if is_dry else "set"
    if change.after is None:
        done = "would reset" if is_dry else "reset"
    value = "" if change.after is None else f" = {change.after}"
    before = "" if change.before is None else f" (was {change.before})"
    reason = f": {tune.TUNINGS[change.name].reason}" if with_reason and change.after is not None else ""
    return f"{done} {tune.TABLE} {change.name}{value}{before}{reason}"
