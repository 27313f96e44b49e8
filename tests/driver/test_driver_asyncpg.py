from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from conformance import DriverConformance
from conformance_caller import NUMBERS, Cursor, Fetched
from conformance_words import Connected, num_jobs, params, table

from millhand.driver.asyncpg import AsyncpgDriver
from millhand.driver.planner import PLANNER_SETTINGS
from millhand.errors import ConfigError, ConnectionLost, DriverError, OperationTimeout, PoolClosed
from millhand.store.job_insert import job_insert_many


async def use_own_jsonb(connection: asyncpg.Connection) -> None:
    """Do what many applications do: read and write jsonb as Python values."""
    await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")


class TestAsyncpg(DriverConformance):
    ACCEPTED = ("asyncpg.Connection", "asyncpg.Pool", "AsyncConnection", "AsyncSession", "executor")

    @pytest.fixture(params=["url", pytest.param("pool", marks=pytest.mark.slow), "pool with its own jsonb"])
    async def database(
        self, request: pytest.FixtureRequest, schema_driver: AsyncpgDriver, postgres_url: str
    ) -> AsyncIterator[AsyncpgDriver]:
        if request.param == "url":
            driver = AsyncpgDriver(postgres_url, schema_driver.schema, pool_size=4)
            await driver.open()
            yield driver
            await driver.close()
            return
        init = use_own_jsonb if "jsonb" in request.param else None
        async with asyncpg.create_pool(postgres_url, min_size=1, max_size=4, init=init) as pool:
            driver = AsyncpgDriver(pool, schema_driver.schema)
            await driver.open()
            yield driver
            await driver.close()

    @pytest.fixture(
        params=[
            "connection with its own jsonb",
            pytest.param("connection of a pool", marks=pytest.mark.slow),
            "BEGIN by hand",
        ]
    )
    def connected(self, request: pytest.FixtureRequest, postgres_url: str) -> Connected:
        @contextlib.asynccontextmanager
        async def connected() -> AsyncIterator[Any]:
            pool = asyncpg.create_pool(postgres_url, min_size=1, max_size=1)
            async with pool, pool.acquire() as acquired:
                own = await asyncpg.connect(postgres_url)
                connection = acquired if "pool" in request.param else own
                if "jsonb" in request.param:
                    await use_own_jsonb(own)
                if "hand" in request.param:
                    await connection.execute("BEGIN")
                    yield connection
                    await connection.execute("ROLLBACK")
                else:
                    transaction = connection.transaction()
                    await transaction.start()
                    yield connection
                    await transaction.rollback()
                await own.close()

        return connected

    @pytest.fixture
    def committing(self, postgres_url: str) -> Connected:
        @contextlib.asynccontextmanager
        async def committing() -> AsyncIterator[Any]:
            connection = await asyncpg.connect(postgres_url)
            yield connection
            await connection.close()

        return committing

    @pytest.fixture
    def cursor(self, request: pytest.FixtureRequest) -> Cursor:
        is_by_hand = request.node.callspec.params["connected"] == "BEGIN by hand"
        if is_by_hand and tuple(map(int, asyncpg.__version__.split(".")[:2])) < (0, 32):
            pytest.skip("asyncpg before 0.32 opens no cursor where BEGIN was said by hand")

        @contextlib.asynccontextmanager
        async def opened(connection: asyncpg.Connection) -> AsyncIterator[Fetched]:
            cursor = await connection.cursor(NUMBERS)

            async def fetched() -> int:
                return (await cursor.fetchrow())[0]

            yield fetched

        return opened


@pytest.fixture
async def driver_of_two(schema_driver: AsyncpgDriver, postgres_url: str) -> AsyncIterator[AsyncpgDriver]:
    """A driver with a pool of its own of two connections."""
    driver = AsyncpgDriver(postgres_url, schema_driver.schema, pool_size=2)
    await driver.open()
    yield driver
    await driver.close()


async def test_wait_for_a_connection_counts_against_the_deadline(driver_of_two: AsyncpgDriver) -> None:
    """A query that finds the pool exhausted is late like one that the server does not answer."""
    async with driver_of_two.pool.begin(), driver_of_two.pool.begin():
        with pytest.raises(OperationTimeout, match=r"^job_insert must answer within 0\.05 s, got no answer$"):
            await driver_of_two.pool.run(job_insert_many([params()]).within(0.05))

    assert await num_jobs(driver_of_two.pool) == 0


async def test_own_connections_plan_our_statements_for_their_indexes(driver_of_two: AsyncpgDriver) -> None:
    """Our statements are planned once and by index; SQL that is not ours is planned as ever."""
    names = ["application_name", *PLANNER_SETTINGS]
    sql = "SELECT name, setting FROM pg_settings WHERE name = ANY($1)"

    async with driver_of_two.pool.begin() as tx:
        ours = {row["name"]: row["setting"] for row in await tx.fetch(sql, [names])}
    foreign = {row["name"]: row["setting"] for row in await driver_of_two.pool.fetch(sql, [names])}
    async with driver_of_two.pool.begin() as tx:
        again = {row["name"]: row["setting"] for row in await tx.fetch(sql, [names])}

    assert ours == again == {"application_name": "millhand", **PLANNER_SETTINGS}
    assert foreign == {**ours, "enable_seqscan": "on", "plan_cache_mode": "auto"}


async def test_failed_foreign_sql_leaves_no_setting_behind(driver_of_two: AsyncpgDriver) -> None:
    """SQL that is not ours and fails leaves its connection planning our statements as before."""
    for _ in range(4):
        with pytest.raises(DriverError):
            await driver_of_two.pool.fetch("SELECT 1/0")

    async with driver_of_two.pool.begin() as one, driver_of_two.pool.begin() as two:
        settings = [(await tx.fetch("SHOW enable_seqscan"))[0] for tx in (one, two)]
    assert settings == [{"enable_seqscan": "off"}] * 2


async def test_application_name_of_the_url_stands(postgres_url: str) -> None:
    """Who gives his application a name keeps it."""
    driver = AsyncpgDriver(f"{postgres_url}{'&' if '?' in postgres_url else '?'}application_name=shop")
    await driver.open()

    named = await driver.pool.fetch("SHOW application_name")
    await driver.close()

    assert named == [{"application_name": "shop"}]


async def test_closing_leaves_the_caller_s_pool_open(postgres_url: str) -> None:
    """What the caller brought stays his; closed by him, it is said to be closed."""
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


async def test_listener_without_a_schema_hears_that_of_the_search_path(driver: AsyncpgDriver) -> None:
    """With no schema configured, the topics are those of the schema that the search path names first."""
    heard: asyncio.Queue[str] = asyncio.Queue()
    listener = driver.listener()
    await listener.connect()
    await listener.listen("river_insert", heard.put_nowait)

    await driver.pool.fetch("SELECT pg_notify('public.river_insert', 'x')")

    async with asyncio.timeout(20.0):
        assert await heard.get() == "x"
    await listener.close()


async def test_server_that_is_not_there_is_a_lost_connection(tmp_path: Path) -> None:
    """Nobody listens: the driver does not open, and says that it may another time."""
    driver = AsyncpgDriver(f"postgresql://nobody@/nothing?host={tmp_path}")

    with pytest.raises(ConnectionLost) as lost:
        await driver.open()

    assert (lost.value.operation, lost.value.retryable) == ("connect", True)


async def test_database_that_is_not_there_is_a_driver_error(postgres_url: str) -> None:
    """The server knows no such database: waiting will not help."""
    driver = AsyncpgDriver(postgres_url.replace(urlsplit(postgres_url).path, "/nothing_of_this_name", 1))

    with pytest.raises(DriverError) as refused:
        await driver.open()

    assert (refused.value.sqlstate, refused.value.retryable) == ("3D000", False)
    assert str(refused.value) == 'connect must succeed, got database "nothing_of_this_name" does not exist'


def test_driver_that_was_never_opened_says_so() -> None:
    """A query before `open` is the caller's mistake, and the error says what to do."""
    driver = AsyncpgDriver("postgresql://x@/x")

    with pytest.raises(
        PoolClosed,
        match=r"^connect must succeed, got a driver that is not open; start its client, or open\(\) it, first$",
    ):
        asyncio.run(driver.pool.fetch("SELECT 1"))


@pytest.mark.parametrize("url", ["mysql://u:secret@h/d", "/var/run", "u:secret@h/d", ""])
def test_url_of_another_kind_is_refused(url: str) -> None:
    """A URL that asyncpg cannot mean is refused when the driver is made, without its password in the text."""
    with pytest.raises(ConfigError) as refused:
        AsyncpgDriver(url)

    assert str(refused.value).startswith(
        "database URL must begin with 'postgresql://', 'postgresql+psycopg://' or 'postgresql+asyncpg://', got scheme "
    )
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("given", [None, 5, object()])
def test_database_of_another_kind_is_refused(given: Any) -> None:
    """What is neither a URL nor a pool is refused with a list of what is accepted."""
    with pytest.raises(TypeError) as refused:
        AsyncpgDriver(given)

    kind = f"{type(given).__module__}.{type(given).__qualname__}"
    assert str(refused.value) == (
        f"database must be an asyncpg.Pool or a URL that begins with 'postgresql://', got {kind}"
    )


@pytest.mark.parametrize("pool_size", [0, -1, 1001])
def test_pool_size_out_of_range_is_refused(pool_size: int) -> None:
    """A pool has at least one connection and no more than any server takes."""
    with pytest.raises(ConfigError, match=rf"^pool_size must be between 1 and 1,000, got {pool_size}$"):
        AsyncpgDriver("postgresql://x@/x", pool_size=pool_size)


def test_impossible_schema_is_refused() -> None:
    """A schema is checked when the driver is made."""
    with pytest.raises(ConfigError, match=r"^schema must be letters, digits and underscores"):
        AsyncpgDriver("postgresql://x@/x", 'a"b')


class Pooler:
    """Something between client and server that refuses settings which it does not know, as PgBouncer does."""

    def __init__(self, server_socket: Path) -> None:
        self.refused: list[bytes] = []
        self._server_socket = server_socket

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        [length] = struct.unpack("!i", head := await reader.readexactly(4))
        startup = await reader.readexactly(length - 4)
        if b"enable_seqscan" in startup:
            self.refused.append(startup)
            said = b"SFATAL\0C08P01\0Munsupported startup parameter: enable_seqscan\0\0"
            writer.write(b"E" + struct.pack("!i", len(said) + 4) + said)
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


async def test_pooler_that_knows_no_settings_is_connected_without_them(
    schema_driver: AsyncpgDriver, postgres_url: str, tmp_path: Path
) -> None:
    """Behind a pooler that refuses the planner's settings the driver works without them, and never sets them later."""
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

    assert (len(pooler.refused), setting, rows) == (1, {"enable_seqscan": "on"}, [{"kind": "act"}])
