"""What a type checker sees of `tx=`: each library's connection for the client that takes it, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import asyncpg
import psycopg
import psycopg_pool
from asyncpg.pool import PoolConnectionProxy
from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
)
from sqlalchemy.orm import Session, scoped_session

from millhand import Client, Job, SyncClient, SyncTx, Tx
from millhand.db.driver.protocol import Executor
from millhand.testing import drain, require_inserted
from millhand.testing.sync import drain as drain_sync


@dataclass(frozen=True)
class Pay:
    kind: ClassVar[str] = "pay"
    invoice_id: int


PAY = Pay(1)


async def in_each_transaction(
    client: Client,
    acquired: PoolConnectionProxy[Any],
    connection: asyncpg.Connection[Any],
    psycopg_connection: psycopg.AsyncConnection[Any],
    sqlalchemy_connection: AsyncConnection,
    session: AsyncSession,
    scoped: async_scoped_session[AsyncSession],
    executor: Executor,
) -> None:
    await client.insert(PAY, tx=acquired)
    await client.insert(PAY, tx=connection)
    await client.insert(PAY, tx=psycopg_connection)
    await client.insert(PAY, tx=sqlalchemy_connection)
    await client.insert(PAY, tx=session)
    await client.insert(PAY, tx=scoped)
    await client.insert(PAY, tx=executor)
    await client.insert(PAY, tx=None)
    await client.insert_many([PAY], tx=session)
    await client.insert_many_fast([PAY], tx=connection)
    await client.jobs.cancel(1, tx=session)
    await client.queues.pause("mail", tx=psycopg_connection)
    await client.request_resign(tx=acquired)
    await require_inserted(client, PAY, tx=session)
    await drain(client, tx=connection)


async def as_the_documentation_shows(
    client: Client,
    pool: asyncpg.Pool[Any],
    of_psycopg: psycopg_pool.AsyncConnectionPool,
    make: async_sessionmaker[AsyncSession],
) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await client.insert(PAY, tx=connection)
    async with of_psycopg.connection() as psycopg_connection, psycopg_connection.transaction():
        await client.insert(PAY, tx=psycopg_connection)
    async with make.begin() as session:
        await client.insert(PAY, tx=session)


async def in_nothing_else(
    client: Client,
    pool: asyncpg.Pool[Any],
    of_psycopg: psycopg_pool.AsyncConnectionPool,
    engine: AsyncEngine,
    blocking: psycopg.Connection[Any],
    blocking_session: Session,
) -> None:
    await client.insert(PAY, tx="conn")  # type: ignore[arg-type]
    await client.insert(PAY, tx=3)  # type: ignore[arg-type]
    await client.insert(PAY, tx=object())  # type: ignore[arg-type]
    await client.insert(PAY, tx=True)  # type: ignore[arg-type]
    await client.insert(PAY, tx=client)  # type: ignore[arg-type]
    await client.insert(PAY, tx=pool)  # type: ignore[arg-type]
    await client.insert(PAY, tx=of_psycopg)  # type: ignore[arg-type]
    await client.insert(PAY, tx=engine)  # type: ignore[arg-type]
    await client.insert(PAY, tx=blocking)  # type: ignore[arg-type]
    await client.insert(PAY, tx=blocking_session)  # type: ignore[arg-type]
    await client.insert(PAY, tx=AsyncSession)  # type: ignore[arg-type]
    await client.insert_many([PAY], tx="conn")  # type: ignore[arg-type]
    await client.insert_many_fast([PAY], tx="conn")  # type: ignore[arg-type]
    await client.jobs.get(1, tx="conn")  # type: ignore[arg-type]
    await client.queues.pause("mail", tx=3)  # type: ignore[arg-type]
    await client.request_resign(tx="conn")  # type: ignore[arg-type]
    await require_inserted(client, PAY, tx="conn")  # type: ignore[arg-type]
    await drain(client, tx=3)  # type: ignore[arg-type]


async def in_a_worker(job: Job[Pay], session: AsyncSession, blocking: Session) -> None:
    await job.complete(tx=session)
    await job.checkpoint(tx=session)
    await job.complete(tx=blocking)  # type: ignore[arg-type]
    await job.complete(tx=job)  # type: ignore[arg-type]
    await job.checkpoint(tx="conn")  # type: ignore[arg-type]


def without_a_loop(
    client: SyncClient,
    psycopg_connection: psycopg.Connection[Any],
    sqlalchemy_connection: Connection,
    session: Session,
    scoped: scoped_session[Session],
    executor: Executor,
    engine: Engine,
    of_asyncio: AsyncSession,
) -> None:
    client.insert(PAY, tx=psycopg_connection)
    client.insert(PAY, tx=sqlalchemy_connection)
    client.insert(PAY, tx=session)
    client.insert(PAY, tx=scoped)
    client.insert(PAY, tx=executor)
    client.insert_many([PAY], tx=session)
    client.insert_many_fast([PAY], tx=None)
    client.jobs.cancel(1, tx=session)
    drain_sync(client, tx=session)
    client.insert(PAY, tx="conn")  # type: ignore[arg-type]
    client.insert(PAY, tx=engine)  # type: ignore[arg-type]
    client.insert(PAY, tx=of_asyncio)  # type: ignore[arg-type]
    client.insert_many([PAY], tx=3)  # type: ignore[arg-type]
    client.insert_many_fast([PAY], tx="conn")  # type: ignore[arg-type]
    client.jobs.cancel(1, tx="conn")  # type: ignore[arg-type]
    drain_sync(client, tx="conn")  # type: ignore[arg-type]


class DjangoConnection:
    """A connection as django-stubs describes Django's."""

    alias: str
    in_atomic_block: bool

    def ensure_connection(self) -> None: ...


def on_django(client: SyncClient, connection: DjangoConnection) -> None:
    client.insert(PAY, tx=connection)


# A function of the caller's names the types by their public names.


async def pay(client: Client, tx: Tx) -> None:
    await client.insert(PAY, tx=tx)


def pay_without_a_loop(client: SyncClient, tx: SyncTx | None) -> None:
    client.insert(PAY, tx=tx)
    client.insert(PAY, tx=pay)  # type: ignore[arg-type]
