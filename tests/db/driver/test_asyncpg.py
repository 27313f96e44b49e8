from __future__ import annotations

import asyncio
import contextlib
import struct
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from conformance_values import params, table

from millhand.core.errors import ConfigError, ConnectionLost, DriverError, NotStarted, PoolClosed
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.store.job_insert import job_insert_many


async def test_application_name_of_the_url_is_kept(postgres_url: str) -> None:
    """A name in the URL is not replaced by `millhand`."""
    driver = AsyncpgDriver(f"{postgres_url}{'&' if '?' in postgres_url else '?'}application_name=shop")
    await driver.open()

    named = await driver.pool.fetch("SHOW application_name")
    await driver.close()

    assert named == [{"application_name": "shop"}]


async def test_closing_leaves_the_caller_s_pool_open(postgres_url: str) -> None:
    """The caller's pool stays open; if the caller closes it, the error says that it is closed."""
    pool = await asyncpg.create_pool(postgres_url, min_size=1, max_size=1)
    driver = AsyncpgDriver(pool)
    await driver.open()

    await driver.close()
    still = await pool.fetchval("SELECT 1")
    await driver.open()
    await pool.close()

    assert still == 1
    with pytest.raises(PoolClosed, match=r"^SELECT 1 must succeed, got pool is clos"):
        await driver.pool.fetch("SELECT 1")


async def test_missing_server_is_a_lost_connection(tmp_path: Path) -> None:
    """Without a server `open` raises an error that can be retried."""
    driver = AsyncpgDriver(f"postgresql://x@/nothing?host={tmp_path}")

    with pytest.raises(ConnectionLost) as lost:
        await driver.open()

    assert (lost.value.operation, lost.value.retryable) == ("connect", True)


async def test_missing_database_is_a_driver_error(postgres_url: str) -> None:
    """An unknown database is an error that cannot be retried."""
    driver = AsyncpgDriver(postgres_url.replace(urlsplit(postgres_url).path, "/nothing_of_this_name", 1))

    with pytest.raises(DriverError) as refused:
        await driver.open()

    assert (refused.value.sqlstate, refused.value.retryable) == ("3D000", False)
    assert str(refused.value) == (
        'connect must succeed, got database "nothing_of_this_name" does not exist; '
        "create it: createdb nothing_of_this_name"
    )


@pytest.mark.parametrize("named_by", ["sslrootcert", "PGSSLROOTCERT"])
async def test_authorities_of_the_machine_are_refused(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, named_by: str
) -> None:
    """Asyncpg knows no `sslrootcert=system`: with the default mode it would verify nothing, and say nothing."""
    url = f"{postgres_url}{'&' if '?' in postgres_url else '?'}sslrootcert=system"
    if named_by == "PGSSLROOTCERT":
        url = postgres_url
        monkeypatch.setenv(named_by, "system")

    with pytest.raises(ConfigError) as raised:
        await AsyncpgDriver(url).open()

    assert str(raised.value) == (
        f"{named_by} must be a file with asyncpg, got 'system'; name the file of the authorities that the machine "
        "trusts, such as /etc/ssl/certs/ca-certificates.crt, or install psycopg and write postgresql+psycopg://"
    )


def test_driver_that_was_never_opened_is_an_error() -> None:
    """A query before `open` raises the error of a client that is not started."""
    driver = AsyncpgDriver("postgresql://x@/x")

    with pytest.raises(NotStarted):
        asyncio.run(driver.pool.fetch("SELECT 1"))


@pytest.mark.parametrize("url", ["mysql://u:secret@h/d", "/var/run", "u:secret@h/d", ""])
def test_url_of_another_scheme_is_an_error(url: str) -> None:
    """An unknown scheme is an error when the driver is made, without the password."""
    with pytest.raises(ConfigError) as refused:
        AsyncpgDriver(url)

    assert str(refused.value).startswith(
        "database URL must begin with 'postgresql://', 'postgresql+psycopg://' or 'postgresql+asyncpg://', got scheme "
    )
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("given", [None, 5, object()])
def test_database_of_another_type_is_an_error(given: Any) -> None:
    """An object that is neither a URL nor a pool is an error that lists what is accepted."""
    with pytest.raises(TypeError) as refused:
        AsyncpgDriver(given)

    kind = f"{type(given).__module__}.{type(given).__qualname__}"
    assert str(refused.value) == (
        f"database must be an asyncpg.Pool or a URL that begins with 'postgresql://', got {kind}"
    )


@pytest.mark.parametrize("pool_size", [0, -1, 1001])
def test_pool_size_out_of_range_is_an_error(pool_size: int) -> None:
    """A pool has 1 to 1,000 connections."""
    with pytest.raises(ConfigError, match=rf"^pool_size must be between 1 and 1,000, got {pool_size}$"):
        AsyncpgDriver("postgresql://x@/x", pool_size=pool_size)


def test_invalid_schema_of_a_driver_is_an_error() -> None:
    """A schema is checked when the driver is made."""
    with pytest.raises(ConfigError, match=r"^schema must be letters, digits and underscores"):
        AsyncpgDriver("postgresql://x@/x", 'a"b')


class Pooler:
    """A proxy that rejects unknown settings, as PgBouncer does."""

    def __init__(self, server_socket: Path) -> None:
        self.rejected: list[bytes] = []
        self._server_socket = server_socket

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        [length] = struct.unpack("!i", head := await reader.readexactly(4))
        startup = await reader.readexactly(length - 4)
        if b"enable_seqscan" in startup:
            self.rejected.append(startup)
            message = b"SFATAL\0C08P01\0Munsupported startup parameter: enable_seqscan\0\0"
            writer.write(b"E" + struct.pack("!i", len(message) + 4) + message)
            await writer.drain()
            writer.close()
            return
        server_reader, server_writer = await asyncio.open_unix_connection(self._server_socket)
        server_writer.write(head + startup)
        await asyncio.gather(self._pass(reader, server_writer), self._pass(server_reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


async def test_pooler_that_rejects_settings_gets_none(
    schema_driver: AsyncpgDriver, postgres_url: str, tmp_path: Path
) -> None:
    """Behind a pooler that rejects the planner settings the driver connects without, and never sets them later."""
    parts = urlsplit(postgres_url)
    [directory] = parse_qs(parts.query).get("host", [""])
    if not directory.startswith("/"):
        pytest.skip("needs a server on a Unix socket")
    pooler = Pooler(Path(directory) / ".s.PGSQL.5432")
    server = await asyncio.start_unix_server(pooler.serve, tmp_path / ".s.PGSQL.5432")
    user = f"{parts.username}@" if parts.username else ""
    driver = AsyncpgDriver(f"postgresql://{user}{parts.path}?host={tmp_path}&port=5432", schema_driver.schema)

    await driver.open()
    await driver.pool.run(job_insert_many([params()]))
    async with driver.pool.begin() as tx:
        [setting] = await tx.fetch("SHOW enable_seqscan")
    rows = await driver.pool.fetch(f"SELECT kind FROM {table(driver)}")
    await driver.close()
    server.close()
    await server.wait_closed()

    assert (len(pooler.rejected), setting, rows) == (1, {"enable_seqscan": "on"}, [{"kind": "act"}])
