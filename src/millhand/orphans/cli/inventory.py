"""`millhand orphans inventory`: compare an S3 Inventory with the rows by another engine, and go on from its differences."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

import click

from millhand.core.errors import ConfigError
from millhand.db.driver.protocol import Executor
from millhand.orphans import Mode, OrphansConfig
from millhand.orphans.cli.reconcile import run_reconcile
from millhand.orphans.inventory.difference_sql import DIALECTS
from millhand.orphans.inventory.printed import export_script, printed_statement
from millhand.orphans.sources.blobs import with_blobs
from millhand.orphans.sources.references import open_references
from millhand.shells.cli.chosen_database import command_settings
from millhand.shells.cli.command import Command
from millhand.shells.cli.options import json_option, yes_option
from millhand.shells.cli.output import WrongUse, confirm
from millhand.shells.cli.param_types import OneOf
from millhand.shells.cli.store_target import run_with_store, shown_store
from millhand.storage import ObjectStore

NO_INVENTORY = "orphans.inventory must be set for --sql, got none; set it to the folder of an S3 Inventory's configuration"


@click.command(name="inventory", cls=Command, example="millhand orphans inventory --sql athena")
@click.option("--export", "is_export", is_flag=True, help="Print a script for psql that exports the rows.")
@click.option("--sql", "engine", type=OneOf(list(DIALECTS)), help="Print the statement for this engine.")
@click.option(
    "--report", metavar="TABLE", help="Read the report from this table, not from the files or `inventory`."
)
@click.option(
    "--rows", metavar="TABLE", help="Read the rows from this table, not from the files or `millhand_rows`."
)
@click.option(
    "--differences",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Run the orphan cleanup on the differences in this file.",
)
@click.option(
    "--mode", type=OneOf([mode.value for mode in Mode]), help="Use this mode, not the one of the settings."
)
@yes_option
@json_option
@click.pass_context
def compare_inventory(
    context: click.Context,
    *,
    is_export: bool,
    engine: str | None,
    report: str | None,
    rows: str | None,
    differences: Path | None,
    mode: str | None,
    is_sure: bool,
    is_json: bool,
) -> None:
    """
    Compare an S3 Inventory with the rows, by another engine.

    `--export` and `--sql` print what to run on an engine such as Athena: first the export of the rows, then the
    statement. `--differences` goes on from its result: it looks up each key in the file, as a run does. Exit codes are
    those of `millhand orphans run`.
    """
    given = [
        name
        for name, is_given in (
            ("--export", is_export),
            ("--sql", engine is not None),
            ("--differences", differences is not None),
        )
        if is_given
    ]
    if len(given) != 1:
        got = " and ".join(given) or "nothing"
        raise WrongUse(f"exactly one of --export, --sql and --differences must be given, got {got}")
    settings = command_settings(context.obj)
    config = settings.orphans_config()
    if mode is not None:
        config = dataclasses.replace(config, mode=Mode(mode))
    if differences is not None:
        if config.mode is not Mode.REPORT:
            confirm(
                f"{config.mode.value} the orphans that are due in {shown_store(settings)}", is_sure=is_sure
            )
        run_reconcile(context, settings, config, is_json=is_json, differences=differences)
        return
    if engine is not None and config.inventory is None:
        raise ConfigError(NO_INVENTORY)

    async def text(executor: Executor, store: ObjectStore) -> str:
        whole = await with_blobs(executor, store, config)
        if engine is None:
            return export_script(await open_references(executor, _only_report(whole)), whole)
        return await printed_statement(
            store, whole, DIALECTS[engine], now=datetime.now(UTC), report_table=report, rows_table=rows
        )

    click.echo(run_with_store(settings, text), nl=False)


def _only_report(config: OrphansConfig) -> OrphansConfig:
    # An export deletes nothing, so foreign keys do not matter.
    return dataclasses.replace(config, mode=Mode.REPORT)
