"""The command line: `python -m mail --help`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

import click

from mail.jobs import Newsletter, PasswordReset, Receipt, Report
from millhand import Client, JobArgs


@click.group()
def mail() -> None:
    """Insert jobs into the queues."""


@mail.command()
@click.argument("number", type=click.IntRange(min=1))
def newsletter(number: int) -> None:
    """Send a newsletter to NUMBER readers."""
    insert([Newsletter(f"reader{n}@example.com", issue=7) for n in range(number)])


@mail.command()
@click.argument("to")
@click.argument("order_id", type=int)
def receipt(to: str, order_id: int) -> None:
    """Send a receipt."""
    insert([Receipt(to, order_id)])


@mail.command()
@click.argument("to")
def reset(to: str) -> None:
    """Send a link to reset a password."""
    insert([PasswordReset(to)])


@mail.command()
@click.argument("months", nargs=-1, required=True)
def report(months: Sequence[str]) -> None:
    """Compute a report for each of MONTHS."""
    insert([Report(month) for month in months])


def insert(jobs: Sequence[JobArgs]) -> None:
    """Insert jobs, all or none."""
    url = os.environ.get("DATABASE_URL") or sys.exit("set DATABASE_URL: see examples/README.md")

    async def main() -> None:
        async with Client(url) as client:
            await client.insert_many(jobs)

    asyncio.run(main())
    click.echo(f"inserted {len(jobs)}")


if __name__ == "__main__":
    mail()
