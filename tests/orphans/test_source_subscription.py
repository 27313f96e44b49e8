"""Sources in a logical replica: a run aborts before it reads them, because rows of the publisher may be missing."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from posts import opened
from world import TABLES, World, generous, uploads_source

from millhand.core.errors import ConfigError
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import Migrator, lines
from millhand.embedded import embedded_postgres
from millhand.storage import open_store

sys.path.append(str(Path(__file__).parents[1] / "embedded"))
from clusters import open_directory

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)


def message(source: str, table: str, subscription: str, state: str) -> str:
    return (
        f"orphans source {source!r} must read tables that this database itself writes, got {table!r}, which subscription "
        f"{subscription!r} ({state}) fills and which may lag behind; give the DATABASE_URL of the publisher, or drop a "
        "subscription that is no longer used"
    )


@pytest.fixture
async def subscribed(posts: World) -> AsyncIterator[World]:
    """The application with a partitioned table, and a disabled subscription without tables."""
    await posts.sql("CREATE TABLE {schema}.parts (key text) PARTITION BY HASH (key)")
    await posts.sql(
        "CREATE TABLE {schema}.part PARTITION OF {schema}.parts FOR VALUES WITH (MODULUS 1, REMAINDER 0)"
    )
    await posts.sql("CREATE VIEW {schema}.keys AS SELECT image AS key FROM {schema}.posts")
    await posts.sql("CREATE PUBLICATION of_nothing")
    await posts.sql(
        f"CREATE SUBSCRIPTION {posts.schema} CONNECTION 'dbname=nowhere' PUBLICATION of_nothing WITH (connect = false)"
    )
    yield posts
    await posts.sql(f"ALTER SUBSCRIPTION {posts.schema} SET (slot_name = NONE)")
    await posts.sql(f"DROP SUBSCRIPTION {posts.schema}")
    await posts.sql("DROP PUBLICATION of_nothing")
    await posts.sql("DROP VIEW {schema}.keys")
    await posts.sql("DROP TABLE {schema}.parts")


@pytest.mark.slow
@pytest.mark.parametrize("filled", ["posts", "parts", "part"])
async def test_a_table_that_a_subscription_fills_is_no_source(subscribed: World, filled: str) -> None:
    """Also through a view, a SELECT or a partition; other tables of the same database are sources as ever."""
    schema = subscribed.schema
    await subscribed.sql(
        "INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate) "
        "SELECT oid, $1::text::regclass, 'r' FROM pg_subscription WHERE subname = $2",
        f"{schema}.{filled}",
        schema,
    )
    errors = {}
    for name, source in {
        "posts": {"table": f"{schema}.posts", "key": "image"},
        "view": {"table": f"{schema}.keys"},
        "select": {"table": None, "select": f"SELECT key FROM {schema}.keys"},
        "parts": {"table": f"{schema}.parts"},
        "part": {"table": f"{schema}.part"},
        "other": {"table": f"{schema}.avatars"},
    }.items():
        try:
            await opened(subscribed, name=name, **source)
        except ConfigError as error:
            errors[name] = str(error)

    reading = {"posts": ["posts", "view", "select"], "parts": ["parts", "part"], "part": ["parts", "part"]}
    assert errors == {
        name: message(name, f"{schema}.{filled}", schema, "disabled") for name in reading[filled]
    }


@pytest.mark.slow
async def test_runs_on_a_stalled_replica_abort(tmp_path: Path) -> None:
    """Rows of the publisher that a real, disabled subscription has not applied look like orphans; no run evaluates them."""
    with open_directory() as directory:
        # A subscription connects as the server's own user, whom the embedded server does not let in.
        hba = directory / "hba"
        hba.write_text("local all all trust\nlocal replication all trust\n")
        hba.chmod(0o644)
        settings = {
            "fsync": "off",
            "hba_file": str(hba),
            "max_replication_slots": "4",
            "wal_level": "logical",
        }
        with embedded_postgres(directory / "server", settings) as server:
            await _run_on_a_stalled_replica(server.url, tmp_path)


async def _run_on_a_stalled_replica(url: str, tmp_path: Path) -> None:
    async with _database(url, "publisher", tmp_path) as source, _database(url, "copy", tmp_path) as copy:
        await source.pair("old")
        await source.sql("CREATE PUBLICATION uploads FOR TABLE uploads")
        await source.sql("SELECT pg_create_logical_replication_slot('copies', 'pgoutput')")
        await copy.sql(
            f"CREATE SUBSCRIPTION copies CONNECTION '{_url_of(url, 'publisher')}' PUBLICATION uploads "
            "WITH (create_slot = false, slot_name = 'copies')"
        )
        async with asyncio.timeout(60):
            while await copy.row_keys() != ["old"]:
                await copy.sql("SELECT pg_sleep(0.05)")
        await copy.sql("ALTER SUBSCRIPTION copies DISABLE")
        await source.pair("new")

        with pytest.raises(ConfigError) as error:
            await copy.runs(2 * HOUR, WEEK)

        assert str(error.value) == message("uploads", "uploads", "copies", "disabled")
        assert await copy.keys() == ["new", "old"]


@contextlib.asynccontextmanager
async def _database(server_url: str, name: str, tmp_path: Path) -> AsyncIterator[World]:
    """A new database of a server, with the application; all databases share one bucket."""
    server = AsyncpgDriver(server_url)
    await server.open()
    await server.pool.fetch(f"CREATE DATABASE {name}")
    await server.close()
    driver = AsyncpgDriver(_url_of(server_url, name))
    await driver.open()
    for line in lines():
        await Migrator(driver, line).up()
    await driver.pool.execute_script(TABLES.format(schema="public"))
    store = open_store(str(tmp_path / "bucket"), create=True)
    config = generous([uploads_source("public")])
    yield World(executor=driver.pool, store=store, schema="public", config=config)
    await driver.close()


def _url_of(server_url: str, database: str) -> str:
    return urlunsplit(urlsplit(server_url)._replace(path=f"/{database}"))
