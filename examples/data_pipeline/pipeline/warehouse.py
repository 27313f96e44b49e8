"""The warehouse: tables in the database that also holds the jobs, so that data and jobs share transactions."""

from __future__ import annotations

import os
import sys
from datetime import date

from psycopg import AsyncConnection

from pipeline.partner import Sale

TABLES = """
CREATE TABLE IF NOT EXISTS sales (day date, shop text, product text, amount integer);
CREATE TABLE IF NOT EXISTS days (day date PRIMARY KEY);
CREATE TABLE IF NOT EXISTS imports (day date REFERENCES days, shop text, PRIMARY KEY (day, shop));
CREATE TABLE IF NOT EXISTS reports (day date PRIMARY KEY, total integer NOT NULL);
"""


def database_url() -> str:
    return os.environ.get("DATABASE_URL") or sys.exit("set DATABASE_URL: see examples/README.md")


async def connect() -> AsyncConnection:
    """
    Return a new connection; `async with` commits or rolls back, and closes it.

    Few jobs run at a time, so that a pool would save little.
    """
    return await AsyncConnection.connect(database_url())


async def load(connection: AsyncConnection, shop: str, day: date, sales: list[Sale]) -> int:
    """Replace the sales of a shop on a day, and return how many shops the day has now."""
    # One import of a day at a time: each must see those before it, so that the last one knows that it is the last.
    await connection.execute("INSERT INTO days VALUES (%s) ON CONFLICT DO NOTHING", (day,))
    await connection.execute("SELECT FROM days WHERE day = %s FOR UPDATE", (day,))
    await connection.execute("DELETE FROM sales WHERE day = %s AND shop = %s", (day, shop))
    async with connection.cursor() as cursor:
        async with cursor.copy("COPY sales FROM STDIN") as copy:
            for sale in sales:
                await copy.write_row((day, shop, sale.product, sale.amount))
        await cursor.execute("INSERT INTO imports VALUES (%s, %s) ON CONFLICT DO NOTHING", (day, shop))
        await cursor.execute("SELECT count(*) FROM imports WHERE day = %s", (day,))
        row = await cursor.fetchone()
    return row[0] if row else 0


async def report(connection: AsyncConnection, day: date) -> None:
    """Write the report of a day, again if there is one."""
    await connection.execute(
        """
        INSERT INTO reports SELECT %(day)s, coalesce(sum(amount), 0) FROM sales WHERE day = %(day)s
        ON CONFLICT (day) DO UPDATE SET total = excluded.total
        """,
        {"day": day},
    )
