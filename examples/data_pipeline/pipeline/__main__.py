"""The command line: `python -m pipeline --help`."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import click
import psycopg

from millhand import SyncClient
from pipeline.jobs import PlanDay
from pipeline.warehouse import TABLES, database_url

DAY = click.DateTime(formats=["%Y-%m-%d"])


@click.group()
def pipeline() -> None:
    """Import the sales of each day. A worker does it every night."""


@pipeline.command()
def setup() -> None:
    """Create the tables of Millhand and of the warehouse."""
    SyncClient(database_url()).migrate()
    with psycopg.connect(database_url()) as connection:
        connection.execute(TABLES)


@pipeline.command()
@click.argument("first", type=DAY)
@click.argument("last", type=DAY)
def backfill(first: datetime, last: datetime) -> None:
    """Plan all days from FIRST to LAST. Days that are planned already are left out."""
    with SyncClient(database_url()) as client:
        results = client.insert_many([PlanDay(day) for day in days(first.date(), last.date())])
    num_new = sum(not result.unique_skipped_as_duplicate for result in results)
    click.echo(f"planned {num_new} of {len(results)} days")


def days(first: date, last: date) -> list[date]:
    """Return the days from the first to the last."""
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


if __name__ == "__main__":
    pipeline()
