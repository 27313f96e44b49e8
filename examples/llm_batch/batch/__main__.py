"""The command line: `python -m batch --help`."""

from __future__ import annotations

from pathlib import Path

import click
import psycopg

from batch.database import TABLES, database_url
from batch.jobs import Summarize
from millhand import SyncClient


def connect() -> psycopg.Connection:
    return psycopg.connect(database_url())


@click.group()
def batch() -> None:
    """Summarize documents."""


@batch.command()
def setup() -> None:
    """Create the tables of Millhand and of the documents."""
    SyncClient(database_url()).migrate()
    with connect() as connection:
        connection.execute(TABLES)


@batch.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def submit(file: Path) -> None:
    """Store a batch with one document for each line of FILE, and its jobs, in one transaction."""
    lines = [line for line in file.read_text().splitlines() if line.strip()]
    with SyncClient(database_url()) as client, connect() as connection:
        (batch_id,) = connection.execute("INSERT INTO batches DEFAULT VALUES RETURNING id").fetchone() or (0,)
        documents = connection.execute(
            "INSERT INTO documents (batch_id, body) SELECT %s, unnest(%s::text[]) RETURNING id",
            (batch_id, lines),
        )
        num_jobs = client.insert_many_fast((Summarize(id) for (id,) in documents), tx=connection)
    click.echo(f"batch {batch_id} has {num_jobs} documents")


@batch.command()
@click.argument("batch_id", type=int)
def results(batch_id: int) -> None:
    """Print the summaries of a batch."""
    query = "SELECT id, summary FROM documents WHERE batch_id = %s ORDER BY id"
    with connect() as connection:
        for id, summary in connection.execute(query, (batch_id,)):
            click.echo(f"{id}: {summary or 'not yet'}")


if __name__ == "__main__":
    batch()
