"""The documents and their summaries."""

from __future__ import annotations

import os
import sys

from psycopg import AsyncConnection

TABLES = """
CREATE TABLE IF NOT EXISTS batches (id bigserial PRIMARY KEY, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE IF NOT EXISTS documents (
    id bigserial PRIMARY KEY,
    batch_id bigint NOT NULL REFERENCES batches,
    body text NOT NULL,
    summary text
);
CREATE INDEX IF NOT EXISTS documents_batch_id ON documents (batch_id);
"""


def database_url() -> str:
    return os.environ.get("DATABASE_URL") or sys.exit("set DATABASE_URL: see examples/README.md")


async def connect() -> AsyncConnection:
    """Return a new connection; `async with` commits or rolls back, and closes it. An answer takes much longer."""
    return await AsyncConnection.connect(database_url())


async def body_of(document_id: int) -> str | None:
    """Return a document; None if it was deleted."""
    async with await connect() as connection:
        found = await connection.execute("SELECT body FROM documents WHERE id = %s", (document_id,))
        row = await found.fetchone()
    return row[0] if row else None


async def save_summary(connection: AsyncConnection, document_id: int, summary: str) -> None:
    """Store the summary of a document."""
    await connection.execute("UPDATE documents SET summary = %s WHERE id = %s", (summary, document_id))
