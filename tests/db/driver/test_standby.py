"""A real standby: what the drivers say about tables that it cannot read, and about a URL that wants the primary."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from millhand.core.errors import ConnectionLost
from millhand.db.driver.detect import driver_at
from millhand.embedded import embedded_postgres

SETTINGS = {"fsync": "off", "max_connections": "20"}
REMEDY = "name the primary in the database URL, or all servers with target_session_attrs=read-write"


@pytest.fixture(scope="module")
def standby_url() -> Iterator[str]:
    """The URL of a standby that was made of a stopped server's data, with an unlogged table."""
    directory = Path(tempfile.mkdtemp(prefix="millhand-standby-", dir="/tmp"))
    directory.chmod(0o755)
    with embedded_postgres(directory, SETTINGS) as server:
        data = server.data
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE UNLOGGED TABLE unlogged ()")
    (data / "standby.signal").touch()
    if not os.getuid():
        os.chown(data / "standby.signal", data.stat().st_uid, data.stat().st_gid)
    with embedded_postgres(directory, SETTINGS) as server:
        yield server.url
    shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize("library", ["asyncpg", "psycopg"])
async def test_standby_is_named_where_the_url_wants_the_primary(standby_url: str, library: str) -> None:
    """With only a standby in the URL and target_session_attrs=read-write, the error says so, with the remedy."""
    url = standby_url.replace("postgresql:", f"postgresql+{library}:") + "&target_session_attrs=read-write"
    driver = driver_at(url, "public", pool_size=1)

    with pytest.raises(ConnectionLost) as error:
        await driver.open()
    await driver.close()

    assert f"no server that accepts writes, only a standby; {REMEDY}" in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("library", ["asyncpg", "psycopg"])
async def test_standby_is_named_where_it_cannot_read_a_table(standby_url: str, library: str) -> None:
    """A list of an unlogged table, such as that of the clients, says that the server is a standby, with the remedy."""
    driver = driver_at(standby_url.replace("postgresql:", f"postgresql+{library}:"), "public", pool_size=1)
    await driver.open()

    with pytest.raises(ConnectionLost) as error:
        await driver.pool.fetch("SELECT * FROM unlogged")
    await driver.close()

    assert f"got a standby, which cannot read unlogged tables such as this; {REMEDY}" in str(error.value)
