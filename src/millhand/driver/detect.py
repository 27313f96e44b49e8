"""
Whose connection is it: what `tx=` and a client's `database` accept, and what speaks for each.

Told by the packages that an object's class comes from, so that nothing is imported that the caller has not imported
himself. A driver's module offers `executor_inside(tx, schema)` and `driver_on(database, schema)`, each None for what it
does not know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from millhand.driver.protocol import Driver, Executor
from millhand.driver.url import ASYNCPG, POOL_SIZE, PSYCOPG, driver_named_in
from millhand.errors import ConfigError

ASYNC_TX = (
    "an asyncpg.Connection, a connection acquired from an asyncpg.Pool, a psycopg.AsyncConnection, a SQLAlchemy "
    "AsyncConnection or AsyncSession, or the executor of a transaction that a driver began"
)
ASYNC_DATABASE = (
    "a URL, an asyncpg.Pool, a psycopg_pool.AsyncConnectionPool, a SQLAlchemy AsyncEngine or a driver"
)

SYNC_TX = (
    "a psycopg.Connection, a SQLAlchemy Connection or Session, a Django connection, or the executor of a transaction "
    "that a driver began"
)
SYNC_DATABASE = "a URL, a psycopg_pool.ConnectionPool, a SQLAlchemy Engine, a Django connection or a driver"

_ASYNC = {
    "asyncpg": "asyncpg",
    "psycopg": "psycopg",
    "psycopg_pool": "psycopg",
    "sqlalchemy": "sqlalchemy",
}
_SYNC = {
    "django": "django",
    "psycopg": "psycopg_sync",
    "psycopg_pool": "psycopg_sync",
    "sqlalchemy": "sqlalchemy_sync",
}
_ASYNC_BY_URL = {ASYNCPG: ("asyncpg", "AsyncpgDriver"), PSYCOPG: ("psycopg", "PsycopgDriver")}


def executor_of(tx: object, schema: str) -> Executor:
    """
    Return an executor inside the caller's own connection, with whatever transaction is open on it.

    Raises: TypeError that lists what is accepted.
    """
    return _executor(tx, schema, _ASYNC, ASYNC_TX, other=("SyncClient", _SYNC))


def sync_executor_of(tx: object, schema: str) -> Executor:
    """Return an executor that blocks, inside the caller's own connection. Raises: as `executor_of`."""
    return _executor(tx, schema, _SYNC, SYNC_TX, other=("Client", _ASYNC))


def driver_of(database: object, schema: str) -> Driver:
    """
    Return the driver for a client's database.

    Raises: ConfigError that lists what is accepted.
    """
    if isinstance(database, str):
        return driver_at(database, schema)
    return _driver(database, schema, _ASYNC, ASYNC_DATABASE)


def driver_at(url: str, schema: str = "", *, pool_size: int = POOL_SIZE) -> Driver:
    """
    Return the driver that the scheme of a URL names: psycopg's for `postgresql+psycopg://`, else asyncpg's.

    Raises: ConfigError for a URL that is none, and for a driver that is not installed.
    """
    module, name = _ASYNC_BY_URL[driver_named_in(url) or ASYNCPG]
    driver: Driver = getattr(_imported(module, url), name)(url, schema, pool_size=pool_size)
    return driver


def sync_driver_of(database: object, schema: str) -> Driver:
    """Return the driver, which blocks, for a client's database; of a URL it is psycopg's. Raises: as `driver_of`."""
    if isinstance(database, str):
        driver: Driver = _imported("psycopg_sync", database).PsycopgSyncDriver(database, schema)
        return driver
    return _driver(database, schema, _SYNC, SYNC_DATABASE)


def django_driver(alias: str, schema: str) -> Driver:
    """Return the driver for one of Django's databases, by its alias."""
    driver: Driver = import_module("millhand.driver.django").DjangoDriver(alias, schema)
    return driver


def kind_of(something: object) -> str:
    """Return what a class is called in an error."""
    return f"{type(something).__module__}.{type(something).__qualname__}"


def _executor(
    tx: object,
    schema: str,
    drivers: Mapping[str, str],
    accepted: str,
    *,
    other: tuple[str, Mapping[str, str]],
) -> Executor:
    executor = _asked("executor_inside", tx, schema, drivers)
    if executor is None:
        name, others = other
        remedy = f"; {name} takes it" if _asked("executor_inside", tx, schema, others) else ""
        raise TypeError(f"tx must be {accepted}, got {kind_of(tx)}{remedy}")
    return executor  # type: ignore[no-any-return]


def _driver(database: object, schema: str, drivers: Mapping[str, str], accepted: str) -> Driver:
    if isinstance(database, Driver):
        return database
    driver = _asked("driver_on", database, schema, drivers)
    if driver is None:
        raise ConfigError(f"database must be {accepted}, got {kind_of(database)}")
    return driver  # type: ignore[no-any-return]


def _imported(module: str, url: str) -> Any:
    """Import the module of a driver that only a URL names, which its package may be missing for. Raises: ConfigError."""
    try:
        return import_module(f"millhand.driver.{module}")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("psycopg", "psycopg_pool"):
            raise
        scheme = url.partition(":")[0]
        raise ConfigError(
            f"a database by '{scheme}://' needs psycopg here, got no module named {package!r}; "
            "write: pip install 'millhand[psycopg]'"
        ) from error


def _asked(question: str, subject: object, schema: str, drivers: Mapping[str, str]) -> Any:
    for name in _modules(subject, drivers):
        answer = getattr(import_module(f"millhand.driver.{name}"), question)(subject, schema)
        if answer is not None:
            return answer
    return None


def _modules(subject: object, drivers: Mapping[str, str]) -> Iterator[str]:
    """Give the drivers' modules that may know an object."""
    for kind in type(subject).__mro__:
        package, _, rest = kind.__module__.partition(".")
        if package == "millhand" and rest.removeprefix("driver.") in drivers.values():
            yield rest.removeprefix("driver.")
        elif package in drivers:
            yield drivers[package]
