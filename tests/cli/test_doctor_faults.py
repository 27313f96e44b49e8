"""Faults of the database and of S3 while `millhand doctor` runs: no check ends another, and the JSON stays valid."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cli_runner import millhand
from factory import insert_job, qualified
from free_ports import free_ports
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.doctor.catalog import CHECKS
from two_databases import THREE, two_databases

pytestmark = pytest.mark.slow

OF_HISTORY = {"fleet.history", "queues.behind", "kinds.failing", "jobs.slow"}
ALL_CHECKS = [check.name for check in CHECKS if check.area not in ("bucket", "deploy")]


def unseen(report: Any) -> dict[str, str]:
    return {one["check"]: one["unseen"][0]["reason"] for one in report["checks"] if one["unseen"]}


def found(report: Any, *checks: str) -> list[tuple[str, str, str]]:
    return [
        (one["check"], finding["level"], finding["subject"])
        for one in report["checks"]
        for finding in one["findings"]
        if one["check"] in checks
    ]


async def list_tables(driver: AsyncpgDriver) -> list[str]:
    sql = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = to_regnamespace($1) ORDER BY 1"
    return [row["relname"] for row in await driver.pool.fetch(sql, [driver.schema])]


@contextlib.asynccontextmanager
async def without(driver: AsyncpgDriver, table: str) -> AsyncIterator[None]:
    """Rename a table within the block. The schema is lent, so the next test needs it again."""
    pool = driver.pool
    await pool.execute_script(qualified(f"ALTER TABLE /* schema */{table} RENAME TO gone", pool))
    try:
        yield
    finally:
        await pool.execute_script(qualified(f"ALTER TABLE /* schema */gone RENAME TO {table}", pool))


async def test_each_table_that_vanishes_is_found(project: Path, schema_driver: AsyncpgDriver) -> None:
    """Without any one table, the checks of the schema name it, once, and all other checks have a result."""
    names = [name for name in await list_tables(schema_driver) if name != "river_migration"]
    results = {}
    for name in names:
        async with without(schema_driver, name):
            result = await millhand("doctor", "--json")
        results[name] = (
            result.code,
            [one["check"] for one in result.json["checks"]],
            found(result.json, "schema.version", "schema.tables", "schema.indexes"),
        )

    assert len(names) > 30
    assert results == {
        name: (1, ALL_CHECKS, [("schema.tables", "broken", f"table {name}")]) for name in names
    }


async def test_history_that_cannot_be_read_hides_no_other_fault(
    project: Path, schema_driver: AsyncpgDriver
) -> None:
    """Without its tables, only the checks that compare with the history are unseen."""
    await insert_job(schema_driver.pool, queue="mail")

    async with without(schema_driver, "millhand_history"):
        report = (await millhand("doctor", "--only", "fleet,queues,kinds,jobs", "--json")).json

    assert unseen(report) == dict.fromkeys(
        [name for name in ALL_CHECKS if name in OF_HISTORY], "The schema is not complete."
    )
    assert found(report, "queues.unworked") == [("queues.unworked", "broken", "queue mail")]


@pytest.fixture(params=["postgresql", "postgresql+psycopg"])
def with_statement_timeout(
    request: pytest.FixtureRequest, project: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = "&" if "?" in postgres_url else "?"
    url = f"{postgres_url}{mark}options=-c%20statement_timeout%3D300"
    monkeypatch.setenv("DATABASE_URL", url.replace("postgresql", request.param, 1))


@contextlib.asynccontextmanager
async def locked(driver: AsyncpgDriver, *tables: str) -> AsyncIterator[None]:
    """Lock tables against reading."""
    async with driver.pool.begin() as tx:
        for table in tables:
            await tx.execute_script(qualified(f"LOCK TABLE /* schema */{table} IN ACCESS EXCLUSIVE MODE", tx))
        yield


@pytest.mark.usefixtures("with_statement_timeout")
async def test_statement_timeout_ends_only_its_check(schema_driver: AsyncpgDriver) -> None:
    """A check whose statement is cancelled is unseen with the reason; the others find what they find."""
    await insert_job(schema_driver.pool, queue="mail")
    async with locked(schema_driver, "millhand_flow", "millhand_history"):
        result = await millhand("doctor", "--only", "schema,queues,jobs,kinds,fleet,flows", "--json")

    reason = "There was no answer: canceling statement due to statement timeout."
    assert unseen(result.json) == dict.fromkeys(
        [name for name in ALL_CHECKS if name in OF_HISTORY | {"flows.stuck"}], reason
    )
    assert (result.code, found(result.json, "queues.unworked")) == (
        1,
        [("queues.unworked", "broken", "queue mail")],
    )


async def test_store_that_does_not_answer_is_a_finding_of_the_command(
    project: Path, schema_driver: AsyncpgDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command prints valid JSON with all other checks, and exits with 1 for the store."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    endpoint = f"http://127.0.0.1:{free_ports(1)[0]}"
    (project / "millhand.toml").write_text(f'[storage]\nurl = "s3://any?endpoint_url={endpoint}"\n')

    result = await millhand("doctor", "--only", "schema,bucket,jobs", "--json")
    lines = await millhand("doctor", "--only", "bucket")

    assert (result.code, found(result.json, "bucket.access")) == (
        1,
        [("bucket.access", "broken", f"store s3://any/?endpoint_url={endpoint}")],
    )
    assert [one["check"] for one in result.json["checks"]] == [
        check.name for check in CHECKS if check.area in ("schema", "bucket", "jobs")
    ]
    assert (lines.code, {line[0] for line in lines.lines}) == (1, {"broken", "unseen"})


async def test_faults_of_one_database_hide_no_other(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch, postgres_server_url: str
) -> None:
    """With a vanished table here, a missing server there, each other database has its report, and the exit code is 1."""
    async with two_databases(empty_directory, monkeypatch, postgres_server_url) as directory:
        (directory / "millhand.toml").write_text(f'{THREE}[storage]\nurl = "s3://any"\n')
        async with contextlib.AsyncExitStack() as stack:
            eu = AsyncpgDriver(os.environ["EU_DATABASE_URL"])
            await eu.open()
            stack.push_async_callback(eu.close)
            await eu.pool.execute_script("DROP TABLE millhand_flow")
            result = await millhand("doctor", "--only", "schema,flows", "--all-databases", "--json")

    assert result.code == 1
    reports = {one["database"]: one["report"] for one in result.json}
    assert {name: unseen(report) for name, report in reports.items()} == {
        "eu": {"flows.stuck": "The schema is not complete."},
        "us": {},
    }
    assert found(reports["eu"], "schema.tables") == [("schema.tables", "broken", "table millhand_flow")]
    assert result.err.startswith("error: database 'asia' must answer, got: ")
