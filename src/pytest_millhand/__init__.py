"""
A pytest plugin with fixtures for applications that use Millhand; pytest loads it automatically.

    millhand_postgres            the URL of a server for the whole run: DATABASE_URL's, or an embedded one
    millhand_database_url        the URL of a migrated database that belongs to this process of the run
    millhand_fresh_database_url  the URL of a migrated database that belongs to the test
    millhand_tx                  a transaction on `millhand_database_url`, rolled back after the test
    millhand_prepare             override it to add your own tables to these databases
    millhand_schema              override it to choose the schema of Millhand's tables

It is a package outside of `millhand`, because pytest imports it in every run and importing Millhand takes longer than
many tests. The first fixture that is used imports Millhand.
"""

from __future__ import annotations

import os
import tempfile
import types
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    import asyncpg

    from millhand.testing.database import Databases

RUN = pytest.StashKey[str]()
URL_VARIABLES = ("MILLHAND_TEST_DATABASE_URL", "DATABASE_URL")
Scope = Literal["function", "class", "module", "package", "session"]
LOOP_SCOPES: tuple[Scope, ...] = ("function", "class", "module", "package", "session")


def pytest_configure(config: pytest.Config) -> None:
    """Name the run; all of its processes use the same name."""
    worker = getattr(config, "workerinput", None)
    config.stash[RUN] = os.urandom(4).hex() if worker is None else worker["millhand_run"]
    if config.pluginmanager.hasplugin("asyncio"):
        config.pluginmanager.register(_asyncio_fixtures(), "millhand_asyncio")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:  # noqa: ANN401 - pytest-xdist is optional
    """Pass the name of the run to a worker of pytest-xdist."""
    node.workerinput["millhand_run"] = node.config.stash[RUN]


def pytest_unconfigure(config: pytest.Config) -> None:
    """Delete the run's embedded server when all processes of the run have ended."""
    if hasattr(config, "workerinput") or not (directory := _directory(config)).exists():
        return
    from millhand.testing.database import remove_server  # noqa: PLC0415 - see above

    remove_server(directory)


@pytest.fixture(scope="session")
def millhand_postgres(pytestconfig: pytest.Config) -> Iterator[str]:
    """
    The URL of a PostgreSQL server for this run.

    It is MILLHAND_TEST_DATABASE_URL or DATABASE_URL. Without these, an embedded server is started for all processes of
    the run. On your server, the fixtures create and drop their own databases and change no other.
    """
    for name in URL_VARIABLES:
        if url := os.environ.get(name):
            yield url
            return
    from millhand.testing.database import running_server  # noqa: PLC0415 - see above

    with running_server(_directory(pytestconfig)) as url:
        yield url


@pytest.fixture(scope="session")
def millhand_prepare() -> Callable[[str], object] | None:
    """
    Override it to return a function that creates your tables in the database whose URL it gets.

    It is called once a run, in a separate thread, after Millhand's migrations. It may be a coroutine function.
    """
    return None


@pytest.fixture(scope="session")
def millhand_schema() -> str:
    """Override it to return the schema of Millhand's tables, as in `Config(schema=…)`."""
    return ""


@pytest.fixture(scope="session")
def _millhand_databases(
    pytestconfig: pytest.Config,
    millhand_postgres: str,
    millhand_prepare: Callable[[str], object] | None,
    millhand_schema: str,
) -> Iterator[Databases]:
    from millhand.testing.database import Databases  # noqa: PLC0415 - see above

    process = os.environ.get("PYTEST_XDIST_WORKER", "main")
    with Databases(
        millhand_postgres,
        run=pytestconfig.stash[RUN],
        process=process,
        prepare=millhand_prepare,
        schema=millhand_schema,
    ) as databases:
        yield databases


@pytest.fixture(scope="session")
def millhand_database_url(_millhand_databases: Databases) -> Iterator[str]:
    """The URL of a migrated database that only this process of the run uses. What one test commits, later ones see."""
    with _millhand_databases.new() as url:
        yield url


@pytest.fixture
def millhand_fresh_database_url(_millhand_databases: Databases) -> Iterator[str]:
    """The URL of a migrated, empty database for one test; for tests that commit, listen, or work queues."""
    with _millhand_databases.new() as url:
        yield url


@pytest.fixture
def millhand_tx(request: pytest.FixtureRequest) -> asyncpg.Connection[Any]:
    """An asyncpg connection in a transaction that is rolled back; for tests of pytest-asyncio or anyio."""
    name = "_millhand_tx"
    if "anyio_backend" not in request.fixturenames:
        name = f"_millhand_tx_{_loop_scope(request)}"
    connection: asyncpg.Connection[Any] = request.getfixturevalue(name)
    return connection


async def _tx(millhand_database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    from millhand.testing.database import transaction  # noqa: PLC0415 - see above

    async with transaction(millhand_database_url) as connection:
        yield connection


_anyio_tx = pytest.fixture(name="_millhand_tx")(_tx)


def _asyncio_fixtures() -> types.ModuleType:
    """Return a plugin with a transaction fixture for each loop scope of pytest-asyncio."""
    plugin = types.ModuleType("pytest_millhand_asyncio")
    for scope in LOOP_SCOPES:
        name = f"_millhand_tx_{scope}"
        setattr(plugin, name, _asyncio_tx(scope, name))
    return plugin


def _asyncio_tx(scope: Scope, name: str) -> object:
    import pytest_asyncio  # noqa: PLC0415 - optional; its plugin is registered

    async def tx(millhand_database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
        async for connection in _tx(millhand_database_url):
            yield connection

    try:
        return pytest_asyncio.fixture(loop_scope=scope, name=name)(tx)
    except TypeError:  # before pytest-asyncio 0.24
        return pytest_asyncio.fixture(name=name)(tx)


def _loop_scope(request: pytest.FixtureRequest) -> str:
    if not request.config.pluginmanager.hasplugin("asyncio"):
        raise pytest.UsageError(
            "millhand_tx must be used in an asynchronous test, of pytest-asyncio or marked with pytest.mark.anyio; "
            "in others make a connection to millhand_database_url"
        )
    marker = request.node.get_closest_marker("asyncio")
    of_marker = None if marker is None else marker.kwargs.get("loop_scope")
    return str(of_marker or _default_loop_scope(request.config) or "function")


def _default_loop_scope(config: pytest.Config) -> object:
    try:
        return config.getini("asyncio_default_test_loop_scope")
    except ValueError:  # before pytest-asyncio 0.26
        return None


def _directory(config: pytest.Config) -> Path:
    """Return the directory of the run's embedded server. The name is short because the directory holds a socket."""
    return Path(tempfile.gettempdir(), f"millhand-pytest-{config.stash[RUN]}")
