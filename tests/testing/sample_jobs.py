"""Jobs that fail, wait and insert others, for the tests of the test kit."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import asyncpg
import psycopg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from millhand.client import Client
from millhand.core.config import Config
from millhand.core.errors import JobCancel, JobSnooze
from millhand.core.insert_opts import InsertOpts
from millhand.core.periodic import cron
from millhand.core.retry import ConstantRetryPolicy
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.driver.asyncpg import AsyncpgDriver

START = datetime(2026, 3, 2, 9, tzinfo=UTC)  # a Monday
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
GENEROUS = 20.0

workers = Workers()


@dataclass(frozen=True)
class Act:
    kind: ClassVar[str] = "act"
    what: str = "x"


@dataclass(frozen=True)
class Beget:
    kind: ClassVar[str] = "beget"
    generations: int


class Base(DeclarativeBase): ...


class Named(Base):
    """The database rejects a second row of the same name."""

    __tablename__ = "testing_named"
    name: Mapped[str] = mapped_column(primary_key=True)


@dataclass(frozen=True)
class Nightly:
    kind: ClassVar[str] = "nightly"


@workers.add()
async def act(job: Job[Act]) -> None:
    match job.args.what:
        case "fail":
            raise LookupError("no such thing")
        case "fail once" if job.attempt == 1:
            raise LookupError("no such thing")
        case "snooze" if "snoozes" not in job.metadata:
            raise JobSnooze(DAY)
        case "cancel":
            raise JobCancel("not wanted")
    job.record_output(job.args.what)


@workers.add()
async def beget(job: Job[Beget]) -> None:
    if job.args.generations:
        await job.client.insert(Beget(job.args.generations - 1), InsertOpts(queue="children"))


@workers.add()
async def nightly(job: Job[Nightly]) -> None: ...


@workers.add()
def resize(key: str, width: int) -> None: ...


def new_client(url: Any, **more: Any) -> Client:
    """Return a client, not started, with a nightly job."""
    return Client(url, Config(**settings(**more)))


def settings(**more: Any) -> dict[str, Any]:
    """Return the settings of most clients in these tests."""
    return {
        "workers": workers,
        "periodic_jobs": [cron("0 3 * * *", Nightly())],
        "retry_policy": ConstantRetryPolicy(HOUR),
        **more,
    }


async def rows_left(driver: AsyncpgDriver) -> int:
    """Return how many jobs other transactions can see."""
    [row] = await driver.pool.fetch("SELECT count(*) AS num FROM river_job")
    return int(row["num"])


async def execute_sql(tx: Any, sql: str) -> None:
    """Run SQL on a connection or in a session, as an application does."""
    await tx.execute(text(sql) if isinstance(tx, AsyncConnection | AsyncSession) else sql)


@contextlib.asynccontextmanager
async def open_transaction(kind: str, url: str) -> AsyncIterator[Any]:
    """Yield a connection or session whose transaction is rolled back."""
    library, _, dialect = kind.partition("+")
    match library:
        case "asyncpg":
            connection = await asyncpg.connect(url)
            transaction = connection.transaction()
            await transaction.start()
            yield connection
            await transaction.rollback()
            await connection.close()
        case "psycopg":
            async with await psycopg.AsyncConnection.connect(url) as connection:
                yield connection
                await connection.rollback()
        case _:
            async with _sqlalchemy(url, dialect or "psycopg") as connection:
                if library == "sqlalchemy":
                    yield connection
                    return
                async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
                    yield session


@contextlib.asynccontextmanager
async def _sqlalchemy(url: str, dialect: str) -> AsyncIterator[AsyncConnection]:
    engine = create_async_engine(url.replace("postgresql", f"postgresql+{dialect}", 1))
    async with engine.connect() as connection:
        transaction = await connection.begin()
        yield connection
        await transaction.rollback()
    await engine.dispose()
