"""Create the database of a measurement: empty, or a copy of one with a million rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import processes
from harness import Order, System, database_url, redis_url


async def make(system: System, order: Order) -> None:
    """Create the database of a measurement with its tables and the ordered rows."""
    if system.is_on_redis:
        import redis  # noqa: PLC0415

        redis.Redis.from_url(redis_url()).flushdb()
        return
    if not order.finished and not order.waiting:
        make_empty(_name())
        await system.set_up()
        return
    template = f"rows_{system.tables}_{order.finished}_{order.waiting}"
    if not ask(f"SELECT count(*) FROM pg_database WHERE datname = '{template}'"):
        await _make_template(system, order, template)
    drop()
    _do(f'CREATE DATABASE "{_name()}" TEMPLATE "{template}" STRATEGY file_copy')


def drop() -> None:
    """Drop the database of a measurement."""
    _do(f'DROP DATABASE IF EXISTS "{_name()}" WITH (FORCE)')


def settle(system: System) -> None:
    """Refresh the statistics and flush everything, so that all drains start alike."""
    if not system.is_on_redis:
        _do("VACUUM (ANALYZE)", "CHECKPOINT", url=database_url())


def wal_bytes(system: System) -> int:
    return 0 if system.is_on_redis else int(ask("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))


def transactions(system: System) -> int:
    """Return the number of finished transactions in the database."""
    if system.is_on_redis:
        return 0
    return int(ask(f"SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = '{_name()}'"))


def server_cpu_seconds(system: System) -> float:
    """Return the user and system time of the server, exited processes included."""
    if system.is_on_redis:
        import redis  # noqa: PLC0415

        said = redis.Redis.from_url(redis_url()).info("cpu")
        return float(said["used_cpu_user"]) + float(said["used_cpu_sys"])
    postmaster = int(ask("SELECT pg_read_file('postmaster.pid')").split()[0])
    return sum(processes.cpu_seconds(pid, with_waited=True) for pid in processes.family([postmaster]))


@contextlib.contextmanager
def held_snapshot() -> Iterator[None]:
    """Keep a transaction open whose snapshot keeps every row that dies after it."""
    with connected(database_url()) as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT count(*) FROM pg_class")
        yield
        connection.execute("ROLLBACK")


@contextlib.contextmanager
def without_autovacuum() -> Iterator[None]:
    """Turn autovacuum off, so that only the measured systems make transactions."""
    try:
        _do("ALTER SYSTEM SET autovacuum = off", "SELECT pg_reload_conf()")
        yield
    finally:
        _do("ALTER SYSTEM RESET autovacuum", "SELECT pg_reload_conf()")


def ask(sql: str) -> Any:  # noqa: ANN401 - one value
    """Query one value through another database."""
    with connected(_beside()) as connection:
        return connection.execute(sql).fetchone()[0]


async def _make_template(system: System, order: Order, template: str) -> None:
    # Under another name until it is complete, in case the run is interrupted.
    make_empty(_name())
    await system.set_up()
    for num_rows, sql in ((order.finished, system.history_sql), (order.waiting, system.backlog_sql)):
        if num_rows:
            _do(sql(num_rows) or "", url=database_url())
    _do("VACUUM (FREEZE, ANALYZE)", url=database_url())
    _do("CHECKPOINT", f'ALTER DATABASE "{_name()}" RENAME TO "{template}"')


def make_empty(name: str) -> None:
    """Create a database, in place of one with its name."""
    _do(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)', f'CREATE DATABASE "{name}"')


def _name() -> str:
    return urlsplit(database_url()).path.lstrip("/")


def _beside() -> str:
    return urlsplit(database_url())._replace(path="/postgres").geturl()


def _do(*statements: str, url: str | None = None) -> None:
    with connected(url or _beside()) as connection:
        for sql in statements:
            connection.execute(sql)


def connected(url: str) -> Any:  # noqa: ANN401 - psycopg, which is in each environment but not in each type check
    """Return a connection in which each statement is a transaction."""
    import psycopg  # noqa: PLC0415 - a system on Redis has no need of it

    return psycopg.connect(url, autocommit=True)
