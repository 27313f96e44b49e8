"""Faults planted into a real schema: each is found, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from doctor_worlds import HEALTHY, context_on, examined, found, plant, unseen

from lent_schema import GENEROUS_SECONDS, new_schema_driver
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.db.schema.grants import Roles, grants_sql
from millhand.doctor.catalog import CHECKS, run_checks
from millhand.doctor.server_checks import transaction_findings
from millhand.doctor.store import doctor_get_server, doctor_list_transactions
from millhand.shells.doctor.finding import Report
from pooler import pgbouncer

pytestmark = pytest.mark.slow

INVALID = """
    CREATE INDEX river_job_kind_ccnew1 ON /* schema */river_job (kind);
    UPDATE pg_index SET indisvalid = FALSE WHERE indexrelid = '/* schema */river_job_kind_ccnew1'::regclass;
"""
DEAD_ROWS = """
    INSERT INTO /* schema */river_job (kind, args, max_attempts)
    SELECT 'dead', '{}', 1 FROM generate_series(1, 101000);
    DELETE FROM /* schema */river_job WHERE kind = 'dead';
"""
PLANTED = {
    "main is old": (
        "DELETE FROM /* schema */river_migration WHERE line = 'main' AND version = 8",
        ("schema.version", "broken", "line main"),
    ),
    "millhand is old": (
        "DELETE FROM /* schema */river_migration WHERE line = 'millhand' AND version = 3",
        ("schema.version", "harmful", "line millhand"),
    ),
    "a newer release": (
        "INSERT INTO /* schema */river_migration (line, version) VALUES ('millhand', 999)",
        ("schema.version", "notable", "line millhand"),
    ),
    "no index of fetches": (
        "DROP INDEX /* schema */river_job_prioritized_fetching_index",
        ("schema.indexes", "broken", "index river_job_prioritized_fetching_index"),
    ),
    "a rest of a rebuild": (INVALID, ("schema.indexes", "harmful", "index river_job_kind_ccnew1")),
    "no autovacuum": (
        "ALTER TABLE /* schema */river_job SET (autovacuum_enabled = off)",
        ("server.autovacuum", "broken", "table river_job"),
    ),
}


@pytest.fixture
async def healthy(postgres_url: str) -> AsyncIterator[AsyncpgDriver]:
    """A schema of its own with a healthy fleet, which the test may spoil."""
    driver = await new_schema_driver(postgres_url)
    await plant(driver, HEALTHY)
    yield driver
    await driver.pool.execute_script(f"DROP SCHEMA {driver.schema} CASCADE")
    await driver.close()


async def test_each_fault_of_the_schema_is_found_and_only_that(healthy: AsyncpgDriver) -> None:
    """Planted one after the other, each fault adds its own finding; the server's settings for tests are there before."""
    before = found(await examined(context_on(healthy)))
    assert before <= {
        ("server.settings", "broken", "setting fsync"),
        ("server.autovacuum", "broken", "setting autovacuum"),
    }

    added = {}
    for name, (sql, _) in PLANTED.items():
        await plant(healthy, sql)
        now = found(await examined(context_on(healthy)))
        added[name] = now - before
        before = now

    assert added == {name: {expected} for name, (_, expected) in PLANTED.items()}


async def test_dead_rows_are_found(healthy: AsyncpgDriver, postgres_url: str) -> None:
    """A hundred thousand dead rows beside two live ones are harmful, once PostgreSQL counts them."""
    async with opened(postgres_url, healthy.schema) as other:  # a session reports what it did when it ends
        await plant(other, DEAD_ROWS)

    async with asyncio.timeout(GENEROUS_SECONDS):
        while ("server.autovacuum", "harmful", "table river_job") not in found(
            await examined(context_on(healthy), "server")
        ):
            pass


async def test_schema_without_tables_is_one_fault(postgres_url: str) -> None:
    """In an empty schema both lines are missing, and the checks that need tables say that they cannot see."""
    driver = await new_schema_driver(postgres_url)
    await driver.pool.execute_script(f"DROP SCHEMA {driver.schema} CASCADE; CREATE SCHEMA {driver.schema}")

    report = await examined(context_on(driver))

    await driver.pool.execute_script(f"DROP SCHEMA {driver.schema} CASCADE")
    await driver.close()
    assert {one for one in found(report) if one[0] != "server.settings"} == {
        ("schema.version", "broken", "line main"),
        ("schema.version", "harmful", "line millhand"),
    }
    assert unseen(report)["queues.unworked"] == "The schema is not complete."


async def test_open_transactions_are_listed_but_not_our_own(
    healthy: AsyncpgDriver, postgres_url: str
) -> None:
    """A session that wrote and stays idle is listed with its process; a session that only read holds nothing."""
    writer, reader = await asyncpg.connect(postgres_url), await asyncpg.connect(postgres_url)
    for connection, sql in ((writer, "SELECT pg_current_xact_id()"), (reader, "SELECT 1")):
        await connection.execute("BEGIN")
        await connection.execute(sql)

    listed = await healthy.pool.run(doctor_list_transactions(age=timedelta(0), num_transactions=10**6))
    server = await healthy.pool.run(doctor_get_server())
    findings = transaction_findings(server, listed)
    pids = [connection.get_server_pid() for connection in (writer, reader)]
    await writer.close()
    await reader.close()

    assert f"SELECT pg_terminate_backend({pids[0]});" in [one.commands[0] for one in findings]
    assert f"SELECT pg_terminate_backend({pids[1]});" not in [one.commands[0] for one in findings]


async def test_limits_of_the_session_are_found(healthy: AsyncpgDriver, postgres_url: str) -> None:
    """A `statement_timeout` that the URL or the role sets is found, because the session has it."""
    url = f"{postgres_url}{'&' if '?' in postgres_url else '?'}options=-c%20statement_timeout%3D5000"
    async with opened(url, healthy.schema) as driver:
        report = await examined(context_on(driver), "server")

    assert ("server.settings", "harmful", "setting statement_timeout") in found(report)


async def test_database_that_is_not_utf8_is_found(postgres_url: str) -> None:
    """A database of encoding SQL_ASCII is found by its name."""
    name = f"{urlsplit(postgres_url).path[1:]}_ascii"
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(
        f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    try:
        async with opened(urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}")), "") as driver:
            report = await examined(context_on(driver), "server")
    finally:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await connection.close()

    assert ("server.settings", "harmful", f"database {name}") in found(report)


@pytest.mark.parametrize("role", ["worker", "inserter", "feeder", "reader"])
async def test_each_role_sees_what_it_may_and_says_what_it_cannot(
    healthy: AsyncpgDriver, postgres_url: str, role: str
) -> None:
    """No role lacks a right for its purpose, each says that it sees no sessions, and those without tables see no jobs."""
    name = f"doctor_{role}_{healthy.schema[-6:]}"
    given = {one: f"{name}_{one}" for one in ("worker", "inserter", "feeder", "reader") if one != role}
    sql = grants_sql(Roles(**{role: name}, **given), schema=healthy.schema)
    await healthy.pool.execute_script(sql)
    url = f"{postgres_url}{'&' if '?' in postgres_url else '?'}options=-c%20role%3D{name}"
    try:
        async with opened(url, healthy.schema) as driver:
            report = await examined(context_on(driver))
            hidden = unseen(report)
            faults = {check for check, _, _ in found(report)} - {"server.settings", "server.autovacuum"}
    finally:
        names = ", ".join([name, *given.values()])
        await healthy.pool.execute_script(f"DROP OWNED BY {names}; DROP ROLE {names}")

    sessions = {"server.transactions": f"Role {name} cannot see the transactions of other roles."}
    assert faults == set()
    if role in ("worker", "reader"):
        assert hidden == sessions
        return
    assert hidden.items() >= sessions.items()
    assert hidden["queues.unworked"].startswith("The role may not look: permission denied for table ")
    assert ("jobs.discarded" in hidden) is (role == "feeder")


async def test_lost_right_of_a_worker_is_found(healthy: AsyncpgDriver, postgres_url: str) -> None:
    """A worker's role that cannot update jobs is broken, and so is one that may not use the schema."""
    names = {one: f"lost_{one}_{healthy.schema[-6:]}" for one in ("worker", "inserter", "feeder", "reader")}
    await healthy.pool.execute_script(grants_sql(Roles(**names), schema=healthy.schema))
    url = f"{postgres_url}{'&' if '?' in postgres_url else '?'}options=-c%20role%3D{names['worker']}"
    reports = []
    try:
        for lost in ("UPDATE ON /* schema */river_job", f"USAGE ON SCHEMA {healthy.schema}"):
            await plant(healthy, f"REVOKE {lost} FROM {names['worker']}")
            async with opened(url, healthy.schema) as driver:
                reports.append(found(await examined(context_on(driver), "roles")))
    finally:
        listed = ", ".join(names.values())
        await healthy.pool.execute_script(f"DROP OWNED BY {listed}; DROP ROLE {listed}")

    assert reports == [
        {("roles.privileges", "broken", f"role {names['worker']}")},
        {("roles.privileges", "broken", f"schema {healthy.schema}")},
    ]


@pytest.mark.parametrize("pool_mode", ["none", "session", "transaction", "statement"])
async def test_pooler_that_changes_the_session_is_found(
    healthy: AsyncpgDriver, postgres_url: str, pool_mode: str
) -> None:
    """PgBouncer in transaction or statement mode is broken; in session mode, or without it, nothing is found."""
    async with contextlib.AsyncExitStack() as stack:
        url = postgres_url
        if pool_mode != "none":
            url = await stack.enter_async_context(pgbouncer(postgres_url, pool_mode=pool_mode))
        reports = [await pooled(url, healthy.schema, is_poll_only=flag) for flag in (False, True)]

    fault = {("connection.pooler", "broken", "DATABASE_URL")}
    assert list(map(found, reports)) == [
        fault if pool_mode in ("transaction", "statement") else set(),
        fault if pool_mode == "statement" else set(),
    ]
    assert list(map(unseen, reports)) == [{}, {}]


async def pooled(url: str, schema: str, *, is_poll_only: bool) -> Report:
    @contextlib.asynccontextmanager
    async def other_session() -> AsyncIterator[Executor]:
        async with opened(url, schema) as other:
            yield other.pool

    async with opened(url, schema) as driver:
        context = context_on(driver)
        context.other_session, context.is_poll_only = other_session, is_poll_only
        return await run_checks(context, [one for one in CHECKS if one.name == "connection.pooler"])


@contextlib.asynccontextmanager
async def opened(url: str, schema: str) -> AsyncIterator[AsyncpgDriver]:
    driver = AsyncpgDriver(url, schema, pool_size=1)
    await driver.open()
    try:
        yield driver
    finally:
        await driver.close()
