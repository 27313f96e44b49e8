"""`millhand bench`: how fast this database, this machine and Millhand are together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import click
import msgspec

from millhand.bench import BenchResult, Plan, run_bench
from millhand.bench.floor import FLOOR_SLOTS
from millhand.cli.command import Command, json_option
from millhand.cli.database import database
from millhand.cli.output import print_json, print_table, say
from millhand.config import MAX_WORKERS_MAX
from millhand.process.signals import StopRequested, StopSignals
from millhand.settings.load import load_settings

NUM_JOBS_MAX = 10_000_000
COLUMNS = ("", "millhand", "floor", "ratio")

# A field of `Figures`, and how it is called and written.
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
    type=click.IntRange(1, NUM_JOBS_MAX),
    default=Plan().num_jobs,
    metavar="N",
    help=f"How many jobs each round inserts and works; {Plan().num_jobs:,} by default.",
)
@click.option(
    "--workers",
    "slots",
    type=click.IntRange(1, MAX_WORKERS_MAX),
    default=Plan().slots,
    metavar="N",
    help=f"How many of them at a time; {Plan().slots} by default.",
)
@click.option(
    "--floor/--no-floor",
    "with_floor",
    default=True,
    help="Measure bare asyncpg on the same tables in turn with Millhand, and show the ratio; or not.",
)
@json_option
@click.pass_obj
def bench(config_path: Path | None, *, num_jobs: int, slots: int, with_floor: bool, is_json: bool) -> None:
    """
    Insert and work no-op jobs, and print how fast.

    It makes a schema of its own, drops it at the end, and touches no other table. The database works hard meanwhile:
    do not run it on one that others need.
    """
    settings = load_settings(config_path)
    plan = Plan(num_jobs=num_jobs, slots=slots, with_floor=with_floor)
    with StopSignals() as signals:
        try:
            with database(settings) as base:
                result = asyncio.run(_measured(base.url, plan, signals))
        except (StopRequested, asyncio.CancelledError):
            raise click.Abort from None
    if is_json:
        print_json(msgspec.to_builtins(result))
    else:
        print_table(COLUMNS, _rows(result), empty="")
        say(_caption(result))


async def _measured(url: str, plan: Plan, signals: StopSignals) -> BenchResult:
    """Measure; the first signal has everything given up and the schema dropped, the third ends the process at once."""
    task = asyncio.current_task()

    def hear(_name: str, num_received: int) -> None:
        if num_received == 1 and task is not None:
            task.cancel()

    signals.listen(hear)
    try:
        return await run_bench(url, plan, lambda what: click.echo(what, err=True))
    finally:
        signals.end()


def _rows(result: BenchResult) -> list[tuple[str, str, str, str]]:
    return [
        (
            title,
            written(getattr(result.millhand, field)),
            "-" if result.floor is None else written(getattr(result.floor, field)),
            "-" if result.ratio is None else f"{getattr(result.ratio, field):.2f}",
        )
        for field, title, written in _LINES
    ]


def _caption(result: BenchResult) -> str:
    plan = result.plan
    floor = f"; floor: bare asyncpg, {FLOOR_SLOTS:,} at a time" if plan.with_floor else ""
    return (
        f"PostgreSQL {result.server_version}, medians of {plan.num_rounds} rounds of {plan.num_jobs:,} jobs, "
        f"{plan.slots:,} at a time{floor}"
    )
