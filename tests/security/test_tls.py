"""TLS as the URL or the environment requests it, on every connection, by every driver; and its errors."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import quote

import psycopg_pool
import pytest
from guarded_server import CERTIFIED, HOST, OWNER, PASSWORD, GuardedServer, guarded_server

from millhand import Client, Config, EventKind, Job, SyncClient, Workers
from millhand.core.errors import MillhandError
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.psycopg import PsycopgDriver
from millhand.db.driver.psycopg_sync import PsycopgSyncDriver
from millhand.db.schema.migrator import Migrator, lines

pytestmark = pytest.mark.slow

GENEROUS_SECONDS = 20.0
WITHOUT_TLS = """
    SELECT count(*) AS n
    FROM pg_stat_activity AS session INNER JOIN pg_stat_ssl USING (pid)
    WHERE session.application_name = 'millhand' AND NOT ssl
"""
LISTENING = "SELECT ssl FROM pg_stat_activity INNER JOIN pg_stat_ssl USING (pid) WHERE query LIKE 'LISTEN%'"
AUTHORITY = (
    "sslrootcert (PGSSLROOTCERT) must be the file of the authority that signed the server's certificate"
)
NAMED = "the URL's host must be a name in the server's certificate, or sslmode must be verify-ca"
CERTIFICATE = (
    "sslcert and sslkey (PGSSLCERT, PGSSLKEY) must be the files of the client's certificate and of its key"
)
Use = Callable[[GuardedServer], str]


@dataclass(frozen=True)
class Act:
    kind: ClassVar[str] = "act"


@pytest.fixture(scope="module")
def server() -> Iterator[GuardedServer]:
    with guarded_server() as server:
        asyncio.run(_migrated(server.url()))
        yield server


async def _migrated(url: str) -> None:
    driver = AsyncpgDriver(url)
    await driver.open()
    for line in lines():
        await Migrator(driver, line).up()
    await driver.close()


def in_url(server: GuardedServer) -> str:
    return server.url(sslmode="verify-full", sslrootcert=server.path("ca.crt"))


def by_certificate(server: GuardedServer) -> str:
    files = {"sslcert": server.path("client.crt"), "sslkey": server.path("client.key")}
    return server.url(
        CERTIFIED, password="", sslmode="verify-full", sslrootcert=server.path("ca.crt"), **files
    )


def environment(server: GuardedServer) -> dict[str, str]:
    """Return the environment variables for everything that a URL may have."""
    return {
        "PGHOST": HOST,
        "PGPORT": str(server.port),
        "PGUSER": OWNER,
        "PGPASSWORD": PASSWORD,
        "PGDATABASE": "postgres",
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": server.path("ca.crt"),
    }


async def _works(database: Any) -> list[bool]:
    """Let a client on `database` work a job, and return whether its listening connection has TLS."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None: ...

    async with Client(database, Config(workers=workers, queues={"default": 1})) as client:
        with client.subscribe() as events:
            await client.insert(Act())
            event = await asyncio.wait_for(anext(events), GENEROUS_SECONDS)
        pool = client._driver.pool
        async with asyncio.timeout(GENEROUS_SECONDS):
            # A connection of a previous client may still be closing.
            while len(listening := [row["ssl"] for row in await pool.fetch(LISTENING)]) > 1:
                pass
        [without] = await pool.fetch(WITHOUT_TLS)
    assert (event.kind, without["n"]) == (EventKind.JOB_COMPLETED, 0)
    return listening


@pytest.mark.parametrize("url", [in_url, by_certificate, lambda server: server.url(sslmode="require")])
async def test_every_connection_has_tls_as_the_url_says(server: GuardedServer, url: Use) -> None:
    """Pools and listeners of asyncpg and psycopg, and blocking clients, with a password or a certificate."""
    assert await _works(url(server)) == [True]
    async with psycopg_pool.AsyncConnectionPool(url(server), open=False) as pool:
        assert await _works(pool) == [True]
    driver = PsycopgDriver(url(server))
    await driver.open()
    assert await driver.pool.fetch(WITHOUT_TLS) == [{"n": 0}]
    await driver.close()
    with SyncClient(url(server)) as client:
        assert client.insert(Act()).job.kind == "act"


async def test_environment_variables_replace_options_of_the_url(
    server: GuardedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`postgresql://` and PG… variables suffice, certificates included, for either driver."""
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)

    assert await _works("postgresql://") == [True]
    with SyncClient("postgresql://") as client:
        assert client.insert(Act()).job.kind == "act"

    monkeypatch.setenv("PGSSLROOTCERT", server.path("other_ca.crt"))
    with pytest.raises(MillhandError, match="PGSSLROOTCERT"):
        await AsyncpgDriver("postgresql://").open()


@pytest.mark.parametrize("make", [AsyncpgDriver, PsycopgDriver, PsycopgSyncDriver])
@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        pytest.param(
            lambda s: s.url(sslmode="verify-full", sslrootcert=s.path("other_ca.crt")),
            AUTHORITY,
            id="wrong CA",
        ),
        pytest.param(
            lambda s: s.url(sslmode="verify-ca", sslrootcert=s.path("other_ca.crt")),
            AUTHORITY,
            id="wrong CA, any host",
        ),
        pytest.param(lambda s: s.url(sslmode="verify-full"), AUTHORITY, id="no CA"),
        pytest.param(
            lambda s: s.url(sslmode="verify-full", sslrootcert="/none.crt"), "sslrootcert", id="no such CA"
        ),
        pytest.param(
            lambda s: s.url(sslmode="verify-full", sslrootcert=s.path("ca.crt"), host="127.0.0.1"),
            NAMED,
            id="other host",
        ),
        pytest.param(
            lambda s: s.url(sslmode="disable"), "sslmode (PGSSLMODE) must not be disable", id="no TLS"
        ),
        pytest.param(lambda s: s.url(sslmode="verify-all"), "sslmode", id="no such mode"),
        pytest.param(lambda s: s.url(CERTIFIED, sslmode="require"), CERTIFICATE, id="no certificate"),
        pytest.param(
            lambda s: s.url(CERTIFIED, sslmode="require", sslcert=s.path("client.crt"), sslkey="/none.key"),
            "sslkey",
            id="no such key",
        ),
    ],
)
async def test_error_names_the_option_to_correct(
    server: GuardedServer, make: Any, url: Use, remedy: str
) -> None:
    """For every driver the error names in one line the TLS option to check, and never the password."""
    driver = make(url(server))
    with pytest.raises(MillhandError) as caught:
        await driver.open()

    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)
    assert PASSWORD not in str(caught.value)
    assert quote(PASSWORD, safe="") not in str(caught.value)


def test_command_line_connects_by_both_and_reports_errors(server: GuardedServer, tmp_path: Any) -> None:
    """`millhand` connects by either, and otherwise exits with the option's name, without the password."""

    def millhand(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "millhand", *arguments]
        plain = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        return subprocess.run(
            command, env=plain | variables, capture_output=True, text=True, check=False, cwd=tmp_path
        )

    wrong = server.url(sslmode="verify-full", sslrootcert=server.path("other_ca.crt"))
    results = [
        millhand("migrate", "validate", DATABASE_URL=in_url(server)),
        millhand("migrate", "validate", DATABASE_URL="postgresql://", **environment(server)),
        millhand("migrate", "validate", DATABASE_URL=wrong),
    ]

    assert [result.returncode for result in results] == [0, 0, 1]
    assert AUTHORITY in results[2].stderr
    assert quote(PASSWORD, safe="") not in results[2].stderr
