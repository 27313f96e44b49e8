"""`millhand bench`: how fast Millhand is on this machine and database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import click
import msgspec

from millhand.bench import BenchResult, Plan, run_bench
from millhand.core.config import MAX_WORKERS_MAX
from millhand.process.signals import StopRequested, StopSignals
from millhand.shells.cli.chosen_database import command_settings
from millhand.shells.cli.command import Command
from millhand.shells.cli.database import database
from millhand.shells.cli.options import json_option
from millhand.shells.cli.output import print_json, print_message, print_table
from millhand.shells.cli.param_types import Whole
from millhand.shells.cli.table import Columns

NUM_JOBS_MAX = 10_000_000
COLUMNS = Columns(("figure", "value"))

# A field of `Figures`, its title and its format.
_LINES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("inserts_per_second", "inserts/s", "{:,.0f}".format),
    ("bulk_inserts_per_second", "bulk inserts/s", "{:,.0f}".format),
    ("jobs_per_second", "jobs/s", "{:,.0f}".format),
    ("pickup_p50_ms", "pickup p50, ms", "{:.2f}".format),
    ("pickup_p99_ms", "pickup p99, ms", "{:.2f}".format),
)


@click.command(cls=Command, example="millhand bench --jobs 50000 --workers 4000")
@click.option(
    "--jobs",
    "num_jobs",
    type=Whole(1, NUM_JOBS_MAX),
    default=Plan().num_jobs,
    metavar="N",
    help=f"Insert and work N jobs in each round; {Plan().num_jobs:,} by default.",
)
@click.option(
    "--workers",
    "slots",
    type=Whole(1, MAX_WORKERS_MAX),
    default=Plan().slots,
    metavar="N",
    help=f"Work N jobs at a time; {Plan().slots} by default.",
)
@json_option
@click.pass_obj
def bench(config_path: Path | None, *, num_jobs: int, slots: int, is_json: bool) -> None:
    """
    Measure how fast Millhand inserts and works no-op jobs.

    Millhand creates a schema for the run, drops it at the end and touches no other table. The run puts a heavy load on
    the database: do not use a production server.
    """
    settings = command_settings(config_path)
    with StopSignals() as signals:
        try:
            with database(settings) as base:
                result = asyncio.run(_measured(base.url, Plan(num_jobs=num_jobs, slots=slots), signals))
        except (StopRequested, asyncio.CancelledError):
            raise click.Abort from None
    if is_json:
        print_json(msgspec.to_builtins(result))
    else:
        print_table(COLUMNS, _rows(result), empty="")
        print_message(_caption(result))


async def _measured(url: str, plan: Plan, signals: StopSignals) -> BenchResult:
    """Measure; the first signal cancels the run and drops the schema, the third ends the process at once."""
    task = asyncio.current_task()

    def on_signal(_name: str, num_received: int) -> None:
        if num_received == 1 and task is not None:
            task.cancel()

    signals.listen(on_signal)
    try:
        return await run_bench(url, plan, lambda what: click.echo(what, err=True))
    finally:
        signals.end()


def _rows(result: BenchResult) -> list[tuple[str, str]]:
    return [(title, written(getattr(result.millhand, field))) for field, title, written in _LINES]


def _caption(result: BenchResult) -> str:
    plan = result.plan
    return (
        f"PostgreSQL {result.server_version}, medians of {plan.num_rounds} rounds of {plan.num_jobs:,} jobs, "
        f"{plan.slots:,} at a time"
    )
