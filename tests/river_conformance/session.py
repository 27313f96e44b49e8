"""What an adapter holds between requests: settings, clients, transactions by handle, barriers, clock and seed."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from millhand.client import Client
from millhand.core.config import Config
from millhand.db.driver.asyncpg import AsyncpgDriver
from river_conformance.barriers import Barriers
from river_conformance.protocol import ErrorCode, RpcError

if TYPE_CHECKING:
    from river_conformance.running import Running

PREFIX = "RIVER_CONFORMANCE_"
APPLICATION_NAME = "river-conformance-python"
# The harness allows ten connections a process; each transaction has one of its own.
POOL_SIZE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The adapter's settings. `given_name` is the application name that the harness asks for, if it does."""

    given_name: str | None
    profile: str
    url: str


def settings_of(environ: Mapping[str, str]) -> Settings:
    """Read the settings of the harness from the environment. Raises: ValueError."""
    url = environ.get(f"{PREFIX}DATABASE_URL", "")
    if not url:
        raise ValueError(f"{PREFIX}DATABASE_URL must be the URL of a database of PostgreSQL, got none")
    kind = environ.get(f"{PREFIX}DATABASE_KIND", "postgres")
    if kind != "postgres":
        raise ValueError(f"{PREFIX}DATABASE_KIND must be postgres, got {kind!r}")
    given_name = environ.get(f"{PREFIX}APPLICATION_NAME") or None
    return Settings(
        given_name=given_name,
        profile=environ.get(f"{PREFIX}PROFILE", ""),
        url=with_application_name(url, given_name or APPLICATION_NAME),
    )


def with_application_name(url: str, name: str) -> str:
    """Return `url` with another `application_name`, by which the harness finds the adapter's connections."""
    parts = urlsplit(url)
    kept = [one for one in parts.query.split("&") if one and not re.match("application_name=", one)]
    return urlunsplit(parts._replace(query="&".join([*kept, f"application_name={quote(name)}"])))


class Transactions:
    """Open transactions by handle, each on a connection of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connections: dict[str, asyncpg.Connection[Any]] = {}

    async def begin(self, handle: str) -> None:
        """Begin a transaction. Raises: RpcError for a handle in use."""
        if handle in self._connections:
            raise RpcError(ErrorCode.REJECTED, f"handle must not be in use, got {handle!r}")
        connection = await asyncpg.connect(self._url)
        await connection.execute("BEGIN")
        self._connections[handle] = connection

    def get(self, handle: str) -> asyncpg.Connection[Any]:
        """Return a transaction's connection. Raises: RpcError for an unknown handle."""
        if handle not in self._connections:
            raise RpcError(ErrorCode.NOT_FOUND, f"handle must be one of tx_begin, got {handle!r}")
        return self._connections[handle]

    async def end(self, handle: str, *, commit: bool) -> None:
        """Commit or roll back, and forget the handle in either case."""
        connection = self.get(handle)
        del self._connections[handle]
        try:
            if commit:
                await connection.fetchval(
                    "SELECT 1"
                )  # PostgreSQL commits an aborted transaction without an error
            await connection.execute("COMMIT" if commit else "ROLLBACK")
        finally:
            await connection.close()

    async def close(self) -> None:
        """Roll back what is open, also if its connection is lost."""
        for handle in tuple(self._connections):
            with contextlib.suppress(asyncpg.InterfaceError, asyncpg.PostgresError, OSError):
                await self.end(handle, commit=False)


class Session:
    """An adapter between requests. Concurrency: one request at a time."""

    def __init__(self, settings: Settings) -> None:
        self.barriers = Barriers()
        self.running: Running | None = None
        self.settings = settings
        self.now = datetime.now(UTC)
        self.random = random.Random(0)  # noqa: S311 - the jitter of a retry
        self.transactions = Transactions(settings.url)
        self._clients: dict[str, Client] = {}

    async def client(self, schema: str = "") -> Client:
        """Return the running client, if it has this schema; else a started client of the schema, which works no jobs."""
        if self.running is not None and self.running.schema == schema:
            return self.running.client
        client = self._clients.get(schema)
        if client is None:
            client = Client(self.settings.url, Config(schema=schema), pool_size=POOL_SIZE)
            await client.start()
            self._clients[schema] = client
        return client

    def driver(self, schema: str) -> AsyncpgDriver:
        """Return a new driver of a schema, for migrations, which no client needs to run."""
        return AsyncpgDriver(self.settings.url, schema, pool_size=1)

    async def forget_client(self, schema: str) -> None:
        """Stop the client of a schema whose tables change."""
        client = self._clients.pop(schema, None)
        if client is not None:
            await client.stop()

    async def close(self) -> None:
        """Roll back transactions and stop clients."""
        await self.transactions.close()
        running, self.running = self.running, None
        try:
            if running is not None:
                await running.stop(self.barriers, cancel=True)
        finally:
            self.barriers.ended.set()
        for schema in tuple(self._clients):
            await self.forget_client(schema)
