"""Claims about the comparison of a worker's connections with those of its server."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.doctor.store import doctor_get_server
from millhand.process.connection_budget import PROCESSES_VARIABLE, take_num_processes, warn_of_connections

FIELDS = ("num_processes", "pool_size", "num_connections", "connections_max", "remedy")


async def warned(
    postgres_url: str, caplog: pytest.LogCaptureFixture, *, spare: int, processes: int = 1
) -> Any:
    """Return the fields of the warning of a pool that leaves so many connections `spare`, and what the server has."""
    async with _opened(AsyncpgDriver(postgres_url)) as driver:
        connections_max = (await driver.pool.run(doctor_get_server())).connections_max
    pool_size = connections_max // processes - 1 - spare
    async with _opened(AsyncpgDriver(postgres_url, pool_size=pool_size)) as driver:
        await warn_of_connections(driver, processes)
    fields = [[vars(record)[name] for name in FIELDS] for record in caplog.records]
    assert {(record.levelno, record.msg) for record in caplog.records} <= {
        (logging.WARNING, "connections may run out")
    }
    return fields, connections_max


async def test_worker_warns_if_its_pools_exceed_the_server(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The line has what the processes may open, what the server has without reserved ones, and a remedy."""
    fields, most = await warned(postgres_url, caplog, spare=-1)

    remedy = f"set pool_size = {most - 1} in [database], or raise max_connections of the server"
    assert fields == [[1, most, most + 1, most, remedy]]


async def test_worker_names_fewer_processes_if_no_pool_is_small_enough(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A process needs two connections, so a smaller pool is no remedy for as many processes as connections."""
    async with _opened(AsyncpgDriver(postgres_url, pool_size=1)) as driver:
        await warn_of_connections(driver, 1_000)

    assert [vars(record)["remedy"] for record in caplog.records] == [
        "run fewer processes, or raise max_connections of the server"
    ]


@pytest.mark.parametrize("processes", [1, 3])
async def test_worker_is_silent_about_connections_that_the_server_has(
    postgres_url: str, caplog: pytest.LogCaptureFixture, processes: int
) -> None:
    """Pools that take all connections of the server are none too large."""
    assert (await warned(postgres_url, caplog, spare=0, processes=processes))[0] == []


async def test_only_the_first_process_compares(
    driver: AsyncpgDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """The other processes of a supervisor log nothing."""
    await warn_of_connections(driver, 0)

    assert caplog.records == []


@contextlib.asynccontextmanager
async def _opened(driver: AsyncpgDriver) -> AsyncIterator[AsyncpgDriver]:
    await driver.open()
    try:
        yield driver
    finally:
        await driver.close()


@pytest.mark.parametrize(("text", "number"), [("12", 12), ("0", 0), (None, 1), ("many", 1)])
def test_process_compares_once(monkeypatch: pytest.MonkeyPatch, text: str | None, number: int) -> None:
    """A process alone compares its own connections; the variable of the supervisor is not inherited."""
    if text is not None:
        monkeypatch.setenv(PROCESSES_VARIABLE, text)

    assert (take_num_processes(), take_num_processes()) == (number, 1)
