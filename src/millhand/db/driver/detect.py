"""
Find the driver for a client's database.

The class's package decides which driver's module is asked, so nothing is imported that the caller has not imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from millhand.core.errors import ConfigError
from millhand.db.driver.protocol import Driver
from millhand.db.driver.tx_executor import ask, class_name
from millhand.db.driver.url import ASYNCPG, POOL_SIZE, PSYCOPG, driver_named_in

ASYNC_DATABASE = (
    "a URL, an asyncpg.Pool, a psycopg_pool.AsyncConnectionPool, a SQLAlchemy AsyncEngine or a driver"
)
SYNC_DATABASE = "a URL, a psycopg_pool.ConnectionPool, a SQLAlchemy Engine, a Django connection or a driver"

_ASYNC = {
    "asyncpg": "asyncpg.driver_on",
    "psycopg_pool": "psycopg.driver_on",
    "sqlalchemy": "sqlalchemy.driver_on",
}
_SYNC = {
    "django": "django.driver_on",
    "psycopg_pool": "psycopg_sync.driver_on",
    "sqlalchemy": "sqlalchemy.sync_driver_on",
}
_ASYNC_BY_URL = {ASYNCPG: ("asyncpg", "AsyncpgDriver"), PSYCOPG: ("psycopg", "PsycopgDriver")}


def driver_of(database: object, schema: str, pool_size: int | None = None) -> Driver:
    """Return the driver for a client's database. Raises: ConfigError that lists what is accepted."""
    size = _size_of_own_pool(database, pool_size)
    if isinstance(database, str):
        return driver_at(database, schema, pool_size=size)
    return _driver(database, schema, _ASYNC, ASYNC_DATABASE)


def driver_at(url: str, schema: str = "", *, pool_size: int = POOL_SIZE) -> Driver:
    """
    Return the driver that a URL's scheme names: psycopg's for `postgresql+psycopg://`, else asyncpg's.

    Raises: ConfigError for an invalid URL, and for a driver that is not installed.
    """
    module, name = _ASYNC_BY_URL[driver_named_in(url) or ASYNCPG]
    driver: Driver = getattr(_imported(module, url), name)(url, schema, pool_size=pool_size)
    return driver


def sync_driver_of(database: object, schema: str, pool_size: int | None = None) -> Driver:
    """Return the blocking driver for a client's database; for a URL it is psycopg's. Raises: as `driver_of`."""
    size = _size_of_own_pool(database, pool_size)
    if isinstance(database, str):
        module = _imported("psycopg_sync", database)
        driver: Driver = module.PsycopgSyncDriver(database, schema, pool_size=size)
        return driver
    return _driver(database, schema, _SYNC, SYNC_DATABASE)


def django_driver(alias: str, schema: str) -> Driver:
    """Return the driver for one of Django's databases, by its alias."""
    driver: Driver = import_module("millhand.db.driver.django").DjangoDriver(alias, schema)
    return driver


def _size_of_own_pool(database: object, pool_size: int | None) -> int:
    if pool_size is None:
        return POOL_SIZE
    if not isinstance(database, str):
        raise ConfigError(
            f"pool_size must be left out unless database is a URL, got {pool_size!r} and a {class_name(database)}; "
            "set the size of your own pool"
        )
    return pool_size


def _driver(database: object, schema: str, functions: Mapping[str, str], accepted: str) -> Driver:
    if isinstance(database, Driver):
        return database
    driver: Driver | None = ask(database, schema, functions)
    if driver is None:
        got = "None; is DATABASE_URL set?" if database is None else class_name(database)
        raise ConfigError(f"database must be {accepted}, got {got}")
    return driver


def _imported(module: str, url: str) -> Any:
    try:
        return import_module(f"millhand.db.driver.{module}")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("psycopg", "psycopg_pool"):
            raise
        scheme = url.partition(":")[0]
        raise ConfigError(
            f"a database by '{scheme}://' needs psycopg here, got no module named {package!r}; "
            "write: pip install 'millhand[psycopg]'"
        ) from error
