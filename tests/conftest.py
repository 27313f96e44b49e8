"""
What all tests share: a real PostgreSQL, one server a run and one database a test process.

The server is Millhand's own embedded one, in a directory of this run, joined by all of pytest-xdist's workers and
stopped by the last. MILLHAND_TEST_DATABASE_URL names another server instead; the databases made there are dropped.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import hypothesis
import pytest

from kinds_module import KINDS_MODULE
from lent_schema import lent, migrate, new_schema_driver
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.embedded import embedded_postgres
from millhand.engine import loop_guard
from millhand.observe.log import REPETITIVE_LOGGERS, VERBOSE_LOGGERS
from slow_share import keep_tests_of_today
from topic_recorder import TopicRecorder
from worker_module import WORKER_MODULE

# A run of the suite plays fewer examples of each property than it might; HYPOTHESIS_PROFILE=default plays them all.
hypothesis.settings.register_profile("quick", max_examples=25, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

# The default suite would import these files, and then deselect all of their tests.
DEFAULT_MARKS = "not slow and not interop"
OTHER_DIRECTORIES = {"browser", "interop"}
OTHER_FILE = re.compile(r"^pytestmark = \[?pytest\.mark\.slow", re.MULTILINE)

POSTGRES_DIRECTORY = pytest.StashKey[Path]()
# Nothing here outlives the run, so nothing need reach the disk.
POSTGRES_SETTINGS = {
    "autovacuum": "off",  # its snapshot would keep dead rows that a test counts
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "max_wal_size": "4GB",
    "shared_buffers": "128MB",
    "synchronous_commit": "off",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--today", action="store_true", help="of slow tests, run only those of today: tests/slow_share.py"
    )


def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # collection makes a million objects that live until the end
    if hasattr(config, "workerinput"):
        config.stash[POSTGRES_DIRECTORY] = Path(config.workerinput["postgres_directory"])
        return
    directory = Path(tempfile.mkdtemp(prefix="millhand-test-"))
    directory.chmod(0o755)  # pytest's own tmp_path is closed to the user that a root's server runs as
    config.stash[POSTGRES_DIRECTORY] = directory


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """Tell a worker of pytest-xdist where the run's one server lives."""
    node.workerinput["postgres_directory"] = str(node.config.stash[POSTGRES_DIRECTORY])  # type: ignore[attr-defined]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip files and directories whose tests are all slow, or all need the real River, in the default suite."""
    if config.option.markexpr != DEFAULT_MARKS:
        return None
    if collection_path.name in OTHER_DIRECTORIES:
        return True
    is_test = collection_path.suffix == ".py" and collection_path.name.startswith("test_")
    return True if is_test and OTHER_FILE.search(collection_path.read_text()) else None


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(
    collector: pytest.Collector, name: str, obj: object
) -> list[pytest.Item] | None:
    """Make no items of a function or class that is marked slow, in the default suite."""
    if collector.config.option.markexpr != DEFAULT_MARKS or not name.lower().startswith("test"):
        return None
    marks = getattr(obj, "pytestmark", [])
    names = [mark.name for mark in (marks if isinstance(marks, list) else [marks])]
    return [] if "slow" in names else None


def pytest_collection_finish() -> None:
    """Let the garbage collector skip what collection made: a look at all of it takes half a second."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        return
    directory = config.stash[POSTGRES_DIRECTORY]
    if (directory / "data" / "postmaster.pid").exists():  # all of its users were killed
        with embedded_postgres(directory):
            pass
    shutil.rmtree(directory, ignore_errors=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--today"):
        keep_tests_of_today(items)
    for item in items:
        if "postgres_server_url" in getattr(item, "fixturenames", ()):
            item.add_marker("database")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """What a test makes of the process's log ends with it: others count the lines that they see."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    named = [logging.getLogger(name) for name in (*VERBOSE_LOGGERS, *REPETITIVE_LOGGERS)]
    levels = [(logger, logger.level) for logger in (root, *named)]
    yield
    for logger, level in levels:
        if logger.level != level:  # setting it empties the caches of all loggers
            logger.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture(autouse=True)
def loop_guard_log() -> Iterator[logging.Logger]:
    """The logger of the loop guard, which is silent here: a busy machine blocks loops in whatever test it likes."""
    logger = logging.getLogger(loop_guard.__name__)
    logger.disabled = True
    yield logger
    logger.disabled = False


@pytest.fixture(scope="session")
def postgres_server_url(pytestconfig: pytest.Config) -> Iterator[str]:
    """The URL of the run's server, with a database that belongs to nobody; for tests, take `postgres_url`."""
    if given := os.environ.get("MILLHAND_TEST_DATABASE_URL"):
        yield given
        return
    with embedded_postgres(pytestconfig.stash[POSTGRES_DIRECTORY], POSTGRES_SETTINGS) as server:
        yield server.url


@pytest.fixture(scope="session")
async def postgres_url(postgres_server_url: str) -> AsyncIterator[str]:
    """The URL of an empty database that no other test process uses: its LISTEN, locks and schemas are ours alone."""
    name = f"millhand_test_{os.getpid()}"
    async with _connected(postgres_server_url) as connection:
        await connection.execute(f"CREATE DATABASE {name}")
    yield urlunsplit(urlsplit(postgres_server_url)._replace(path=f"/{name}"))
    if "MILLHAND_TEST_DATABASE_URL" in os.environ:  # the run's own server goes with all of its databases
        async with _connected(postgres_server_url) as connection:
            await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
async def driver(postgres_url: str) -> AsyncIterator[AsyncpgDriver]:
    """A driver, open, on the process's database with everything migrated; what is committed there must be taken back."""
    driver = AsyncpgDriver(postgres_url)
    await driver.open()
    await migrate(driver)
    yield driver
    left = await driver.pool.fetch(
        "SELECT kind FROM river_job UNION ALL SELECT name FROM river_queue LIMIT 10"
    )
    await driver.close()
    assert left == []


@pytest.fixture(scope="session")
async def connections(postgres_url: str) -> AsyncIterator[list[asyncpg.Connection]]:
    """Connections that are lent out by `connection`."""
    connections: list[asyncpg.Connection] = []
    yield connections
    for connection in connections:
        await connection.close()


@pytest.fixture
async def connection(
    driver: AsyncpgDriver, connections: list[asyncpg.Connection], postgres_url: str
) -> AsyncIterator[asyncpg.Connection]:
    """A connection in a transaction that is rolled back, on a migrated schema; what `tx` speaks on."""
    connection = connections.pop() if connections else await asyncpg.connect(postgres_url)
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    connections.append(connection)


@pytest.fixture
def tx(driver: AsyncpgDriver, connection: asyncpg.Connection) -> Executor:
    """An executor in a transaction that is rolled back: the cheapest isolation, for one connection without NOTIFY."""
    return driver.executor(connection)


@pytest.fixture(scope="session")
async def schema_drivers(postgres_url: str) -> AsyncIterator[list[AsyncpgDriver]]:
    """Drivers on migrated, empty schemas that are lent out by `schema_driver`."""
    drivers: list[AsyncpgDriver] = []
    yield drivers
    for driver in drivers:
        await driver.close()


@pytest.fixture
async def schema_driver(
    schema_drivers: list[AsyncpgDriver], postgres_url: str
) -> AsyncIterator[AsyncpgDriver]:
    """A driver, open, on a migrated schema that is the test's alone: for several connections, NOTIFY, leaders."""
    async with lent(schema_drivers, postgres_url) as driver:
        yield driver


@pytest.fixture(scope="module")
async def module_driver(postgres_url: str) -> AsyncIterator[AsyncpgDriver]:
    """A driver, open, on a migrated schema that a file's tests share, to be filled once and then only read."""
    driver = await new_schema_driver(postgres_url)
    yield driver
    await driver.pool.fetch(f"DROP SCHEMA {driver.schema} CASCADE")
    await driver.close()


@pytest.fixture
def schema(schema_driver: AsyncpgDriver) -> str:
    """The name of a migrated schema that is the test's alone, emptied afterwards."""
    return schema_driver.schema


@contextlib.asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def topics(schema_driver: AsyncpgDriver) -> AsyncIterator[TopicRecorder]:
    """A recorder of the notifications on the topics of the test's own schema."""
    listener = schema_driver.listener()
    topics = TopicRecorder(schema_driver, listener)
    await topics.open()
    yield topics
    await listener.close()


@pytest.fixture
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty working directory and remove Millhand's variables from the environment."""
    for name in [name for name in os.environ if name.startswith("MILLHAND_") or name == "DATABASE_URL"]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def project(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch, schema_driver: AsyncpgDriver, postgres_url: str
) -> Path:
    """Change to a working directory whose DATABASE_URL and schema are migrated and belong to the test."""
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    monkeypatch.setenv("MILLHAND_DATABASE_SCHEMA", schema_driver.schema)
    return empty_directory


@pytest.fixture
def kinds_target(empty_directory: Path) -> str:
    """Write a user's configuration, and return its MODULE:CONFIG."""
    name = f"shop_{secrets.token_hex(6)}"
    (empty_directory / f"{name}.py").write_text(KINDS_MODULE)
    return f"{name}:config"


@pytest.fixture
def worker_modules(empty_directory: Path) -> Iterator[Path]:
    """Write a user's modules, and remove them from `sys.modules` afterwards."""
    (empty_directory / "shop.py").write_text(WORKER_MODULE)
    (empty_directory / "broken.py").write_text("import shop\nvalue = {}['no such key']\n")
    (empty_directory / "needy.py").write_text("import no_such\n")
    (empty_directory / "bakery" / "ovens").mkdir(parents=True)
    for name in ("__init__", "jobs", "ovens/__init__", "ovens/jobs"):
        (empty_directory / "bakery" / f"{name}.py").touch()
    path = sys.path[:]
    yield empty_directory
    sys.path[:] = path
    for name in ("shop", "broken", "needy", "bakery", "bakery.ovens"):
        sys.modules.pop(name, None)
